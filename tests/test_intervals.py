import math
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from draem_aitex.evaluation import bootstrap


@pytest.fixture(scope="module")
def judged():
    """Labels and scores, with ties, of 300 patches of 20 rolls, and the rolls they are of."""
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.15
    return labels, np.round(rng.random(300) + 0.3 * labels, 2), np.repeat(np.arange(20), 15)


def test_every_draw_has_as_many_rolls_and_the_seed_decides():
    drawn = bootstrap.draw_rolls(7, 50, seed=3)
    assert drawn.shape == (50, 7) and (drawn.sum(axis=1) == 7).all() and drawn.max() > 1
    assert np.array_equal(drawn, bootstrap.draw_rolls(7, 50, seed=3))
    assert not np.array_equal(drawn, bootstrap.draw_rolls(7, 50, seed=4))
    assert bootstrap.draw_rolls(0, 50).shape == (50, 0)


def test_weights_are_repeated_patches(judged):
    """The figures of every resample are those scikit-learn gives for the patches drawn, each as often as its roll."""
    labels, scores, owners = judged
    weights = bootstrap.draw_rolls(20, 30)[:, owners]
    counts = bootstrap.curve_counts(labels, scores, weights)
    for weight, auroc, ap in zip(
        weights, bootstrap.aurocs(*counts), bootstrap.average_precisions(*counts), strict=True
    ):
        assert auroc == pytest.approx(roc_auc_score(labels.repeat(weight), scores.repeat(weight)))
        assert ap == pytest.approx(average_precision_score(labels.repeat(weight), scores.repeat(weight)))


def test_an_interval_by_hand():
    assert bootstrap.interval(np.arange(1001) / 1000) == [pytest.approx(0.025), pytest.approx(0.975)]
    assert bootstrap.interval([0.5] * 10) == [0.5, 0.5]


def test_resamples_without_a_class_are_dropped_and_too_many_of_them_mean_no_interval():
    nan = math.nan
    assert bootstrap.interval([nan, nan, 0.2, 0.2]) == [pytest.approx(0.2), pytest.approx(0.2)]
    assert bootstrap.interval([nan, nan, 0.2]) is None
    assert bootstrap.interval([nan]) is None and bootstrap.interval([]) is None
    labels, scores = np.array([True, False]), np.array([0.9, 0.1])
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    counts = bootstrap.curve_counts(labels, scores, weights)
    assert np.array_equal(bootstrap.aurocs(*counts), [1, nan, nan], equal_nan=True)
    assert np.array_equal(bootstrap.average_precisions(*counts), [1, 1, nan], equal_nan=True)
    empty = bootstrap.curve_counts(np.empty(0, bool), np.empty(0), np.empty((3, 0), int))
    assert np.isnan(bootstrap.aurocs(*empty)).all() and np.isnan(bootstrap.average_precisions(*empty)).all()
    assert np.array_equal(bootstrap.ratios([1, 0], [2, 0]), [0.5, nan], equal_nan=True)
    assert bootstrap.curve_bands(labels, scores, weights) is None


def test_rolls_that_agree_with_themselves_widen_the_interval(judged):
    """Patches of one roll that are all alike are one draw, not fifteen."""
    rng = np.random.default_rng(1)
    hits = (rng.random(20) < 0.5).repeat(15)
    by_roll = (bootstrap.draw_rolls(20)[:, judged[2]] * hits).sum(1) / 300
    by_patch = (bootstrap.draw_rolls(300) * hits).sum(1) / 300
    assert np.diff(bootstrap.interval(by_roll)) > 2 * np.diff(bootstrap.interval(by_patch))


def test_bands_hold_the_curves(judged):
    labels, scores, owners = judged
    recall, precision = bootstrap.curve_bands(labels, scores, bootstrap.draw_rolls(20)[:, owners])
    assert recall.shape == precision.shape == (2, 101)
    assert (recall[0] <= recall[1]).all() and (np.diff(recall, axis=1) >= 0).all() and recall[0, -1] == 1
    assert (precision >= 0).all() and (precision <= 1).all()
    hits, alarms = bootstrap.curve_counts(labels, scores, np.ones((1, len(labels)), int))
    reached = np.searchsorted(alarms[0] / alarms[0, -1], bootstrap.GRID, side="right")
    curve = np.append(0, hits[0] / hits[0, -1])[reached]
    assert (recall[0] <= curve + 1e-9).all() and (curve <= recall[1] + 1e-9).all() and (recall[0] < recall[1]).any()
    perfect = bootstrap.curve_bands(labels, labels * 1.0, bootstrap.draw_rolls(20)[:, owners])
    assert (np.stack(perfect) == 1).all(), "a perfect order stays perfect, whatever is drawn"


def test_a_hundred_rolls_take_no_time():
    rng = np.random.default_rng(2)
    labels, scores, owners = rng.random(1500) < 0.1, rng.random(1500), np.repeat(np.arange(100), 15)
    start = time.perf_counter()
    counts = bootstrap.curve_counts(labels, scores, bootstrap.draw_rolls(100)[:, owners])
    bootstrap.aurocs(*counts), bootstrap.average_precisions(*counts)
    assert time.perf_counter() - start < 10  # about 0.3 s on one core
