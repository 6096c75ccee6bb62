"""Pictures: functions that take arrays and return a matplotlib `Figure`.

Grey pictures are shown on their full fixed range and anomaly maps on one fixed 0-1 scale with a colour bar, never
scaled per image: a normal roll must look normal. Defects are outlined besides being coloured.

No pyplot state is used. In a notebook run `%matplotlib inline` once; a `Figure` as a cell's last value is then shown.
"""

import cv2
import numpy as np
from matplotlib.figure import Figure

from draem_aitex.errors import InputError

WIDTH = 10  # inches
MAP_COLOURS = "magma"
DEFECT, PREDICTED = "#00c853", "#29b6f6"  # outlines: what the mask says, what the map says


def show_rolls(rolls, titles=None, edges=None, masks=None):
    """Rolls one above the other, their fabric's edges as lines, a ring around every defect.

    rolls: list of uint8 `(H, W)`; edges: list of `(start, end)`; masks: list of bool `(H, W)` or None.
    """
    figure = Figure(figsize=(WIDTH, 0.95 * len(rolls) + 0.3), layout="constrained")
    axes = figure.subplots(len(rolls), 1, squeeze=False)[:, 0]
    for index, (axis, roll) in enumerate(zip(axes, rolls, strict=True)):
        _grey(axis, roll, 255)
        if titles is not None:
            axis.set_title(titles[index], fontsize=9, loc="left")
        if edges is not None:
            for column in edges[index]:
                axis.axvline(min(column, roll.shape[1] - 1), color="#ffab00", linewidth=1.5)
        if masks is not None and masks[index] is not None:
            _same_shape(roll, masks[index], "roll and mask")
            _ring(axis, masks[index])
    return figure


