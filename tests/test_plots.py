"""Plots and charts: arrays in, a figure out; what it shows is read back from the figure, not only that it exists."""

import io

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from draem_aitex import charts, plots
from draem_aitex.detectors import regions
from draem_aitex.errors import InputError

RNG = np.random.default_rng(0)
ROLL = RNG.integers(60, 120, (256, 1024)).astype(np.uint8)
MASK = np.zeros(ROLL.shape, bool)
MASK[100:110, 500:520] = True
MAP = np.where(MASK, 0.9, 0.05).astype(np.float32)
CROPS = [RNG.random((64, 64)).astype(np.float32) for _ in range(5)]
LOG = [
    {"step": i, "learning_rate": 1e-3, "loss": 1 / i, **dict.fromkeys(("l1", "ssim", "fft", "bce", "focal"), 1 / i)}
    for i in range(1, 5)
]
LEVELS = [(16, 8, 8), (32, 4, 4), (16, 8, 8)]
PAIR = {"one": LEVELS, "two": LEVELS}

FIGURES = {
    "rolls": lambda: plots.show_rolls([ROLL, ROLL], ["a", "b"], [(10, 1024), (0, 900)], [MASK, None]),
    "crops": lambda: plots.show_crops(CROPS, list("abcde"), [c > 0.9 for c in CROPS]),
    "crops on a scale of their own": lambda: plots.show_crops(CROPS, scale=(-1, 1), bar="noise"),
    "a roll and some columns of it": lambda: plots.show_rolls([ROLL], masks=[MASK], zoom=(0, 20, 400)),
    "rows": lambda: plots.show_rows({"a": CROPS, "b": CROPS, "c": CROPS, "d": CROPS}, list("abcde")),
    "samples": lambda: plots.show_samples(dict.fromkeys(plots.SAMPLE, CROPS[:2]), ["a", "b"]),
    "prediction": lambda: plots.show_prediction(ROLL, MAP, 0.5, MASK, (10, 1024), (128, 500)),
    "prediction of a normal roll": lambda: plots.show_prediction(ROLL, MAP, 0.5),
    "maps compared": lambda: plots.show_maps_compared(ROLL, {"a": MAP, "b": MAP}, MASK, {"a": 0.5, "b": 0.1}),
    "training": lambda: charts.plot_training(LOG),
    "training, nothing yet": lambda: charts.plot_training([]),
    "training and a sample": lambda: charts.plot_training(LOG, {"crop": CROPS[0], "predicted mask": CROPS[1]}),
    "no defects to hit": lambda: charts.plot_hits([]),
    "curves": lambda: charts.plot_roc_pr([True, False, True, False], [0.9, 0.2, 0.4, 0.5], 0.45),
    "scores": lambda: charts.plot_scores(RNG.random(50), RNG.random(9), 0.8),
    "losses": lambda: charts.plot_losses_table(["L1", "SSIM"], ["blur", "shift", "dark"], np.ones((3, 2))),
    "pair": lambda: charts.plot_pair(PAIR, [{"image": CROPS[0]}, {"a": CROPS[1], "b": CROPS[2]}, {"prediction": MAP}]),
    "defect sizes": lambda: charts.plot_defect_sizes({"nep": [5, 50, 500], "crease": [7]}),
    "hits": lambda: charts.plot_hits([("nep", 2, 3), ("crease", 0, 0)]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    image = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert image.std() > 5, "nothing is drawn"


def test_a_map_has_one_fixed_scale():
    """A normal roll must look normal: the colours run from 0 to 1 whatever the map holds."""
    for value in (1e-3, 0.9):
        whole, enlarged = plots.show_prediction(ROLL, np.full(ROLL.shape, value, np.float32), 0.5).axes[5:0:-4]
        assert whole.images[0].get_clim() == enlarged.images[0].get_clim() == (0, 1)
        sample = charts.plot_training(LOG, {"predicted mask": whole.images[0].get_array()[:, :64]})
        assert sample.subfigs[1].axes[0].images[0].get_clim() == (0, 1)


def test_the_standard_figure_has_two_pixels_for_each_pixel_of_an_image():
    figure = plots.show_samples(dict.fromkeys(plots.SAMPLE, CROPS[:2]))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    drawn = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_GRAYSCALE)
    images = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in images if axis.get_title()] == list(plots.SAMPLE)
    for row, axis in zip(CROPS[:2], images[:: len(plots.SAMPLE)], strict=True):
        box = axis.get_window_extent()
        left, top = round(box.x0), drawn.shape[0] - round(box.y1)
        inside = drawn[top : top + 128, left : left + 128][4:-4, 4:-4]  # an axis has a frame
        assert np.abs(inside / 255 - row.repeat(2, 0).repeat(2, 1)[4:-4, 4:-4]).max() < 0.01


def test_a_roll_is_shown_with_columns_of_it_enlarged():
    """Its inset holds the columns asked for, the defect outlined."""
    inset = plots.show_rolls([ROLL], masks=[MASK], zoom=(0, 20, 400)).axes[1]
    assert np.array_equal(inset.images[0].get_array(), ROLL[20:180, 400:912])
    assert np.array_equal(
        np.ptp(inset.lines[0].get_xydata(), axis=0), [19 + 6, 9 + 6]
    )  # of the mask and a margin of 3 px


