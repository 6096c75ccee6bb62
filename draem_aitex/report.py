"""A detector judged on test rolls: figures as a dict, as a table, and as one HTML page that needs no other file."""

import base64
import html
import io
import math
import statistics
from dataclasses import dataclass, field

import cv2
import numpy as np
from tqdm.auto import tqdm

from draem_aitex import metrics
from draem_aitex.aitex import DEFECTS, sha256
from draem_aitex.errors import InputError
from draem_aitex.fabric import load_roll
from draem_aitex.patcher import patch_maxima

CASE_REACH = 96  # pixels shown to each side of a missed defect or a false alarm
CASES_SHOWN = 60  # of either kind on the HTML page


@dataclass(frozen=True)
class Case:
    """A missed defect or a false alarm: a crop of the picture, the map and the mask around it."""

    title: str
    image: np.ndarray
    scores: np.ndarray
    mask: np.ndarray


@dataclass
class Evaluation:
    """Everything collected over the test rolls; `figures` sums it up."""

    threshold: metrics.Threshold
    patches: list = field(default_factory=list)  # (fabric, defect code, label, score), one per patch
    rolls: list = field(default_factory=list)  # (name, fabric, defect code, score, false alarms), one per roll
    defects: list = field(default_factory=list)  # metrics.DefectOutcome
    pixels: metrics.PixelHistogram = field(default_factory=metrics.PixelHistogram)
    missed: list = field(default_factory=list)  # Case
    false_alarms: list = field(default_factory=list)  # Case

    def add(self, roll, scores):
        """Take in one roll and its map."""
        start, end = roll.edges
        if end - start < 1:
            raise InputError(f"{roll.name}: no fabric columns; expected some; leave the roll out")
        outcome = metrics.match_defects(roll, scores, self.threshold.value)
        judged_by_pixel = roll.defect == "000" or (roll.mask is not None and roll.mask.any())
        false_alarms = outcome.false_alarms if judged_by_pixel else []
        self.rolls.append((roll.name, roll.fabric, roll.defect, float(scores.max()), len(false_alarms)))
        if not judged_by_pixel:
            return  # no mask, or an empty one: it counts at roll level only
        mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
        self.pixels.add(scores[:, start:end], mask[:, start:end])
        labels, maxima = patch_maxima(mask, roll.edges), patch_maxima(scores, roll.edges)
        for label, score in zip(labels, maxima, strict=True):
            self.patches.append((roll.fabric, roll.defect, bool(label), float(score)))
        self.defects += outcome.defects
        for defect in outcome.defects:
            if not defect.hit:
                title = f"{roll.name}: {DEFECTS.get(defect.defect, '?')}, {defect.pixels} px, score {defect.score:.3f}"
                self.missed.append(_case(title, roll, scores, mask, *defect.centroid))
        for row, column, score in false_alarms:
            title = f"{roll.name}: row {row}, column {column}, score {score:.3f}"
            self.false_alarms.append(_case(title, roll, scores, mask, row, column))

    def figures(self):
        """All figures, as plain values; NaN where a class is missing (JSON: null)."""
        labels = np.array([label for _, _, label, _ in self.patches], bool)
        scores = np.array([score for *_, score in self.patches])
        decision = metrics.decision_figures(labels, scores, self.threshold.value)
        hits = [defect for defect in self.defects if defect.hit]
        by_fabric = {fabric: self._fabric(fabric) for fabric in sorted({roll[1] for roll in self.rolls})}
        aurocs = [row["patch_auroc"] for row in by_fabric.values() if not math.isnan(row["patch_auroc"])]
        count = len(self.defects)
        return {
            "patches": len(self.patches),
            "positive_patches": int(labels.sum()),
            "patch_auroc": metrics.auroc(labels, scores),
            "patch_auroc_mean_of_fabrics": statistics.fmean(aurocs) if aurocs else math.nan,
            "patch_ap": metrics.average_precision(labels, scores),
            **{f"patch_{name}": value for name, value in decision.items()},
            "pixel_auroc": self.pixels.auroc(),
            "pixel_ap": self.pixels.average_precision(),
            "roll_auroc": metrics.auroc([roll[2] != "000" for roll in self.rolls], [roll[3] for roll in self.rolls]),
            "defects": count,
            "hits": len(hits),
            "hit_rate": len(hits) / count if count else math.nan,
            "miss_rate": 1 - len(hits) / count if count else math.nan,
            "mass_centre_distance_px_median": statistics.median(d.distance for d in hits) if hits else math.nan,
            "false_alarms": sum(roll[4] for roll in self.rolls),
            "false_alarms_per_roll": statistics.fmean(roll[4] for roll in self.rolls) if self.rolls else math.nan,
            "threshold": self.threshold.value,
            "false_alarm_rate_wanted": self.threshold.wanted,
            "false_alarm_rate_bound": self.threshold.bound,
            "calibration_patches": self.threshold.patches,
            "n_test_rolls": len(self.rolls),
            "by_fabric": by_fabric,
            "by_defect": {code: self._defect(code) for code in sorted({roll[2] for roll in self.rolls} - {"000"})},
        }

    def _fabric(self, fabric):
        rows = [row for row in self.patches if row[0] == fabric]
        labels, scores = [row[2] for row in rows], [row[3] for row in rows]
        defects = [defect for defect in self.defects if defect.fabric == fabric]
        return {
            "rolls": sum(roll[1] == fabric for roll in self.rolls),
            "patches": len(rows),
            "positive_patches": sum(labels),
            "patch_auroc": metrics.auroc(labels, scores),
            "patch_ap": metrics.average_precision(labels, scores),
            "patches_found": sum(label and score > self.threshold.value for *_, label, score in rows),
            "false_positives": sum(not label and score > self.threshold.value for *_, label, score in rows),
            "defects": len(defects),
            "hits": sum(defect.hit for defect in defects),
        }

    def _defect(self, code):
        rows = [row for row in self.patches if row[1] == code and row[2]]
        defects = [defect for defect in self.defects if defect.defect == code]
        return {
            "name": DEFECTS.get(code, "unknown"),
            "rolls": sum(roll[2] == code for roll in self.rolls),
            "positive_patches": len(rows),
            "patches_found": sum(row[3] > self.threshold.value for row in rows),
            "defects": len(defects),
            "hits": sum(defect.hit for defect in defects),
        }


