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
    aurocs = bootstrap.aurocs(labels, scores, weights)
    for weight, auroc, ap in zip(weights, aurocs, bootstrap.average_precisions(labels, scores, weights), strict=True):
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
    assert np.array_equal(bootstrap.aurocs(labels, scores, weights), [1, nan, nan], equal_nan=True)
    assert np.array_equal(bootstrap.average_precisions(labels, scores, weights), [1, 1, nan], equal_nan=True)
    empty = np.empty(0, bool), np.empty(0), np.empty((3, 0), int)
    assert np.isnan(bootstrap.aurocs(*empty)).all() and np.isnan(bootstrap.average_precisions(*empty)).all()
    assert bootstrap.curve_bands(labels, scores, weights) is None


def test_rolls_that_agree_with_themselves_widen_the_interval(judged):
    """Patches of one roll that are all alike are one draw, not fifteen."""
    rng = np.random.default_rng(1)
    hits = (rng.random(20) < 0.5).repeat(15)
    by_roll = (bootstrap.draw_rolls(20)[:, judged[2]] * hits).sum(1) / 300
    by_patch = (bootstrap.draw_rolls(300) * hits).sum(1) / 300
    assert np.diff(bootstrap.interval(by_roll)) > 2 * np.diff(bootstrap.interval(by_patch))


def roc_by_hand(labels, scores):
    """False-positive rate and recall at every threshold."""
    for threshold in [np.inf, *np.unique(scores)]:
        yield np.mean(scores[~labels] >= threshold), np.mean(scores[labels] >= threshold)


def test_a_band_of_one_curve_is_that_curve(judged):
    """Every resample the same: recall is the highest within a rate, precision that of the first to reach a recall."""
    labels, scores, _ = judged
    recall, precision = bootstrap.curve_bands(labels, scores, np.full((3, len(labels)), 2))
    points = list(roc_by_hand(labels, scores))
    for index, at in enumerate(bootstrap.GRID):
        assert recall[0, index] == recall[1, index] == max(hit for rate, hit in points if rate <= at)
        threshold = max(value for value in scores if np.mean(scores[labels] >= value) >= max(at, 1e-9))
        assert precision[0, index] == precision[1, index] == labels[scores >= threshold].mean()


def test_the_numbers_of_the_hand_counted_curves_stand(judged):
    """Pinned: what the same resamples gave when their curves were still counted by hand."""
    labels, scores, owners = judged
    weights = bootstrap.draw_rolls(20, 200)[:, owners]
    assert bootstrap.interval(bootstrap.aurocs(labels, scores, weights)) == pytest.approx(
        [0.6585144683279117, 0.8159081423184953], abs=1e-12
    )
    assert bootstrap.interval(bootstrap.average_precisions(labels, scores, weights)) == pytest.approx(
        [0.34678900729196305, 0.5710576529917212], abs=1e-12
    )
    bands = np.stack(bootstrap.curve_bands(labels, scores, weights))
    assert bands[:, :, [10, 50]].ravel() == pytest.approx(
        [
            0.22175925925925932,
            0.5956469821971342,
            0.4670967741935485,
            0.8892857142857143,
            1.0,
            0.20479508196721313,
            1.0,
            0.43762807377049184,
        ],
        abs=1e-12,
    )


def test_bands_hold_the_curves(judged):
    labels, scores, owners = judged
    recall, precision = bootstrap.curve_bands(labels, scores, bootstrap.draw_rolls(20)[:, owners])
    assert recall.shape == precision.shape == (2, 101)
    assert (recall[0] <= recall[1]).all() and (np.diff(recall, axis=1) >= 0).all() and recall[0, -1] == 1
    assert (precision >= 0).all() and (precision <= 1).all()
    rate, reached = (np.array(ends) for ends in zip(*roc_by_hand(labels, scores), strict=True))
    curve = np.array([reached[rate <= at].max() for at in bootstrap.GRID])
    assert (recall[0] <= curve + 1e-9).all() and (curve <= recall[1] + 1e-9).all() and (recall[0] < recall[1]).any()
    perfect = bootstrap.curve_bands(labels, labels * 1.0, bootstrap.draw_rolls(20)[:, owners])
    assert (np.stack(perfect) == 1).all(), "a perfect order stays perfect, whatever is drawn"


def test_a_hundred_rolls_take_seconds():
    rng = np.random.default_rng(2)
    labels, scores, owners = rng.random(1500) < 0.1, rng.random(1500), np.repeat(np.arange(100), 15)
    start = time.perf_counter()
    weights = bootstrap.draw_rolls(100)[:, owners]
    bootstrap.aurocs(labels, scores, weights), bootstrap.average_precisions(labels, scores, weights)
    assert time.perf_counter() - start < 15  # about 2 s on one core
