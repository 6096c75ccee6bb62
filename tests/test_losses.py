import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from draem_aitex import losses
from draem_aitex.errors import InputError


def pictures(count=2, size=48):
    return torch.rand(count, 3, 1, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()


def ssim_by_hand(x, y):
    """SSIM of one pair, window by window, from equation 13 of Wang et al. 2004."""
    x, y = x.double().numpy(), y.double().numpy()
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            top = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
            values.append(top / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return np.mean(values)


def test_ssim_against_the_formula():
    x, y = pictures()
    expected = 1 - np.mean([ssim_by_hand(a[0], b[0]) for a, b in zip(x, y, strict=True)])
    assert abs(losses.ssim_loss(x, y).item() - expected) < 1e-5
    assert losses.ssim_loss(x, x).item() == pytest.approx(0, abs=1e-6)


def test_fft_is_blind_to_a_cyclic_shift_and_sees_brightness():
    x, _ = pictures()
    assert losses.fft_loss(x.roll((5, 9), (2, 3)), x).item() < 1e-5
    assert losses.fft_loss(x * 0.8, x).item() > 0.03
    assert losses.l1_loss(x.roll((5, 9), (2, 3)), x).item() > 0.1


def test_focal_without_focus_is_cross_entropy_and_agrees_with_torchvision():
    x, y = pictures()
    logits, mask = 6 * x - 3, (y > 0.9).float()
    assert torch.allclose(losses.focal_loss(logits, mask, gamma=0, alpha=None), losses.bce_loss(logits, mask))
    for gamma, alpha in ((2.0, 0.75), (1.5, 0.25)):
        expected = sigmoid_focal_loss(logits, mask, alpha=alpha, gamma=gamma, reduction="mean")
        assert torch.allclose(losses.focal_loss(logits, mask, gamma, alpha), expected, atol=1e-6)


def test_calling_everything_defective_costs():
    mask = torch.zeros(1, 1, 16, 16)
    assert losses.segmentation_loss(torch.full_like(mask, 8.0), mask).total > 1


def test_combinations_have_the_series_weights():
    x, y = pictures()
    combined = losses.reconstruction_loss(x, y)
    l1, ssim, fft = losses.l1_loss(x, y), losses.ssim_loss(x, y), losses.fft_loss(x, y)
    assert torch.allclose(combined.total, 0.56 * l1 + 0.14 * ssim + 0.3 * fft)
    assert list(combined.parts) == ["l1", "ssim", "fft"]
    segmented = losses.segmentation_loss(6 * x - 3, y.round())
    parts = segmented.parts
    assert torch.allclose(segmented.total, 0.5 * parts["bce"] + 0.5 * parts["focal"])


@pytest.mark.parametrize("name", ["l1_loss", "ssim_loss", "fft_loss", "bce_loss", "focal_loss"])
def test_gradients_are_finite_and_right(name):
    x, y = pictures(size=16)
    target = y.round() if name in ("bce_loss", "focal_loss") else y
    x = x.clone().requires_grad_()
    getattr(losses, name)(x, target).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
    with torch.no_grad():
        step = 1e-2 * x.grad / x.grad.norm()
        change = getattr(losses, name)(x + step, target) - getattr(losses, name)(x - step, target)
    assert change.item() == pytest.approx(2e-2 * x.grad.norm().item(), rel=0.05)


def test_equal_pictures_have_finite_gradients():
    x = torch.full((1, 1, 16, 16), 0.5, requires_grad=True)
    losses.reconstruction_loss(x, torch.full((1, 1, 16, 16), 0.5)).total.backward()
    assert x.grad.isfinite().all()


def test_bfloat16_inside_autocast_is_computed_in_float32():
    x, y = pictures()
    expected = losses.ssim_loss(x.bfloat16().float(), y)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(losses.ssim_loss(x.bfloat16(), y), expected, atol=1e-4)


def test_shapes_are_named():
    with pytest.raises(InputError, match=r"\(1, 1, 8, 8\) and \(1, 1, 8, 9\)"):
        losses.l1_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9))
    with pytest.raises(InputError, match="alpha: 1"):
        losses.focal_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), alpha=1)
