import numpy as np
import pytest
from sklearn.metrics import f1_score

from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import Calibration
from draem_aitex.errors import InputError
from draem_aitex.evaluation import metrics


class FixedMap(Detector):
    """A detector whose map is the image itself, over 255, not normalised."""

    normalised = False

    def raw_map(self, image, edges, fabric=None):
        return image.astype(np.float32) / 255


def roll(image, mask=None, edges=None, defect="019"):
    return Roll(f"0001_{defect}_00", "00", defect, image, edges or (0, image.shape[1]), mask)


def normal(values):
    """A roll with one patch of each value."""
    image = np.repeat(np.repeat(np.asarray(values, np.uint8)[None], 256, axis=0), 256, axis=1)
    return roll(image, defect="000")


def test_threshold_keeps_the_promise():
    """With 199 calibration patches and 1 % wanted: the second largest score, whatever the scores' distribution."""
    values = np.random.default_rng(0).permutation(199)
    threshold = FixedMap().calibrate([normal(values[:100]), normal(values[100:])], 0.01).threshold
    assert threshold.value == pytest.approx(197 / 255) and threshold.wanted == threshold.bound == 0.01
    assert (threshold.patches, threshold.rolls) == (199, 2)


def test_threshold_holds_on_new_patches_of_the_same_kind():
    """7.55 of 151 steps: between the seventh and the eighth largest score, and on average the rate that was wanted."""
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(1000):
        calibration = Calibration(np.sort(rng.random(150))[::-1], 10)
        threshold = calibration.threshold(0.05)
        assert threshold.bound == pytest.approx(8 / 151)
        assert calibration.scores[7] < threshold.value < calibration.scores[6]
        rates.append(1 - threshold.value)  # of new patches, drawn alike
    assert np.mean(rates) == pytest.approx(0.05, abs=0.002), "0.046 with the seventh largest, 0.053 with the eighth"


def test_one_calibration_serves_every_rate_down_to_the_finest():
    calibration = FixedMap().calibrate([normal(range(48))], 0.5).calibration
    assert calibration.finest_rate == pytest.approx(1 / 49) and calibration.scores.dtype == np.float64
    assert np.array_equal(calibration.scores, np.sort(calibration.scores)[::-1])
    finest = calibration.threshold(calibration.finest_rate)  # 1 / 49 * 49 is less than 1 in binary
    assert finest.value == pytest.approx(47 / 255) and finest.bound == pytest.approx(1 / 49)
    between = calibration.threshold(0.5)  # 24.5 of 49: half way, as logits, from the 24th to the 25th
    odds = [24 / 231, 23 / 232]
    assert between.value / (1 - between.value) == pytest.approx(np.sqrt(odds[0] * odds[1]))
    assert between.bound == pytest.approx(25 / 49)


def test_a_rate_that_cannot_be_promised_is_refused():
    """1 % takes 99 patches: with 10 a roll, 10 rolls."""
    rolls = [normal([1] * 10), normal([2] * 10)]
    with pytest.raises(InputError, match=r"fpr: 0.01; expected 0.04762 or more.* 20 patches of 2 .*about 10 rolls"):
        FixedMap().calibrate(rolls, 0.01)
    assert FixedMap().calibrate(rolls, 0.04762).threshold.value == pytest.approx(2 / 255), "the rate that it names"
    assert Calibration(np.ones(99), 10).threshold(0.01).bound == 0.01
    with pytest.raises(InputError, match="about 11 rolls"):  # 9.8 a roll
        Calibration(np.ones(98), 10).threshold(0.01)


@pytest.mark.parametrize("rate", [0, 1, 2, -0.1, float("nan")])
def test_a_rate_is_a_share(rate):
    with pytest.raises(InputError, match="fpr: .*between 0 and 1"):
        FixedMap().calibrate([normal(range(20))], rate)


def test_nothing_is_calibrated_on_defects_or_on_nothing():
    image, mask = np.zeros((256, 512), np.uint8), np.zeros((256, 512), bool)
    with pytest.raises(InputError, match="no patch of .* in 0 rolls"):
        FixedMap().calibrate([])
    with pytest.raises(InputError, match="no patch of .* in 1 rolls"):
        FixedMap().calibrate([roll(image, edges=(0, 255), defect="000")])
    with pytest.raises(InputError, match="0001_019_00: a roll with a defect"):
        FixedMap().calibrate([roll(image, defect="000"), roll(image)])
    mask[3, 3] = True
    with pytest.raises(InputError, match="0001_000_00: a roll with a defect"):
        FixedMap().calibrate([roll(image, mask, defect="000")])


def test_decision_figures_by_hand():
    figures = metrics.decision_figures([1, 1, 1, 0, 0, 0, 0], [0.9, 0.8, 0.1, 0.7, 0.2, 0.1, 0.5], 0.5)
    assert (figures["true_positives"], figures["false_negatives"]) == (2, 1)
    assert (figures["false_positives"], figures["true_negatives"]) == (1, 3)
    assert figures["recall"] == pytest.approx(2 / 3) and figures["precision"] == pytest.approx(2 / 3)
    assert figures["f1"] == pytest.approx(2 / 3)
    assert figures["fpr"] == pytest.approx(1 / 4), "a score equal to the threshold is not predicted"


