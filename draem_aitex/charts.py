"""Curves, bars and histograms: functions that take arrays and return a matplotlib `Figure`; images are in `plots`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from draem_aitex.errors import InputError
from draem_aitex.plots import WIDTH, check_shapes, draw_image, draw_map, panels

GREY, RED, TEAL, DARK = "#546e7a", "#d50000", "#00838f", "#263238"


def plot_training(log: Sequence[Mapping[str, float]], sample: Mapping[str, np.ndarray] | None = None) -> Figure:
    """Loss curves: the reconstruction's parts, the segmentation's parts, the learning rate; below them a sample.

    log: rows as `TrainResult.log` has them. sample: title to `(H, W)` in [0, 1]; images whose title ends in "mask" are
    drawn on the scale of anomaly maps.
    """
    steps = [row["step"] for row in log]
    figure = Figure(figsize=(WIDTH, 5.4 if sample else 2.8), layout="constrained")
    upper, lower = figure.subfigures(2 if sample else 1, 1, squeeze=False).flat[[0, -1]]
    axes = upper.subplots(1, 3)
    names = [name for name in log[0] if name not in ("step", "seconds", "learning_rate", "loss")] if log else []
    first = names.index("bce") if names else 0  # of the segmentation's parts, behind those of the reconstruction
    parts = {"reconstruction": names[:first], "segmentation": names[first:], "learning rate": []}
    for axis, (title, names) in zip(axes, parts.items(), strict=True):
        for name in names:
            axis.plot(steps, [row[name] for row in log], label=name)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if names:
            axis.set(yscale="log", ylabel="loss")
            narrow = {"fontsize": 9, "ncols": 3, "handlelength": 0.8, "handletextpad": 0.4, "columnspacing": 0.8}
            # Above the axis: inside it would cover a curve.
            axis.legend(**narrow, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    axes[2].plot(steps, [row["learning_rate"] for row in log], color="black")
    if sample:
        below = lower.subplots(1, len(sample), squeeze=False).flat
        for axis, (title, image) in zip(below, sample.items(), strict=True):
            (draw_map if title.endswith("mask") else draw_image)(axis, image, title)
    return figure


def plot_roc_pr(labels: Any, scores: Any, threshold: float | None = None, bands: Any = ()) -> Figure:
    """ROC and precision-recall curve; the threshold's operating point as a dot, bands behind the curves.

    labels: bool `(N,)`; scores: float `(N,)`; bands: of `bootstrap.curve_bands`, or None. Raises
    `InputError` where a class is missing or the shapes differ.
    """
    from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

    labels, scores = np.asarray(labels, bool), np.asarray(scores)
    check_shapes(labels, scores, "labels and scores")
    if labels.all() or not labels.any():
        raise InputError(f"labels: {labels.sum()} of {len(labels)} positive; expected both classes; add patches")
    figure, ((roc, pr),) = panels(WIDTH * 0.85, 3.8, columns=2)
    for axis, display in ((roc, RocCurveDisplay), (pr, PrecisionRecallDisplay)):
        display.from_predictions(labels, scores, name="curve", ax=axis, plot_chance_level=True)
    if threshold is not None:
        predicted = scores > threshold
        found = predicted[labels].mean()
        roc.plot(predicted[~labels].mean(), found, "o", color=RED, label="threshold")
        if predicted.any():
            pr.plot(found, labels[predicted].mean(), "o", color=RED, label="threshold")
    for axis, (low, high) in zip((roc, pr), () if bands is None else bands, strict=False):
        axis.fill_between(np.linspace(0, 1, len(low)), low, high, alpha=0.2, linewidth=0)
    roc.set(title="ROC", xlabel="false-positive rate", ylabel="recall")
    pr.set(title="precision-recall", xlabel="recall", ylabel="precision")
    for axis in (roc, pr):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    return figure


def plot_scores(normal: np.ndarray, defective: np.ndarray, threshold: float | None = None) -> Figure:
    """Histograms of patch scores `(N,)`, normal and defective, counts on a log scale; the threshold as a line."""
    figure, ((axis,),) = panels(WIDTH * 0.7, 3)
    bins = np.linspace(0, max([1.0, *normal, *defective]), 41)
    for name, scores, colour in (("normal", normal, GREY), ("defective", defective, RED)):
        axis.hist(scores, bins, alpha=0.6, label=f"{name} ({len(scores)})", color=colour)
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
    axis.set(yscale="log", ylim=(0.7, None), xlabel="patch score", ylabel="patches (log scale)")
    axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))  # beside the bars, not over them
    return figure


def plot_losses_table(names: Sequence[str], corruptions: Sequence[str], values: Any) -> Figure:
    """What each loss sees: a table of numbers, each column coloured by its share of the column's largest.

    names: of the losses (columns); corruptions: names (rows); values: `(rows, columns)`, not negative. Raises
    `InputError` for another shape.
    """
    values, shape = np.asarray(values, float), (len(corruptions), len(names))
    if values.shape != shape:
        raise InputError(f"values: shape {values.shape}; expected {shape} (rows, columns); give one for each cell")
    share = values / np.maximum(values.max(axis=0), 1e-12)
    figure, ((axis,),) = panels(1.1 * len(names) + 2.5, 0.42 * len(corruptions) + 0.9)
    shown = axis.imshow(share, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if share[row, column] > 0.6 else "white"
        axis.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(corruptions)), corruptions)
    axis.tick_params(length=0)
    figure.colorbar(shown, ax=axis, label="share of column's largest")
    return figure


def plot_pair(
    networks: Mapping[str, Sequence[tuple[int, int, int]]], images: Sequence[Mapping[str, np.ndarray]],
    skips: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """Networks in a row between the images that go in and come out: a bar a level, the taller the larger its maps.

    networks: name to the `(channels, height, width)` of every level, from the first down to the lowest and up again;
    images: title to `(H, W)` in [0, 1], one group before each network and one at the end, "prediction" drawn as an
    anomaly map; skips: names of the networks whose decoder also gets what the encoder had at the same size, as arrows.
    """
    figure = Figure(figsize=(14, 3.1), layout="constrained")
    shares = [1, *[share for _ in networks for share in (3.2, 1)]]
    groups = figure.subfigures(1, len(shares), width_ratios=shares, squeeze=False)[0]
    for group, shown in zip(groups[::2], images, strict=True):
        for axis, (title, image) in zip(group.subplots(len(shown), 1, squeeze=False).flat, shown.items(), strict=True):
            (draw_map if title == "prediction" else draw_image)(axis, image, title)
    for group, (name, shapes) in zip(groups[1::2], networks.items(), strict=True):
        axis = group.subplots()
        channels, heights, _ = np.transpose(shapes)
        heights, lowest = 0.15 + heights / heights.max(), (len(shapes) - 1) // 2
        colours = [GREY] * lowest + [DARK] + [TEAL] * (len(shapes) - lowest - 1)
        bars = axis.bar(range(len(shapes)), -heights, width=0.6, bottom=heights / 2, color=colours)
        axis.bar_label(bars, channels, label_type="center", fontsize=11, color="white")
        axis.bar_label(bars, [f"{height} × {width}" for _, height, width in shapes], fontsize=8)
        for index in range(lowest if name in skips else 0):
            above = 0.5 * heights[index] - 0.05  # higher than the bars between the two ends
            ends = (index + 0.3, above), (2 * lowest - index - 0.3, above)
            axis.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": "#757575"})
        axis.set(xlim=(-0.6, len(shapes) - 0.4), ylim=(-0.85, 0.7))
        axis.set_title(f"→  {name}  →", fontsize=11)
        axis.set_axis_off()
    return figure


def plot_defect_sizes(sizes_by_type: Mapping[str, Sequence[float]]) -> Figure:
    """Mask pixels of every defect, by type, on a log scale, the median as a line. sizes_by_type: name to counts."""
    figure, ((axis,),) = panels(WIDTH * 0.8, 0.5 * len(sizes_by_type) + 1)
    for row, sizes in enumerate(sizes_by_type.values()):
        axis.plot(sizes, np.full(len(sizes), row), "o", alpha=0.5, color=GREY)
        median = float(np.median(sizes))
        axis.plot([median, median], [row - 0.35, row + 0.35], color=RED, linewidth=2)
        axis.annotate(f"{median:.0f}", (median, row - 0.37), ha="center", va="bottom", fontsize=9, color=RED)
    axis.set_yticks(range(len(sizes_by_type)), list(sizes_by_type))
    axis.set(xscale="log", xlabel="mask pixels of a defect (red: median)", ylim=(len(sizes_by_type) - 0.4, -0.8))
    axis.grid(alpha=0.3, axis="x")
    return figure


def plot_hits(rows: Sequence[tuple[str, int, int]]) -> Figure:
    """Defects hit, by type, as bars with counts. rows: of `(name, hits, defects)`."""
    figure, ((axis,),) = panels(WIDTH * 0.7, 0.4 * len(rows) + 0.9)
    defects = [count for *_, count in rows]
    bars = axis.barh(range(len(rows)), defects, color="#cfd8dc", tick_label=[name for name, *_ in rows])
    axis.barh(range(len(rows)), [hits for _, hits, _ in rows], color=TEAL)
    axis.bar_label(bars, [f" {hits} of {count}" for _, hits, count in rows], fontsize=9)
    axis.set(xlabel="defects (dark: hit)", xlim=(0, 1.2 * max([*defects, 1])))
    axis.invert_yaxis()
    return figure


def plot_chain(images: Mapping[str, np.ndarray], steps: Sequence[str]) -> Figure:
    """Images in a row, with an arrow from each to the next and what happens on the way.

    images: title to `(H, W)` in [0, 1], "prediction" drawn as an anomaly map; steps: a text for every arrow.
    """
    shares = [1.0, *[share for _ in steps for share in (0.9, 1.0)]]
    figure = Figure(figsize=(1.3 * sum(shares), 1.6), layout="constrained")
    axes = figure.subplots(1, len(shares), width_ratios=shares)
    for axis, (title, image) in zip(axes[::2], images.items(), strict=True):
        (draw_map if title == "prediction" else draw_image)(axis, image, title)
    for axis, step in zip(axes[1::2], steps, strict=True):
        axis.annotate("", (1, 0.4), (0, 0.4), arrowprops={"arrowstyle": "-|>", "color": GREY, "linewidth": 2})
        axis.text(0.5, 0.47, step, ha="center", va="bottom", fontsize=10)
        axis.set_axis_off()
    return figure