def show_crops(crops, titles=None, masks=None, columns=4, scale=(0, 1)):
    """A grid of crops on one fixed scale, masks as outlines.

    crops: list of `(H, W)`; scale: `(lowest, highest)` value, or the highest alone.
    """
    low, high = scale if isinstance(scale, tuple) else (0, scale)
    columns = min(columns, len(crops))
    rows = -(-len(crops) // columns)
    side = WIDTH / max(columns, 4)
    figure = Figure(figsize=(side * columns, (side + 0.25) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(crops) :]:
        axis.set_axis_off()
    for index, crop in enumerate(crops):
        _grey(axes[index], crop, high, low)
        if titles is not None:
            axes[index].set_title(titles[index], fontsize=9)
        if masks is not None and masks[index] is not None:
            _same_shape(crop, masks[index], "crop and mask")
            _outline(axes[index], masks[index], DEFECT)
    return figure


def show_augmented(before, after, masks, titles=None, rows=("before", "after", "mask")):
    """Three rows: cloth, the same cloth corrupted, and the mask of what changed. Lists of `(H, W)` in [0, 1]."""
    return show_rows(dict(zip(rows, (before, after, masks), strict=True)), titles)


def show_rows(rows, titles=None):
    """Named rows of pictures, one above the other. rows: dict of name to a list of `(H, W)` in [0, 1]."""
    names = list(rows)
    count = len(rows[names[0]])
    figure = Figure(figsize=(WIDTH, (len(rows) + 0.1) * WIDTH / max(count, 4)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for row, (name, pictures) in enumerate(rows.items()):
        for column in range(count):
            _same_shape(rows[names[0]][column], pictures[column], f"{names[0]} and {name}")
            _grey(axes[row, column], pictures[column], 1)
        axes[row, 0].set_ylabel(name, fontsize=10)
    for column, title in enumerate(titles or []):
        axes[0, column].set_title(title, fontsize=9)
    return figure


def show_map(image, anomaly_map, mask=None, threshold=None, edges=None, zoom=None):
    """A roll above its anomaly map; defects ringed or outlined in green, what passes the threshold in blue.

    image: uint8 `(H, W)`; anomaly_map: float `(H, W)` in [0, 1]; zoom: `(first, last)` column to show.
    """
    _same_shape(image, anomaly_map, "image and anomaly_map")
    columns = slice(*zoom) if zoom else slice(None)
    height = 1.2 if zoom is None else WIDTH * image.shape[0] / (zoom[1] - zoom[0])
    figure = Figure(figsize=(WIDTH, 2 * min(height, 4) + 0.6), layout="constrained")
    above, below = figure.subplots(2, 1)
    _grey(above, image[:, columns], 255)
    above.set_title("roll", fontsize=9, loc="left")
    below.set_title("anomaly map, 0–1", fontsize=9, loc="left")
    shown = below.imshow(anomaly_map[:, columns], cmap=MAP_COLOURS, vmin=0, vmax=1, aspect="equal")
    _bare(below)
    figure.colorbar(shown, ax=[above, below], fraction=0.02, pad=0.01)
    for axis in (above, below):
        if mask is not None:
            (_ring if zoom is None else _outline)(axis, mask[:, columns], *([] if zoom is None else [DEFECT]))
        for column in edges or ():
            axis.axvline(min(column, image.shape[1] - 1) - (zoom[0] if zoom else 0), color="#ffab00", linewidth=1)
    if threshold is not None:
        _outline(above, anomaly_map[:, columns] > threshold, PREDICTED)
    return figure


def show_maps_compared(image, maps, mask=None, thresholds=None):
    """One roll, and one map a detector; each is divided by twice its threshold, so 0.5 is the threshold for all.

    maps: dict of name to float `(H, W)`; thresholds: dict of name to value.
    """
    figure = Figure(figsize=(WIDTH, 1.05 * (len(maps) + 1) + 0.3), layout="constrained")
    axes = figure.subplots(len(maps) + 1, 1)
    _grey(axes[0], image, 255)
    axes[0].set_title("roll", fontsize=9, loc="left")
    for axis, (name, scores) in zip(axes[1:], maps.items(), strict=True):
        _same_shape(image, scores, f"image and map of {name}")
        level = thresholds[name] if thresholds else 0.5
        shown = axis.imshow(np.clip(scores / level / 2, 0, 1), cmap=MAP_COLOURS, vmin=0, vmax=1)
        axis.set_title(name, fontsize=9, loc="left")
        _bare(axis)
    bar = figure.colorbar(shown, ax=list(axes), fraction=0.02, pad=0.01)
    bar.set_label("score / (2 × threshold); 0.5 = threshold", fontsize=9)
    if mask is not None:
        for axis in axes:
            _ring(axis, mask)
    return figure


def plot_training(log, sample=None):
    """Loss curves: the reconstruction's parts, the segmentation's parts, the learning rate; below them a sample.

    log: list of rows as `training.train` gives them, or a dict of lists with the same keys. sample: dict of title to
    `(H, W)` in [0, 1]; pictures whose title ends in "mask" are drawn on the scale of anomaly maps.
    """
    if isinstance(log, list):
        log = {name: [row[name] for row in log] for name in (log[0] if log else {})}
    figure = Figure(figsize=(WIDTH, 5.4 if sample else 2.8), layout="constrained")
    upper, lower = figure.subfigures(2, 1) if sample else (figure, None)
    axes = upper.subplots(1, 3)
    panels = (("reconstruction", ("l1", "ssim", "fft")), ("segmentation", ("bce", "focal")), ("learning rate", ()))
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            axis.plot(log.get("step", []), log.get(name, []), label=name)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if names:
            axis.set_yscale("log")
            axis.set_ylabel("loss")
            narrow = {"fontsize": 9, "ncols": 3, "handlelength": 0.8, "handletextpad": 0.4, "columnspacing": 0.8}
            # Above the axis: inside it would cover a curve.
            axis.legend(**narrow, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    axes[2].plot(log.get("step", []), log.get("learning_rate", []), color="black")
    if sample:
        for axis, (title, picture) in zip(lower.subplots(1, len(sample)), sample.items(), strict=True):
            if title.endswith("mask"):
                axis.imshow(picture, cmap=MAP_COLOURS, vmin=0, vmax=1)
                _bare(axis)
            else:
                _grey(axis, picture, 1)
            axis.set_title(title, fontsize=10)
    return figure


def plot_roc_pr(labels, scores, threshold=None, grid=None, bands=None):
    """ROC and precision-recall curve; the threshold's operating point as a dot, bands behind the curves.

    labels: bool `(N,)` with both classes; scores: float `(N,)`; bands: of `intervals.curve_bands`, at `grid`.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    labels, scores = np.asarray(labels, bool), np.asarray(scores)
    _same_shape(labels, scores, "labels and scores")
    if labels.all() or not labels.any():
        raise InputError(f"labels: {labels.sum()} of {len(labels)} positive; expected both classes for a curve")
    figure = Figure(figsize=(WIDTH * 0.85, 3.8), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    false, true, _ = roc_curve(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    roc.plot(false, true)
    roc.plot([0, 1], [0, 1], color="grey", linestyle=":", label="guessing")
    pr.plot(recall, precision)
    pr.axhline(labels.mean(), color="grey", linestyle=":", label="guessing")
    if threshold is not None:
        called = scores > threshold
        hit, alarm = called[labels].mean(), called[~labels].mean()
        roc.plot(alarm, hit, "o", color="#d50000", label="threshold")
        if called.any():
            pr.plot(hit, labels[called].mean(), "o", color="#d50000", label="threshold")
    for axis, band in zip((roc, pr), bands or (), strict=False):
        axis.fill_between(grid, *band, alpha=0.2, linewidth=0)
    named = ((roc, "ROC", "false-alarm rate", "recall"), (pr, "precision-recall", "recall", "precision"))
    for axis, title, x, y in named:
        axis.set(title=title, xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.05))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    return figure


def plot_scores(flawless, defective, threshold=None):
    """Histograms of patch scores, flawless and defective, on a log scale of counts; the threshold as a line."""
    figure = Figure(figsize=(WIDTH * 0.7, 3), layout="constrained")
    axis = figure.subplots()
    top = max(1.0, *(float(np.max(part)) for part in (flawless, defective) if len(part)))
    bins = np.linspace(0, top, 41)
    axis.hist(flawless, bins, alpha=0.6, label=f"flawless ({len(flawless)})", color="#546e7a")
    axis.hist(defective, bins, alpha=0.6, label=f"defective ({len(defective)})", color="#d50000")
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.3g}")
    axis.set(yscale="log", ylim=(0.7, None), xlabel="patch score", ylabel="patches (log scale)")
    axis.legend(fontsize=9)
    return figure


def plot_losses_table(names, corruptions, values):
    """What each loss sees: a table of numbers, each column coloured by its share of the column's largest.

    names: of the losses (columns); corruptions: names (rows); values: `(rows, columns)`, not negative.
    """
    values = np.asarray(values, float)
    if values.shape != (len(corruptions), len(names)):
        raise InputError(f"values: shape {values.shape}; expected {(len(corruptions), len(names))} (rows, columns)")
    share = values / np.maximum(values.max(axis=0), 1e-12)
    figure = Figure(figsize=(1.1 * len(names) + 2.5, 0.42 * len(corruptions) + 0.9), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(share, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if share[row, column] > 0.6 else "white"
        axis.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=9)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(corruptions)), corruptions)
    axis.tick_params(length=0)
    figure.colorbar(shown, ax=axis, label="share of column's largest")
    return figure


def plot_levels(networks, skips=()):
    """What the levels of encoder-decoders hand on: a bar each, the higher the larger its maps, with their number.

    networks: dict of name to list of `(channels, height, width)`, from the first level down to the lowest and up
    again; skips: names of those whose decoder also gets what the encoder had at the same size, drawn as arrows.
    """
    figure = Figure(figsize=(WIDTH * 0.75, 2.3 * len(networks)), layout="constrained")
    for axis, (name, shapes) in zip(
        figure.subplots(len(networks), 1, squeeze=False)[:, 0], networks.items(), strict=True
    ):
        tallest = max(height for _, height, _ in shapes)
        heights = [0.15 + height / tallest for _, height, _ in shapes]
        lowest = (len(shapes) - 1) // 2
        for place, ((channels, height, width), tall) in enumerate(zip(shapes, heights, strict=True)):
            colour = "#546e7a" if place < lowest else "#00838f" if place > lowest else "#263238"
            axis.bar(place, tall, width=0.5, bottom=-tall / 2, color=colour)
            axis.annotate(str(channels), (place, 0), ha="center", va="center", fontsize=11, color="white")
            axis.annotate(f"{height} × {width}", (place, -tall / 2), ha="center", va="top", fontsize=9)
        for place in range(lowest if name in skips else 0):
            above = 0.5 * heights[place] - 0.07  # higher than the bars between the two ends
            ends = (place + 0.25, above), (2 * lowest - place - 0.25, above)
            axis.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": "#757575"})
        axis.set(xlim=(-0.6, len(shapes) - 0.4), ylim=(-0.85, 0.7))
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_axis_off()
    return figure


def plot_spectrum(patch):
    """A picture and its spectrum, log(1 + |F|), zero frequency in the middle. patch: `(H, W)`, 0-255 or 0-1."""
    picture = np.asarray(patch, np.float32)
    picture = picture / 255 if np.asarray(patch).dtype == np.uint8 else picture
    spectrum = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(picture - picture.mean(), norm="ortho"))))
    figure = Figure(figsize=(WIDTH * 0.75, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _grey(left, picture, 1)
    left.set_title("cloth", fontsize=10)
    extent = (-0.5, 0.5, 0.5, -0.5)
    shown = right.imshow(spectrum, cmap="viridis", vmin=0, extent=extent)
    right.set(title="spectrum", xlabel="cycles per px across", ylabel="cycles per px down")
    figure.colorbar(shown, ax=right, label="log(1 + |F|)")
    return figure


def plot_defect_sizes(sizes_by_type):
    """Mask pixels of every defect, by type, on a log scale, the median as a line. dict of name to list of counts."""
    figure = Figure(figsize=(WIDTH * 0.8, 0.5 * len(sizes_by_type) + 1), layout="constrained")
    axis = figure.subplots()
    for row, sizes in enumerate(sizes_by_type.values()):
        axis.plot(sizes, np.full(len(sizes), row), "o", alpha=0.5, color="#546e7a")
        median = float(np.median(sizes))
        axis.plot([median, median], [row - 0.35, row + 0.35], color="#d50000", linewidth=2)
        axis.annotate(f"{median:.0f}", (median, row - 0.37), ha="center", va="bottom", fontsize=9, color="#d50000")
    axis.set_yticks(range(len(sizes_by_type)), list(sizes_by_type))
    axis.set(xscale="log", xlabel="mask pixels of a defect (red: median)", ylim=(len(sizes_by_type) - 0.4, -0.8))
    axis.grid(alpha=0.3, axis="x")
    return figure


def plot_hits(rows):
    """Defects hit, by type, as bars with counts. rows: list of `(name, hits, defects)`."""
    figure = Figure(figsize=(WIDTH * 0.7, 0.4 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    for row, (_, hits, defects) in enumerate(rows):
        axis.barh(row, defects, color="#cfd8dc")
        axis.barh(row, hits, color="#00838f")
        axis.annotate(f" {hits} of {defects}", (defects, row), va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axis.set(xlabel="defects (dark: hit)", xlim=(0, 1.2 * max([defects for *_, defects in rows] + [1])))
    axis.invert_yaxis()
    return figure


def _grey(axis, picture, high, low=0):
    axis.imshow(picture, cmap="gray", vmin=low, vmax=high)
    _bare(axis)


def _bare(axis):
    axis.set_xticks([])
    axis.set_yticks([])


def _outline(axis, mask, colour):
    contours, _ = cv2.findContours(np.asarray(mask).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for contour in contours:
        closed = np.vstack([contour[:, 0], contour[:1, 0]])
        axis.plot(closed[:, 0], closed[:, 1], color=colour, linewidth=1.2)


def _ring(axis, mask):
    """Defects are small on a whole roll: a ring of 40 px around each makes them findable."""
    near = cv2.dilate(np.asarray(mask).astype(np.uint8), np.ones((25, 25), np.uint8))
    count, _, boxes, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    for x, y, width, height, _ in boxes[1:count]:
        columns = np.array([x - 28, x + width + 28, x + width + 28, x - 28, x - 28]).clip(0, mask.shape[1] - 1)
        rows = np.array([y - 28, y - 28, y + height + 28, y + height + 28, y - 28]).clip(0, mask.shape[0] - 1)
        axis.plot(columns, rows, color=DEFECT, linewidth=1.5)


def _same_shape(first, second, names):
    if np.shape(first) != np.shape(second):
        raise InputError(f"{names}: shapes {np.shape(first)} and {np.shape(second)}; expected one shape for both")
