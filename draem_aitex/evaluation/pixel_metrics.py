"""Figures over pixels in constant memory: a streaming histogram gives AUROC, AP and the per-region overlap (AUPRO)."""

import cv2
import numpy as np

from draem_aitex.errors import ABOVE_0, InputError, check_number, check_type
from draem_aitex.evaluation import metrics


class PixelHistogram:
    """Pixel AUROC, AP and AUPRO in constant memory: positive floats sort like their bit patterns, which are counted.

    A bin spans 2^-11 of a value. Scores inside a bin count as ties; the difference from an exact computation stays
    under 1e-4 on any but the smallest cases. Histograms of different rolls add up (`+`).
    """

    SHIFT = 12

    def __init__(self) -> None:
        bins = int(np.float32(np.inf).view(np.int32) >> self.SHIFT) + 1
        # Normal pixels; defect pixels; and of every defect pixel its share of its region, so each region adds up to 1.
        self.counts = np.zeros((3, bins))

    @property
    def count(self) -> int:
        """Number of regions."""
        return round(self.counts[2].sum())

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count anomaly maps and their masks; a region is a connected component (8-neighbourhood) of a mask.

        scores: float32 `(..., H, W)`, 0 or more; labels: bool of the same shape. A single row `(W,)` is fine.
        """
        check_type("labels", labels, np.ndarray)
        if np.shape(scores) != labels.shape or labels.dtype != bool or not (np.isfinite(scores) & (scores >= 0)).all():
            found = f"scores {np.shape(scores)}, labels {labels.dtype} {labels.shape}"
            raise InputError(f"{found}; expected one shape, scores that are finite and 0 or more, labels of bool")
        bins = np.ascontiguousarray(scores, np.float32).view(np.int32) >> self.SHIFT
        normal, on_defects = bins[~labels], bins[labels]
        parts = [(normal, None), (on_defects, None), (on_defects, _region_shares(labels))]
        self.counts += [np.bincount(*part, minlength=self.counts.shape[1]) for part in parts]

    def __getstate__(self) -> tuple[np.ndarray, np.ndarray]:
        """What another process needs of it: the bins that hold something, and their counts."""
        used = np.flatnonzero(self.counts.any(axis=0))
        return used, self.counts[:, used]

    def __setstate__(self, state: tuple[np.ndarray, np.ndarray]) -> None:
        PixelHistogram.__init__(self)
        used, counts = state
        self.counts[:, used] = counts

    def __add__(self, other: "PixelHistogram") -> "PixelHistogram":
        total = PixelHistogram()
        total.counts += self.counts + other.counts
        return total

    def auroc(self) -> float:
        """Chance that a defect pixel scores above a normal one, 0 to 1, ties half; NaN where one class is missing.

        The area under the ROC curve (Hanley and McNeil, Radiology 143, 1982), see `metrics.auroc`.
        """
        return metrics.auroc(*self._weighted())

    def average_precision(self) -> float:
        """Precision averaged over the steps of recall, 0 to 1, bins from the highest down; NaN without positives.

        scikit-learn's definition (`average_precision_score`): no interpolation between the steps.
        """
        return metrics.average_precision(*self._weighted())

    def aupro(self, limit: float = 0.3) -> float:
        """Area under the per-region overlap up to a false-positive rate, divided by it: 0 to 1; NaN without a region.

        Bergmann et al., IJCV 129, 2021: for every threshold the share of a region's pixels above it, averaged over all
        regions, so that a speck counts as much as a stain; against the share of normal pixels above it. Small limits
        matter most: 0.3, the usual one, still lets a third of the normal fabric pass for defective.

        limit: false-positive rate, above 0, up to 1. Trapezoids between the thresholds, a straight line up to it.
        """
        check_number("limit", limit, ABOVE_0, 1, "a rate above 0, up to 1")
        negatives, _, regions = used = self.counts[:, self.counts.any(axis=0)][:, ::-1]
        if not used.any(axis=1).all():
            return float("nan")
        rate, overlap = (np.append(0, part.cumsum() / part.sum()) for part in (negatives, regions))
        inside = int(np.searchsorted(rate, limit, side="right"))  # thresholds whose rate is within the limit
        at_limit = np.interp(limit, rate[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1])
        area = np.trapezoid(np.append(overlap[:inside], at_limit), np.append(rate[:inside], limit))
        return float(area / limit)

    def _weighted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, bins and how many pixels each stands for."""
        labels, bins = np.nonzero(self.counts[:2])
        return labels == 1, bins, self.counts[labels, bins]


def _region_shares(labels: np.ndarray) -> np.ndarray:
    """For each defect pixel, in the order of `scores[labels]`, 1 / the pixels of its region."""
    shares = []
    for mask in labels.reshape(-1, *np.atleast_2d(labels).shape[-2:]):
        _, index, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        shares.append((1 / np.maximum(stats[:, cv2.CC_STAT_AREA], 1))[index[mask]])
    return np.concatenate(shares)
