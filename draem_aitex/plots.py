"""Images, anomaly maps and masks: functions that take arrays and return a matplotlib `Figure`; curves are in `charts`.

Grey images are shown on their full fixed range and anomaly maps on one fixed 0-1 scale with a colour bar, never scaled
per image: a normal roll must look normal. Defects are outlined besides being coloured.

No pyplot state is used. In a notebook run `%matplotlib inline` once; a `Figure` as a cell's last value is then shown.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Literal

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from draem_aitex.errors import InputError

WIDTH, DPI = 10, 100  # inches; pixels an inch
SAMPLE = ("normal", "corrupted", "reconstruction", "prediction", "ground truth")  # columns of the course's figure
DEFECT, PREDICTED, EDGE = "#00c853", "#29b6f6", "#ffab00"  # outlines: ground truth, prediction, edges of the fabric
Images = Sequence[np.ndarray]
Mask = np.ndarray | None
Masks = Sequence[Mask] | None
Titles = Sequence[str] | None
Columns = tuple[int, int] | None  # first and last, half open
Side = Literal["left", "center"]
Scale = tuple[float, float]  # lowest and highest value


def show_rolls(
    rolls: Images, titles: Titles = None, edges: Sequence[tuple[int, ...]] | None = None, masks: Masks = None,
    zoom: tuple[int, int, int] | None = None,
) -> Figure:  # fmt: skip
    """Rolls one above the other, the edges of the fabric as lines, a ring around every defect.

    rolls: uint8 `(H, W)` each; edges: columns of each, such as `(start, end)`; masks: bool `(H, W)` or None. zoom:
    `(roll, row, column)` of the upper left of 160 × 512 pixels that are drawn below, two pixels of the figure for each
    of theirs, the defects outlined. Raises `InputError` for a mask of another shape than its roll.
    """
    titles, edges, masks = titles or [""] * len(rolls), edges or [()] * len(rolls), masks or [None] * len(rolls)
    band, below = 92, 348 if zoom else 0  # pixels
    figure = Figure(figsize=(1040 / DPI, (band * len(rolls) + below) / DPI), dpi=DPI)
    size = figure.get_size_inches() * DPI
    for row, (roll, title, columns, mask) in enumerate(zip(rolls, titles, edges, masks, strict=True)):
        axis = figure.add_axes((8 / size[0], 1 - (band * row + 90) / size[1], 1024 / size[0], 64 / size[1]))
        draw_roll(axis, roll, title)
        _mark(axis, mask, DEFECT, roll, ring=True)
        for column in columns:
            axis.axvline(min(column, roll.shape[1] - 1), color=EDGE, linewidth=1.5)
        if zoom and zoom[0] == row:
            _, top, left = zoom
            part = np.s_[top : top + 160, left : left + 512]
            axis.indicate_inset((left, top, 512, 160), edgecolor=PREDICTED, linewidth=2, alpha=1)
            inset = figure.add_axes((8 / size[0], 4 / size[1], 1024 / size[0], 320 / size[1]))
            draw_roll(inset, roll[part], f"rows {top} to {top + 160}, columns {left} to {left + 512}")
            inset.images[0].set_interpolation("nearest")
            _mark(inset, None if mask is None else mask[part], DEFECT, roll[part], margin=3)
    return figure


def show_crops(
    crops: Images, titles: Titles = None, masks: Masks = None, columns: int = 4, scale: float | Scale = 1, bar: str = ""
) -> Figure:
    """A grid of crops on one fixed scale, masks as outlines; two pixels of the figure for each pixel of a crop.

    crops: `(H, W)` each, of one size; masks: bool `(H, W)` or None; scale: `(lowest, highest)` value, or the highest
    alone; bar: label of a colour bar, none without it. Raises `InputError` where shapes differ.
    """
    limits = scale if isinstance(scale, tuple) else (0, scale)
    columns = min(columns, len(crops))
    figure, axes = _tiles(crops[0], -(-len(crops) // columns), columns, under=28, right=100 if bar else 8)
    for axis in axes.flat[len(crops) :]:
        axis.set_axis_off()
    for axis, crop, title, mask in zip(axes.flat, crops, titles or repeat(""), masks or repeat(None), strict=False):
        check_shapes(crops[0], crop, "the first crop and another")
        shown = _draw_tile(axis, crop, title, scale=limits)
        _mark(axis, mask, DEFECT, crop, margin=3)
    if bar:
        _add_bar(figure, axes[0, -1], shown, bar)
    return figure


def show_samples(columns: Mapping[str, Images], rows: Titles = None) -> Figure:
    """The course's standard figure: one row a sample, by default the columns of `SAMPLE`.

    Two pixels of the figure, at its own resolution, for each pixel of an image, since texture does not survive anything
    else. columns: title to one image a sample, `(H, W)` in [0, 1], all of one size; those whose title begins with
    "prediction" are drawn as anomaly maps, with a colour bar. rows: names of the samples, on the left. Raises
    `InputError` where shapes differ.
    """
    (name, first), *_ = columns.items()
    predicted = any(title.startswith("prediction") for title in columns)
    figure, axes = _tiles(first[0], len(first), len(columns), left=24 if rows else 8, right=72 if predicted else 8)
    for own, (title, images) in zip(axes.T, columns.items(), strict=True):
        colours = "magma" if title.startswith("prediction") else "gray"
        for down, (axis, image) in enumerate(zip(own, images, strict=True)):
            check_shapes(first[0], image, f"{name} and {title}")
            shown = _draw_tile(axis, image, "" if down else title, colours=colours)
        if colours == "magma":
            _add_bar(figure, axes[0, -1], shown, "prediction: probability of an anomaly")
    for axis, row in zip(axes[:, 0], rows or (), strict=False):
        axis.set_ylabel(row, fontsize=9)
    return figure


def show_rows(rows: Mapping[str, Images], titles: Titles = None) -> Figure:
    """Named rows of images, one above the other; `(H, W)` in [0, 1] each. Raises `InputError` where shapes differ."""
    first, *_ = rows.values()
    figure, axes = _tiles(first[0], len(rows), len(first), left=24)
    for own, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(own, images, strict=True):
            check_shapes(first[0], image, f"{next(iter(rows))} and {name}")
            _draw_tile(axis, image)
        own[0].set_ylabel(name, fontsize=10)
    for axis, title in zip(axes[0], titles or (), strict=False):
        axis.set_title(title, fontsize=9)
    return figure


def _tiles(image, rows, columns, left=8, right=8, under=8, top=26):
    """A figure and its axes `(rows, columns)`, each with two pixels for every pixel of `image`; margins in pixels."""
    (height, width), gap = np.multiply(2, np.shape(image)), 8
    across, down = left + columns * (width + gap) - gap + right, top + rows * (height + under)
    figure = Figure(figsize=(across / DPI, down / DPI), dpi=DPI)
    axes = np.empty((rows, columns), object)
    for row, column in np.ndindex(axes.shape):
        x, y = left + column * (width + gap), down - top - height - row * (height + under)
        axes[row, column] = figure.add_axes((x / across, y / down, width / across, height / down))
    return figure, axes


def _draw_tile(axis, image, title="", **how):
    shown = draw_image(axis, image, title, **how)
    shown.set_interpolation("nearest")
    return shown


def _add_bar(figure, axis, shown, label):
    """A colour bar beside an axis at the figure's right, as high as the axis."""
    box, pixel = axis.get_position(), 1 / figure.get_size_inches()[0] / DPI
    figure.colorbar(shown, cax=figure.add_axes((box.x1 + 8 * pixel, box.y0, 14 * pixel, box.height)), label=label)


