"""Where an anomaly map passes a threshold: regions, and the map laid over its image."""

from typing import Any

import cv2
import numpy as np

from draem_aitex.errors import InputError

TOLERANCE = 12  # pixels by which masks and predicted regions are dilated before they are matched
MAP_COLOUR, OUTLINE_COLOUR = (230, 30, 30), (41, 182, 246)  # RGB


def dilate(mask: np.ndarray, radius: int = TOLERANCE) -> np.ndarray:
    """Grow a bool mask `(H, W)` by a disc of `radius` pixels."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def components(mask: np.ndarray) -> tuple[np.ndarray, list[tuple[slice, slice]]]:
    """Labels int32 `(H, W)` of the 8-connected components, 0 outside, and the box of each from 1 on, as slices."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = [(slice(y, y + height), slice(x, x + width)) for x, y, width, height, _ in stats[1:].tolist()]
    return labels, boxes


def find_regions(anomaly_map: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Where a map passes the threshold: a list of dicts, the highest score first.

    Pixels above the threshold belong to one region where they touch (8-neighbourhood) once they are dilated by 12 px,
    as in `metrics.match_defects`. `row`, `column`, `height`, `width`: the smallest box around a region's pixels, not
    dilated; `pixels`: their number; `score`: the highest of them.

    anomaly_map: float32 `(H, W)`.
    """
    predicted = anomaly_map > threshold
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

    image: uint8 `(H, W)`; anomaly_map: float `(H, W)` in [0, 1]. Returns uint8 `(H, W, 3)`, RGB.
    """
    if image.shape != anomaly_map.shape:
        raise InputError(
            f"image and anomaly_map: shapes {image.shape} and {anomaly_map.shape}; expected one shape for both"
        )
    grey = np.repeat(image[:, :, None], 3, axis=2).astype(np.float32)
    strength = 0.7 * np.clip(anomaly_map, 0, 1)[:, :, None].astype(np.float32)
    blended = (grey + strength * (np.array(MAP_COLOUR, np.float32) - grey)).round().astype(np.uint8)
    contours, _ = cv2.findContours((anomaly_map > threshold).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(blended, contours, -1, OUTLINE_COLOUR, 1)
