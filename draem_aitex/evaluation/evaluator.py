"""What a detector did on test rolls, collected roll by roll, and all figures taken from it.

Figures come at three levels by one protocol: patches (see `metrics`), rolls and pixels. A roll's score is its map's
maximum and it is called defective by the same threshold, which was set per patch: a roll of many patches is called
falsely more often than one of them.
"""

import math
import statistics
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from draem_aitex.data.aitex import defect_name
from draem_aitex.data.patcher import PATCH, patch_maxima
from draem_aitex.data.rolls import load_roll
from draem_aitex.detectors import calibration
from draem_aitex.errors import InputError
from draem_aitex.evaluation import bootstrap, cases, metrics
from draem_aitex.evaluation.pixel_metrics import PixelHistogram
from draem_aitex.files import sha256

GIANT = 100_000  # mask pixels of a roll; two of AITEX's rolls have more, and 78 % of all defect pixels between them
SIZES = (32, 256, 2048)  # mask pixels of a defect, where one bin ends and the next begins
AUPRO_LIMITS = {"aupro": 0.3, "aupro_at_0.05": 0.05, "aupro_at_0.01": 0.01}  # false-positive rates


@dataclass(frozen=True)
class RollResult:
    """One roll. score: its map's maximum; columns: of fabric.

    judged is False for a defective roll without a mask, or with an empty one: it counts at roll level only, and the
    counts that follow stay 0. pixel_counts: as `metrics.decision_counts` gives them; giant: a mask of 100,000 px.
    """

    name: str
    fabric: str
    defect: str
    score: float
    columns: int
    judged: bool
    giant: bool = False
    patches: int = 0
    defects: int = 0
    hits: int = 0
    false_positive_regions: int = 0
    pixel_counts: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass
