"""What holds for every size, dtype and seed: hypothesis looks for the one for which it does not."""

import math

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from draem_aitex.anomalies.kinds import KINDS, MINIMUM_MASK
from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.data.patcher import extract_patches, stitch_patches
from draem_aitex.detectors.tiling import smallest_tile, tiles
from draem_aitex.evaluation import metrics
from draem_aitex.evaluation.pixel_metrics import PixelHistogram
from draem_aitex.model import losses

settings.register_profile("course", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("course")
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 70)


def drawn(seed):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60)
@given(SIDES, SIDES, st.integers(1, 40), st.data(), SEEDS, st.sampled_from(["uint8", "uint16", "float32", "bool"]))
def test_patches_that_cover_give_the_image_back(height, width, size, data, seed, dtype):
    stride = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, width - 1))
    end = data.draw(st.integers(start + 1, width))
    image = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (height, width)).astype(dtype)
    patches, corners = extract_patches(image, (start, end), size, stride, "cover")
    assert patches.dtype == image.dtype and patches.shape[1:] == (size, size)
    back = stitch_patches(patches.astype(np.uint8) if dtype == "bool" else patches, corners, image.shape)
    assert np.array_equal(back[:, start:end], image[:, start:end])


@settings(max_examples=60)
@given(st.integers(1, 64), st.integers(1, 64), st.data(), SEEDS)
def test_noise_is_zero_on_its_lattice_and_bounded(height, width, data, seed):
    cells = [data.draw(st.integers(1, side)) for side in (height, width)]
    field = perlin_noise((height, width), torch.tensor([cells]), drawn(seed))[0]
    assert field.shape == (height, width) and field.abs().max() <= math.sqrt(0.5) + 1e-6
    down, across = (torch.arange(side) * count % side == 0 for side, count in zip(field.shape, cells, strict=True))
    assert field[down][:, across].abs().max() <= 1e-5


@settings(max_examples=90)
@given(st.sampled_from(sorted(KINDS)), st.integers(1, 3), st.integers(1, 3), SIDES, SIDES, SEEDS)
def test_a_kind_changes_what_its_mask_says_or_nothing(name, batch, channels, height, width, seed):
    generator = drawn(seed)
    images = torch.rand(batch, channels, height, width, generator=generator)
    fabric = (torch.rand(batch, 1, 1, width, generator=generator) < 0.8).float().expand(batch, 1, height, width)
    severity = torch.rand(batch, generator=generator)
    corrupted, masks = KINDS[name](images, fabric, severity, generator)
    assert corrupted.shape == images.shape and masks.shape == fabric.shape
    assert corrupted.isfinite().all() and 0 <= corrupted.min() and corrupted.max() <= 1
    assert set(masks.unique().tolist()) <= {0.0, 1.0} and not (masks * (1 - fabric)).any()
    assert torch.equal(corrupted * (1 - fabric), images * (1 - fabric))
    for index in range(batch):
        area = masks[index].sum()
        assert area >= MINIMUM_MASK or (area == 0 and torch.equal(corrupted[index], images[index]))


@settings(max_examples=50)
@given(st.integers(1, 3), st.integers(11, 40), st.integers(11, 40), SEEDS, st.floats(-60, 60))
def test_losses_are_zero_for_equals_and_finite_with_finite_slopes(batch, height, width, seed, scale):
    generator = drawn(seed)
    target = torch.rand(batch, 1, height, width, generator=generator)
    assert losses.reconstruction_loss(target, target).total.abs() <= 1e-6
    other = (torch.randn(target.shape, generator=generator) * scale).requires_grad_()
    mask = (target > 0.9).float()
    for loss in (losses.reconstruction_loss(other, target), losses.segmentation_loss(other, mask)):
        slope = torch.autograd.grad(loss.total, other)[0]
        assert loss.total.isfinite() and loss.total >= 0 and slope.isfinite().all()


@settings(max_examples=200)
@given(st.integers(1, 6000), st.integers(1, 4000), st.integers(0, 300), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_tiles_cover_each_pixel_once_with_its_context(length, most, margin, multiple):
    found = tiles(length, most, margin, multiple)
    assert [valid[0] for _, valid in found] == [0, *(valid[1] for _, valid in found[:-1])] and found[-1][1][1] == length
    for (first, last), (begin, end) in found:
        assert 0 <= first <= begin < end <= last <= length
        assert last - first <= max(most, smallest_tile(margin, multiple), multiple)
    for ((_, last), (_, end)), ((first, _), (begin, _)) in zip(found, found[1:], strict=False):
        aside = length - length // multiple * multiple and last == length // multiple * multiple
        assert aside or (last - end >= margin and begin - first >= margin)


@settings(max_examples=25)
@given(st.integers(2, 200), SEEDS, st.sampled_from([1, 3, 1000]), st.sampled_from(["float32", "float64"]))
def test_ranking_does_not_change_with_what_keeps_the_order(count, seed, levels, dtype):
    draws = np.random.default_rng(seed)
    labels, scores = draws.random(count) < 0.4, (draws.integers(0, levels, count) / levels).astype(dtype)
    found = metrics.auroc(labels, scores)
    if labels.all() or not labels.any():
        assert math.isnan(found)
        return
    assert found == roc_auc_score(labels, scores) and abs(found - metrics.auroc(labels, np.exp(3 * scores))) < 1e-12
    assert abs(found + metrics.auroc(~labels, scores) - 1) < 1e-12
    pixels = PixelHistogram()
    pixels.add(scores.astype(np.float32), labels)
    assert abs(pixels.auroc() - found) < 1e-9 and 0 <= pixels.aupro() <= 1 + 1e-9
    counts = metrics.decision_counts(labels, scores > 0.5)
    assert counts.sum() == count and counts[:2].sum() == labels.sum()
