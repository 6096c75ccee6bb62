"""What both baselines need: a checked picture, a smoothed map, scores from 0 to 1."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.errors import InputError

MOST_SMOOTHING = 64  # px


def check_picture(image, edges, least):
    """The fabric's columns of a picture, uint8 `(H, end - start)`.

    Raises `InputError` where the picture is not uint8 `(H, W)`, where `edges`, (start, end) in columns, lie beside it,
    and where there are less than `least` px of fabric either way.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 2:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}".strip()
        raise InputError(f"image: {found}; expected uint8 (H, W); read it with aitex.read_image")
    start, end = edges
    if not 0 <= start < end <= image.shape[1]:
        raise InputError(
            f"edges: ({start}, {end}); expected 0 <= start < end <= {image.shape[1]} columns; "
            "take them from fabric.fabric_edges"
        )
    if image.shape[0] < least or end - start < least:
        raise InputError(
            f"image: {image.shape[0]} x {end - start} pixels of fabric; expected {least} x {least} or more; leave the "
            "roll out or correct its edges"
        )
    return image[:, start:end]


def smoothed(field, sigma):
    """Gaussian blur of float32 `(1, 1, H, W)`; sigma: standard deviation, px; borders are continued."""
    reach = math.ceil(3 * sigma)
    if reach == 0:
        return field
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=field.device) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(field, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))


def odds_to_scores(odds):
    """x / (1 + x): a number from 0 up, in units of what is usual, as a score from 1e-6 to 1; 0.5 is one unit."""
    return (odds / (1 + odds)).clamp_min(FLOOR)


def on_roll(image, edges, values):
    """Values `(1, 1, H, end - start)` in the fabric's columns of a roll: float32 `(H, W)`, 0 beside them."""
    whole = np.zeros(image.shape, np.float32)
    whole[:, edges[0] : edges[1]] = values[0, 0].float().cpu().numpy()
    return whole
