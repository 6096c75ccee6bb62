"""A checkpoint in words: three lines whenever it is loaded, and its card, the Markdown page that lies beside it."""

import math
from typing import Any

import jinja2

MEASURED = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: kept like weights, not trained

FIGURES = {  # on a card, and the only ones that a checkpoint keeps
    "n_test_rolls": "rolls judged", "patches": "patches", "positive_patches": "of them with a defect",
    "patch_auroc": "patch AUROC, pooled", "patch_auroc_mean_of_fabrics": "patch AUROC, mean of fabrics",
    "patch_ap": "patch AP", "patch_true_positives": "defective patches found",
    "patch_false_positives": "false positives among normal patches",
    "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "defects": "defects", "hits": "defects hit",
}  # fmt: skip

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("draem_aitex.training", "."),
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip


def kept_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """Of an evaluation's figures those that go into a checkpoint."""
    return {name: figures[name] for name in FIGURES}


def headline(content: dict[str, Any]) -> list[str]:
    """What a checkpoint is: its data, its training and, once it was judged, its figures. A list of lines."""
    trained = [t.numel() for key, t in content.get("weights", {}).items() if not key.endswith(MEASURED)]
    return _TEMPLATES.get_template("headline.j2").render(content, millions=sum(trained) / 1e6).splitlines()


def card(name: str, content: dict[str, Any]) -> str:
    """The card of a checkpoint file: what `headline` says, figures, split, threshold, how to make it again."""
    return _TEMPLATES.get_template("card.j2").render(content, name=name, lines=headline(content), labels=FIGURES)


def number(value: float | None) -> str:
    """A figure in print; a dash where there is none."""
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


_TEMPLATES.filters["number"] = number
