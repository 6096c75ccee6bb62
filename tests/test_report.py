"""An evaluation from made-up maps: every figure counted by hand; then the table, the JSON and the page."""

import json
import math
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from draem_aitex.data.rolls import Roll
from draem_aitex.detectors import calibration
from draem_aitex.errors import InputError
from draem_aitex.evaluation import evaluator, html_report, metrics, text_table
from draem_aitex.evaluation.evaluator import Evaluation

THRESHOLD = calibration.Threshold(0.5, 0.01, 0.01, 199, 14)


def roll(name, mask=None, width=1024):
    _, defect, fabric = name.split("_")
    image = np.random.default_rng(0).integers(60, 200, (256, width), dtype=np.uint8)
    return Roll(name, fabric, defect, image, (0, width), mask)


def blank(width=1024):
    return np.full((256, width), 0.1, np.float32)


@pytest.fixture
def judged():
    """Four rolls, two fabrics, four patches each: a hit speck and a missed one, a hit stain, and two false alarms.

    fabric 00: 0001_019_00, speck of 16 px in patch 0 (found, 3/4 covered), one of 4 px in patch 2 (missed);
               0009_000_00, flawless, alarms in patches 1 and 3.
    fabric 03: 0002_010_03, stain of 400 px over patches 0 and 1 (both found); 0106_010_03, no mask, an alarm.
    """
    result = Evaluation(THRESHOLD, mm_per_px=0.5, pictures=True)
    specks, scores = np.zeros((256, 1024), bool), blank()
    specks[100:104, 100:104] = specks[50:52, 600:602] = True
    scores[100:104, 100:103] = 0.9
    scores[50, 600] = 0.4
    result.add(roll("0001_019_00", specks), scores)
    scores = blank()
    scores[10, 300], scores[20, 900] = 0.7, 0.6
    result.add(roll("0009_000_00"), scores)
    stain, scores = np.zeros((256, 1024), bool), blank()
    stain[100:110, 236:276] = True
    scores[stain] = 0.8
    result.add(roll("0002_010_03", stain), scores)
    scores = blank()
    scores[0, 0] = 0.95
    result.add(roll("0106_010_03", np.zeros((256, 1024), bool)), scores)
    return result


def described(result):
    about = {"source": "simulated fabric", "part": "test", "n_train_rolls": 5, "n_calibration_rolls": 14}
    return {**about, **result.figures()}


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
    assert f["by_defect"]["019"]["patch_auroc"] == pytest.approx(14 / 16), "against the flawless patches of all rolls"


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
    assert f["aupro_at_0.01"] == pytest.approx((12 / 16 + 1 / 4 + 1) / 3, abs=5e-3), "the rest come only with all cloth"


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
    assert f["by_defect"]["010"]["rolls"] == 2 and f["by_defect"]["019"]["name"] == "fuzzyball"


def test_false_alarms_by_hand(judged):
    """Two regions on three rolls of 1024 columns of half a millimetre; the roll without a mask is none of them."""
    f = judged.figures()
    assert f["false_positive_regions"] == 2 and f["false_positive_regions_per_roll"] == pytest.approx(2 / 3)
    assert f["metres"] == pytest.approx(1.536) and f["false_positive_regions_per_metre"] == pytest.approx(2 / 1.536)
    assert (f["by_fabric"]["00"]["false_positive_regions"], f["by_fabric"]["03"]["false_positive_regions"]) == (2, 0)
    assert len(judged.false_positive_regions) == 2 and len(judged.missed) == 1


def test_columns_in_no_patch_are_counted():
    result = Evaluation(THRESHOLD)
    result.add(roll("0009_000_00", width=600), blank(600))
    f = result.figures()
    assert (f["patches"], f["fabric_columns"], f["fabric_columns_in_no_patch"]) == (2, 600, 88)


def test_size_bins_start_where_they_say():
    result = Evaluation(THRESHOLD)
    for pixels in (31, 32, 255, 256, 2047, 2048):
        result.defects.append(metrics.DefectOutcome("r", "00", "019", pixels, (0, 0), True, 1, 1, 0.0))
    assert [row["defects"] for row in result.figures()["by_size"].values()] == [1, 2, 2, 1]


def test_giant_masks_are_left_out_of_the_second_set(judged):
    before = judged.figures()
    assert before["giant_rolls"] == 0 and before["pixel_auroc"] == before["pixel_auroc_without_giants"]
    mask = np.zeros((256, 1024), bool)
    mask[:, :400] = True  # 102,400 px, none of them found
    judged.add(roll("0080_036_01", mask), blank())
    after = judged.figures()
    assert after["giant_rolls"] == 1 and after["pixel_recall"] < 0.01
    assert after["pixel_auroc"] < 0.6 < after["pixel_auroc_without_giants"]
    names = ("pixel_auroc", "pixel_ap", "pixel_recall", "aupro", "aupro_at_0.05")
    assert all(after[f"{name}_without_giants"] == pytest.approx(before[name]) for name in names)
    assert evaluator.GIANT == 100_000 and after["defects"] == before["defects"] + 1, "a defect like any other"


