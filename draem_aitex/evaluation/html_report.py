"""The HTML page of an evaluation: one file with tables, curves, every miss and every false positive."""

import base64
import io
from typing import Any

import jinja2

from draem_aitex import charts
from draem_aitex.evaluation import bootstrap, text_table

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("draem_aitex.evaluation", "."),
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_TEMPLATES.filters["base64"] = lambda data: base64.b64encode(data).decode()


def page(evaluation: Any) -> str:
    """One HTML page that loads nothing; strips of whole rolls are in it where the evaluation was made with `images`."""
    return _rendered("report.html.j2", evaluation, curves=_curves(evaluation))


def tables(evaluation: Any) -> str:
    """What was judged and the tables, as a piece of HTML for a notebook."""
    return _rendered("tables.html.j2", evaluation)


def _rendered(template: str, evaluation: Any, **parts: object) -> str:
    figures = evaluation.figures()
    parts |= {"sentences": text_table.sentences(figures), "tables": text_table.tables(figures)}
    return _TEMPLATES.get_template(template).render(parts, evaluation=evaluation)


def _curves(evaluation: Any) -> dict[str, bytes]:
    """What the curves show, and each as a PNG; none where all patches are of one class."""
    labels, scores, owners = evaluation.patch_arrays()
    if not labels.any() or labels.all():
        return {}
    threshold = evaluation.threshold.value
    bands = bootstrap.curve_bands(labels, scores, bootstrap.draw_rolls(len(evaluation.rolls))[:, owners])
    figures = {
        "ROC and precision-recall": charts.plot_roc_pr(labels, scores, threshold, bands),
        "patch scores": charts.plot_scores(scores[~labels], scores[labels], threshold),
    }
    files = {name: io.BytesIO() for name in figures}
    for name, figure in figures.items():
        figure.savefig(files[name], format="png", dpi=100)
    return {name: file.getvalue() for name, file in files.items()}
