import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from draem_aitex import metrics
from draem_aitex.errors import InputError
from draem_aitex.fabric import Roll


class FixedMap:
    """A detector whose map is the picture itself, over 255."""

    def predict(self, image, edges, fabric=None):
        return image.astype(np.float32) / 255


def roll(image, mask=None, edges=None):
    return Roll("0001_019_00", "00", "019", image, edges or (0, image.shape[1]), mask)


def test_threshold_keeps_the_promise():
    """With 199 calibration patches and 1 % wanted: the second largest score, whatever the scores' distribution."""
    values = np.random.default_rng(0).permutation(199).astype(np.uint8)
    image = np.repeat(np.repeat(values[None], 256, axis=0), 256, axis=1)
    threshold = metrics.calibrate(FixedMap(), [roll(image)], 0.01)
    assert threshold.value == pytest.approx(197 / 255) and threshold.patches == 199 and threshold.bound == 0.01


def test_threshold_holds_on_new_patches_of_the_same_kind():
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(200):
        scores = np.sort(rng.random(150))[::-1]
        k = max(int(0.05 * 151), 1)
        rates.append((rng.random(400) > scores[k - 1]).mean())
    assert np.mean(rates) <= 0.05


def test_too_few_patches_are_said():
    image = np.zeros((256, 256 * 20), np.uint8)
    threshold = metrics.calibrate(FixedMap(), [roll(image)], 0.01)
    assert threshold.bound == pytest.approx(1 / 21)
    with pytest.raises(InputError, match="no patch in 0 rolls"):
        metrics.calibrate(FixedMap(), [], 0.01)
    with pytest.raises(InputError, match="rate: 2"):
        metrics.calibrate(FixedMap(), [roll(image)], 2)


def test_pixel_histogram_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(50_000) < 0.02
    scores = np.clip(rng.beta(0.3, 3, 50_000) + 0.2 * labels * rng.random(50_000), 1e-6, 1).astype(np.float32)
    histogram = metrics.PixelHistogram()
    for part in np.split(np.arange(50_000), 5):
        histogram.add(scores[part], labels[part])
    assert histogram.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert histogram.average_precision() == pytest.approx(average_precision_score(labels, scores), abs=1e-4)


def test_degenerate_cases_are_not_numbers():
    histogram = metrics.PixelHistogram()
    histogram.add(np.ones(4, np.float32), np.zeros(4, bool))
    values = [histogram.auroc(), histogram.average_precision(), metrics.auroc([0, 0], [1, 2])]
    values += [metrics.average_precision([0, 0], [1, 2]), metrics.decision_figures([0], [0.1], 0.5)["recall"]]
    assert np.isnan(values).all()


def test_decision_figures_by_hand():
    figures = metrics.decision_figures([1, 1, 1, 0, 0, 0, 0], [0.9, 0.8, 0.1, 0.7, 0.2, 0.1, 0.5], 0.5)
    assert (figures["true_positives"], figures["false_negatives"]) == (2, 1)
    assert (figures["false_positives"], figures["true_negatives"]) == (1, 3)
    assert figures["recall"] == pytest.approx(2 / 3) and figures["precision"] == pytest.approx(2 / 3)
    assert figures["false_alarm_rate"] == pytest.approx(1 / 4), "a score equal to the threshold is no alarm"


@pytest.fixture
def scene():
    """Two specks 40 px apart (two defects), a third far away; alarms near the first, on none, and far off."""
    mask, scores = np.zeros((256, 1024), bool), np.full((256, 1024), 0.1, np.float32)
    mask[100:104, 200:204] = mask[100:104, 244:248] = mask[30:34, 800:804] = True
    scores[100:104, 208:212] = 0.9  # 8 px right of the first: within reach
    scores[200:210, 500:510] = 0.8  # no defect there
    return roll(np.zeros((256, 1024), np.uint8), mask), scores


def test_hits_misses_false_alarms_and_distance(scene):
    outcome = metrics.match_defects(*scene, threshold=0.5)
    assert [defect.hit for defect in sorted(outcome.defects, key=lambda d: d.centroid[1])] == [True, False, False]
    hit = next(defect for defect in outcome.defects if defect.hit)
    assert hit.pixels == 16 and hit.centroid == (101.5, 201.5) and hit.distance == pytest.approx(8.0)
    assert [(row // 10, column // 10) for row, column, _ in outcome.false_alarms] == [(20, 50)]


def test_specks_within_reach_are_one_defect():
    mask = np.zeros((256, 512), bool)
    mask[100:102, 200:202] = mask[100:102, 220:222] = True
    outcome = metrics.match_defects(roll(np.zeros((256, 512), np.uint8), mask), np.zeros((256, 512), np.float32), 0.5)
    assert len(outcome.defects) == 1 and outcome.defects[0].pixels == 8


def test_a_perfect_map_has_distance_zero(scene):
    defective, _ = scene
    outcome = metrics.match_defects(defective, defective.mask.astype(np.float32), 0.5)
    assert all(defect.hit and defect.distance == pytest.approx(0, abs=1e-6) for defect in outcome.defects)
    assert not outcome.false_alarms


def test_no_mask_means_every_alarm_is_false(scene):
    defective, scores = scene
    outcome = metrics.match_defects(roll(defective.image), scores, 0.5)
    assert not outcome.defects and len(outcome.false_alarms) == 2
