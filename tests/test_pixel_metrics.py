import time

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from draem_aitex.evaluation.pixel_metrics import PixelHistogram


def counted(scores, labels):
    histogram = PixelHistogram()
    histogram.add(np.asarray(scores, np.float32), np.asarray(labels, bool))
    return histogram


def exact_aupro(scores, labels, limit):
    """By the definition: at every distinct score, each region's share above it and the false-positive rate."""
    count, index = cv2.connectedComponents(labels.astype(np.uint8), connectivity=8)
    rate, overlap = [0.0], [0.0]
    for threshold in np.unique(scores)[::-1]:
        predicted = scores >= threshold
        rate.append(predicted[~labels].mean())
        overlap.append(np.mean([predicted[index == region].mean() for region in range(1, count)]))
    at = np.linspace(0, limit, 200_001)
    return np.interp(at, rate, overlap).mean()  # a fine mean: an integral written another way


def test_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.random(50_000) < 0.02
    scores = np.clip(rng.beta(0.3, 3, 50_000) + 0.2 * labels * rng.random(50_000), 1e-6, 1).astype(np.float32)
    histogram = PixelHistogram()
    for part in np.split(np.arange(50_000), 5):
        histogram.add(scores[part], labels[part])
    assert histogram.auroc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert histogram.average_precision() == pytest.approx(average_precision_score(labels, scores), abs=1e-4)


@pytest.mark.parametrize("limit", [0.3, 0.05, 0.01, 1])
def test_the_overlap_agrees_with_its_definition(limit):
    rng = np.random.default_rng(1)
    labels = cv2.dilate((rng.random((96, 256)) < 0.001).astype(np.uint8), np.ones((5, 7))) > 0
    scores = np.clip(rng.beta(0.5, 3, labels.shape) + 0.4 * labels * rng.random(labels.shape), 1e-6, 1)
    scores = np.round(scores, 3).astype(np.float32)  # some ties, and fewer thresholds for the reference
    assert counted(scores, labels).count > 5
    assert counted(scores, labels).aupro(limit) == pytest.approx(exact_aupro(scores, labels, limit), abs=1e-4)


def test_the_overlap_by_hand():
    """Two regions of 1 and 4 px, ten normal pixels. Above 0.8: the speck; above 0.5: half of the stain as well."""
    labels = np.zeros((3, 5), bool)
    labels[0, 0] = labels[0, 2:4] = labels[1, 2:4] = True
    scores = np.full((3, 5), 0.1)
    scores[0, 0] = 0.9
    scores[0, 2:4] = 0.6
    scores[2, :2] = 0.7, 0.3  # two false positives: the rate is 0.1 from 0.7 on, 0.2 from 0.3 on
    # overlap: 0.5 at rate 0, 0.5 at 0.1, 0.75 at 0.1 (0.6), 0.75 at 0.2, then a line up to 1 at rate 1 (0.1)
    histogram = counted(scores, labels)
    assert histogram.aupro(0.05) == pytest.approx(0.5) and histogram.aupro(0.1) == pytest.approx(0.5)
    assert histogram.aupro(0.2) == pytest.approx((0.5 * 0.1 + 0.75 * 0.1) / 0.2)
    at_limit = 0.75 + 0.25 * 0.1 / 0.8
    assert histogram.aupro(0.3) == pytest.approx((0.05 + 0.075 + 0.1 * (0.75 + at_limit) / 2) / 0.3)


def test_a_speck_counts_as_much_as_a_stain():
    labels = np.zeros((100, 100), bool)
    labels[:50, :50] = labels[80, 80] = True
    assert counted(labels * 1.0, labels).aupro() == pytest.approx(1)
    stain = np.where(labels, 1.0, 0.1)
    stain[80, 80] = 0.05  # the speck is the last of all
    assert counted(stain, labels).aupro() == pytest.approx(0.5), "2,500 of 2,501 defect pixels, one of two regions"


def test_diagonal_neighbours_are_one_region_and_every_map_has_its_own():
    mask = np.eye(4, dtype=bool)
    assert counted(np.ones((4, 4)), mask).count == 1
    assert counted(np.ones((2, 1, 4, 4)), np.stack([mask, mask])[:, None]).count == 2


def test_histograms_add_up():
    rng = np.random.default_rng(2)
    labels, scores = rng.random((2, 32, 64)) < 0.1, rng.random((2, 32, 64)).astype(np.float32)
    total = counted(scores[0], labels[0]) + counted(scores[1], labels[1])
    both = counted(scores, labels)
    assert total.count == both.count
    for name in ("auroc", "average_precision", "aupro"):
        assert getattr(total, name)() == pytest.approx(getattr(both, name)())


def test_degenerate_cases_are_not_numbers():
    nothing, normal = PixelHistogram(), counted(np.ones((2, 2)), np.zeros((2, 2)))
    values = [function() for h in (nothing, normal) for function in (h.auroc, h.average_precision, h.aupro)]
    all_defect = counted(np.ones((2, 2)), np.ones((2, 2)))
    assert np.isnan(values + [all_defect.auroc(), all_defect.aupro()]).all() and all_defect.average_precision() == 1


def test_a_constant_map_orders_nothing():
    labels = np.zeros((4, 5), bool)
    labels[0, 0] = True
    histogram = counted(np.full((4, 5), 0.5), labels)
    assert histogram.auroc() == 0.5 and histogram.average_precision() == pytest.approx(1 / 20)
    assert histogram.aupro(0.3) == pytest.approx(0.15), "a straight line: guessing"


def test_a_roll_is_counted_in_no_time():
    rng = np.random.default_rng(3)
    scores, labels = rng.random((256, 4096)).astype(np.float32), np.zeros((256, 4096), bool)
    labels[50:100, 1000:1200] = True
    histogram, seconds = PixelHistogram(), []
    for _ in range(5):
        start = time.perf_counter()
        histogram.add(scores, labels)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # 0.02 on one core; the rest is for a busy machine
    print(f"{min(seconds) * 1000:.0f} ms")