def evaluate(detector, records, threshold, quiet=False):
    """Judge a detector on rolls it has not seen: an `Evaluation`. One roll is in memory at a time.

    detector: anything with `predict(image, edges, fabric)`; records: of `aitex`; threshold: a `metrics.Threshold`.
    """
    if not records:
        raise InputError("test rolls: none left; expected rolls that were not trained or calibrated on; add some")
    result = Evaluation(threshold)
    for record in tqdm(records, desc="evaluating", unit="roll", disable=quiet):
        roll = load_roll(record)
        result.add(roll, detector.predict(roll.image, roll.edges, roll.fabric))
    return result


def _case(title, roll, scores, mask, row, column):
    top = min(max(int(row) - CASE_REACH, 0), max(0, scores.shape[0] - 2 * CASE_REACH))
    left = min(max(int(column) - CASE_REACH, roll.edges[0]), max(0, scores.shape[1] - 2 * CASE_REACH))
    place = np.s_[top : top + 2 * CASE_REACH, left : left + 2 * CASE_REACH]
    return Case(title, roll.image[place].copy(), scores[place].copy(), mask[place].copy())


def without_nan(value):
    """NaN becomes None, all the way down, so that JSON stays JSON."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def table(figures):
    """The figures as text: pooled, per fabric and per defect, counts beside rates."""
    f = figures
    lines = [
        f"rolls: {f['n_test_rolls']} tested, {f['n_train_rolls']} trained on, {f['n_calibration_rolls']} calibrated on"
        f" ({f['source']})",
        f"patches: AUROC {f['patch_auroc']:.3f} pooled, {f['patch_auroc_mean_of_fabrics']:.3f} mean of fabrics, "
        f"AP {f['patch_ap']:.3f} ({f['positive_patches']} of {f['patches']} defective)",
        f"at threshold {f['threshold']:.4g} (for {f['false_alarm_rate_wanted']:.1%} false alarms, from "
        f"{f['calibration_patches']} calibration patches): found {f['patch_true_positives']} of "
        f"{f['positive_patches']} patches, precision {f['patch_precision']:.3f}, false alarms "
        f"{f['patch_false_positives']} of {f['patches'] - f['positive_patches']}",
        f"pixels: AUROC {f['pixel_auroc']:.3f}, AP {f['pixel_ap']:.3f}; rolls: AUROC {f['roll_auroc']:.3f}",
        f"defects: hit {f['hits']} of {f['defects']}, mass-centre distance "
        f"{f['mass_centre_distance_px_median']:.1f} px (median); false-alarm regions: {f['false_alarms']}",
        "",
        "fabric  rolls  defective patches  AUROC   AP     found        false alarms  hits",
    ]
    for fabric, row in f["by_fabric"].items():
        lines.append(
            f"{fabric:6}  {row['rolls']:5}  {row['positive_patches']:6} of {row['patches']:<7}  "
            f"{row['patch_auroc']:6.3f}  {row['patch_ap']:5.3f}  {row['patches_found']:4} of "
            f"{row['positive_patches']:<4}  {row['false_positives']:12}  {row['hits']} of {row['defects']}"
        )
    lines += ["", "defect               rolls  patches found  hits"]
    for code, row in f["by_defect"].items():
        lines.append(
            f"{code} {row['name']:16} {row['rolls']:5}  {row['patches_found']:4} of {row['positive_patches']:<6}  "
            f"{row['hits']} of {row['defects']}"
        )
    return "\n".join(lines)


def html_page(evaluation, figures):
    """One self-contained HTML page: tables, ROC and PR curves, score histogram, every miss and false alarm."""
    from draem_aitex import plots  # matplotlib is loaded only for whoever asks for pictures

    labels = np.array([row[2] for row in evaluation.patches], bool)
    scores = np.array([row[3] for row in evaluation.patches])
    level = evaluation.threshold.value
    parts = [f"<h1>DRAEM on {html.escape(figures['source'])}</h1>", f"<pre>{html.escape(table(figures))}</pre>"]
    if labels.any() and not labels.all():
        parts.append(_picture(_png_of(plots.plot_roc_pr(labels, scores, threshold=level)), "ROC and precision-recall"))
        parts.append(_picture(_png_of(plots.plot_scores(scores[~labels], scores[labels], level)), "patch scores"))
    for heading, cases in (("Missed defects", evaluation.missed), ("False alarms", evaluation.false_alarms)):
        shown = cases[:CASES_SHOWN]
        limit = f", the first {len(shown)} shown" if len(shown) < len(cases) else ""
        parts.append(f"<h2>{heading}: {len(cases)}{limit}</h2>")
        parts.append("<div class=cases>" + "".join(_case_html(case, level) for case in shown) + "</div>")
    return _PAGE.format(title=html.escape(f"DRAEM on {figures['source']}"), body="\n".join(parts))


def _case_html(case, level):
    """Picture with the defect outlined in green, and the same with the map laid over it."""
    from draem_aitex import plots

    plain = cv2.cvtColor(case.image, cv2.COLOR_GRAY2RGB)
    around = metrics.dilate(case.mask, 4).astype(np.uint8)
    outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(plain, outlines, -1, (0, 220, 90), 1)
    pair = np.hstack([plain, plots.overlay(case.image, case.scores, level)])
    ok, data = cv2.imencode(".png", np.ascontiguousarray(pair[..., ::-1]))
    assert ok, "OpenCV could not encode a uint8 picture"
    return f"<figure>{_picture(data.tobytes(), case.title)}<figcaption>{html.escape(case.title)}</figcaption></figure>"


def _png_of(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _picture(data, alt):
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def unseen_records(content, records):
    """Test records a checkpoint has neither trained nor calibrated on, known by their content, not by their name."""
    seen = {digest for part in ("train", "calibration") for digest in content["split"][part].values()}
    fabrics = content["fabrics"]
    chosen = [record for record in records if not fabrics or record.fabric in fabrics]
    return [record for record in chosen if sha256(record.path) not in seen]


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto; font-size: 13px }}
img {{ max-width: 100% }}
.cases {{ display: flex; flex-wrap: wrap; gap: 1rem }}
figure {{ margin: 0; width: 21rem }}
figcaption {{ font-size: 13px; color: #555 }}
</style></head><body>
{body}
</body></html>
"""
