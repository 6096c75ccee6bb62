"""All figures of an evaluation, from what was collected of every roll.

They come of patches (see `metrics`), of rolls and of pixels, by one protocol. A roll's score is its map's maximum, and
it is predicted defective by the same threshold, which was set per patch: of a roll of many patches a false positive is
likelier than of one of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from draem_aitex.data.aitex import defect_name
from draem_aitex.data.patcher import PATCH
from draem_aitex.data.rolls import NORMAL, SYNTHETIC
from draem_aitex.detectors.calibration import Threshold
from draem_aitex.evaluation import bootstrap, metrics
from draem_aitex.evaluation.metrics import DefectOutcome
from draem_aitex.evaluation.pixel_metrics import PixelHistogram

GIANT = 100_000  # mask pixels of a roll; two of AITEX's rolls have more, and 78 % of all defect pixels between them
SIZES = {"under 32 px": 0, "32 to 255 px": 32, "256 to 2047 px": 256, "2048 or more px": 2048}  # bins of mask pixels
AUPRO_LIMITS = {"aupro": 0.3, "aupro_at_0.05": 0.05, "aupro_at_0.01": 0.01}  # false-positive rates
Pixels = Mapping[tuple[str, bool], PixelHistogram]  # by fabric, and whether the mask is a giant one


class RollResult(NamedTuple):
    """One roll. score: its map's maximum; columns: of fabric.

    judged is False for a defective roll without a mask, or with an empty one: it counts as a roll only, and what
    follows stays empty. giant: a mask of 100,000 px or more; labels: bool, scores: float64, of its patches, `(N,)`
    each; false_positives: predicted regions on no defect; pixel_counts: as `metrics.decision_counts` gives them;
    disputed: bool `(N,)`, patches that count as normal although a person sees a defect there; columns_in_no_patch: of
    the fabric, where only whole patches count; covered: every pixel is in a patch.
    """

    name: str
    fabric: str
    defect: str
    score: float
    columns: int
    judged: bool = False
    giant: bool = False
    labels: np.ndarray = np.zeros(0, bool)
    scores: np.ndarray = np.zeros(0)
    defects: Sequence[DefectOutcome] = ()
    false_positives: int = 0
    pixel_counts: np.ndarray = np.zeros(4, np.int64)
    disputed: np.ndarray = np.zeros(0, bool)
    columns_in_no_patch: int = 0
    covered: bool = False


Rolls = Sequence[RollResult]


def figures(rolls: Rolls, pixels: Pixels, threshold: Threshold, mm_per_px: float | None = None) -> dict[str, Any]:
    """All figures, as plain values; NaN where a class is missing.

    Rates are shares from 0 to 1; `intervals` has `[low, high]` for some of them, see `intervals`. mm_per_px: the
    resolution, mm, where it is known.
    """
    value, mm = threshold.value, mm_per_px or math.nan
    by_fabric = {}
    for fabric in sorted({roll.fabric for roll in rolls}):
        of_fabric = {key: part for key, part in pixels.items() if key[0] == fabric}
        by_fabric[fabric] = _pooled([roll for roll in rolls if roll.fabric == fabric], of_fabric, value)
    pooled = _pooled(rolls, pixels, value)
    defects = [defect for roll in rolls for defect in roll.defects]
    listed = [defect._asdict() for defect in defects]
    for row in listed:
        row["centroid_distance_mm"] = row["centroid_distance_px"] * mm if row["hit"] else None
    metres = pooled["fabric_columns"] * mm / 1000
    origin = {"threshold": value, "fpr_wanted": threshold.wanted, "fpr_bound": threshold.bound}
    origin |= {"calibration_patches": threshold.patches, "n_calibration_rolls": threshold.rolls}
    per_metre = metrics.share(pooled["false_positive_regions"], metres)
    types = sorted({roll.defect for roll in rolls} - {NORMAL})
    return {
        **pooled, **origin, "n_test_rolls": len(rolls), "metres": metres, "mm_per_px": mm,
        "patch_auroc_mean_of_fabrics": _average(np.mean, [row["patch_auroc"] for row in by_fabric.values()]),
        "centroid_distance_mm_median": pooled["centroid_distance_px_median"] * mm,
        "false_positive_regions_per_metre": per_metre, "intervals": intervals(rolls, value), "by_fabric": by_fabric,
        "by_defect": {code: _of_type(code, rolls, value) for code in types}, "by_size": by_size(defects),
        "defect_list": listed, "where_patches_lie": where_patches_lie(rolls),
    }  # fmt: skip


def where_patches_lie(rolls: Rolls) -> str:
    """In words: which pixels are in no patch, or how patches cover images; and whether the defects are real."""
    judged = [roll for roll in rolls if roll.judged]
    own = [roll for roll in judged if roll.covered]
    left_out, columns = sum(roll.columns_in_no_patch for roll in judged), sum(roll.columns for roll in judged)
    said = f"{left_out:,} of {columns:,} fabric columns are in no patch."
    if own:
        small = sum(len(roll.labels) == 1 for roll in own)
        said = f"every pixel is in one: {small} images are no larger than a patch and their own, patches of {PATCH} x "
        said += f"{PATCH} cover the other {len(own) - small}, the last of a row or column overlapping the one before."
    if any(roll.defect == SYNTHETIC for roll in rolls):
        said += " No real defects: judged on synthetic anomalies, as it was trained on; real ones may be harder."
    return said


def by_size(defects: Sequence[DefectOutcome]) -> dict[str, dict[str, Any]]:
    """Hits by the size of a defect's mask: a row for each of four bins."""
    bins = np.digitize([defect.pixels for defect in defects], list(SIZES.values())) - 1
    of_bin = [[defect for defect, own in zip(defects, bins, strict=True) if own == row] for row in range(len(SIZES))]
    return dict(zip(SIZES, map(_hits, of_bin), strict=True))


