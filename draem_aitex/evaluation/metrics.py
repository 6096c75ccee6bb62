"""Numbers that judge a detector: thresholds from defect-free rolls, patches, rolls and defects; pixels are in `pixels`.

The protocol, in one place: patches of 256 x 256 without overlap from the first fabric column; a patch is positive
with one mask pixel or more; its score is the maximum of the roll's map in it, without smoothing. A detector is
anything with `predict(image, edges, fabric)`.
"""

from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from draem_aitex.detectors.regions import components, dilate


def auroc(labels, scores):
    """Chance that a positive scores above a negative, 0 to 1, ties half; NaN where one class is missing.

    The area under the ROC curve (Hanley and McNeil, Radiology 143, 1982), as scikit-learn computes it.
    """
    labels = np.asarray(labels, bool)
    return float(roc_auc_score(labels, scores)) if labels.any() and not labels.all() else float("nan")


def average_precision(labels, scores):
    """Precision averaged over the steps of recall, 0 to 1, as scikit-learn defines it; NaN without a positive."""
    return float(average_precision_score(labels, scores)) if np.any(labels) else float("nan")


def decision_counts(labels, called):
    """Positives called, positives missed, negatives called, negatives left alone: int64 `(4,)`.

    labels, called: bool, of one shape.
    """
    labels, called = np.asarray(labels, bool), np.asarray(called, bool)
    hit, positives, alarms = (np.count_nonzero(part) for part in (labels & called, labels, called))
    return np.array([hit, positives - hit, alarms - hit, labels.size - positives - alarms + hit], np.int64)


def figures_of_counts(counts):
    """Recall, precision, F1 and false-alarm rate of `decision_counts`, 0 to 1 each, with the counts behind them.

    Recall: of the positives, the share that is called. Precision: of what is called, the share that is positive. F1:
    their harmonic mean (van Rijsbergen, Information Retrieval, 1979). False-alarm rate: of the negatives, the share
    that is called. NaN where there is nothing to take a share of.
    """
    hit, missed, false, quiet = (int(count) for count in counts)
    return {
        "true_positives": hit,
        "false_negatives": missed,
        "false_positives": false,
        "true_negatives": quiet,
        "recall": share(hit, hit + missed),
        "precision": share(hit, hit + false),
        "f1": share(2 * hit, 2 * hit + missed + false),
        "fpr": share(false, false + quiet),
    }


def decision_figures(labels, scores, threshold):
    """`figures_of_counts` of the decision `score > threshold`."""
    return figures_of_counts(decision_counts(labels, np.asarray(scores) > threshold))


def f1_max_upper_bound(labels, scores):
    """The best F1 over all thresholds, 0 to 1, taken on the very scores that are judged; NaN without a positive.

    An upper bound and no result: no threshold that is set beforehand does better, and whoever quotes it as a result
    has chosen on test rolls.
    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores)
    if not labels.any():
        return float("nan")
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def share(part, whole):
    """part / whole, NaN where there is no whole."""
    return part / whole if whole else float("nan")


@dataclass(frozen=True)
class DefectOutcome:
    """One defect of one roll.

    pixels: mask pixels; centroid: `(row, column)`; hit: the map passes the threshold within 12 px of it; score: the
    map's maximum there; coverage: share of its mask pixels above the threshold; distance: from its centroid to the
    score-weighted one of the predicted region(s) on it, px, None for a miss. This project's definitions, README.
    """

    roll: str
    fabric: str
    defect: str
    pixels: int
    centroid: tuple[float, float]
    hit: bool
    score: float
    coverage: float
    distance: float | None


@dataclass(frozen=True)
class RollOutcome:
    """Defects of one roll and its false alarms: predicted regions that touch no defect, `(row, column, score)`."""

    defects: list = field(default_factory=list)
    false_positive_regions: list = field(default_factory=list)


def match_defects(roll, scores, threshold):
    """Hold a roll's map against its mask, defect by defect.

    A defect is a connected component (8-neighbourhood) of the mask dilated by 12 px. A predicted region is one of the
    likewise dilated pixels above the threshold; regions with no such pixel in a dilated defect are false alarms.

    roll: `fabric.Roll`; scores: float32 `(H, W)`. Returns a `RollOutcome`.
    """
    mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
    called = scores > threshold
    regions, region_boxes = components(dilate(called))
    places, boxes = components(dilate(mask))
    touching = np.zeros(len(region_boxes) + 1, bool)
    touching[regions[called & (places > 0)]] = True
    defects = [_outcome(roll, scores, called, regions, mask, places == i, box) for i, box in enumerate(boxes, 1)]
    false_positive_regions = []
    for region in np.flatnonzero(~touching[1:]) + 1:
        box = region_boxes[region - 1]
        inside = np.where((regions[box] == region) & called[box], scores[box], 0)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        false_positive_regions.append((box[0].start + int(row), box[1].start + int(column), float(inside.max())))
    return RollOutcome(defects, false_positive_regions)


def _outcome(roll, scores, called, regions, mask, place, box):
    own = (mask & place)[box]
    rows, columns = np.nonzero(own)
    centroid = (float(rows.mean()) + box[0].start, float(columns.mean()) + box[1].start)
    on_it = np.unique(regions[called & place])
    distance = None
    if len(on_it):
        predicted = np.nonzero(called & np.isin(regions, on_it))
        weights = scores[predicted].astype(np.float64)
        row, column = ((axis * weights).sum() / weights.sum() for axis in predicted)
        distance = float(np.hypot(row - centroid[0], column - centroid[1]))
    return DefectOutcome(
        roll.name,
        roll.fabric,
        roll.defect,
        pixels=len(rows),
        centroid=centroid,
        hit=distance is not None,
        score=float(scores[place].max()),
        coverage=float(called[box][own].mean()),
        distance=distance,
    )
