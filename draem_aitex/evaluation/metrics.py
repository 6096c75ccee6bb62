"""Numbers that judge a detector: ranking, decisions, defects hit. Those over pixels are in `pixel_metrics`.

The protocol, in one place: patches of 256 x 256 without overlap from the first fabric column; a patch is positive with
one mask pixel or more; its score is the maximum of the roll's map in it, without smoothing.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.regions import components, dilate
from draem_aitex.errors import InputError


def auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Chance that a positive scores above a negative, 0 to 1, ties half; NaN where one class is missing.

    The area under the ROC curve (Hanley and McNeil, Radiology 143, 1982), as scikit-learn computes it. labels: bool
    `(N,)`; scores: float `(N,)`; weights: how often each counts, `(N,)`.
    """
    labels, scores = _pair(labels, scores)
    several = len(np.unique(labels)) > 1
    return float(roc_auc_score(labels, scores, sample_weight=weights)) if several else float("nan")


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Precision averaged over the steps of recall, 0 to 1, as scikit-learn defines it; NaN without a positive.

    labels: bool `(N,)`; scores: float `(N,)`; weights: how often each counts, `(N,)`.
    """
    labels, scores = _pair(labels, scores)
    return float(average_precision_score(labels, scores, sample_weight=weights)) if np.any(labels) else float("nan")


def decision_counts(labels: ArrayLike, predicted: ArrayLike) -> np.ndarray:
    """True positives, false negatives, false positives, true negatives: int64 `(4,)`.

    labels, predicted: bool, of one shape.
    """
    labels, predicted = _pair(labels, predicted)
    labels, predicted = labels.astype(bool), predicted.astype(bool)
    return np.bincount((2 * ~labels + ~predicted).ravel(), minlength=4)


def figures_of_counts(counts: np.ndarray) -> dict[str, Any]:
    """Recall, precision, F1 and false-positive rate (FPR) of `decision_counts`, 0 to 1 each, and the counts.

    Recall: the share of the positives that is predicted. Precision: the share of what is predicted that is positive.
    F1: their harmonic mean (van Rijsbergen, Information Retrieval, 1979). FPR, also called false-alarm rate: the share
    of the negatives that is predicted. NaN where there is nothing to take a share of.

    counts: int `(4,)`, or `(4, R)` of R resamples, which gives arrays.
    """
    names = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    hits, missed, false_positives, others = counts.tolist() if counts.ndim == 1 else counts
    return {
        **dict(zip(names, (hits, missed, false_positives, others), strict=True)),
        "recall": share(hits, hits + missed),
        "precision": share(hits, hits + false_positives),
        "f1": share(2 * hits, 2 * hits + missed + false_positives),
        "fpr": share(false_positives, false_positives + others),
    }


def decision_figures(labels: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, Any]:
    """`figures_of_counts` of the decision `score > threshold`. labels: bool `(N,)`; scores: float `(N,)`."""
    labels, scores = _pair(labels, scores)
    return figures_of_counts(decision_counts(labels, scores > threshold))


def f1_max_upper_bound(labels: ArrayLike, scores: ArrayLike) -> float:
    """The best F1 over all thresholds, 0 to 1, taken on the very scores that are judged; NaN without a positive.

    An upper bound and no result: no threshold that is set beforehand does better, and whoever quotes it as a result
    has chosen on test rolls. labels: bool `(N,)`; scores: float `(N,)`.
    """
    labels, scores = _pair(labels, scores)
    if not np.any(labels):
        return float("nan")
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores as arrays. Raises `InputError` for other shapes than one for both, and for no numbers."""
    arrays = np.asarray(labels), np.asarray(scores)
    if arrays[0].shape != arrays[1].shape or any(
        a.dtype.kind not in "biuf" or not np.isfinite(a).all() for a in arrays
    ):
        found = " and ".join(f"{array.dtype} {array.shape}" for array in arrays)
        raise InputError(f"labels and scores: {found}; expected finite numbers of one shape")
    return arrays


def share(part: ArrayLike, whole: ArrayLike) -> Any:
    """part / whole, NaN where there is no whole: a float, or float64 in the shape of arrays."""
    whole = np.asarray(whole, np.float64)
    found = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole != 0)
    return found if found.ndim else float(found)


class DefectOutcome(NamedTuple):
    """One defect of one roll.

    pixels: of the ground-truth mask; centroid: `(row, column)`; hit: the map passes the threshold within 12 px of it;
    score: the map's maximum there; coverage: the share of its mask pixels above the threshold; centroid_distance_px:
    from its centroid to the score-weighted one of the predicted regions on it, None for a miss. See docs/results.md.
    """

    roll: str
    fabric: str
    defect: str
    pixels: int
    centroid: tuple[float, float]
    hit: bool
    score: float
    coverage: float
    centroid_distance_px: float | None


class RollOutcome(NamedTuple):
    """Defects of one roll, and its false positives: predicted regions that touch no defect, `(row, column, score)`."""

    defects: list[DefectOutcome]
    false_positives: list[tuple[int, int, float]]


def match_defects(roll: Roll, scores: np.ndarray, threshold: float) -> RollOutcome:
    """Compare a roll's anomaly map with its ground-truth mask, defect by defect.

    A defect is a connected component (8-neighbourhood) of the mask dilated by 12 px. A predicted region is one of the
    likewise dilated pixels above the threshold; regions with no such pixel in a dilated defect are false positives.

    scores: float32 `(H, W)`.
    """
    mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
    predicted = scores > threshold
    regions, region_boxes = components(dilate(predicted))
    dilated, boxes = components(dilate(mask))
    touching = np.zeros(len(region_boxes) + 1, bool)
    touching[regions[predicted & (dilated > 0)]] = True
    defects = [_outcome(roll, scores, predicted, regions, dilated == index) for index in range(1, len(boxes) + 1)]
    false_positives = []
    for region in np.flatnonzero(~touching[1:]) + 1:
        box = region_boxes[region - 1]
        inside = np.where((regions[box] == region) & predicted[box], scores[box], 0)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        false_positives.append((box[0].start + int(row), box[1].start + int(column), float(inside.max())))
    return RollOutcome(defects, false_positives)


def _outcome(
    roll: Roll, scores: np.ndarray, predicted: np.ndarray, regions: np.ndarray, near: np.ndarray
) -> DefectOutcome:
    """near: the dilated defect, bool `(H, W)`; regions: the labels of the dilated prediction."""
    pixels = np.nonzero(roll.mask & near)
    centroid = (float(pixels[0].mean()), float(pixels[1].mean()))
    on_it = np.unique(regions[predicted & near])
    distance = None
    if len(on_it):
        found = np.nonzero(predicted & np.isin(regions, on_it))
        weights = scores[found].astype(np.float64)
        distance = math.dist(centroid, [np.average(axis, weights=weights) for axis in found])
    what = (roll.name, roll.fabric, roll.defect, len(pixels[0]), centroid, distance is not None)
    return DefectOutcome(*what, float(scores[near].max()), float(predicted[pixels].mean()), distance)
