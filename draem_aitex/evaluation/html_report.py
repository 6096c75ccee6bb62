"""The HTML page of an evaluation: one file with tables, curves, every miss and every false alarm; it loads nothing."""

import base64
import html
import io
import math

from draem_aitex import plots
from draem_aitex.evaluation import bootstrap
from draem_aitex.evaluation.cases import case_picture
from draem_aitex.evaluation.evaluator import GIANT
from draem_aitex.evaluation.text_table import between
from draem_aitex.training.model_card import number

PROTOCOL = (
    "Rolls are split by number; whatever is chosen on real defects is chosen on the development rolls, never on the "
    "test rolls. Patches of 256 × 256 pixels lie side by side from the first fabric column; what is left at the end "
    "of a roll is in no patch. A patch is positive with one mask pixel or more, and its score is the maximum of the "
    "roll's map in it, without smoothing. The threshold is taken from patches of defect-free calibration rolls, for a "
    "wanted share of flawless patches called falsely. A defect is a connected component (8-neighbourhood) of the mask "
    "dilated by 12 px; it is hit where the map passes the threshold in it. Regions above the threshold that touch no "
    "defect are false alarms. The mass-centre distance is that between a defect and the score-weighted centre of the "
    "regions on it; misses have none. Defective rolls without a mask count at roll level only. A roll is called by "
    "the same threshold, which was set per patch. AUPRO is the mean share of a connected component of the mask, not "
    "dilated, above a level, against the share of flawless pixels above it, up to the limit named (Bergmann et al., "
    "IJCV 2021). The rate that calibration patches promise is for patches drawn alike; those of a roll are not."
)

_PIXELS = {  # columns of the table of pixel figures
    "AUROC": "pixel_auroc",
    "AP": "pixel_ap",
    "AUPRO to 0.3": "aupro",
    "to 0.05": "aupro_at_0.05",
    "to 0.01": "aupro_at_0.01",
    "recall": "pixel_recall",
    "precision": "pixel_precision",
    "F1": "pixel_f1",
}


def html_page(evaluation, figures, checkpoint=()):
    """One self-contained HTML page: a str.

    evaluation: made with pictures, or the strips of whole rolls are left out; figures: its `figures()` with `source`,
    `part` and the numbers of rolls; checkpoint: lines that say what was judged (`card.headline`).
    """
    title = html.escape(f"DRAEM on {figures['source']}")
    level = evaluation.threshold.value
    parts = [f"<h1>{title}</h1>", _what(evaluation, figures, checkpoint), _summary(figures)]
    parts += [_by_fabric(figures), _by_defect(figures), _by_size(figures), _curves(evaluation)]
    missed = sorted(evaluation.missed, key=lambda case: -case.score)
    alarms = sorted(evaluation.false_positive_regions, key=lambda case: -case.score)
    parts += [_cases("Missed defects", missed, level), _cases("False alarms", alarms, level)]
    parts.append(_strips(evaluation.strips))
    return _PAGE.format(title=title, body="\n".join(parts))


def _what(evaluation, f, checkpoint):
    threshold = evaluation.threshold
    lines = [html.escape(line) for line in checkpoint]
    lines.append(
        f"Judged on {f['n_test_rolls']} {html.escape(f['part'])} rolls of {html.escape(f['source'])}: "
        f"{f['patches']:,} patches, {f['positive_patches']} of them with a defect."
    )
    lines.append(
        f"Threshold {threshold.value:.4f}, for {threshold.wanted:.2%} of flawless patches called falsely; "
        f"{threshold.patches} patches of {threshold.rolls} calibration rolls promise {threshold.bound:.2%} of patches "
        "drawn alike."
    )
    details = f"<details><summary>Protocol</summary><p>{PROTOCOL}</p></details>"
    return "<p>" + "<br>".join(lines) + "</p>" + details


def _summary(f):
    called = f["patch_true_positives"] + f["patch_false_positives"]
    best = "an upper bound: by the threshold that is best for these very patches, known only afterwards"
    rows = [
        _row(f, "patch AUROC", "patch_auroc", f"{f['positive_patches']} of {f['patches']:,} patches defective"),
        _row(f, "patch AUROC, mean of fabrics", "patch_auroc_mean_of_fabrics"),
        _row(f, "patch AP", "patch_ap"),
        _row(f, "patch recall", "patch_recall", f"{f['patch_true_positives']} of {f['positive_patches']} found"),
        _row(f, "patch precision", "patch_precision", f"{f['patch_true_positives']} of {called} called"),
        _row(f, "patch F1", "patch_f1"),
        _row(f, "patch F1-max", "patch_f1_max_upper_bound", best),
        _row(
            f,
            "patch false-alarm rate",
            "patch_fpr",
            f"{f['patch_false_positives']} of {f['patches'] - f['positive_patches']} flawless patches called",
        ),
        _row(f, "roll AUROC", "roll_auroc", f"{f['positive_rolls']} of {f['n_test_rolls']} rolls defective"),
        _row(f, "roll AP", "roll_ap"),
        _row(f, "roll recall", "roll_recall", f"{f['roll_true_positives']} of {f['positive_rolls']} found"),
        _row(f, "roll precision", "roll_precision", "called by the same threshold, which was set per patch"),
        _row(f, "roll F1", "roll_f1"),
        _row(f, "defects hit", "hit_rate", f"{f['hits']} of {f['defects']}"),
        _row(f, "mass-centre distance, px", "centroid_distance_px_median", "median of the hits"),
        _row(f, "coverage", "coverage_median", "share of a defect's pixels above the threshold, median"),
        _row(f, "false alarms a roll", "false_positive_regions_per_roll", f"{f['false_positive_regions']} regions"),
    ]
    if not math.isnan(f["mm_per_px"]):
        rows.append(
            _row(f, "false alarms a metre", "false_positive_regions_per_metre", f"{f['metres']:.1f} m of fabric")
        )
        rows.append(_row(f, "mass-centre distance, mm", "centroid_distance_mm_median", "median of the hits"))
    note = "<p>Intervals: rolls drawn anew, with replacement, 1,000 times.</p>"
    return "<h2>Figures</h2>" + note + _table(("", "value", "95 % interval", ""), rows, "notes") + _pixels(f)


