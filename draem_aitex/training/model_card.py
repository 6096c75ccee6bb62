"""A checkpoint in words: three lines whenever it is loaded, and its card, the Markdown page that lies beside it."""

import math
from typing import Any

MEASURED = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: kept like weights, not trained

FIGURES = {  # on a card, and the only ones that a checkpoint keeps
    "n_test_rolls": "rolls judged", "patches": "patches", "positive_patches": "of them with a defect",
    "patch_auroc": "patch AUROC, pooled", "patch_auroc_mean_of_fabrics": "patch AUROC, mean of fabrics",
    "patch_ap": "patch AP", "patch_true_positives": "defective patches found",
    "patch_false_positives": "false positives among normal patches",
    "pixel_auroc": "pixel AUROC", "pixel_ap": "pixel AP", "defects": "defects", "hits": "defects hit",
}  # fmt: skip


def kept_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """Of an evaluation's figures those that go into a checkpoint."""
    return {name: figures[name] for name in FIGURES}


def headline(content: dict[str, Any]) -> list[str]:
    """What a checkpoint is: its data, its training and, once it was judged, its figures. A list of lines."""
    what, how = _draem(content) if content["detector"] == "draem" else _baseline(content)
    fabrics = f", fabrics {', '.join(content['fabrics'])}" if content.get("fabrics") else ""
    made = content.get("made")
    where = f", {made['date']}, {made['machine']}" if made else ""
    lines = [f"{what} on {content.get('source', 'rolls of your own')}{fabrics}", how + where]
    figures = content.get("figures", {})
    return lines + [_in_words(part, figures[part]) for part in ("test", "development") if part in figures][:1]


def _draem(content):
    config = content["config"]
    preset = config["preset"] if isinstance(config["preset"], str) else "networks of its own"
    weights = sum(tensor.numel() for key, tensor in content["weights"].items() if not key.endswith(MEASURED)) / 1e6
    so_far = "" if content["finished"] else " so far (not finished)"
    how = f"{content['steps']:,} steps in {content['seconds'] / 60:.1f} minutes{so_far}, seed {config['seed']}"
    return f"DRAEM, {preset}, {weights:.2f} M weights, trained", how


def _baseline(content):
    return f"{content['what']}, fitted", f"in {content['seconds']:.0f} seconds, seed {content['seed']}"


def _in_words(part, figures):
    found = f"{figures['hits']} of {figures['defects']} defects hit"
    normal = figures["patches"] - figures["positive_patches"]
    wrong = f"false positives: {figures['patch_false_positives']} of {normal} normal patches"
    return f"{part} rolls: patch AUROC {number(figures['patch_auroc'])} pooled, {found}, {wrong}"


def card(name: str, content: dict[str, Any]) -> str:
    """The card of a checkpoint file: what `headline` says, figures, split, threshold, how to make it again."""
    blocks = [f"# {name}", "\n".join(f"{line}.  " for line in headline(content))]
    if figures := content.get("figures"):
        head = ["| | " + " | ".join(f"{part} rolls" for part in figures) + " |", "|---|" + "---|" * len(figures)]
        rows = [(label, *(_cell(part[key]) for part in figures.values())) for key, label in FIGURES.items()]
        blocks.append("\n".join(head + [f"| {' | '.join(row)} |" for row in rows]))
    if "split" in content:
        counts = ", ".join(f"{len(names)} {part}" for part, names in content["split"].items())
        blocks.append(f"Split by roll: {counts}.")
    if threshold := content.get("threshold"):
        wanted = (
            f"Threshold {threshold['value']:.4f}, for {threshold['wanted']:.1%} false positives among normal patches"
        )
        blocks.append(f"{wanted}, from {threshold['patches']} patches of {threshold['rolls']} calibration rolls.")
    if made := content.get("made"):
        blocks.append(f"Made by `{made['command']}` with {made['versions']}.")
    return "\n\n".join(blocks) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """A figure in print; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _cell(value):
    return number(value) if isinstance(value, float) else f"{value:,}"
