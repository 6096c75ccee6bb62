"""Numbers that judge a detector: thresholds from defect-free rolls, patches, pixels and defects.

The protocol, in one place: patches of 256 x 256 without overlap from the first fabric column; a patch is positive
with one mask pixel or more; its score is the maximum of the roll's map in it, without smoothing. A detector is
anything with `predict(image, edges, fabric)`.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from draem_aitex.errors import InputError
from draem_aitex.patcher import patch_maxima

REACH = 12  # pixels by which masks and predicted regions are dilated before they are matched


@dataclass(frozen=True)
class Threshold:
    """A decision level, from the patches of defect-free rolls that were not trained on.

    value: a patch with a higher score is called defective. wanted: false-alarm rate asked for. bound: the rate that
    `patches` calibration patches can promise for a new patch of the same kind; above `wanted` where they are too few.
    """

    value: float
    wanted: float
    bound: float
    patches: int
    rolls: int


def calibrate(detector, rolls, rate=0.01):
    """Threshold for a wanted false-alarm rate per patch.

    The value is the k-th largest calibration score with k = floor(rate * (n + 1)): for a new defect-free patch,
    exchangeable with the n given ones, the chance to score higher is at most rate (split conformal prediction, Vovk et
    al. 2005). With n + 1 < 1 / rate no threshold can promise that; then it is the largest score, and `bound` says
    1 / (n + 1).
    """
    if not 0 < rate < 1:
        raise InputError(f"rate: {rate}; expected a share of patches between 0 and 1, such as 0.01")
    scores = [patch_maxima(detector.predict(roll.image, roll.edges, roll.fabric), roll.edges) for roll in rolls]
    scores = np.sort(np.concatenate(scores))[::-1] if scores else np.empty(0)
    if not len(scores):
        raise InputError(f"calibration: no patch in {len(rolls)} rolls; expected defect-free rolls kept back for it")
    k = max(int(rate * (len(scores) + 1)), 1)
    return Threshold(float(scores[k - 1]), rate, max(rate, 1 / (len(scores) + 1)), len(scores), len(rolls))


def auroc(labels, scores):
    """Area under the ROC curve; NaN where one class is missing."""
    labels = np.asarray(labels, bool)
    return float(roc_auc_score(labels, scores)) if labels.any() and not labels.all() else float("nan")


def average_precision(labels, scores):
    """Average precision, the area under the precision-recall steps; NaN without a positive."""
    return float(average_precision_score(labels, scores)) if np.any(labels) else float("nan")


def decision_figures(labels, scores, threshold):
    """Recall, precision, F1 and false-alarm rate of `score > threshold`, with the counts behind them."""
    labels, called = np.asarray(labels, bool), np.asarray(scores) > threshold
    hit, missed = int((labels & called).sum()), int((labels & ~called).sum())
    false, quiet = int((~labels & called).sum()), int((~labels & ~called).sum())
    return {
        "true_positives": hit,
        "false_negatives": missed,
        "false_positives": false,
        "true_negatives": quiet,
        "recall": _share(hit, hit + missed),
        "precision": _share(hit, hit + false),
        "f1": _share(2 * hit, 2 * hit + missed + false),
        "false_alarm_rate": _share(false, false + quiet),
    }


def _share(part, whole):
    return part / whole if whole else float("nan")


class PixelHistogram:
    """Pixel AUROC and AP in constant memory: positive floats sort like their bit patterns, which are counted.

    A bin spans 2^-11 of a value. Ties inside a bin count half for AUROC, like ties of scores; the difference from an
    exact computation stays under 1e-4 on any but the smallest cases.
    """

    SHIFT = 12

    def __init__(self):
        bins = (np.float32(np.inf).view(np.int32) >> self.SHIFT) + 1
        self.negatives = np.zeros(int(bins), np.int64)
        self.positives = np.zeros(int(bins), np.int64)

    def add(self, scores, labels):
        """scores: float32, 0 or more; labels: bool; both of one shape."""
        bins = np.ascontiguousarray(scores, np.float32).view(np.int32) >> self.SHIFT
        self.positives += np.bincount(bins[labels], minlength=len(self.positives))
        self.negatives += np.bincount(bins[~labels], minlength=len(self.negatives))

    def auroc(self):
        """Chance that a defect pixel scores above a normal one; NaN where one class is missing."""
        positives, negatives = self.positives.sum(), self.negatives.sum()
        if not positives or not negatives:
            return float("nan")
        below = np.cumsum(self.negatives) - self.negatives
        return float((self.positives * (below + self.negatives / 2)).sum() / positives / negatives)

    def average_precision(self):
        """Area under the precision-recall steps over the bins, from the highest down; NaN without positives."""
        if not self.positives.sum():
            return float("nan")
        hits = np.cumsum(self.positives[::-1])
        alarms = hits + np.cumsum(self.negatives[::-1])
        steps = np.diff(hits, prepend=0) / hits[-1]
        return float((steps * hits / np.maximum(alarms, 1)).sum())


@dataclass(frozen=True)
class DefectOutcome:
    """One defect of one roll.

    pixels: mask pixels; centroid: `(row, column)`; hit: the map passes the threshold within 12 px of it; score: the
    map's maximum there; distance: from its centroid to that of the predicted region(s) on it, px, None for a miss.
    """

    roll: str
    fabric: str
    defect: str
    pixels: int
    centroid: tuple[float, float]
    hit: bool
    score: float
    distance: float | None


@dataclass(frozen=True)
class RollOutcome:
    """Defects of one roll and its false alarms: predicted regions that touch no defect, `(row, column, score)`."""

    defects: list = field(default_factory=list)
    false_alarms: list = field(default_factory=list)


def dilate(mask, reach=REACH):
    """Grow a bool mask `(H, W)` by a disc of `reach` pixels."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask.astype(np.uint8), disc).astype(bool)


def match_defects(roll, scores, threshold):
    """Hold a roll's map against its mask, defect by defect.

    A defect is a connected component (8-neighbourhood) of the mask dilated by 12 px. A predicted region is one of the
    likewise dilated pixels above the threshold; regions with no such pixel in a dilated defect are false alarms.

    roll: `fabric.Roll`; scores: float32 `(H, W)`. Returns a `RollOutcome`.
    """
    mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
    called = scores > threshold
    _, regions = cv2.connectedComponents(dilate(called).astype(np.uint8), connectivity=8)
    count, places = cv2.connectedComponents(dilate(mask).astype(np.uint8), connectivity=8)
    defects = [_outcome(roll, scores, called, regions, mask, places == index) for index in range(1, count)]
    touching = set(np.unique(regions[called & (places > 0)]))
    false_alarms = []
    for region in sorted(set(np.unique(regions[called])) - touching):
        inside = np.where((regions == region) & called, scores, 0)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        false_alarms.append((int(row), int(column), float(inside.max())))
    return RollOutcome(defects, false_alarms)


def _outcome(roll, scores, called, regions, mask, place):
    rows, columns = np.nonzero(mask & place)
    centroid = (float(rows.mean()), float(columns.mean()))
    on_it = np.unique(regions[called & place])
    distance = None
    if len(on_it):
        weights = np.where(called & np.isin(regions, on_it), scores, 0).astype(np.float64)
        row = (weights.sum(axis=1) @ np.arange(len(weights))) / weights.sum()
        column = (weights.sum(axis=0) @ np.arange(weights.shape[1])) / weights.sum()
        distance = float(np.hypot(row - centroid[0], column - centroid[1]))
    score = float(scores[place].max())
    return DefectOutcome(
        roll.name, roll.fabric, roll.defect, len(rows), centroid, distance is not None, score, distance
    )
