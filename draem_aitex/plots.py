"""Every picture of the tutorial: arrays in, a matplotlib `Figure` out; nothing is shown, saved or kept.

A notebook needs no `%matplotlib inline` and no pyplot: a figure as the last expression of a cell (or
`display(figure)`) shows once, because `Picture` knows how to turn itself into a PNG. In a script use
`figure.savefig("name.png")`.

Rules kept here: grey pictures stand on the fixed scale 0–255 (or 0–1), anomaly maps on the fixed scale 0–1
with a colour bar, nothing is ever scaled per image, so a normal roll looks normal; defects have a solid
cyan outline, predictions a dashed yellow one, so that colour alone never carries the meaning.
"""

import io

import cv2
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from draem_aitex.errors import InputError

DEFECT, PREDICTED, EDGE = "#00d5ff", "#ffe600", "#ff4fa3"  # on grey and on magma alike
LINES = ("#0b62a4", "#d1495b", "#2e8b57", "#8d5fd3", "#c77700", "#444444")
MAP_COLOURS = "magma"


class Picture(Figure):
    """A figure outside pyplot's global state that shows itself, once, in a notebook."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), dpi=90, layout="constrained")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


# ----------------------------------------------------------------------------------------------------
pictures


def show_rolls(rolls, titles=None, edges=None, masks=None) -> Figure:
    """Whole rolls, one below the other, full width; fabric edges as lines, defects outlined and framed.

    Args: `rolls` list of uint8 (H, W); `titles` list of str; `edges` list of (start, end) columns or None
    each; `masks` list of bool (H, W) or None each. Raises InputError for none, or for lists or masks that
    do not match.
    """
    titles, edges, masks = _columns(rolls, titles=titles, edges=edges, masks=masks)
    figure = Picture(12, 0.3 + sum(0.45 + 11.4 * r.shape[0] / r.shape[1] for r in rolls))
    panels = figure.subplots(len(rolls), squeeze=False)[:, 0]
    for panel, roll, title, edge, mask in zip(panels, rolls, titles, edges, masks, strict=True):
        _roll_on(panel, roll, title, edge, mask)
    panels[-1].set_xlabel("column (pixels)")
    return figure


def show_crops(crops, titles=None, masks=None, columns=4, scale=(0, 1)) -> Figure:
    """A grid of grey crops on one fixed scale, defects outlined.

    Args: `crops` list of (h, w); `scale` (black, white), or the white level alone (255 for uint8); `masks`
    list of bool (h, w) or None each. Raises InputError for none, or for lists or masks that do not match.
    """
    titles, masks = _columns(crops, titles=titles, masks=masks)
    low, high = scale if np.ndim(scale) else (0, scale)
    columns = min(columns, len(crops))
    rows = -(-len(crops) // columns)
    figure = Picture(2.6 * columns, (2.9 if any(titles) else 2.6) * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, crop, title, mask in zip(panels, crops, titles, masks, strict=False):
        panel.imshow(crop, cmap="gray", vmin=low, vmax=high)
        panel.set_title(title or "", fontsize=10)
        _outline(panel, mask, crop, "mask")
    for panel in panels:
        panel.set_axis_off()
    return figure


def show_augmented(before, after, masks, titles=None) -> Figure:
    """Three rows of crops: untouched, with its synthetic anomaly, and the mask the network must find.

    Args: `before`, `after` float (B, h, w) in [0, 1]; `masks` (B, h, w) 0/1 or bool; `titles` B strings.
    Raises InputError where the shapes differ.
    """
    before, after, masks = (np.asarray(a).squeeze(1) if np.ndim(a) == 4 else np.asarray(a)
                            for a in (before, after, masks))  # fmt: skip
    _same("before", before, "after", after)
    _same("before", before, "masks", masks)
    (titles,) = _columns(before, titles=titles)
    figure = Picture(max(4.0, 1.9 * len(before)), 6.2)
    panels = figure.subplots(3, len(before), squeeze=False)
    for row, (name, pictures) in enumerate({"before": before, "after": after, "mask": masks}.items()):
        panels[row, 0].set_ylabel(name, fontsize=11)
        for panel, picture, mask in zip(panels[row], pictures, masks, strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            if name == "after":
                _outline(panel, mask, picture, "mask")
    for panel, title in zip(panels[0], titles, strict=True):
        panel.set_title(title or "", fontsize=10)
    return figure


def show_map(image, anomaly_map, mask=None, threshold=None, edges=None, zoom=None) -> Figure:
    """A roll and its anomaly map on the fixed scale 0–1, with defects and what the threshold makes of the map.

    Args: `image` uint8 (H, W); `anomaly_map` float (H, W) in [0, 1]; `mask` bool (H, W); `threshold` in [0,
    1]; `edges` (start, end) columns; `zoom` (first, last) columns to look at. Raises InputError where
    shapes differ.
    """
    _same("image", image, "anomaly_map", anomaly_map)
    first, last = zoom or (0, image.shape[1])
    if not 0 <= first < last <= image.shape[1]:
        raise InputError(f"zoom: found ({first}, {last}), expected columns within 0 to {image.shape[1]}")
    side_by_side = last - first < 3 * image.shape[0]  # a short piece is nearly square
    share = image.shape[0] / (last - first)
    if side_by_side:
        figure = Picture(12, min(6.5, 1.1 + 5.3 * share))
        above, below = figure.subplots(1, 2, sharey=True)
    else:
        figure = Picture(12, 1.5 + 2 * 10.8 * share)
        above, below = figure.subplots(2, 1, sharex=True)
    _roll_on(above, image, "fabric", edges, mask, frame=zoom is None)
    _map_on(figure, below, anomaly_map, "anomaly map", "anomaly score, fixed scale 0–1")
    _outline(below, mask, image, "mask")
    if threshold is not None:
        for panel in (above, below):
            _outline(panel, np.asarray(anomaly_map) > threshold, image, "map", predicted=True)
        below.set_title(f"anomaly map, dashed: above the threshold {threshold:.3g}", fontsize=10)
    for panel in (above, below):
        panel.set_xlim(first, last)
    for panel in (above, below) if side_by_side else (below,):
        panel.set_xlabel("column (pixels)")
    return figure


def show_maps_compared(image, maps, mask=None, thresholds=None) -> Figure:
    """One roll and the maps of several detectors, each divided by twice its own threshold: 0.5 is "alarm" for all.

    Args: `image` uint8 (H, W); `maps` {name: float (H, W)} in any positive unit; `mask` bool (H, W);
    `thresholds` {name: > 0}, in each map's own unit. Raises InputError for differing shapes or a missing
    threshold.
    """
    thresholds = thresholds or {}
    missing = [name for name in maps if not thresholds.get(name, 0) > 0]
    if missing:
        raise InputError(f"thresholds: found none above 0 for {missing}, expected one for every map")
    figure = Picture(12, 0.5 + (len(maps) + 1) * (0.4 + 10.6 * image.shape[0] / image.shape[1]))
    panels = figure.subplots(len(maps) + 1, 1, sharex=True, squeeze=False)[:, 0]
    _roll_on(panels[0], image, "fabric", None, mask)
    for panel, (name, scores) in zip(panels[1:], maps.items(), strict=True):
        _same("image", image, f"maps[{name!r}]", scores)
        drawn = _map_on(None, panel, np.clip(scores / thresholds[name] / 2, 0, 1), name)
        _outline(panel, mask, image, "mask")
    bar = figure.colorbar(drawn, ax=panels[1:], label="score / (2 · threshold)\n0.5 = threshold", pad=0.01)
    bar.ax.axhline(0.5, color=PREDICTED, linewidth=2)
    panels[-1].set_xlabel("column (pixels)")
    return figure


def overlay(image, anomaly_map, threshold) -> np.ndarray:
    """An RGB picture for a file: the roll, coloured where the map is high, outlined where it exceeds the threshold.

    Args: `image` uint8 (H, W); `anomaly_map` float (H, W), taken on the fixed scale 0–1; `threshold` in [0,
    1]. Returns uint8 (H, W, 3), RGB. Colour fades in with the score, so that cloth with a low map stays
    grey. Raises InputError where the shapes differ.
    """
    _same("image", image, "anomaly_map", anomaly_map)
    scores = np.clip(np.asarray(anomaly_map, np.float32), 0, 1)
    heat = cv2.applyColorMap(np.uint8(scores * 255 + 0.5), cv2.COLORMAP_MAGMA)[..., ::-1]
    opacity = 0.8 * scores[..., None]
    blended = np.asarray(image, np.float32)[..., None] * (1 - opacity) + heat * opacity
    picture = np.ascontiguousarray(blended.round().astype(np.uint8))
    alarms = np.uint8(scores > threshold)
    outlines, _ = cv2.findContours(alarms, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, outlines, -1, tuple(int(PREDICTED[i : i + 2], 16) for i in (1, 3, 5)), 2)
    return picture


# ------------------------------------------------------------------------------------------------------
curves


def plot_training(log) -> Figure:
    """Loss curves against training steps on a log scale: the reconstruction's parts left, the segmentation's right.

    Args: `log` {"step", "loss", "l1", "ssim", "fft", "bce", "focal", "learning_rate": equally long
    sequences}; parts that are missing are left out. Raises InputError without "step" or for a column of
    another length.
    """
    if "step" not in log or not len(log["step"]):
        raise InputError("log: found no logged step, expected one or more; train first")
    wrong = {k: len(v) for k, v in log.items() if len(v) != len(log["step"])}
    if wrong:
        raise InputError(f"log: found {wrong} values for {len(log['step'])} steps, expected as many")
    figure = Picture(11, 3.6)
    panels = figure.subplots(1, 2)
    groups = {"reconstruction": ("l1", "ssim", "fft"), "segmentation": ("bce", "focal")}
    for panel, (title, parts) in zip(panels, groups.items(), strict=True):
        for i, part in enumerate(p for p in ("loss", *parts) if p in log):
            style = {"color": "0.55", "linestyle": "--", "label": "loss (total)"} if part == "loss" else {}
            panel.plot(log["step"], log[part], **{"color": LINES[i - 1], "label": part, **style},
                       marker="." if len(log["step"]) < 30 else None)  # fmt: skip
        panel.set(title=title, xlabel="step", ylabel="loss (log scale)", yscale="log")
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize=9, loc="lower left")
    if "learning_rate" in log:
        rate = panels[1].twinx()
        rate.plot(log["step"], log["learning_rate"], color="0.5", linestyle=":", linewidth=1.2)
        rate.set_ylim(0, None)
        rate.set_ylabel("learning rate (dotted)")
    return figure


def plot_roc_pr(labels, scores, threshold=None) -> Figure:
    """ROC and precision-recall curves of patches or rolls, with the operating point at the threshold.

    Args: `labels` (N,) 0/1; `scores` (N,); an alarm is a score above `threshold`.
    Raises InputError for differing shapes or labels of one kind only.
    """
    labels, scores = np.asarray(labels).astype(bool), np.asarray(scores, float)
    _same("labels", labels, "scores", scores)
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise InputError(f"labels: found {positives} positives of {len(labels)}, expected both kinds")
    false_rate, hit_rate, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    figure = Picture(9.5, 4.3)
    roc, pr = figure.subplots(1, 2)
    roc.plot(false_rate, hit_rate, color=LINES[0], linewidth=2)
    roc.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="guessing")
    roc.set(title=f"ROC, AUROC {roc_auc_score(labels, scores):.3f}", xlabel="false-alarm rate",
            ylabel="recall (hit rate)")  # fmt: skip
    pr.plot(recall, precision, color=LINES[0], linewidth=2, drawstyle="steps-post")
    share = positives / len(labels)
    pr.axhline(share, color="0.6", linestyle=":", label=f"guessing ({share:.3f})")
    pr.set(title=f"precision–recall, AP {average_precision_score(labels, scores):.3f}", xlabel="recall",
           ylabel="precision")  # fmt: skip
    if threshold is not None:
        alarm = scores > threshold hits, false = int((alarm & labels).sum()), int((alarm & ~labels).sum())
        point = {"color": LINES[1], "markersize": 9, "marker": "o", "linestyle": ""} found = f"at
        {threshold:.3g}: {hits} of {positives} found" roc.plot(false / (len(labels) - positives), hits /
        positives, label=f"{found}, {false} false", **point) if hits + false:
            pr.plot(hits / positives, hits / (hits + false), label=f"{found}, {false} false", **point)
    for panel in (roc, pr):
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9, loc="lower right" if panel is roc else "lower left")
    return figure


def plot_scores(scores_normal, scores_defective, threshold=None) -> Figure:
    """Histograms of the scores of normal and of defective patches or rolls, as shares of each kind.

    Args: two sequences of scores, neither empty; `threshold` in the same unit. Raises InputError for an
    empty one.
    """
    normal, defective = np.asarray(scores_normal, float), np.asarray(scores_defective, float)
    for name, values in (("scores_normal", normal), ("scores_defective", defective)):
        if values.size == 0:
            raise InputError(f"{name}: found no score, expected one or more")
    figure = Picture(8, 3.4)
    panel = figure.subplots()
    bins = np.histogram_bin_edges(np.concatenate([normal, defective]), 40)
    for values, name, colour in ((normal, "normal", LINES[0]), (defective, "defective", LINES[1])):
        label = name if threshold is None else f"{name}: {(values > threshold).sum()} of {values.size} above"
        panel.hist(values, bins, weights=np.full(values.size, 100 / values.size), color=colour, alpha=0.45,
                   histtype="stepfilled", edgecolor=colour, linewidth=1.5, label=label)  # fmt: skip
    if threshold is not None:
        panel.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
    panel.set(xlabel="score", ylabel="share of each kind (%)")
    panel.legend(fontsize=9)
    panel.grid(alpha=0.3)
    return figure


# ------------------------------------------------------------------------------------------- tables and
counts


def plot_losses_table(names, corruptions, values) -> Figure:
    """A table of losses: rows are corruptions, columns losses, the number in each cell, colour on a common log scale.

    Args: `names` of the losses (K,); `corruptions` (N,); `values` (N, K), zero or more.
    Raises InputError where `values` does not have that shape.
    """
    values = np.asarray(values, float)
    if values.shape != (len(corruptions), len(names)):
        expected = (len(corruptions), len(names))
        raise InputError(f"values: found shape {values.shape}, expected {expected} (corruptions, names)")
    figure = Picture(2.8 + 1.1 * len(names), 1.2 + 0.38 * len(corruptions))
    panel = figure.subplots()
    least = values[values > 0].min(initial=1.0)
    scale = LogNorm(least, max(values.max(initial=1.0), 10 * least))
    drawn = panel.imshow(values.clip(least), cmap="viridis", norm=scale, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = scale(max(value, least)) < 0.6
        panel.text(column, row, f"{value:.3g}", ha="center", va="center", color="white" if dark else "black")
    panel.set_xticks(range(len(names)), names)
    panel.set_yticks(range(len(corruptions)), corruptions)
    panel.xaxis.tick_top()
    panel.tick_params(length=0)
    figure.colorbar(drawn, ax=panel, label="loss (log scale)")
    return figure


def plot_spectrum(image_patch) -> Figure:
    """A patch and its log-magnitude spectrum: weave is a few bright points, a fine defect a faint haze.

    Args: `image_patch` (h, w), uint8 or float in [0, 1]; the mean is taken off, so frequency 0 is dark.
    Raises InputError for anything but two axes.
    """
    patch = np.asarray(image_patch)
    if patch.ndim != 2:
        raise InputError(f"image_patch: found shape {patch.shape}, expected (h, w); pass one grey patch")
    patch = patch / 255.0 if patch.dtype == np.uint8 else patch.astype(float) window =
    np.outer(*(np.hanning(n) for n in patch.shape))  # or the patch's border would draw a bright cross
    spectrum = np.fft.fftshift(np.fft.fft2((patch - patch.mean()) * window)) magnitude =
    np.log10(np.abs(spectrum) / window.sum() + 1e-6) figure = Picture(9, 4) left, right = figure.subplots(1,
    2) left.imshow(patch, cmap="gray", vmin=0, vmax=1) left.set(title="patch", xlabel="column (pixels)",
    ylabel="row (pixels)") drawn = right.imshow(magnitude, cmap="magma", vmin=-5, vmax=-1, extent=(-0.5,
    0.5, 0.5, -0.5)) right.set(title="spectrum", xlabel="cycles per pixel, along the row", ylabel="cycles
    per pixel, down") figure.colorbar(drawn, ax=right, label="log10 of magnitude, fixed scale", shrink=0.85)
    return figure


def plot_defect_sizes(sizes_by_type) -> Figure:
    """Every defect's size as a point on a log axis, a row per type, the median as a bar.

    Args: `sizes_by_type` {name: mask pixels, each above 0}; a type without defects keeps its empty row.
    Raises InputError if there is no size at all.
    """
    if not any(len(sizes) for sizes in sizes_by_type.values()):
        raise InputError("sizes_by_type: found no defect, expected one or more")
    figure = Picture(9, 1.1 + 0.36 * len(sizes_by_type))
    panel = figure.subplots()
    labels = []
    for row, (name, sizes) in enumerate(sizes_by_type.items()):
        labels.append(f"{name} ({len(sizes)})")
        if len(sizes):
            spread = (np.arange(len(sizes)) * 0.618 % 1 - 0.5) * 0.5  # golden-ratio jitter: even, and not
            random panel.plot(sizes, row + spread, ".", color=LINES[0], alpha=0.6, markersize=8) median =
            np.median(sizes) panel.plot([median] * 2, [row - 0.38, row + 0.38], color=LINES[1],
            linewidth=2.5) panel.annotate(f"{median:,.0f}", (1.01, row), xycoords=("axes fraction", "data"),
            va="center",
                           color=LINES[1])  # fmt: skip
    panel.annotate("median", (1.01, -0.8), xycoords=("axes fraction", "data"), va="center", color=LINES[1])
    panel.set(xscale="log", xlabel="size (mask pixels, log scale)", ylim=(len(labels) - 0.4, -0.6))
    panel.set_yticks(range(len(labels)), labels)
    panel.grid(alpha=0.3)
    return figure


def plot_hits(rows) -> Figure:
    """Horizontal bars: how many defects of each type were found, with counts.

    Args: `rows` list of (type name, hits, total), total above 0. Raises InputError for none or hits above
    total.
    """
    if not rows or any(not 0 <= hits <= total or total == 0 for _, hits, total in rows):
        raise InputError(f"rows: found {rows}, expected one or more (name, hits, total) with 0 <= hits <=
        total")
    figure = Picture(8, 1.0 + 0.34 * len(rows))
    panel = figure.subplots()
    places = np.arange(len(rows))
    rates = np.array([100 * hits / total for _, hits, total in rows])
    panel.barh(places, 100, color="0.92", height=0.7)
    panel.barh(places, rates, color=LINES[0], height=0.7)
    for place, (_, hits, total) in zip(places, rows, strict=True):
        panel.text(102, place, f"{hits} of {total}", va="center")
    panel.set(xlabel="defects found (%)", xlim=(0, 118), ylim=(len(rows) - 0.4, -0.6), xticks=range(0, 101,
    20)) panel.set_yticks(places, [name for name, _, _ in rows]) panel.spines[["top",
    "right"]].set_visible(False) return figure


# ------------------------------------------------------------------------------------------------ small
helpers


def _same(name, array, other_name, other) -> None:
    if np.shape(array) != np.shape(other):
        raise InputError(
            f"{other_name}: found shape {np.shape(other)}, expected that of {name}, {np.shape(array)}; "
            "pass arrays of the same picture"
        )


def _columns(pictures, **lists) -> list[list]:
    """Each list as given, or Nones in its place; all as long as `pictures`."""
    if len(pictures) == 0:
        raise InputError("pictures: found none, expected one or more")
    for name, values in lists.items():
        if values is not None and len(values) != len(pictures):
            raise InputError(f"{name}: found {len(values)} for {len(pictures)} pictures, expected as many")
    return [[None] * len(pictures) if values is None else list(values) for values in lists.values()]


def _roll_on(panel, roll, title, edges, mask, frame=True) -> None:
    """Draw one roll, 0–255, with edges, outlined defects and a frame around each that is easy to see."""
    panel.imshow(roll, cmap="gray", vmin=0, vmax=255)
    panel.set_yticks([])
    panel.set_title(title or "", fontsize=10, loc="left")
    for column in edges or ():
        panel.axvline(column, color=EDGE, linewidth=1.5)
    _outline(panel, mask, roll, "mask")
    if mask is not None and frame:
        _frames(panel, np.asarray(mask) > 0)


def _map_on(figure, panel, scores, title, label=None):
    drawn = panel.imshow(scores, cmap=MAP_COLOURS, vmin=0, vmax=1)
    panel.set_yticks([])
    panel.set_title(title, fontsize=10, loc="left")
    if figure is not None:
        figure.colorbar(drawn, ax=panel, label=label, pad=0.01)
    return drawn


def _outline(panel, mask, image, name, predicted=False) -> None:
    """Outline a mask, solid for defects, dashed for predictions; no mask or an empty one draws nothing."""
    if mask is None:
        return
    _same("image", image, name, mask)
    mask = np.asarray(mask) > 0
    if mask.any():
        padded = np.pad(mask, 1).astype(np.float32)  # so that a mask touching the border is closed there
        rows, columns = (np.arange(n) - 1 for n in padded.shape)
        panel.contour(columns, rows, padded, [0.5], colors=PREDICTED if predicted else DEFECT,
                      linewidths=1.3, linestyles="--" if predicted else "-")  # fmt: skip


def _frames(panel, mask, margin=24) -> None:
    """A rectangle around each group of defect pixels, `margin` pixels away, since most are too small to spot."""
    grown = cv2.dilate(np.uint8(mask), np.ones((2 * margin + 1,) * 2, np.uint8))
    _, _, boxes, _ = cv2.connectedComponentsWithStats(grown)
    for left, top, width, height, _ in boxes[1:]:
        panel.add_patch(Rectangle((left - 0.5, top - 0.5), width - 1, height - 1, fill=False,
        edgecolor=DEFECT,
                                  linewidth=1.3))  # fmt: skip