def patch_arrays(rolls: Rolls) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels bool, scores float64 and rolls (index into `rolls`) of all patches: `(N,)` each."""
    none = RollResult("", "", "", 0, 0)
    labels, scores = (np.concatenate([getattr(roll, name) for roll in (none, *rolls)]) for name in ("labels", "scores"))
    return labels, scores, np.repeat(np.arange(len(rolls)), [len(roll.labels) for roll in rolls])


def roll_arrays(rolls: Rolls) -> tuple[np.ndarray, np.ndarray]:
    """Labels bool and scores float64 of all rolls: `(N,)` each."""
    return np.array([roll.defect != NORMAL for roll in rolls], bool), np.array([roll.score for roll in rolls], float)


def intervals(rolls: Rolls, threshold: float) -> dict[str, list[float] | None]:
    """95 % confidence intervals, bootstrap over rolls: `[low, high]`, or None where they mean nothing.

    The threshold stays as it is. Figures without an interval, such as AUPRO and the medians, would need all maps again.
    """
    drawn = bootstrap.draw_rolls(len(rolls))
    *of_patches, owners = patch_arrays(rolls)
    units = {"patch": (*of_patches, drawn[:, owners]), "roll": (*roll_arrays(rolls), drawn)}
    counts, values = {"pixel": drawn @ np.reshape([roll.pixel_counts for roll in rolls], (-1, 4)).astype(int)}, {}
    for unit, (labels, scores, weights) in units.items():
        values[f"{unit}_auroc"] = bootstrap.aurocs(labels, scores, weights)
        values[f"{unit}_ap"] = bootstrap.average_precisions(labels, scores, weights)
        counts[unit] = weights @ np.eye(4, dtype=int)[2 * ~labels + (scores <= threshold)]  # as in `decision_counts`
    for unit, resampled in counts.items():
        decision = metrics.figures_of_counts(resampled.T)
        values |= {f"{unit}_{name}": decision[name] for name in ("recall", "precision", "f1", "fpr")}
    sums = [(sum(d.hit for d in r.defects), len(r.defects), r.false_positives, r.judged) for r in rolls]
    hits, defects, regions, judged = (drawn @ np.reshape(sums, (-1, 4)).astype(int)).T
    values["hit_rate"] = metrics.share(hits, defects)
    values["false_positive_regions_per_roll"] = metrics.share(regions, judged)
    several = len(rolls) > 1  # a single roll is drawn again and again
    return {name: bootstrap.interval(value) if several else None for name, value in values.items()}


def _pooled(rolls: Rolls, pixels: Pixels, threshold: float) -> dict[str, Any]:
    """What is known of all rolls, or of those of a fabric."""
    labels, scores, _ = patch_arrays(rolls)
    judged = [roll for roll in rolls if roll.judged]
    regions = sum(roll.false_positives for roll in judged)
    without_giants = _of_pixels(rolls, pixels, giants=False)
    disputed = np.concatenate([np.zeros(0, bool), *(roll.disputed for roll in rolls)])
    undisputed = _of_unit("patch", labels[~disputed], scores[~disputed], threshold)
    return {
        "rolls": len(rolls), "positive_rolls": sum(roll.defect != NORMAL for roll in rolls),
        "patches": len(labels), "positive_patches": int(labels.sum()), "normal_patches": int((~labels).sum()),
        "predicted_patches": int((scores > threshold).sum()), **_of_unit("patch", labels, scores, threshold),
        "disputed_patches": int(disputed.sum()),
        **{f"{name}_without_disputed": value for name, value in undisputed.items()},
        "patch_f1_max_upper_bound": metrics.f1_max_upper_bound(labels, scores),
        "fabric_columns": sum(roll.columns for roll in judged),
        "fabric_columns_in_no_patch": sum(roll.columns_in_no_patch for roll in judged),
        **_of_unit("roll", *roll_arrays(rolls), threshold), "giant_rolls": sum(roll.giant for roll in rolls),
        **_of_pixels(rolls, pixels), **{f"{name}_without_giants": value for name, value in without_giants.items()},
        **_hits([defect for roll in rolls for defect in roll.defects]), "false_positive_regions": regions,
        "false_positive_regions_per_roll": metrics.share(regions, len(judged)),
    }  # fmt: skip


def _of_unit(unit: str, labels: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """Ranking and decision of patches or of rolls."""
    decision = metrics.decision_figures(labels, scores, threshold)
    ranking = {"auroc": metrics.auroc(labels, scores), "ap": metrics.average_precision(labels, scores)}
    return {f"{unit}_{name}": figure for name, figure in (ranking | decision).items()}


def _of_pixels(rolls: Rolls, pixels: Pixels, giants: bool = True) -> dict[str, Any]:
    """Ranking and decision of pixels; giants: whether rolls with a giant mask count."""
    counts = sum((roll.pixel_counts for roll in rolls if giants or not roll.giant), np.zeros(4, np.int64))
    whole = sum((part for (_, giant), part in pixels.items() if giants or not giant), PixelHistogram())
    decision = {f"pixel_{name}": figure for name, figure in metrics.figures_of_counts(counts).items()}
    overlap = {name: whole.aupro(limit) for name, limit in AUPRO_LIMITS.items()}
    return decision | {"pixel_auroc": whole.auroc(), "pixel_ap": whole.average_precision()} | overlap


def _of_type(code: str, rolls: Rolls, threshold: float) -> dict[str, Any]:
    """Of one type of defect; its AUROC is that of its patches against all normal ones."""
    labels, scores, owners = patch_arrays(rolls)
    own = [roll for roll in rolls if roll.defect == code]
    positive = labels & np.array([roll.defect == code for roll in rolls], bool)[owners]
    auroc = metrics.auroc(positive[positive | ~labels], scores[positive | ~labels])
    found = {"positive_patches": int(positive.sum()), "patch_true_positives": int((scores[positive] > threshold).sum())}
    hits = _hits([defect for roll in own for defect in roll.defects])
    return {"name": defect_name(code), "rolls": len(own), "patch_auroc": auroc, **found, **hits}


def _hits(defects: Sequence[DefectOutcome]) -> dict[str, Any]:
    """Hits of some defects, with the medians of what is known of each."""
    distances = [d.centroid_distance_px for d in defects if d.centroid_distance_px is not None]
    count, hits = len(defects), len(distances)
    rates = {"hit_rate": metrics.share(hits, count), "miss_rate": metrics.share(count - hits, count)}
    medians = {"coverage_median": _average(np.median, [defect.coverage for defect in defects])}
    medians["centroid_distance_px_median"] = _average(np.median, distances)
    return {"defects": count, "hits": hits, **rates, **medians}


def _average(function: Any, values: Sequence[float]) -> float:
    """Of what is a number; NaN where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return float(function(known)) if known else math.nan
