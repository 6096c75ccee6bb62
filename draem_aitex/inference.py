"""Whole rolls: a roll's picture becomes an anomaly map of the same size, without seams."""

import math
from pathlib import Path

import numpy as np
import torch

from draem_aitex.card import headline
from draem_aitex.checkpoint import load_checkpoint, load_model
from draem_aitex.errors import InputError
from draem_aitex.networks import fold_batch_norm
from draem_aitex.patcher import patch_maxima

WINDOW = 2176  # columns seen at once, at most: two windows for a roll of 4096
WINDOW_STEP = 128  # columns; a few widths for all rolls, or the convolutions' buffers pile up width by width
MARGIN = 128  # columns of context at a window's inner borders; beyond lies 1e-4 of what moves a pixel of `compact`
FLOOR = 1e-6  # smallest score on fabric; 0 is kept for "no fabric here"


@torch.inference_mode()
def anomaly_map(model, image, edges):
    """Score every pixel of a roll's fabric.

    The networks are fully convolutional: trained on crops, they take any width. They see the fabric alone, without
    what lies to its left. Fabric wider than 2176 columns is seen through overlapping windows, each pixel taken from
    the window in which it lies farther from the border. Nothing is padded on: mirrored cloth would have a seam.

    image: uint8 `(H, W)`; edges: `(start, end)` in columns. Returns float32 `(H, W)`: the probability of a defect,
    exactly 0 outside the fabric, from 1e-6 to 1 on it.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise InputError(f"image: {image.dtype} of shape {image.shape}; expected uint8 (H, W); convert it to grey")
    start, end = edges
    device = next(model.parameters()).device
    fabric = torch.from_numpy(np.ascontiguousarray(image[:, start:end])).to(device)[None, None].float() / 255
    scores = np.zeros(image.shape, np.float32)
    for window, own in windows(end - start):
        logits = model(fabric[..., slice(*window)])[1][0, 0, :, own[0] - window[0] : own[1] - window[0]]
        scores[:, start + own[0] : start + own[1]] = torch.sigmoid(logits.float()).clamp_min(FLOOR).cpu().numpy()
    return scores


def windows(width):
    """Cover `width` columns: a list of `(window, own)`, both `(first, last)`, half open; `own` parts do not overlap.

    As few windows as windows of 2176 columns would need, of one size, with 128 columns of context or more beside their
    own part; a single window has all the columns.
    """
    count = max(1, math.ceil((width - 2 * MARGIN) / (WINDOW - 2 * MARGIN)))
    needed = math.ceil((width + 2 * MARGIN * (count - 1)) / count)
    size = min(width, math.ceil(needed / WINDOW_STEP) * WINDOW_STEP)
    firsts = [round(index * (width - size) / max(count - 1, 1)) for index in range(count)]
    cuts = [0] + [(left + size + right) // 2 for left, right in zip(firsts, firsts[1:], strict=False)] + [width]
    return [((first, first + size), own) for first, own in zip(firsts, zip(cuts, cuts[1:], strict=False), strict=True)]


def fabric_levels(model, rolls, share=0.1):
    """How high flawless cloth of each fabric scores: the logit that `share` of its patches exceed.

    Some cloths are livelier than others, and the networks say so in every score. Taken from calibration rolls, which
    were not trained on, the levels make the scores of different fabrics comparable (`DraemDetector.predict`).

    rolls: list of `fabric.Roll`, defect-free. Returns a dict of fabric code to logit.
    """
    scores = {}
    for roll in rolls:
        scores.setdefault(roll.fabric, []).append(patch_maxima(anomaly_map(model, roll.image, roll.edges), roll.edges))
    scores = {fabric: np.concatenate(parts) for fabric, parts in scores.items()}
    return {fabric: float(np.quantile(_logit(s), 1 - share)) for fabric, s in sorted(scores.items()) if len(s)}


def _logit(scores):
    scores = np.clip(scores.astype(np.float64), FLOOR, 1 - FLOOR)
    return np.log(scores / (1 - scores))


class DraemDetector:
    """DRAEM with the interface every detector has: `name` and `predict(image, edges, fabric)`.

    model: a `networks.DRAEM`; a copy is taken, with its batch norms folded. levels: of `fabric_levels`; without them,
    scores stay as the networks give them.
    """

    name = "DRAEM"

    def __init__(self, model, levels=None):
        self.model, self.levels = fold_batch_norm(model), dict(levels or {})

    @classmethod
    def load(cls, path, device="cpu", quiet=False):
        """The detector of a checkpoint file, and the file's content: `(detector, content)`; prints what it is."""
        content = load_checkpoint(path)
        if not quiet:
            print("\n".join([f"{Path(path).name}:", *headline(content)]))
        return cls(load_model(content, path).to(device), content.get("fabric_levels")), content

    @property
    def size_bytes(self):
        """Memory of the weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    def predict(self, image, edges, fabric=None):
        """Anomaly map of a roll: float32 `(H, W)`, see `anomaly_map`.

        fabric: the roll's fabric code. Its logits are moved so that flawless cloth of every fabric reaches the same
        level, the median of all fabrics'. For None, or a fabric that was not calibrated, they stay as they are.
        """
        scores = anomaly_map(self.model, image, edges)
        if fabric not in self.levels:
            return scores
        moved = _logit(scores[:, slice(*edges)]) + np.median(list(self.levels.values())) - self.levels[fabric]
        scores[:, slice(*edges)] = np.clip(1 / (1 + np.exp(-moved)), FLOOR, 1)
        return scores
