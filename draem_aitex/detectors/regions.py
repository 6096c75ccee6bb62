"""TODO."""

import cv2
import numpy as np

from draem_aitex.plots import _same_shape


def overlay(image, anomaly_map, threshold):
    """The picture with its map laid over it in red on one fixed 0-1 scale, and what passes the threshold outlined.

    image: uint8 `(H, W)`; anomaly_map: float `(H, W)` in [0, 1]. Returns uint8 `(H, W, 3)`, RGB.
    """
    _same_shape(image, anomaly_map, "image and anomaly_map")
    grey = np.repeat(image[:, :, None], 3, axis=2).astype(np.float32)
    strength = 0.7 * np.clip(anomaly_map, 0, 1)[:, :, None].astype(np.float32)
    colour = np.array([230, 30, 30], np.float32)
    picture = (grey + strength * (colour - grey)).round().astype(np.uint8)
    above = (anomaly_map > threshold).astype(np.uint8)
    contours, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(picture, contours, -1, (41, 182, 246), 1)


TOLERANCE = 12  # pixels by which masks and predicted regions are dilated before they are matched


def dilate(mask, reach=TOLERANCE):
    """Grow a bool mask `(H, W)` by a disc of `reach` pixels."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def components(mask):
    """Labels int32 `(H, W)` of the 8-connected components, 0 outside, and the box of each from 1 on, as slices."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return labels, [np.s_[y : y + height, x : x + width] for x, y, width, height, _ in stats[1:].tolist()]


def find_regions(scores, threshold):
    """Where a map passes the threshold: a list of dicts, the highest score first.

    As in `metrics.match_defects`, pixels above the threshold belong together where they touch (8-neighbourhood) once
    they are dilated by 12 px. `row`, `column`, `height`, `width`: the smallest box around a region's pixels, not
    dilated; `pixels`: their number; `score`: the highest of them.

    scores: float32 `(H, W)`.
    """
    called = scores > threshold
    if not called.any():
        return []
    places, _ = components(dilate(called))
    rows, columns = np.nonzero(called)
    places = places[called]
    order = np.argsort(places, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(places[order])) + 1)
    found = [_region(rows[group], columns[group], scores) for group in groups]
    return sorted(found, key=lambda region: -region["score"])


def _region(rows, columns, scores):
    return {
        "row": int(rows.min()),
        "column": int(columns.min()),
        "height": int(np.ptp(rows)) + 1,
        "width": int(np.ptp(columns)) + 1,
        "pixels": len(rows),
        "score": float(scores[rows, columns].max()),
    }
