"""The tables of README.md and docs/results.md, from the records in `results`; and README's image, of notebook 06.

    python benchmarks/tables.py

Run it when a record or the notebook has changed. A table stands between a comment with its name and one that says end;
what is written by hand around it stays. A test fails while pages and records disagree.
"""

import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES, IMAGE = (ROOT / "README.md", ROOT / "docs/results.md"), ROOT / "notebooks/result.png"
SMOOTHED = {
    "sigma 0": "none", "sigma 0, not normalised": "none, scores not normalised per fabric",
    "sigma 0.7": "Gaussian, σ = 0.7 px", "sigma 1": "σ = 1", "sigma 2": "σ = 2",
    "mean 21 x 21": "mean of 21 × 21, as in the authors' code",
}  # fmt: skip


def read(name):
    """A record by its name."""
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def measured():
    """The detectors of `baselines.json` that were measured, by name as a table has it; DRAEM's row is of that day."""
    rows = {name: row for name, row in read("baselines")["rows"].items() if "not_measured" not in row}
    return {re.sub(r"^PatchCore, (\w+)", r"PatchCore, `\1`", name): row for name, row in rows.items()}


def between(ends, of=1, digits=3):
    """A confidence interval in words; of=100: in per cent."""
    return " to ".join(f"{of * end:.{digits}f}" for end in ends)


def detectors():
    yield "detector", "patch AUROC pooled / mean of fabrics", "AP", "recall", "precision", "hits", "pixel AUROC / AP"
    rows = {**measured(), "DRAEM": read("compact_aitex")}
    for name, r in {"**DRÆM**, `compact`, shipped": rows.pop("DRAEM"), **rows}.items():
        auroc = f"{r['patch_auroc']:.3f} / {r['patch_auroc_mean_of_fabrics']:.3f}"
        rates = f"{r['patch_recall']:.2f}", f"{r['patch_precision']:.2f}"
        pixels = f"{r['pixel_auroc']:.3f} / {r['pixel_ap']:.3f}"
        yield name, auroc, f"{r['patch_ap']:.3f}", *rates, f"{r['hits']} of {r['defects']}", pixels


def draem():
    r = read("compact_aitex")
    sure = r["intervals"]
    yield "figure", "value", "95 % interval"
    yield "patch AUROC", "see the README", between(sure["patch_auroc"])
    yield "patch AP", "see the README", between(sure["patch_ap"])
    found = f"{r['patch_true_positives']} of {r['positive_patches']}"
    yield "defective patches found", found, f"{between(sure['patch_recall'], 100, 0)} %"
    false = f"{r['patch_false_positives']} of {r['normal_patches']}"
    yield "false positives among normal patches", false, f"{between(sure['patch_fpr'], 100, 1)} %"
    yield "defects hit", "see the README", f"{between(sure['hit_rate'], 100, 0)} %"
    yield "predicted regions on no defect", f"{r['false_positive_regions']} on {r['rolls']} rolls", ""
    yield "median distance of centroids, px", f"{r['centroid_distance_px_median']:.1f}", ""
    yield "AUPRO up to 30 % / 1 % false positives", f"{r['aupro']:.3f} / {r['aupro_at_0.01']:.3f}", ""
    yield "roll AUROC", f"{r['roll_auroc']:.3f}", between(sure["roll_auroc"])
    rolls = f"{r['roll_recall']:.3f} / {r['roll_precision']:.3f}"
    yield "recall / precision of rolls", rolls, f"{between(sure['roll_recall'])} / {between(sure['roll_precision'])}"
    without = (f"{r[f'patch_{figure}_without_disputed']:.3f}" for figure in ("auroc", "ap", "precision"))
    yield f"patch AUROC / AP / precision without {r['disputed_patches']} disputed patches", " / ".join(without), ""


def defects():
    r = read("compact_aitex")
    yield "", "defective patches found", "defects hit"
    groups = {f"fabric {code}": row for code, row in r["by_fabric"].items()}
    groups |= {row["name"]: row for row in r["by_defect"].values()} | r["by_size"]
    for name, row in groups.items():
        patches = f"{row['patch_true_positives']} of {row['positive_patches']}" if "positive_patches" in row else ""
        yield name, patches, f"{row['hits']} of {row['defects']}" if row.get("defects") else ""


def smoothing():
    yield "smoothing", "patch AUROC", "AP", "patches found", "false positives"
    for name, words in SMOOTHED.items():
        r = read("scores")["variants"][name]
        figures = f"{r['patch_auroc']:.3f}", f"{r['patch_ap']:.3f}"
        yield words, *figures, str(r["patches_found"]), str(r["false_positive_regions"])


def costs():
    yield "detector", "fit, s", "a roll, s", "weights or bank, MB"
    for name, r in measured().items():
        name = name.replace("DRAEM", "DRÆM of that day")
        yield name, f"{r['fit_seconds']:,.0f}", f"{r['seconds_a_roll']:.2f}", f"{r['bytes'] / 1e6:.1f}"


def kinds():
    yield "kinds", "patch AUROC", "found", "false", "small found", "broken picks: AUROC", "found"
    runs = read("ablation")["runs"]
    for group in dict.fromkeys(run["group"] for run in runs):
        own = [run for run in runs if run["group"] == group]

        def mean(figure, own=own):
            return sum(run[figure] for run in own) / len(own)

        false = sum(run["false_positives_at_1%"] for run in own) / sum(run["normal_patches"] for run in own)
        rates = mean("all_recall_at_1%"), false, mean("small_recall_at_1%")
        picks = f"{mean('broken_pick_auroc'):.3f}", f"{100 * mean('broken_pick_recall_at_1%'):.0f} %"
        yield group, f"{mean('all_auroc'):.3f}", *(f"{100 * rate:.0f} %" for rate in rates), *picks


TABLES = {table.__name__: table for table in (detectors, draem, defects, smoothing, costs, kinds)}
SOURCES = {"smoothing": "scores", "costs": "baselines", "kinds": "ablation"}  # whose command and date stand below


def source(name):
    """How a record was made, in a sentence, for a page in `docs`."""
    r = read(name)
    return f"Command: `{r['command']}`, {r['date']}, {r['machine']} ([record](../benchmarks/results/{name}.json))."


def rendered(page):
    """A page's text with all of its tables as the records have them."""

    def table(found):
        head, *rows = TABLES[found[1]]()
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
        if found[1] in SOURCES:
            lines += ["", source(SOURCES[found[1]])]
        return "\n".join([f"<!-- table: {found[1]} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def image():
    """The first figure of notebook 06, as PNG."""
    cells = json.loads((ROOT / "notebooks/06_Evaluate_DRAEM.ipynb").read_text(encoding="utf-8"))["cells"]
    shown = (output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    return base64.b64decode(next(data["image/png"] for data in shown if "image/png" in data))


def main():
    IMAGE.write_bytes(image())
    for path in PAGES:
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
