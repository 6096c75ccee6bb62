"""Figures over pixels in constant memory: a streaming histogram gives AUROC, AP and the per-region overlap (AUPRO)."""

import cv2
import numpy as np


class PixelHistogram:
    """Pixel AUROC, AP and AUPRO in constant memory: positive floats sort like their bit patterns, which are counted.

    A bin spans 2^-11 of a value. Scores inside a bin count as ties; the difference from an exact computation stays
    under 1e-4 on any but the smallest cases. Histograms of different rolls add up (`+`).
    """

    SHIFT = 12

    def __init__(self) -> None:
        bins = int(np.float32(np.inf).view(np.int32) >> self.SHIFT) + 1
        self.negatives = np.zeros(bins, np.int64)
        self.positives = np.zeros(bins, np.int64)
        self.regions = np.zeros(bins)  # of every defect pixel its share of its region, so each region adds up to 1
        self.count = 0  # of regions

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count anomaly maps and their masks; a region is a connected component (8-neighbourhood) of a mask.

        scores: float32 `(..., H, W)`, 0 or more; labels: bool of the same shape. A single row `(W,)` is fine.
        """
        bins = np.ascontiguousarray(scores, np.float32).view(np.int32) >> self.SHIFT
        self.negatives += np.bincount(bins[~labels], minlength=len(self.negatives))
        if not labels.any():
            return
        on_defects = bins[labels]
        shares, count = _region_shares(labels)
        self.positives += np.bincount(on_defects, minlength=len(self.positives))
        self.regions += np.bincount(on_defects, shares, minlength=len(self.regions))
        self.count += count

    def __add__(self, other: "PixelHistogram") -> "PixelHistogram":
        total = PixelHistogram()
        for name in ("negatives", "positives", "regions", "count"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def auroc(self) -> float:
        """Chance that a defect pixel scores above a normal one, 0 to 1, ties half; NaN where one class is missing.

        The area under the ROC curve as the Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982).
        """
        positives, negatives = self.positives.sum(), self.negatives.sum()
        if not positives or not negatives:
            return float("nan")
        below = np.cumsum(self.negatives) - self.negatives
        return float((self.positives * (below + self.negatives / 2)).sum() / positives / negatives)

    def average_precision(self) -> float:
        """Precision averaged over the steps of recall, 0 to 1, bins from the highest down; NaN without positives.

        scikit-learn's definition (`average_precision_score`): no interpolation between the steps.
        """
        if not self.positives.sum():
            return float("nan")
        hits = np.cumsum(self.positives[::-1])
        predicted = hits + np.cumsum(self.negatives[::-1])
        steps = np.diff(hits, prepend=0) / hits[-1]
        return float((steps * hits / np.maximum(predicted, 1)).sum())

    def aupro(self, limit: float = 0.3) -> float:
        """Area under the per-region overlap up to a false-positive rate, divided by it: 0 to 1; NaN without a region.

        Bergmann et al., IJCV 129, 2021: for every threshold the share of a region's pixels above it, averaged over all
        regions, so that a speck counts as much as a stain; against the share of normal pixels above it. Small limits
        matter most: 0.3, the usual one, still lets a third of the normal fabric pass for defective.

        limit: false-positive rate, above 0, up to 1. Trapezoids between the thresholds, a straight line up to it.
        """
        negatives = self.negatives.sum()
        if not self.count or not negatives:
            return float("nan")
        used = np.flatnonzero(self.negatives + self.positives)[::-1]
        rate = np.append(0, np.cumsum(self.negatives[used]) / negatives)
        overlap = np.append(0, np.cumsum(self.regions[used]) / self.count)
        inside = int(np.searchsorted(rate, limit, side="right"))  # thresholds whose rate is within the limit
        at_limit = np.interp(limit, rate[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1])
        area = np.trapezoid(np.append(overlap[:inside], at_limit), np.append(rate[:inside], limit))
        return float(area / limit)


def _region_shares(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """For each defect pixel, in the order of `scores[labels]`, 1 / the pixels of its region; the number of regions."""
    shares, regions = [], 0
    for mask in labels.reshape(-1, *np.atleast_2d(labels).shape[-2:]):
        count, index, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        shares.append((1 / np.maximum(stats[:, cv2.CC_STAT_AREA], 1))[index[mask]])
        regions += count - 1
    return np.concatenate(shares), regions