def show_prediction(
    image: np.ndarray, anomaly_map: np.ndarray, threshold: float, mask: Mask = None, edges: tuple[int, ...] = (),
    at: tuple[int, int] | None = None, side: int = 128,
) -> Figure:  # fmt: skip
    """A whole roll above its map, and one place of it enlarged: image, map, predicted mask, ground-truth mask.

    image: uint8 `(H, W)`; anomaly_map: float `(H, W)` in [0, 1]; mask: bool `(H, W)`; edges: of the fabric; at: `(row,
    column)` in the middle of the `side` px that are enlarged; without it, of the highest score. Raises `InputError`
    where the shapes differ.
    """
    maps, truth = {"anomaly map": anomaly_map}, np.zeros(image.shape, bool) if mask is None else mask
    masks = {"predicted mask": anomaly_map > threshold, "ground-truth mask": truth}
    return _with_place(image, maps, {"enlarged": image / 255, **maps, **masks}, mask, edges, at, side, "score, 0–1")


def show_maps_compared(
    image: np.ndarray, maps: Mapping[str, np.ndarray], mask: Mask = None, thresholds: Mapping[str, float] | None = None,
    at: tuple[int, int] | None = None, side: int = 128,
) -> Figure:  # fmt: skip
    """One roll, one map per detector and one place enlarged; maps are divided by twice their thresholds: 0.5 is each.

    image: uint8 `(H, W)`; maps: name to float `(H, W)`; mask: bool `(H, W)`; thresholds: name to value, 0.5 for all
    without it; at, side: as in `show_prediction`, by default where the first map is highest. Raises `InputError` where
    the shapes differ.
    """
    twice = {name: 2 * (thresholds[name] if thresholds else 0.5) for name in maps}
    relative = {name: np.clip(scores / twice[name], 0, 1) for name, scores in maps.items()}
    label = "score / (2 × threshold)"
    return _with_place(image, relative, {"enlarged": image / 255, **relative}, mask, (), at, side, label)


