"""An evaluation from maps made by hand: every figure counted; the table, the JSON; which rolls `evaluate` judges."""

import json
import math
import time
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
from judged_rolls import THRESHOLD, blank, judged_rolls, roll

from draem_aitex.data.rolls import Record, load_rolls
from draem_aitex.detectors.calibration import Calibration
from draem_aitex.errors import InputError
from draem_aitex.evaluation import figures, metrics, text_table
from draem_aitex.evaluation.evaluator import Evaluation, evaluate
from draem_aitex.files import sha256


@pytest.fixture(scope="module")
def judged():
    """Not to be changed: a thousand resamples are taken once."""
    return judged_rolls()


def test_patches_by_hand(judged):
    f = judged.figures()
    assert (f["patches"], f["positive_patches"]) == (12, 4), "three rolls of four; the roll without a mask has none"
    assert [f[f"patch_{name}"] for name in ("true_positives", "false_negatives", "false_positives")] == [3, 1, 2]
    assert f["patch_recall"] == 0.75 and f["patch_precision"] == 0.6 and f["patch_fpr"] == 0.25
    assert f["patch_f1"] == pytest.approx(2 / 3)
    # scores: 0.9 0.8 0.8 0.4 against 0.7 0.6 and six of 0.1: 30 of 32 pairs
    assert f["patch_auroc"] == pytest.approx(30 / 32) and f["patch_f1_max_upper_bound"] == pytest.approx(6 / 7)
    assert f["patch_ap"] == pytest.approx(3 / 4 + 4 / 6 / 4)
    assert f["by_fabric"]["00"]["patch_auroc"] == pytest.approx(10 / 12)
    assert f["by_fabric"]["03"]["patch_auroc"] == 1 and f["patch_auroc_mean_of_fabrics"] == pytest.approx(11 / 12)
    assert f["by_defect"]["019"]["patch_auroc"] == pytest.approx(14 / 16), "against the normal patches of all rolls"


def test_rolls_by_hand(judged):
    f = judged.figures()
    assert (f["n_test_rolls"], f["positive_rolls"]) == (4, 3), "the roll without a mask counts here"
    assert f["roll_auroc"] == 1 and f["roll_ap"] == 1
    assert f["roll_recall"] == 1 and f["roll_precision"] == 0.75 and f["roll_f1"] == pytest.approx(6 / 7)


def test_pixels_by_hand(judged):
    f = judged.figures()
    assert f["pixel_true_positives"] == 12 + 400 and f["pixel_false_negatives"] == 4 + 4
    assert f["pixel_false_positives"] == 2 and f["pixel_true_negatives"] == 3 * 256 * 1024 - 420 - 2
    assert f["pixel_recall"] == pytest.approx(412 / 420) and f["pixel_precision"] == pytest.approx(412 / 414)
    assert f["aupro_at_0.01"] < f["aupro_at_0.05"] < f["aupro"] < 1
    assert f["aupro_at_0.01"] == pytest.approx((12 / 16 + 1 / 4 + 1) / 3, abs=5e-3), (
        "the rest come only with all fabric"
    )


