"""What a detector says of an image: where its map passes the threshold, the map laid over the image, a verdict."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from draem_aitex.data.fabric_edges import check_image
from draem_aitex.errors import InputError, check_number, check_type

TOLERANCE = 12  # pixels by which masks and predicted regions are dilated before they are matched
MAP_COLOUR, OUTLINE_COLOUR = (230, 30, 30), (41, 182, 246)  # RGB


def dilate(mask: np.ndarray, radius: int = TOLERANCE) -> np.ndarray:
    """Grow a bool mask `(H, W)` by a disc of `radius` pixels."""
    check_number("radius", radius, 0, 1000, whole=True)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def components(mask: np.ndarray) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    """Labels int32 `(H, W)` of the 8-connected components, 0 outside, and the box of each from 1 on, as slices."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = [(slice(y, y + height), slice(x, x + width)) for x, y, width, height, _ in stats[1:].tolist()]
    return labels, boxes


def check_map(anomaly_map: np.ndarray, shape: tuple[int, ...] | None = None) -> None:
    """Raise `InputError` for what is no anomaly map: float `(H, W)`, finite, and of this shape where one is given."""
    check_type("anomaly_map", anomaly_map, np.ndarray)
    if anomaly_map.ndim != 2 or not np.issubdtype(anomaly_map.dtype, np.floating):
        raise InputError(f"anomaly_map: {anomaly_map.dtype} of shape {anomaly_map.shape}; expected floats (H, W)")
    if shape is not None and anomaly_map.shape != shape:
        raise InputError(f"anomaly_map: shape {anomaly_map.shape}; expected {shape}, that of its image")
    if not np.isfinite(anomaly_map).all():
        found = "anomaly_map: not finite; expected numbers"
        raise InputError(f"{found}; the detector's weights are broken or too large: train or fit it anew")


def find_regions(anomaly_map: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Where a map passes the threshold: a list of dicts, the highest score first.

    Pixels above the threshold belong to one region where they touch (8-neighbourhood) once they are dilated by 12 px,
    as in `metrics.match_defects`. `row`, `column`, `height`, `width`: the smallest box around a region's pixels, not
    dilated; `pixels`: their number; `score`: the highest of them.

    anomaly_map: float32 `(H, W)`.
    """
    check_map(anomaly_map)
    check_number("threshold", threshold, 0, 1)
    predicted = anomaly_map > threshold
    if not predicted.any():  # as of most images, which needs no dilation to be known
        return []
    labels, boxes = components(dilate(predicted))
    found = []
    for label, (down, across) in enumerate(boxes, 1):
        rows, columns = np.nonzero(predicted[down, across] & (labels[down, across] == label))
        box = {"row": int(rows.min()) + down.start, "column": int(columns.min()) + across.start}
        box |= {"height": int(np.ptp(rows)) + 1, "width": int(np.ptp(columns)) + 1, "pixels": len(rows)}
        found.append({**box, "score": float(anomaly_map[down, across][rows, columns].max())})
    return sorted(found, key=lambda region: -region["score"])


def overlay(image: np.ndarray, anomaly_map: np.ndarray, threshold: float) -> np.ndarray:
    """The image with its map laid over it in red on one fixed 0-1 scale, and what passes the threshold outlined.

    image: uint8 `(H, W)`, or `(H, W, 3)`, RGB; anomaly_map: float `(H, W)` in [0, 1]. Returns uint8 `(H, W, 3)`, RGB.
    """
    check_image(image, channels=(1, 3))
    check_map(anomaly_map, image.shape[:2])
    check_number("threshold", threshold, 0, 1)
    strength = 0.7 * np.clip(anomaly_map, 0, 1).astype(np.float32)
    planes = zip(cv2.split(in_colour(image)), MAP_COLOUR, strict=True)  # one by one that is four times as fast
    blended = cv2.merge([(p + strength * (np.float32(c) - p)).round().astype(np.uint8) for p, c in planes])
    return outline(blended, anomaly_map > threshold, OUTLINE_COLOUR)


def in_colour(image: np.ndarray) -> np.ndarray:
    """An image, uint8 `(H, W)` or `(H, W, 3)`, as uint8 `(H, W, 3)`, RGB, of its own memory."""
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()


def outline(rgb: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], width: int = 1) -> np.ndarray:
    """Draw the outline of a bool mask `(H, W)` on an image uint8 `(H, W, 3)`, `width` px broad; returns the image."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(rgb, contours, -1, colour, width)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one image.

    image: uint8 `(H, W)`, or `(H, W, 3)`, as it was judged. map: float32 `(H, W)`, exactly 0 off the fabric, above 0
    and at most 1 on it, the higher the likelier a defect. edges: first and last column of the fabric, half open.
    fabric: its code, "" where it is unknown. normalised: whether the scores were moved by the fabric's offset; of
    others the threshold's false-positive rate is unknown. threshold: None for a detector without one. notes: sentences
    about the image.
    """

    image: np.ndarray
    map: np.ndarray
    edges: tuple[int, int]
    fabric: str
    normalised: bool
    threshold: float | None
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The map's maximum."""
        return float(self.map.max())

    @property
    def is_defective(self) -> bool:
        """Whether the score is above the threshold. Raises `InputError` for a detector without one."""
        return self.score > self._threshold()

    @cached_property
    def regions(self) -> list[dict[str, Any]]:
        """Where the map is above the threshold, see `find_regions`. Raises `InputError` where there is no threshold."""
        return find_regions(self.map, self._threshold())

    @property
    def overlay(self) -> np.ndarray:
        """The image with the map in red and the regions outlined: uint8 `(H, W, 3)`, RGB."""
        return overlay(self.image, self.map, 1.0 if self.threshold is None else self.threshold)

    def _threshold(self) -> float:
        if self.threshold is None:
            raise InputError("threshold: the detector has none yet; call its calibrate(data) before it predicts")
        return self.threshold

    def __str__(self) -> str:
        if self.threshold is None:
            return f"score {self.score:.4f}, no threshold yet"
        count = len(self.regions)
        verdict = f"defective, {count} region{'s' if count > 1 else ''}" if self.is_defective else "normal"
        return f"score {self.score:.4f}, threshold {self.threshold:.4f}: {verdict}"
