"""A checkpoint in words: three lines whenever it is loaded, and its card, the Markdown page that lies beside it."""

import math

MEASURED = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm: kept like weights, not trained

FIGURES = {  # on a card, and the only ones that a checkpoint keeps
    "n_test_rolls": "rolls judged",
    "patches": "patches",
    "positive_patches": "of them with a defect",
    "patch_auroc": "patch AUROC, pooled",
    "patch_auroc_mean_of_fabrics": "patch AUROC, mean of fabrics",
    "patch_ap": "patch AP",
    "patch_true_positives": "defective patches found",
    "patch_false_positives": "flawless patches called falsely",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "defects": "defects",
    "hits": "defects hit",
}


def kept_figures(figures):
    """Of an evaluation's figures those that go into a checkpoint."""
    return {name: figures[name] for name in FIGURES}


def headline(content):
    """What a checkpoint is: its data, its training and, once it was judged, its figures. A list of lines."""
    what, how = _draem(content) if content["detector"] == "draem" else _baseline(content)
    fabrics = f", fabrics {', '.join(content['fabrics'])}" if content.get("fabrics") else ""
    made = content.get("made")
    where = f", {made['date']}, {made['machine']}" if made else ""
    lines = [f"{what} on {content.get('source', 'rolls of your own')}{fabrics}", how + where]
    for part in ("test", "development"):
        if part in content.get("figures", {}):
            return [*lines, _in_words(part, content["figures"][part])]
    return lines


def _draem(content):
    config = content["config"]
    preset = config["preset"] if isinstance(config["preset"], str) else "networks of its own"
    weights = sum(tensor.numel() for key, tensor in content["weights"].items() if not key.endswith(MEASURED)) / 1e6
    so_far = "" if content["finished"] else " so far (not finished)"
    return (
        f"DRAEM, {preset}, {weights:.2f} M weights, trained",
        f"{content['steps']:,} steps in {content['seconds'] / 60:.1f} minutes{so_far}, seed {config['seed']}",
    )


def _baseline(content):
    return f"{content['what']}, fitted", f"in {content['seconds']:.0f} seconds, seed {content['seed']}"


def _in_words(part, figures):
    flawless = figures["patches"] - figures["positive_patches"]
    return (
        f"{part} rolls: patch AUROC {number(figures['patch_auroc'])} pooled, {figures['hits']} of {figures['defects']} "
        f"defects hit, {figures['patch_false_positives']} of {flawless} flawless patches called falsely"
    )


def card(name, content):
    """The card of a checkpoint file: what `headline` says, figures, split, threshold, how to make it again."""
    first, *others = headline(content)
    lines = [f"# {name}", "", f"{first}.  "] + [f"{line}.  " for line in others] + [""]
    if figures := content.get("figures"):
        lines += [f"| | {' | '.join(f'{part} rolls' for part in figures)} |", "|---|" + "---|" * len(figures)]
        lines += [
            f"| {label} | {' | '.join(_cell(f[key]) for f in figures.values())} |" for key, label in FIGURES.items()
        ]
        lines.append("")
    if "split" in content:
        counts = ", ".join(f"{len(names)} {part}" for part, names in content["split"].items())
        lines += [f"Split by roll: {counts}.", ""]
    if "threshold" in content:
        threshold = content["threshold"]
        lines += [
            f"Threshold {threshold['value']:.4f}, for {threshold['wanted']:.1%} of flawless patches called falsely, "
            f"from {threshold['patches']} patches of {threshold['rolls']} calibration rolls.",
            "",
        ]
    if "made" in content:
        lines += [f"Made by `{content['made']['command']}` with {content['made']['versions']}.", ""]
    return "\n".join(lines)


def number(value, digits=3):
    """A figure in print; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _cell(value):
    return number(value) if isinstance(value, float) else f"{value:,}"