def test_defects_by_hand(judged):
    f = judged.figures()
    assert (f["defects"], f["hits"]) == (3, 2) and f["hit_rate"] == pytest.approx(2 / 3)
    assert f["miss_rate"] == pytest.approx(1 / 3)
    # the speck's region lacks its last column: half a pixel to the left; the stain's lies on it
    assert f["centroid_distance_px_median"] == pytest.approx(0.25)
    assert f["centroid_distance_mm_median"] == pytest.approx(0.125) and f["coverage_median"] == 0.75
    assert [row["hit"] for row in f["defect_list"]].count(True) == 2
    assert {name: (row["hits"], row["defects"]) for name, row in f["by_size"].items()} == {
        "under 32 px": (1, 2), "32 to 255 px": (0, 0), "256 to 2047 px": (1, 1), "2048 or more px": (0, 0)
    }  # fmt: skip
    assert {code: (row["hits"], row["defects"]) for code, row in f["by_defect"].items()} == {
        "010": (1, 1),
        "019": (1, 2),
    }
    speck = next(row for row in f["defect_list"] if row["pixels"] == 16)
    assert (speck["roll"], speck["pixels"], speck["centroid"]) == ("0001_019_00", 16, (101.5, 101.5))
    assert (speck["centroid_distance_px"], speck["centroid_distance_mm"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert [row["centroid_distance_mm"] for row in f["defect_list"] if not row["hit"]] == [None]
    assert f["by_defect"]["010"]["rolls"] == 2 and f["by_defect"]["019"]["name"] == "fuzzyball"


def test_false_positives_by_hand(judged):
    """Two regions on three rolls of 1024 columns of half a millimetre; the roll without a mask is none of them."""
    f = judged.figures()
    assert f["false_positive_regions"] == 2 and f["false_positive_regions_per_roll"] == pytest.approx(2 / 3)
    assert f["metres"] == pytest.approx(1.536) and f["false_positive_regions_per_metre"] == pytest.approx(2 / 1.536)
    assert (f["by_fabric"]["00"]["patch_false_positives"], f["by_fabric"]["00"]["patch_true_positives"]) == (2, 1)
    assert (f["by_fabric"]["00"]["false_positive_regions"], f["by_fabric"]["03"]["false_positive_regions"]) == (2, 0)
    assert len(judged.false_positives) == 2 and len(judged.missed) == 1


def test_columns_in_no_patch_are_counted():
    result = Evaluation(THRESHOLD)
    result.add(roll("0009_000_00", width=600), blank(600))
    f = result.figures()
    assert (f["patches"], f["fabric_columns"], f["fabric_columns_in_no_patch"]) == (2, 600, 88)


def test_size_bins_start_where_they_say():
    sizes = (31, 32, 255, 256, 2047, 2048)
    rows = figures.by_size([metrics.DefectOutcome("r", "00", "019", size, (0, 0), True, 1, 1, 0.0) for size in sizes])
    assert [row["defects"] for row in rows.values()] == [1, 2, 2, 1]
    assert list(rows) == ["under 32 px", "32 to 255 px", "256 to 2047 px", "2048 or more px"]


def test_giant_masks_are_left_out_of_the_second_set():
    judged = judged_rolls()
    before = judged.figures()
    assert before["giant_rolls"] == 0 and before["pixel_auroc"] == before["pixel_auroc_without_giants"]
    mask = np.zeros((256, 1024), bool)
    mask[:, :400] = True  # 102,400 px, none of them found
    judged.add(roll("0080_036_01", mask), blank())
    after = judged.figures()
    assert "without the rolls whose masks" in str(judged)
    assert after["giant_rolls"] == 1 and after["pixel_recall"] < 0.01
    assert after["pixel_auroc"] < 0.6 < after["pixel_auroc_without_giants"]
    names = ("pixel_auroc", "pixel_ap", "pixel_recall", "aupro", "aupro_at_0.05")
    assert all(after[f"{name}_without_giants"] == pytest.approx(before[name]) for name in names)
    assert figures.GIANT == 100_000 and after["defects"] == before["defects"] + 1, "a defect like any other"


def test_intervals_hold_the_figures_and_are_the_same_every_time(judged):
    f = judged.figures()
    rates = {f"{unit}_{name}" for unit in ("patch", "roll", "pixel") for name in ("recall", "precision", "f1", "fpr")}
    ranks = {f"{unit}_{name}" for unit in ("patch", "roll") for name in ("auroc", "ap")}
    assert set(f["intervals"]) == rates | ranks | {"hit_rate", "false_positive_regions_per_roll"}
    for name, ends in f["intervals"].items():
        assert ends is None or ends[0] <= f[name] <= ends[1], name
    assert f["intervals"] == judged_rolls().figures()["intervals"]
    # the false positives lie on one roll of three: drawn alone or not at all, it makes the mean anything from 0 to 2
    assert f["intervals"]["false_positive_regions_per_roll"] == [0, 2] and f["intervals"]["roll_auroc"] == [1, 1]


def test_one_class_alone_has_no_interval():
    result = Evaluation(THRESHOLD)
    result.add(roll("0009_000_00"), blank())
    f = result.figures()
    for name in ("patch_auroc", "patch_ap", "patch_recall", "patch_precision", "pixel_ap", "aupro", "roll_auroc"):
        assert math.isnan(f[name]), name
    assert math.isnan(f["hit_rate"]) and math.isnan(f["false_positive_regions_per_metre"])
    assert f["intervals"]["patch_auroc"] is None and f["intervals"]["hit_rate"] is None
    assert f["intervals"]["false_positive_regions_per_roll"] is None, "one roll, drawn again and again"
    assert "nan" not in str(result) and "None" not in str(result)
    assert Evaluation(THRESHOLD).figures()["intervals"]["roll_auroc"] is None, "nothing added yet"


@pytest.mark.parametrize("mm", [0, -1, math.nan, math.inf])
def test_a_resolution_is_above_zero(mm):
    with pytest.raises(InputError, match="mm_per_px"):
        Evaluation(THRESHOLD, mm_per_px=mm)


def test_json_has_null_for_what_is_no_number():
    values = {"a": math.nan, "b": [1.0, math.nan, {"c": (math.nan, 2)}], "d": "nan", "e": None}
    assert text_table.without_nan(values) == {"a": None, "b": [1.0, None, {"c": [None, 2]}], "d": "nan", "e": None}


def test_figures_are_plain_values(judged):
    text = json.dumps(text_table.without_nan(judged.figures()), allow_nan=False)
    assert json.loads(text)["by_size"]["under 32 px"]["hits"] == 1


def test_the_table_has_counts_beside_rates(judged):
    text = str(judged)
    for words in (
        "Judged: 4 rolls (source: simulated fabric; part: test), 12 patches, 4 of them with a defect; 0 of 3,072 ",
        "Threshold 0.5000 for 1.00% false positives on average; 199 patches of 14 calibration rolls",
        "Trained on 5 rolls",
        "patch AUROC                   0.938", "patch AUROC, mean of fabrics  0.917", "3 of 4 found",
        "3 of 5 predicted",
        "2 of 8 normal patches are false positives", "an upper bound", "centroid distance, px           0.2",
        "centroid distance, mm       0.12", "false positives per metre  1.302  2 regions on 1.5 m",
        "under 32 px      1 of 2", "019 fuzzyball",
    ):  # fmt: skip
        assert words in text, text
    lines = text.splitlines()
    assert "whose masks" not in text and max(map(len, lines)) < 200
    start = next(index for index, line in enumerate(lines) if line.startswith("fabric"))
    assert len({len(line) for line in lines[start : start + 3]}) == 1, "the last column is right-aligned in every row"
    assert repr(judged) == text, "what a notebook keeps as text"


def test_what_is_unknown_is_a_dash():
    result = Evaluation(THRESHOLD)
    result.add(roll("0009_000_00"), blank())
    assert "(source: –; part: –)" in str(result) and "Trained on – rolls" in str(result)
    assert "millimetres" not in str(result), "no resolution, no table of lengths"
    assert [result.figures()[name] for name in ("source", "part", "trained_on", "n_train_rolls")] == [None] * 4


def test_figures_are_taken_once_and_again_after_another_roll():
    judged = judged_rolls()
    judged.figures()
    start = time.perf_counter()
    judged.source = "AITEX"
    assert judged.figures()["source"] == "AITEX" and time.perf_counter() - start < 0.5
    judged.add(roll("0019_000_00"), blank())
    assert judged.figures()["n_test_rolls"] == 5


class Steady:
    """A stand-in for a detector: the map of a roll is its image over 255. It notes what it was asked for."""

    name, calibration = "stand-in", None

    def __init__(self, threshold, **about):
        self.threshold, self.about, self.seen = threshold, about, []

    def __str__(self):
        return "a stand-in\nmade by hand"

    def scored(self, rolls, quiet=True):
        rolls = iter(rolls)
        while pair := [roll for _, roll in zip(range(2), rolls, strict=False)]:  # two at a time
            self.seen.append([roll.name for roll in pair])
            yield from ((roll, roll.image.astype(np.float32) / 255) for roll in pair)


def split_of(collection):
    parts = ("train", "calibration", "development", "test")
    return {part: {r.name: sha256(r.path) for r in getattr(collection, part)} for part in parts}


@pytest.fixture
def trained(small_set):
    """A stand-in that learnt from the small set, and that set."""
    from draem_aitex.data.aitex import load_aitex

    data = load_aitex(small_set)
    return Steady(THRESHOLD, source="simulated fabric", split=split_of(data), fabrics=["01"]), data


def test_rolls_go_through_the_detector_together_and_are_loaded_as_needed(trained, monkeypatch):
    detector, data = trained
    from draem_aitex.evaluation import evaluator

    loaded, load_roll = [], evaluator.load_roll
    monkeypatch.setattr(evaluator, "load_roll", lambda record: loaded.append(record.name) or load_roll(record))
    result = evaluate(detector, data.test, quiet=True)
    names = [record.name for record in data.test]
    assert [roll.name for roll in result.rolls] == names == loaded, "each is read once"
    assert [len(pair) for pair in detector.seen[:-1]] == [2] * (len(detector.seen) - 1)
    by_hand = Evaluation(detector.threshold)
    for one in load_rolls(data.test):
        by_hand.add(one, one.image.astype(np.float32) / 255)
    ours, theirs = result.figures(), by_hand.figures()
    same = {name for name in theirs if np.array_equal(str(ours[name]), str(theirs[name]))}
    assert same | {"source", "part", "trained_on", "n_train_rolls"} == set(theirs)


def test_memory_stays_bounded(trained, monkeypatch):
    """A roll is gone once it was judged: never are all of them held."""
    from draem_aitex.evaluation import evaluator

    detector, data = trained
    alive, counts, load_roll = weakref.WeakSet(), [], evaluator.load_roll

    class Image(np.ndarray):
        """An array that a weak reference can follow."""

        __hash__ = object.__hash__

    def followed(record):
        loaded = load_roll(record)
        loaded = replace(loaded, image=loaded.image.view(Image))
        alive.add(loaded.image)
        counts.append(len(alive))
        return loaded

    monkeypatch.setattr(evaluator, "load_roll", followed)
    evaluate(detector, data.test * 6, quiet=True)
    assert len(counts) == 6 * len(data.test) and max(counts) <= 4, "two with the detector, two that may be going"


def test_where_the_rolls_come_from_is_known_by_their_content(trained):
    detector, data = trained
    f = evaluate(detector, data.test, quiet=True).figures()
    assert (f["source"], f["part"], f["trained_on"], f["n_train_rolls"]) == (
        "simulated fabric",
        "test",
        "simulated fabric",
        2,
    )
    both = evaluate(detector, [*data.test, *data.development], quiet=True)
    assert both.part == ("development and test" if data.development else "test")
    assert both.headline == "a stand-in\nmade by hand"
    strangers = evaluate(detector, load_rolls(data.test), quiet=True)
    assert strangers.source is None and strangers.trained_on == "simulated fabric", "a loaded roll has no file"


def test_rolls_that_were_seen_are_left_out_whatever_they_are_called(trained, tmp_path):
    detector, data = trained
    path = tmp_path / "0099_000_01.png"
    path.write_bytes(data.train[0].path.read_bytes())
    renamed = Record(path, 99, "000", "01")
    other = Record(data.test[0].path, 9, "000", "02")
    with pytest.warns(
        UserWarning, match="^2 of .* rolls left out that the detector was trained .*, 1 of fabrics"
    ) as noted:
        result = evaluate(detector, [renamed, data.calibration[0], *data.test, other], quiet=True)
    assert len(noted) == 1 and "\n" not in str(noted[0].message) and noted[0].filename == __file__
    assert [roll.name for roll in result.rolls] == [record.name for record in data.test]
    with pytest.raises(InputError, match="rolls to judge: none .*expected unseen ones"):
        evaluate(detector, [renamed, other], quiet=True)
    with pytest.raises(InputError, match="rolls to judge: none"):
        evaluate(detector, [], quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(detector, data.test, quiet=True)


def test_a_threshold_is_the_detectors_or_given_or_of_another_rate(trained):
    detector, data = trained
    assert evaluate(detector, data.test[:1], quiet=True).threshold is THRESHOLD
    given = Calibration(np.linspace(1, 0, 99), 9).threshold(0.2)
    assert evaluate(detector, data.test[:1], threshold=given, quiet=True).threshold is given
    with pytest.raises(InputError, match="stand-in: not calibrated; .*calibrate"):
        evaluate(detector, data.test, fpr=0.1, quiet=True)
    detector.calibration = Calibration(np.linspace(1, 0, 99), 9)
    assert evaluate(detector, data.test[:1], fpr=0.2, quiet=True).threshold == given
    with pytest.raises(InputError, match="fpr: 0.001; expected"):
        evaluate(detector, data.test, fpr=0.001, quiet=True)
    with pytest.raises(InputError, match="both given"):
        evaluate(detector, data.test, fpr=0.2, threshold=given, quiet=True)
    detector.threshold = None
    with pytest.raises(InputError, match="not calibrated"):
        evaluate(detector, data.test, quiet=True)


def test_disputed_patches_are_counted_with_and_without():
    """A false positive where a person sees a defect: with it as it is filed, and without it."""
    result = Evaluation(THRESHOLD)
    mask, scores = np.zeros((256, 1024), bool), blank()
    mask[10:20, 10:20] = True
    scores[10:20, 10:20], scores[100, 700], scores[100, 900] = 0.8, 0.9, 0.7
    result.add(replace(roll("0001_019_00", mask), disputed=((690, 90, 710, 110), (5, 5, 30, 30))), scores)
    f = result.figures()
    assert f["disputed_patches"] == 1, "a patch with mask pixels is not disputed"
    assert (f["patch_false_positives"], f["patch_false_positives_without_disputed"]) == (2, 1)
    assert f["patch_auroc"] == pytest.approx(2 / 3) and f["patch_auroc_without_disputed"] == 1
    [row] = next(t for t in text_table.tables(f) if "no mask" in t.title).rows
    assert row[:2] == ["without 1", "1.000"]
    assert not any("no mask" in table.title for table in text_table.tables(judged_rolls().figures()))