def test_a_prediction_is_shown_beside_the_ground_truth_where_it_was_asked_for():
    """Panels of one place: image, map, predicted and ground-truth mask; without a place, around the highest score."""
    column = np.argwhere(MASK)[0, 1]
    panels = plots.show_prediction(ROLL, MAP, 0.5, MASK, at=(128, column)).axes[:4]
    near = np.s_[64:192, column - 64 : column + 64]
    for axis, values in zip(panels, (ROLL / 255, MAP, MAP > 0.5, MASK), strict=True):
        assert np.array_equal(axis.images[0].get_array(), values[near])
    assert MAP.max() == plots.show_prediction(ROLL, MAP, 0.5).axes[1].images[0].get_array().max()


def test_compared_maps_put_every_threshold_at_one_half():
    figure = plots.show_maps_compared(ROLL, {"a": MAP, "b": 10 * MAP}, thresholds={"a": 0.2, "b": 2.0})
    first, second = (axis.images[0].get_array() for axis in figure.axes[4:6])
    assert np.allclose(first, second) and np.isclose(first[0, 0], 0.05 / 0.4)


def test_curves_pass_the_operating_point():
    figure = charts.plot_roc_pr([True, True, False, False], [0.9, 0.4, 0.5, 0.2], threshold=0.45)
    roc, pr = figure.axes
    assert [point.tolist() for point in roc.lines[-1].get_data()] == [[0.5], [0.5]]
    assert [float(value[0]) for value in pr.lines[-1].get_data()] == [0.5, 0.5]


def test_loss_curves_are_the_logs():
    axis = charts.plot_training(LOG).axes[0]
    assert [line.get_label() for line in axis.lines] == ["l1", "ssim", "fft"]
    assert axis.lines[0].get_ydata()[-1] == 0.25


def test_a_pair_says_how_many_feature_maps_each_level_has_and_draws_skips_where_there_are_some():
    figure = charts.plot_pair(PAIR, [{"image": CROPS[0]}, {"a": CROPS[1]}, {"prediction": CROPS[2]}], skips=["two"])
    one, two = (group.axes[0] for group in figure.subfigs[1::2])
    assert [text.get_text() for text in one.texts[:3]] == ["16", "32", "16"] and len(two.texts) == len(one.texts) + 1
    assert figure.subfigs[-1].axes[0].images[0].get_clim() == (0, 1)


def test_a_ring_lies_around_each_defect_and_lines_on_the_edges():
    axis = plots.show_prediction(ROLL, MAP, 0.5, MASK, (10, 1024)).axes[4]
    ring, edges = axis.lines[0], axis.lines[1:3]
    assert (min(ring.get_xdata()), max(ring.get_xdata())) == (500 - 12 - 28, 519 + 13 + 28)
    assert [line.get_xdata()[0] for line in edges] == [10, 1023], "half open: drawn on the last column"


def test_hits_are_told_in_numbers():
    axis = charts.plot_hits([("nep", 2, 3), ("crease", 0, 0)]).axes[0]
    assert [text.get_text() for text in axis.texts] == [" 2 of 3", " 0 of 0"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["nep", "crease"]


def test_overlay_reddens_what_scores_and_leaves_the_rest():
    image = regions.overlay(ROLL, MAP, 0.5)
    assert image.shape == (*ROLL.shape, 3) and image.dtype == np.uint8
    inside, outside = image[105, 510].astype(int), image[10, 10].astype(int)
    assert inside[0] > inside[1] + 60 and abs(outside[0] - outside[1]) < 15
    assert (image[100, 500] == (41, 182, 246)).all(), "the outline of what passes the threshold"


def test_overlay_lays_seven_tenths_of_red_over_what_scores_one():
    generator = np.random.default_rng(0)
    scores = generator.random((40, 50), dtype=np.float32)
    for shape in ((40, 50), (40, 50, 3)):
        image = generator.integers(0, 256, shape).astype(np.uint8)
        plain = image.reshape(40, 50, -1).astype(np.float64)
        expected = plain + 0.7 * scores[..., None] * (np.array(regions.MAP_COLOUR) - plain)
        assert np.abs(regions.overlay(image, scores, 1.0) - expected).max() <= 0.5001


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.show_prediction(ROLL, MAP[:, :-1], 0.5),
        lambda: plots.show_rolls([ROLL], masks=[MASK[:-1]]),
        lambda: plots.show_samples({"normal": CROPS, "corrupted": [CROPS[0][:-1]]}),
        lambda: charts.plot_roc_pr([True, True], [0.1, 0.2]),
        lambda: charts.plot_losses_table(["L1"], ["blur"], np.ones((2, 2))),
        lambda: regions.overlay(ROLL, MAP[:-1], 0.5),
    ],
)
def test_bad_shapes_are_named(call):
    with pytest.raises(InputError, match="expected") as caught:
        call()
    assert "\n" not in str(caught.value)