class Evaluation:
    """Everything collected over the test rolls; `figures` sums it up.

    Mask pixels beside the fabric that was found count as missed defects and in no pixel figure.

    mm_per_px: resolution of the pictures, mm, where it is known; pictures: keep a small picture of every roll with a
    defect or an alarm, for the HTML page. Maps are not kept,
    but a crop of 100 kilobytes for every miss and every false alarm.
    """

    threshold: calibration.Threshold
    mm_per_px: float | None = None
    pictures: bool = False
    patches: list = field(default_factory=list)  # (fabric, defect code, label, score), one per patch, roll by roll
    rolls: list = field(default_factory=list)  # RollResult
    defects: list = field(default_factory=list)  # metrics.DefectOutcome
    pixels: dict = field(default_factory=dict)  # (fabric, giant or not) to PixelHistogram
    missed: list = field(default_factory=list)  # cases.Case
    false_positive_regions: list = field(default_factory=list)  # cases.Case
    strips: list = field(default_factory=list)  # (title, JPEG), one per roll with a defect or an alarm

    def __post_init__(self):
        if self.mm_per_px is not None and not 0 < self.mm_per_px < math.inf:
            raise InputError(f"mm_per_px: {self.mm_per_px}; expected millimetres above 0; leave it out if unknown")

    def add(self, roll, scores):
        """Take in one roll and its map."""
        start, end = roll.edges
        if end - start < 1:
            raise InputError(f"{roll.name}: no fabric columns; expected some; leave the roll out")
        outcome = metrics.match_defects(roll, scores, self.threshold.value)
        if self.pictures and (roll.defect != "000" or outcome.false_positive_regions):
            self.strips.append(cases.roll_strip(roll, scores, self.threshold.value, outcome))
        what = (roll.name, roll.fabric, roll.defect, float(scores.max()), end - start)
        if roll.defect != "000" and (roll.mask is None or not roll.mask.any()):
            self.rolls.append(RollResult(*what, judged=False))
            return
        mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
        giant = int(mask.sum()) >= GIANT
        labels, maxima = patch_maxima(mask, roll.edges), patch_maxima(scores, roll.edges)
        for label, score in zip(labels, maxima, strict=True):
            self.patches.append((roll.fabric, roll.defect, bool(label), float(score)))
        on_fabric = np.s_[:, start:end]
        self.pixels.setdefault((roll.fabric, giant), PixelHistogram()).add(scores[on_fabric], mask[on_fabric])
        counts = metrics.decision_counts(mask[on_fabric], scores[on_fabric] > self.threshold.value)
        hits = sum(defect.hit for defect in outcome.defects)
        found = (len(labels), len(outcome.defects), hits, len(outcome.false_positive_regions), tuple(counts.tolist()))
        self.rolls.append(RollResult(*what, True, giant, *found))
        self.defects += outcome.defects
        self.missed += [cases.missed_case(roll, scores, defect) for defect in outcome.defects if not defect.hit]
        self.false_positive_regions += [
            cases.false_positive_case(roll, scores, *alarm) for alarm in outcome.false_positive_regions
        ]

    def figures(self):
        """All figures, as plain values; NaN where a class is missing (JSON: null).

        Rates are shares from 0 to 1; `intervals` has `[low, high]` for some of them, see `intervals_by_roll`.
        """
        fabrics = sorted({roll.fabric for roll in self.rolls})
        by_fabric = {fabric: self._fabric(fabric) for fabric in fabrics}
        aurocs = [row["patch_auroc"] for row in by_fabric.values() if not math.isnan(row["patch_auroc"])]
        return {
            **self._patch_figures(),
            "patch_auroc_mean_of_fabrics": statistics.fmean(aurocs) if aurocs else math.nan,
            **self._roll_figures(),
            **self._pixel_figures(),
            **self._defect_figures(),
            "threshold": self.threshold.value,
            "fpr_wanted": self.threshold.wanted,
            "fpr_bound": self.threshold.bound,
            "calibration_patches": self.threshold.patches,
            "n_calibration_rolls": self.threshold.rolls,
            "n_test_rolls": len(self.rolls),
            "intervals": self.intervals_by_roll(),
            "by_fabric": by_fabric,
            "by_defect": {code: self._defect(code) for code in sorted({roll.defect for roll in self.rolls} - {"000"})},
            "by_size": self._by_size(),
            "defect_list": [self._listed(defect) for defect in self.defects],
        }

    def patch_arrays(self):
        """Labels bool, scores float64 and rolls (index into `rolls`) of all patches: `(N,)` each."""
        labels = np.array([label for _, _, label, _ in self.patches], bool)
        scores = np.array([score for *_, score in self.patches], np.float64)
        counts = np.array([roll.patches for roll in self.rolls], int)
        return labels, scores, np.repeat(np.arange(len(self.rolls)), counts)

    def _patch_figures(self):
        labels, scores, _ = self.patch_arrays()
        decision = metrics.decision_figures(labels, scores, self.threshold.value)
        return {
            "patches": len(self.patches),
            "positive_patches": int(labels.sum()),
            "patch_auroc": metrics.auroc(labels, scores),
            "patch_ap": metrics.average_precision(labels, scores),
            **{f"patch_{name}": value for name, value in decision.items()},
            "patch_f1_max_upper_bound": metrics.f1_max_upper_bound(labels, scores),
            "fabric_columns": sum(roll.columns for roll in self.rolls if roll.judged),
            "fabric_columns_in_no_patch": sum(
                roll.columns % PATCH if roll.patches else roll.columns for roll in self.rolls if roll.judged
            ),
        }

    def _roll_figures(self):
        labels, scores = self._roll_arrays()
        decision = metrics.decision_figures(labels, scores, self.threshold.value)
        return {
            "positive_rolls": int(labels.sum()),
            "roll_auroc": metrics.auroc(labels, scores),
            "roll_ap": metrics.average_precision(labels, scores),
            **{f"roll_{name}": value for name, value in decision.items()},
        }

    def _roll_arrays(self):
        labels = np.array([roll.defect != "000" for roll in self.rolls], bool)
        return labels, np.array([roll.score for roll in self.rolls], np.float64)

    def _pixel_figures(self):
        figures = {"giant_rolls": sum(roll.giant for roll in self.rolls)}
        for ending, giants in (("", (False, True)), ("_without_giants", (False,))):
            counted = sum((part for (_, giant), part in self.pixels.items() if giant in giants), PixelHistogram())
            counts = [roll.pixel_counts for roll in self.rolls if roll.giant in giants]
            decision = metrics.figures_of_counts(np.sum(counts or [(0, 0, 0, 0)], axis=0))
            figures |= {f"pixel_{name}{ending}": value for name, value in decision.items()}
            figures |= {f"{name}{ending}": value for name, value in _ranked(counted).items()}
        return figures

    def _defect_figures(self):
        hits = [defect for defect in self.defects if defect.hit]
        judged = [roll for roll in self.rolls if roll.judged]
        alarms = sum(roll.false_positive_regions for roll in judged)
        distance = _median([defect.distance for defect in hits])
        metres = sum(roll.columns for roll in judged) * (self.mm_per_px or math.nan) / 1000
        return {
            "defects": len(self.defects),
            "hits": len(hits),
            "hit_rate": metrics.share(len(hits), len(self.defects)),
            "miss_rate": metrics.share(len(self.defects) - len(hits), len(self.defects)),
            "centroid_distance_px_median": distance,
            "centroid_distance_mm_median": distance * (self.mm_per_px or math.nan),
            "coverage_median": _median([defect.coverage for defect in self.defects]),
            "false_positive_regions": alarms,
            "false_positive_regions_per_roll": metrics.share(alarms, len(judged)),
            "false_positive_regions_per_metre": metrics.share(alarms, metres),
            "metres": metres,
            "mm_per_px": self.mm_per_px or math.nan,
        }

    def intervals_by_roll(self, resamples=bootstrap.RESAMPLES, seed=0):
        """95 % bootstrap intervals by roll, `[low, high]` or None where they mean nothing, see `intervals`.

        The threshold is not drawn anew. Figures without one, such as AUPRO and the medians, would need every map again.
        """
        drawn = bootstrap.draw_rolls(len(self.rolls), resamples, seed)
        labels, scores, owners = self.patch_arrays()
        called = scores > self.threshold.value

        def patches(which):
            return drawn @ np.bincount(owners[which], minlength=len(self.rolls))

        def counts(name):
            return drawn @ np.array([getattr(roll, name) for roll in self.rolls], np.int64)

        of_patches = bootstrap.curve_counts(labels, scores, drawn[:, owners])
        of_rolls = bootstrap.curve_counts(*self._roll_arrays(), drawn)
        hit, alarms = patches(labels & called), patches(~labels & called)
        roll_labels, roll_scores = self._roll_arrays()
        roll_called = roll_scores > self.threshold.value
        found = drawn @ (roll_labels & roll_called)
        pixels = drawn @ np.array([roll.pixel_counts for roll in self.rolls], np.int64).reshape(-1, 4)
        values = {
            "patch_auroc": bootstrap.aurocs(*of_patches),
            "patch_ap": bootstrap.average_precisions(*of_patches),
            "patch_recall": bootstrap.ratios(hit, patches(labels)),
            "patch_precision": bootstrap.ratios(hit, hit + alarms),
            "patch_f1": bootstrap.ratios(2 * hit, patches(labels) + hit + alarms),
            "patch_fpr": bootstrap.ratios(alarms, patches(~labels)),
            "roll_auroc": bootstrap.aurocs(*of_rolls),
            "roll_ap": bootstrap.average_precisions(*of_rolls),
            "roll_recall": bootstrap.ratios(found, drawn @ roll_labels),
            "roll_precision": bootstrap.ratios(found, drawn @ roll_called),
            "pixel_recall": bootstrap.ratios(pixels[:, 0], pixels[:, 0] + pixels[:, 1]),
            "pixel_precision": bootstrap.ratios(pixels[:, 0], pixels[:, 0] + pixels[:, 2]),
            "hit_rate": bootstrap.ratios(counts("hits"), counts("defects")),
            "false_positive_regions_per_roll": bootstrap.ratios(counts("false_positive_regions"), counts("judged")),
        }
        several = len(self.rolls) > 1  # a single roll is drawn again and again
        return {name: bootstrap.interval(value) if several else None for name, value in values.items()}

    def _fabric(self, fabric):
        rows = [row for row in self.patches if row[0] == fabric]
        rolls = [roll for roll in self.rolls if roll.fabric == fabric]
        pixels = sum((part for (of, _), part in self.pixels.items() if of == fabric), PixelHistogram())
        labels, scores = [row[2] for row in rows], [row[3] for row in rows]
        return {
            "rolls": len(rolls),
            "patches": len(rows),
            "positive_patches": sum(labels),
            "patch_auroc": metrics.auroc(labels, scores),
            "patch_ap": metrics.average_precision(labels, scores),
            "patches_found": sum(label and score > self.threshold.value for *_, label, score in rows),
            "false_positives": sum(not label and score > self.threshold.value for *_, label, score in rows),
            "false_positive_regions": sum(roll.false_positive_regions for roll in rolls),
            **_ranked(pixels),
            **_hits([defect for defect in self.defects if defect.fabric == fabric]),
        }

    def _defect(self, code):
        """Of one type; its AUROC is that of its patches against all flawless ones."""
        rows = [row for row in self.patches if row[1] == code and row[2]]
        against = [row for row in self.patches if not row[2]]
        return {
            "name": defect_name(code),
            "rolls": sum(roll.defect == code for roll in self.rolls),
            "positive_patches": len(rows),
            "patch_auroc": metrics.auroc([row[2] for row in rows + against], [row[3] for row in rows + against]),
            "patches_found": sum(row[3] > self.threshold.value for row in rows),
            **_hits([defect for defect in self.defects if defect.defect == code]),
        }

    def _by_size(self):
        names = [f"under {SIZES[0]}", *(f"{low} to {high - 1}" for low, high in zip(SIZES, SIZES[1:], strict=False))]
        bins = np.digitize([defect.pixels for defect in self.defects], SIZES)
        return {
            f"{name} px": _hits([defect for defect, own in zip(self.defects, bins, strict=True) if own == index])
            for index, name in enumerate([*names, f"{SIZES[-1]} or more"])
        }

    def _listed(self, defect):
        return {
            "roll": defect.roll,
            "fabric": defect.fabric,
            "defect": defect.defect,
            "pixels": defect.pixels,
            "centroid": list(defect.centroid),
            "hit": defect.hit,
            "score": defect.score,
            "coverage": defect.coverage,
            "distance_px": defect.distance,
            "distance_mm": defect.distance * self.mm_per_px if defect.hit and self.mm_per_px else None,
        }


