"""How sure a figure is: 95 % percentile bootstrap intervals over rolls.

Patches and defects of one roll share its cloth, its light and its recording, so they are no independent draws; whole
rolls are. Every resample draws as many rolls as were judged, with replacement, and takes the figure anew; the interval
is what lies between the 2.5th and the 97.5th percentile (Efron, Annals of Statistics 7, 1979). A roll drawn twice
counts twice: resamples are weights, and all of them are worked out at once.
"""

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # share of the resamples inside an interval
GRID = np.linspace(0, 1, 101)  # false-alarm rates and recalls at which the curves' bands are given


def draw_rolls(rolls, resamples=RESAMPLES, seed=0):
    """How often each roll is drawn: int64 `(resamples, rolls)`, every row adds up to `rolls`."""
    if not rolls:
        return np.zeros((resamples, 0), np.int64)
    return np.random.default_rng(seed).multinomial(rolls, np.full(rolls, 1 / rolls), resamples)


def interval(values):
    """`[low, high]` of a figure's resamples `(R,)`; None where more than half of them are NaN (a class was missing)."""
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    if not len(finite) or 2 * len(finite) < len(values):
        return None
    return [float(end) for end in np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def ratios(parts, wholes):
    """Parts / wholes, `(R,)` each, NaN where the whole is 0."""
    return np.divide(parts, wholes, out=np.full(len(wholes), np.nan), where=np.asarray(wholes) > 0)


def curve_counts(labels, scores, weights):
    """Weighted positives and negatives from the highest distinct score down: `(hits, alarms)`, `(R, levels)` each.

    labels: bool `(N,)`; scores: `(N,)`; weights: `(R, N)`, 0 or more.
    """
    order = np.argsort(-scores, kind="stable")
    labels, scores, weights = labels[order], scores[order], weights[:, order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)[: len(scores)])  # of each group of ties
    return np.cumsum(weights * labels, axis=1)[:, last], np.cumsum(weights * ~labels, axis=1)[:, last]


def aurocs(hits, alarms):
    """AUROC of every resample `(R,)` from `curve_counts`, NaN where a class is missing."""
    if not hits.size:
        return np.full(len(hits), np.nan)
    start = np.zeros((len(hits), 1), np.int64)
    area = np.trapezoid(np.hstack([start, hits]), np.hstack([start, alarms]), axis=1)
    return ratios(area, hits[:, -1] * alarms[:, -1])


def average_precisions(hits, alarms):
    """Average precision of every resample `(R,)` from `curve_counts`, NaN without a positive."""
    if not hits.size:
        return np.full(len(hits), np.nan)
    steps = np.diff(hits, prepend=0, axis=1)
    return ratios((steps * hits / np.maximum(hits + alarms, 1)).sum(1), hits[:, -1])


def curve_bands(labels, scores, weights):
    """Bands of the ROC and the precision-recall curve at `GRID`: `(recall, precision)`, float `(2, 101)`, low and high.

    Resamples without both classes are left out; None where more than half of them are.
    """
    hits, alarms = curve_counts(labels, scores, weights)
    whole = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
    if 2 * whole.sum() < len(weights):
        return None
    recalls, precisions = [], []
    for hit, alarm in zip(hits[whole], alarms[whole], strict=True):
        reached = np.searchsorted(alarm / alarm[-1], GRID, side="right")
        recalls.append(np.append(0, hit / hit[-1])[reached])
        at = np.searchsorted(hit / hit[-1], np.maximum(GRID, 1e-9), side="left")  # the first level with a hit
        precisions.append(hit[at] / (hit[at] + alarm[at]))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return np.quantile(recalls, ends, axis=0), np.quantile(precisions, ends, axis=0)