def _with_place(image, maps, tiles, mask, edges, at, side, label):
    """A roll and its maps one above the other, and below them one place of the images in `tiles`; label: of the bar."""
    for name, scores in maps.items():
        check_shapes(image, scores, f"image and {name}")
    row, column = at or np.unravel_index(next(iter(maps.values())).argmax(), image.shape)
    top, left = (max(0, min(x - side // 2, y - side)) for x, y in zip((row, column), image.shape, strict=True))
    near, across = np.s_[top : top + side, left : left + side], len(tiles) * (2 * side + 8) - 8
    strip = round(across * image.shape[0] / image.shape[1])
    figure, axes = _tiles(image[near], 1, len(tiles), right=72, top=(1 + len(maps)) * (strip + 30) + 26)
    wide, high = figure.get_size_inches() * DPI
    for row, (title, values) in enumerate({"roll": image, **maps}.items()):
        place = 8 / wide, 1 - (26 + strip + row * (strip + 30)) / high, across / wide, strip / high
        axis = figure.add_axes(place)
        (draw_map if row else draw_roll)(axis, values, title, side="left")
        _mark(axis, mask, DEFECT, image, ring=True)
        for edge in edges:
            axis.axvline(min(edge, image.shape[1] - 1), color=EDGE, linewidth=1)
        axis.indicate_inset((left, top, side, side), edgecolor=PREDICTED, linewidth=2, alpha=1)
    for axis, (title, values) in zip(axes[0], tiles.items(), strict=True):
        shown = _draw_tile(axis, values[near], title, colours="magma" if title in maps else "gray")
        if title in maps:
            scale = shown
    _add_bar(figure, axes[0, -1], scale, label)
    return figure


def panels(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes: an array `(rows, columns)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_image(
    axis: Axes, image: np.ndarray, title: str = "", side: Side = "center", scale: Scale = (0, 1), colours: str = "gray"
) -> AxesImage:
    """An image `(H, W)` on a fixed scale, `(lowest, highest)` value, without ticks; side: of the title."""
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9, loc=side)
    return axis.imshow(image, cmap=colours, vmin=scale[0], vmax=scale[1])


draw_map = partial(draw_image, colours="magma")  # an anomaly map, on the scale from 0 to 1 that all maps have
draw_roll = partial(draw_image, side="left", scale=(0, 255))


def check_shapes(first: Any, second: Any, names: str) -> None:
    """Raise `InputError` where two arrays differ in shape; names: of both."""
    if np.shape(first) != np.shape(second):
        raise InputError(f"{names}: shapes {np.shape(first)}, {np.shape(second)}; expected one shape; give such arrays")


def _mark(axis: Axes, mask: Mask, colour: str, image: np.ndarray, ring: bool = False, margin: int = 0) -> None:
    """Draw the outline of a mask, if there is one, on its image, `margin` px outside it.

    ring: defects are small on a whole roll, and a ring at 28 px or more from each makes them easy to find.
    """
    if mask is None:
        return
    check_shapes(image, mask, "image and mask")
    if not ring:
        grown = cv2.dilate(mask.astype(np.uint8), np.ones((2 * margin + 1,) * 2, np.uint8))  # a line would hide a speck
        for contour in cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
            axis.plot(*np.vstack([contour[:, 0], contour[:1, 0]]).T, color=colour, linewidth=1.2)
        return
    near = cv2.dilate(mask.astype(np.uint8), np.ones((25, 25), np.uint8))  # what lies close together gets one ring
    for x, y, width, height, _ in cv2.connectedComponentsWithStats(near, connectivity=8)[2][1:]:
        left, right = np.clip([x - 28, x + width + 28], 0, mask.shape[1] - 1)
        top, bottom = np.clip([y - 28, y + height + 28], 0, mask.shape[0] - 1)
        axis.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, linewidth=1.5)