def _hits(defects):
    """Hits of some defects, with the medians of what is known of each."""
    hits = [defect for defect in defects if defect.hit]
    return {
        "defects": len(defects),
        "hits": len(hits),
        "hit_rate": metrics.share(len(hits), len(defects)),
        "coverage_median": _median([defect.coverage for defect in defects]),
        "centroid_distance_px_median": _median([defect.distance for defect in hits]),
    }


def _ranked(pixels):
    """The figures of a `PixelHistogram` that need no threshold."""
    overlaps = {name: pixels.aupro(limit) for name, limit in AUPRO_LIMITS.items()}
    return {"pixel_auroc": pixels.auroc(), "pixel_ap": pixels.average_precision(), **overlaps}


def _median(values):
    return float(statistics.median(values)) if values else math.nan


def evaluate(detector, records, threshold, quiet=False, mm_per_px=None, pictures=False):
    """Judge a detector on rolls it has not seen: an `Evaluation`. One roll is in memory at a time.

    detector: anything with `predict(image, edges, fabric)`; records: of `aitex`; threshold: a `metrics.Threshold`;
    mm_per_px: resolution, where it is known; pictures: keep one of every roll, for `page.html_page`.
    """
    if not records:
        raise InputError("rolls to judge: none left; expected rolls that were not trained or calibrated on; add some")
    result = Evaluation(threshold, mm_per_px, pictures)
    for record in tqdm(records, desc="evaluating", unit="roll", disable=quiet):
        roll = load_roll(record)
        result.add(roll, detector.predict(roll.image, roll.edges, roll.fabric))
    return result


def unseen_records(content, records):
    """Test records a checkpoint has neither trained nor calibrated on, known by their content, not by their name."""
    seen = {digest for part in ("train", "calibration") for digest in content["split"][part].values()}
    fabrics = content["fabrics"]
    chosen = [record for record in records if not fabrics or record.fabric in fabrics]
    return [record for record in chosen if sha256(record.path) not in seen]