def test_degenerate_cases_are_not_numbers():
    values = [metrics.auroc([0, 0], [1, 2]), metrics.auroc([], []), metrics.average_precision([0, 0], [1, 2])]
    values += [metrics.f1_max_upper_bound([0, 0], [1, 2]), metrics.share(0, 0)]
    nothing = metrics.decision_figures([], [], 0.5)
    values += [nothing[name] for name in ("recall", "precision", "f1", "fpr")]
    assert np.isnan(values).all()
    one = metrics.decision_figures([1], [0.1], 0.5)
    assert one["recall"] == 0 and one["f1"] == 0 and np.isnan(one["precision"])


def test_figures_of_resamples_are_those_of_each():
    counts = np.array([[3, 1, 2, 4], [0, 0, 0, 0], [0, 2, 0, 5]])
    together = metrics.figures_of_counts(counts.T)
    for index, row in enumerate(counts):
        alone = metrics.figures_of_counts(row)
        assert all(np.array_equal(together[name][index], alone[name], equal_nan=True) for name in alone)
        assert all(type(alone[name]) is (int if "_" in name else float) for name in alone), "plain values"
    assert np.array_equal(metrics.share([1, 0], [2, 0]), [0.5, np.nan], equal_nan=True)


def test_the_best_f1_is_that_over_all_thresholds():
    assert metrics.f1_max_upper_bound([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]) == pytest.approx(0.8)  # 2 of 2, 1 false
    assert metrics.f1_max_upper_bound([1, 1, 0], [0.5, 0.5, 0.5]) == pytest.approx(0.8), "ties are predicted together"
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.2
    scores = np.round(rng.random(300) + 0.3 * labels, 2)
    best = max(f1_score(labels, scores >= value) for value in np.unique(scores))
    assert metrics.f1_max_upper_bound(labels, scores) == pytest.approx(best)
    assert best >= metrics.decision_figures(labels, scores, 0.9)["f1"]


@pytest.fixture
def scene():
    """Two specks 40 px apart (two defects), a third far away; predictions near the first, on none, and far off."""
    mask, scores = np.zeros((256, 1024), bool), np.full((256, 1024), 0.1, np.float32)
    mask[100:104, 200:204] = mask[100:104, 244:248] = mask[30:34, 800:804] = True
    scores[100:104, 208:212] = 0.9  # 8 px right of the first: within tolerance
    scores[200:210, 500:510] = 0.8  # no defect there
    return roll(np.zeros((256, 1024), np.uint8), mask), scores


def test_hits_misses_false_positives_and_distance(scene):
    outcome = metrics.match_defects(*scene, threshold=0.5)
    assert [defect.hit for defect in sorted(outcome.defects, key=lambda d: d.centroid[1])] == [True, False, False]
    hit = next(defect for defect in outcome.defects if defect.hit)
    assert hit.pixels == 16 and hit.centroid == (101.5, 201.5) and hit.centroid_distance_px == pytest.approx(8.0)
    assert hit.coverage == 0, "hit from beside it: none of its own pixels is above the threshold"
    assert outcome.false_positives == [(200, 500, pytest.approx(0.8))]


def test_coverage_is_a_share_of_the_defects_own_pixels(scene):
    defective, scores = scene
    scores[100:104, 200:203] = 0.7  # three of four columns
    scores[100, 203] = 0.5  # equal to the threshold: not above it
    first = min(metrics.match_defects(defective, scores, 0.5).defects, key=lambda d: d.centroid[1])
    assert first.coverage == pytest.approx(12 / 16) and first.score == pytest.approx(0.9)


def test_the_distance_weighs_scores_and_joins_regions_on_one_defect():
    """A line with a prediction of 0.9 at one end and one of 0.6 at the other: the centroid lies nearer to the first."""
    mask, scores = np.zeros((64, 256), bool), np.zeros((64, 256), np.float32)
    mask[30, 50:151] = True
    scores[30, 50], scores[30, 150] = 0.9, 0.6
    (defect,) = metrics.match_defects(roll(np.zeros((64, 256), np.uint8), mask), scores, 0.5).defects
    assert defect.centroid == (30, 100) and defect.centroid_distance_px == pytest.approx(
        100 - (0.9 * 50 + 0.6 * 150) / 1.5
    )
    assert defect.coverage == pytest.approx(2 / 101)


def test_specks_within_tolerance_are_one_defect():
    mask = np.zeros((256, 512), bool)
    mask[100:102, 200:202] = mask[100:102, 220:222] = True
    outcome = metrics.match_defects(roll(np.zeros((256, 512), np.uint8), mask), np.zeros((256, 512), np.float32), 0.5)
    assert len(outcome.defects) == 1 and outcome.defects[0].pixels == 8


def test_a_perfect_map_has_distance_zero(scene):
    defective, _ = scene
    outcome = metrics.match_defects(defective, defective.mask.astype(np.float32), 0.5)
    assert all(defect.hit and defect.centroid_distance_px == pytest.approx(0, abs=1e-6) for defect in outcome.defects)
    assert all(defect.coverage == 1 for defect in outcome.defects) and not outcome.false_positives


def test_without_a_mask_every_prediction_is_a_false_positive(scene):
    defective, scores = scene
    outcome = metrics.match_defects(roll(defective.image), scores, 0.5)
    assert not outcome.defects and len(outcome.false_positives) == 2
