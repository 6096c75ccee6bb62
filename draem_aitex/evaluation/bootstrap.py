"""Confidence intervals of figures: 95 % percentile bootstrap over rolls.

Patches and defects of one roll share its fabric, its light and its recording, so they are not independent draws; whole
rolls are. Every resample draws as many rolls as were judged, with replacement, and takes the figure again; the interval
is what lies between the 2.5th and the 97.5th percentile (Efron, Annals of Statistics 7, 1979). A roll drawn twice
counts twice: resamples are sample weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from draem_aitex.errors import check_number, check_seed

RESAMPLES = 1000
CONFIDENCE = 0.95  # share of the resamples inside an interval
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)  # of an interval, as quantiles
GRID = np.linspace(0, 1, 101)  # false-positive rates and recalls at which the curves' bands are given


def draw_rolls(rolls: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each roll is drawn: int64 `(resamples, rolls)`, every row adds up to `rolls`."""
    check_number("resamples", resamples, 1, whole=True)
    check_seed(seed)
    if not rolls:
        return np.zeros((resamples, 0), np.int64)
    return np.random.default_rng(seed).multinomial(rolls, np.full(rolls, 1 / rolls), resamples)


def interval(values: ArrayLike) -> list[float] | None:
    """`[low, high]` of a figure's resamples `(R,)`; None where more than half of them are NaN (a class was missing)."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    if not len(finite) or 2 * len(finite) < len(values):
        return None
    return np.quantile(finite, ENDS).tolist()


def aurocs(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC of every resample: float64 `(R,)`, NaN where a class is missing.

    labels: bool `(N,)`; scores: `(N,)`; weights: int `(R, N)`, how often each was drawn.
    """
    return _each(lambda weight: roc_auc_score(labels, scores, sample_weight=weight), weights, labels, ~labels)


def average_precisions(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of every resample: float64 `(R,)`, NaN without a positive; arguments as of `aurocs`."""
    return _each(lambda weight: average_precision_score(labels, scores, sample_weight=weight), weights, labels)


def curve_bands(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Bands of two curves at `GRID`: float64 `(2, 2, 101)`, of ROC and precision-recall curve the low and the high end.

    Arguments as of `aurocs`. Resamples without both classes are left out; None where more than half of them are.
    """

    def curves(weight: np.ndarray) -> list[np.ndarray]:
        rate, recall, _ = roc_curve(labels, scores, sample_weight=weight, drop_intermediate=False)
        precision, reached, _ = precision_recall_curve(labels, scores, sample_weight=weight)
        at = np.searchsorted(reached[::-1], np.maximum(GRID, 1e-9))  # the highest threshold with so much recall
        return [recall[np.searchsorted(rate, GRID, side="right") - 1], precision[::-1][at]]

    resampled = _each(curves, weights, labels, ~labels, missing=np.full((2, len(GRID)), np.nan))
    resampled = resampled[np.isfinite(resampled[:, 0, 0])]
    if 2 * len(resampled) < len(weights):
        return None
    return np.quantile(resampled, ENDS, axis=0).swapaxes(0, 1)


def _each(figure: Callable[[np.ndarray], Any], weights: np.ndarray, *classes: np.ndarray, missing: Any = np.nan) -> Any:
    """A figure of every resample; `missing` where nothing of a class was drawn."""
    unique, of_each = np.unique(weights, axis=0, return_inverse=True)  # of few rolls the same are drawn again and again
    usable = np.all([unique @ drawn > 0 for drawn in classes], axis=0)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # it takes time, a thousand times
        values = [figure(weight) if use else missing for weight, use in zip(unique, usable, strict=True)]
    return np.array(values)[of_each.ravel()]