def test_intervals_hold_the_figures_and_are_the_same_every_time(judged):
    f = judged.figures()
    names = {
        "patch_auroc",
        "patch_ap",
        "patch_recall",
        "patch_precision",
        "hit_rate",
        "false_positive_regions_per_roll",
    }
    assert names | {"roll_auroc"} <= set(f["intervals"])
    for name, ends in f["intervals"].items():
        assert ends is None or ends[0] <= f[name] <= ends[1], name
    assert f["intervals"] == judged.figures()["intervals"]
    # the alarms lie on one roll of three: drawn by itself or not at all, it makes the mean anything from 0 to 2
    assert f["intervals"]["false_positive_regions_per_roll"] == [0, 2] and f["intervals"]["roll_auroc"] == [1, 1]


def test_one_class_alone_has_no_curve_and_no_interval():
    result = Evaluation(THRESHOLD)
    result.add(roll("0009_000_00"), blank())
    f = described(result)
    for name in ("patch_auroc", "patch_ap", "patch_recall", "patch_precision", "pixel_ap", "aupro", "roll_auroc"):
        assert math.isnan(f[name]), name
    assert math.isnan(f["hit_rate"]) and math.isnan(f["false_positive_regions_per_metre"])
    assert f["intervals"]["patch_auroc"] is None and f["intervals"]["hit_rate"] is None
    assert f["intervals"]["false_positive_regions_per_roll"] is None, "one roll, drawn again and again"
    assert "nan" not in text_table.table(f) and "nan" not in html_report.html_page(result, f)
    assert Evaluation(THRESHOLD).figures()["intervals"]["roll_auroc"] is None, "nothing added yet"


@pytest.mark.parametrize("mm", [0, -1, math.nan, math.inf])
def test_a_resolution_is_above_zero(mm):
    with pytest.raises(InputError, match="mm_per_px"):
        Evaluation(THRESHOLD, mm_per_px=mm)


def test_json_has_null_for_what_is_no_number():
    values = {"a": math.nan, "b": [1.0, math.nan, {"c": (math.nan, 2)}], "d": "nan", "e": None}
    assert text_table.without_nan(values) == {"a": None, "b": [1.0, None, {"c": [None, 2]}], "d": "nan", "e": None}


def test_figures_are_plain_values(judged):
    text = json.dumps(text_table.without_nan(described(judged)), allow_nan=False)
    assert json.loads(text)["by_size"]["under 32 px"]["hits"] == 1


def test_the_table_has_counts_beside_rates(judged):
    text = text_table.table(described(judged))
    for words in (
        "AUROC 0.938 pooled, 0.917 mean of fabrics", "found 3 of 4 patches", "false alarms 2 of 8", "upper bound",
        "hit 2 of 3, mass-centre distance 0.2 px = 0.12 mm", "false-alarm regions: 2, 0.667 a roll, 1.302 a metre",
        "0 of 3,072 fabric columns", "under 32 px          1 of 2", "019 fuzzyball",
    ):  # fmt: skip
        assert words in text, text
    assert "without giant masks" not in text and max(map(len, text.splitlines())) < 200


class Page(HTMLParser):
    """Counts a page's tags and checks that those opened are closed."""

    ALONE = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.counts, self.sources = [], {}, []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_and_shows_everything(judged):
    text = html_report.html_page(judged, described(judged), ["model.pt: DRAEM, <small>"])
    parsed = Page(text)
    assert all(source.startswith("data:image/") for source in parsed.sources) and "http" not in text
    assert parsed.counts["img"] == 2 + 1 + 2 + 4, "curves, histogram; a miss; two alarms; all four rolls"
    assert parsed.counts["table"] == 5 and parsed.counts["h1"] == 1
    for words in (
        "simulated fabric",
        "model.pt: DRAEM, &lt;small&gt;",
        "Threshold 0.5000",
        "199 patches of 14",
        "2 of 3",
    ):
        assert words in text, words
    assert text.index("0009_000_00: row 10") < text.index("0009_000_00: row 20"), "the highest score first"
    assert "0106_010_03: broken pick, no mask: counts at roll level only" in text


def test_the_page_shows_every_case(judged):
    scores = blank(4096)
    scores[128, 20::50] = 0.9
    judged.add(roll("0019_000_00", width=4096), scores)
    text = html_report.html_page(judged, described(judged))
    assert len(judged.false_positive_regions) == 2 + 82 and f"False alarms: {2 + 82}" in text
    assert Page(text).counts["figure"] == 1 + 2 + 82


def test_a_browser_loads_every_picture(judged, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for found in map(shutil.which, names) if found), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(names)} is installed: the page is not opened in a browser")
    text = html_report.html_page(judged, described(judged))
    count = (
        "<script>onload = () => { const all = [...document.images], shown = all.filter(one => one.naturalWidth > 0);"
        "document.body.dataset.pictures = `${shown.length} of ${all.length}`; }</script>"
    )
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", f"{count}</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert 'data-pictures="9 of 9"' in done.stdout, done.stderr[-2000:]