def _row(f, label, name, note=""):
    return label, number(f[name]), between(f["intervals"][name]) if name in f["intervals"] else "", note


def _pixels(f):
    rows = [("all rolls", *(number(f[name]) for name in _PIXELS.values()))]
    if f["giant_rolls"]:
        words = f"without masks of {GIANT:,} px or more (rolls left out: {f['giant_rolls']})"
        rows.append((words, *(number(f[f"{name}_without_giants"]) for name in _PIXELS.values())))
    return _table(("pixels", *_PIXELS), rows)


def _by_fabric(f):
    head = ("fabric", "rolls", "patches", "AUROC", "AP", "found", "called falsely", "pixel AUROC", "pixel AP", "AUPRO")
    rows = [
        (
            fabric,
            row["rolls"],
            row["patches"],
            *(number(row[name]) for name in ("patch_auroc", "patch_ap")),
            f"{row['patches_found']} of {row['positive_patches']}",
            f"{row['false_positives']} of {row['patches'] - row['positive_patches']}",
            *(number(row[name]) for name in ("pixel_auroc", "pixel_ap", "aupro")),
            *_hit_cells(row),
        )
        for fabric, row in f["by_fabric"].items()
    ]
    return "<h2>By fabric</h2>" + _table((*head, *_HIT_HEAD), rows)


def _by_defect(f):
    rows = [
        (
            f"{code} {row['name']}",
            row["rolls"],
            number(row["patch_auroc"]),
            f"{row['patches_found']} of {row['positive_patches']}",
            *_hit_cells(row),
        )
        for code, row in f["by_defect"].items()
    ]
    note = "<p>AUROC: the patches of this type against all flawless ones.</p>"
    return "<h2>By type of defect</h2>" + note + _table(("type", "rolls", "AUROC", "found", *_HIT_HEAD), rows)


def _by_size(f):
    rows = [(name, *_hit_cells(row)) for name, row in f["by_size"].items()]
    return "<h2>By size of defect</h2>" + _table(("mask", *_HIT_HEAD), rows)


_HIT_HEAD = ("hits", "coverage", "distance, px")


def _hit_cells(row):
    coverage, distance = row["coverage_median"], row["centroid_distance_px_median"]
    return f"{row['hits']} of {row['defects']}", number(coverage, 2), number(distance, 1)


def _table(head, rows, kind="plain"):
    """An HTML table; the first cell of a row names it. kind: "notes" where the last column is text."""
    cells = ["<tr>" + "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head) + "</tr>"]
    for first, *others in rows:
        named = f"<th>{html.escape(str(first))}</th>"
        cells.append("<tr>" + named + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in others) + "</tr>")
    return f"<div class=wide><table class={kind}>" + "".join(cells) + "</table></div>"


def _curves(evaluation):
    labels, scores, owners = evaluation.patch_arrays()
    if not labels.any() or labels.all():
        return "<h2>Curves</h2><p>None: all patches are of one class.</p>"
    level = evaluation.threshold.value
    bands = bootstrap.curve_bands(labels, scores, bootstrap.draw_rolls(len(evaluation.rolls))[:, owners])
    curves = _png(plots.plot_roc_pr(labels, scores, level, bootstrap.GRID, bands))
    histograms = plots.plot_scores(scores[~labels], scores[labels], level)
    histograms.axes[0].legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, not over them
    return (
        "<h2>Curves</h2><p>Patches; the bands hold 95 % of the curves when rolls are drawn anew.</p>"
        f"{_picture(curves, 'ROC and precision-recall', 'png')}<br>{_picture(_png(histograms), 'patch scores', 'png')}"
    )


def _cases(heading, cases, level):
    figures = "".join(
        f"<figure>{_picture(case_picture(case, level), case.title)}<figcaption>{html.escape(case.title)}</figcaption>"
        "</figure>"
        for case in cases
    )
    note = "<p>Highest score first. Left the cloth, the defect outlined in green; right the map over it.</p>"
    return f"<h2>{heading}: {len(cases)}</h2>" + (f"{note}<div class=cases>{figures}</div>" if cases else "")


def _strips(strips):
    if not strips:
        return ""
    rolls = "".join(f"<p>{html.escape(title)}<br>{_picture(data, title)}</p>" for title, data in strips)
    return (
        f"<h2>Whole rolls</h2><details><summary>{len(strips)} rolls with a defect or an alarm: the map in red, in blue "
        f"what passes the threshold, in green the defects</summary>{rolls}</details>"
    )


def _png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _picture(data, alt, kind="jpeg"):
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
img {{ max-width: 100% }}
table {{ border-collapse: collapse; font-size: 14px; margin: 0.5rem 0 1rem }}
th, td {{ padding: 0.15rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child {{ text-align: left }}
.notes td:last-child {{ text-align: left }}
td {{ font-variant-numeric: tabular-nums }}
.wide {{ overflow-x: auto }}
.cases {{ display: flex; flex-wrap: wrap; gap: 1rem }}
figure {{ margin: 0; width: 256px }}
figcaption {{ font-size: 12px; color: #555 }}
summary {{ cursor: pointer; color: #00658f }}
</style></head><body>
{body}
</body></html>
"""
