import numpy as np
import pytest
import torch

from draem_aitex import inference
from draem_aitex.errors import InputError
from draem_aitex.fabric import Roll
from draem_aitex.networks import build_draem
from draem_aitex.patcher import patch_maxima


@pytest.fixture(scope="module")
def model():
    return build_draem("compact", seed=3).eval()


def picture(width, height=64):
    return np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 300, 2175, 2176, 2177, 2400, 3000, 4096, 9999])
def test_windows_cover_every_column_once_and_with_context(width):
    found = inference.windows(width)
    assert [own[0] for _, own in found] == [0] + [own[1] for _, own in found[:-1]] and found[-1][1][1] == width
    for (first, last), (own_first, own_last) in found:
        assert last - first <= inference.WINDOW and 0 <= first <= own_first < own_last <= last <= width
        assert own_first - first >= inference.MARGIN or own_first == 0
        assert last - own_last >= inference.MARGIN or own_last == width


def test_the_map_is_that_of_one_pass(model):
    image = picture(3600)
    with torch.inference_mode():
        _, logits = model(torch.from_numpy(image)[None, None] / 255)
    scores = inference.anomaly_map(model, image, (0, 3600))
    assert np.abs(scores - torch.sigmoid(logits[0, 0]).numpy()).max() < 1e-3


def test_zero_outside_the_fabric_and_nothing_else_is_seen(model):
    image = picture(400)
    scores = inference.anomaly_map(model, image, (100, 372))
    assert scores.shape == image.shape and scores.dtype == np.float32
    assert not scores[:, :100].any() and not scores[:, 372:].any()
    assert (scores[:, 100:372] > 0).all() and scores.max() <= 1
    image[:, :100] = 255
    assert np.array_equal(scores, inference.anomaly_map(model, image, (100, 372)))


def test_wrong_pictures_are_named(model):
    with pytest.raises(InputError, match=r"float64 of shape \(64, 64\); expected uint8"):
        inference.anomaly_map(model, np.zeros((64, 64)), (0, 64))


def test_levels_make_flawless_cloth_of_every_fabric_equal(model):
    """Two cloths, one livelier: levelled, the same share of either's patches lies above the common level."""
    rolls = [
        Roll(name, name, "000", np.clip(picture(2048, 256) * contrast, 0, 255).astype(np.uint8), (0, 2048), None)
        for name, contrast in (("00", 0.2), ("01", 0.9))
    ]
    levels = inference.fabric_levels(model, rolls, share=0.25)
    detector = inference.DraemDetector(model, levels)
    common = 1 / (1 + np.exp(-np.median(list(levels.values()))))
    assert abs(levels["00"] - levels["01"]) > 1e-4
    for roll in rolls:
        maxima = patch_maxima(detector.predict(roll.image, roll.edges, roll.fabric), roll.edges)
        assert (maxima > common).sum() == 2, "a quarter of eight patches"
        raw = inference.anomaly_map(detector.model, roll.image, roll.edges)
        for unknown in (None, "77"):
            assert np.array_equal(detector.predict(roll.image, roll.edges, unknown), raw)


def test_levelled_scores_keep_their_order_and_range(model):
    image = picture(600)
    detector = inference.DraemDetector(model, {"00": -40.0, "01": 0.0, "02": 40.0})
    raw = inference.anomaly_map(detector.model, image, (50, 600))
    assert np.abs(raw - inference.anomaly_map(model, image, (50, 600))).max() < 1e-5, "folded batch norms"
    for code in detector.levels:
        scores = detector.predict(image, (50, 600), code)
        assert scores.dtype == np.float32 and not scores[:, :50].any()
        assert scores[:, 50:].min() > 0 and scores.max() <= 1
        order = np.argsort(raw[:, 50:].ravel())
        assert (np.diff(scores[:, 50:].ravel()[order]) >= 0).all()
