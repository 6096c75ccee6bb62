import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from draem_aitex.errors import InputError
from draem_aitex.model import losses

RECONSTRUCTION = ["l1_loss", "ssim_loss", "fft_loss"]
SEGMENTATION = ["bce_loss", "focal_loss"]


def images(count=2, size=48):
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
    x, y = images()
    expected = 1 - np.mean([ssim_by_hand(a[0], b[0]) for a, b in zip(x, y, strict=True)])
    assert abs(losses.ssim_loss(x, y).item() - expected) < 1e-5
    assert losses.ssim_loss(x, x).item() == pytest.approx(0, abs=1e-6)
    assert losses.ssim_loss(x, y).item() == pytest.approx(losses.ssim_loss(y, x).item(), abs=1e-6)


def test_ssim_has_no_window_beyond_the_border():
    """A change of the outermost pixel reaches the one window that holds it, at the corner weight of the Gaussian."""
    x = torch.full((1, 1, 32, 32), 0.5, dtype=torch.float64, requires_grad=True)
    losses.ssim_loss(x, x.detach() + 0.1 * images(size=32)[0, :1].double()).backward()
    assert x.grad[0, 0, 0, 0].abs() < 1e-3 * x.grad.abs().max() and x.grad[0, 0, 0, 0] != 0


def test_l1_weighs_what_the_anomaly_covers():
    x, y = images()
    mask = torch.zeros_like(x)
    mask[0, :, 5:9, 7:20] = 1
    under = (x - y).abs()[mask == 1].sum() / x.numel()
    assert torch.allclose(losses.l1_loss(x, y, losses.removal_weights(mask)), losses.l1_loss(x, y) + 9 * under)
    assert torch.allclose(losses.l1_loss(x, y, losses.removal_weights(mask, 1)), losses.l1_loss(x, y))
    more = losses.reconstruction_loss(x, y, mask).total - losses.reconstruction_loss(x, y).total
    assert torch.allclose(more, 0.56 * 9 * under, atol=1e-6)
    for removal in (0.5, float("nan"), "10"):
        with pytest.raises(InputError, match="removal: .*; expected a number, 1 or more"):
            losses.reconstruction_loss(x, y, mask, removal=removal)
    with pytest.raises(InputError, match=r"mask: shape \(2, 1, 5, 5\); expected"):
        losses.reconstruction_loss(x, y, torch.zeros(2, 1, 5, 5))


def test_fft_is_blind_to_a_cyclic_shift_and_sees_brightness():
    x, _ = images()
    assert losses.fft_loss(x.roll((5, 9), (2, 3)), x).item() < 1e-5
    assert losses.fft_loss(x * 0.8, x).item() > 0.03
    assert losses.l1_loss(x.roll((5, 9), (2, 3)), x).item() > 0.1


def test_fft_against_numpy():
    x, y = images()
    spectra = [np.log1p(np.abs(np.fft.rfft2(p.double().numpy(), norm="ortho"))) for p in (x, y)]
    assert losses.fft_loss(x, y).item() == pytest.approx(np.abs(spectra[0] - spectra[1]).mean(), abs=1e-6)


def test_focal_without_focus_is_cross_entropy_and_agrees_with_torchvision():
    x, y = images()
    logits, mask = 6 * x - 3, (y > 0.9).float()
    assert torch.allclose(losses.focal_loss(logits, mask, gamma=0, alpha=None), losses.bce_loss(logits, mask))
    for gamma, alpha in ((2.0, 0.75), (1.5, 0.25)):
        expected = sigmoid_focal_loss(logits, mask, alpha=alpha, gamma=gamma, reduction="mean")
        assert torch.allclose(losses.focal_loss(logits, mask, gamma, alpha), expected, atol=1e-6)


def test_focal_on_a_softmax_of_two_classes():
    """The authors' focal loss, on a softmax of two classes and without alpha, from the difference of the logits."""
    two = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    mask = (torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(3)) > 0.8).float()
    p_true = torch.softmax(two, 1).gather(1, mask.long())
    expected = (-((1 - p_true) ** 2) * p_true.log()).mean()
    assert torch.allclose(losses.focal_loss(two[:, 1:] - two[:, :1], mask, alpha=None), expected, atol=1e-6)


def test_both_wrong_answers_cost():
    """Everything predicted anomalous, or everything normal: each costs more than twice what knowing nothing does."""
    clean, anomalous = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    for mask, answer in ((clean, 8.0), (anomalous, -8.0)):
        for loss in (losses.bce_loss, losses.focal_loss):
            assert loss(torch.full_like(mask, answer), mask) > 2 * loss(torch.zeros_like(mask), mask)
    assert losses.segmentation_loss(torch.full_like(clean, 8.0), clean).total > 1


def test_combinations_have_the_series_weights():
    x, y = images()
    combined = losses.reconstruction_loss(x, y)
    l1, ssim, fft = losses.l1_loss(x, y), losses.ssim_loss(x, y), losses.fft_loss(x, y)
    assert torch.allclose(combined.total, 0.56 * l1 + 0.14 * ssim + 0.3 * fft)
    assert list(combined.parts) == ["l1", "ssim", "fft"]
    segmented = losses.segmentation_loss(6 * x - 3, y.round(), balance=0)
    bce = losses.bce_loss(6 * x - 3, y.round())
    focal = sigmoid_focal_loss(6 * x - 3, y.round(), alpha=0.75, gamma=2, reduction="mean")
    assert torch.allclose(segmented.total, 0.5 * bce + 0.5 * focal, atol=1e-6)
    assert torch.equal(segmented.parts["bce"], bce) and torch.allclose(segmented.parts["focal"], focal, atol=1e-6)


def test_combinations_take_other_weights():
    x, y = images()
    only = losses.reconstruction_loss(x, y, weights={"l1": 0, "ssim": 2, "fft": 0})
    assert torch.allclose(only.total, 2 * losses.ssim_loss(x, y))
    assert torch.allclose(only.parts["l1"], losses.l1_loss(x, y)), "a part of weight 0 is still reported"
    alone = losses.segmentation_loss(6 * x - 3, y.round(), {"bce": 0, "focal": 1}, balance=0)
    assert torch.allclose(alone.total, losses.focal_loss(6 * x - 3, y.round()))
    for weights in ({"l1": 1}, {"l1": 1, "ssim": 1, "fft": -1}, {"l1": 1, "ssim": 1, "fft": 1, "gan": 1}):
        with pytest.raises(InputError, match="weights: .* expected 0 or more for each of l1, ssim, fft"):
            losses.reconstruction_loss(x, y, weights=weights)


@pytest.mark.parametrize("name", RECONSTRUCTION + SEGMENTATION)
def test_gradients_agree_with_differences(name):
    x, y = images(size=12).double()[:, :1]
    target = y.round() if name in SEGMENTATION else y
    assert torch.autograd.gradcheck(lambda x: getattr(losses, name)(x, target), (4 * x.requires_grad_() - 2,))


def test_equal_images_have_finite_gradients():
    x = torch.full((1, 1, 16, 16), 0.5, requires_grad=True)
    losses.reconstruction_loss(x, torch.full((1, 1, 16, 16), 0.5)).total.backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_sure_answers_have_finite_losses_and_gradients(gamma):
    """Logits far from zero, right and wrong, where a sigmoid is exactly 0 or 1."""
    logits = torch.tensor([-200.0, 200.0]).repeat(128).view(1, 1, 16, 16).requires_grad_()
    mask = torch.zeros(1, 1, 16, 16)
    total = losses.segmentation_loss(logits, mask).total + losses.focal_loss(logits, mask, gamma)
    total.backward()
    assert total.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", RECONSTRUCTION + SEGMENTATION)
def test_bfloat16_inside_autocast_is_computed_in_float32(name):
    x, y = images()
    target = y.round() if name in SEGMENTATION else y
    expected = getattr(losses, name)(x.bfloat16().float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        found = getattr(losses, name)(x.bfloat16(), target)
    assert found.dtype == torch.float32 and torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (
            torch.zeros(1, 1, 16, 16),
            torch.zeros(1, 1, 16, 17),
            r"\(1, 1, 16, 16\) and \(1, 1, 16, 17\); expected one shape",
        ),
        (torch.zeros(16, 16), torch.zeros(16, 16), r"expected one shape \(B, C, H, W\)"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "torch.uint8; expected floating"),
        (torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 255.0), "values from 255 to 255; expected 0 to 1"),
        (torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), torch.nan), "values from nan"),
    ],
)
@pytest.mark.parametrize("name", RECONSTRUCTION + SEGMENTATION)
def test_bad_input_is_named(name, output, target, message):
    with pytest.raises(InputError, match=message) as caught:
        getattr(losses, name)(output, target)
    assert "\n" not in str(caught.value)


def test_bad_settings_are_named():
    blank = torch.zeros(1, 1, 8, 8)
    with pytest.raises(InputError, match="alpha: 1"):
        losses.focal_loss(blank, blank, alpha=1)
    with pytest.raises(InputError, match="gamma: -1"):
        losses.focal_loss(blank, blank, gamma=-1)
    with pytest.raises(InputError, match=r"\(8, 8\) pixels; expected 11 x 11 or more"):
        losses.ssim_loss(blank, blank)


def test_all_are_means():
    """Twice the same batch costs the same: losses do not depend on how many images there are."""
    x, y = images()
    for name in RECONSTRUCTION + SEGMENTATION:
        loss, target = getattr(losses, name), y.round() if name in SEGMENTATION else y
        assert torch.allclose(loss(x, target), loss(torch.cat([x, x]), torch.cat([target, target])), atol=1e-6)
    assert torch.allclose(losses.l1_loss(x, y), F.l1_loss(x, y))


def test_balance_weights_are_the_formula():
    """(600 / a)^1/2 from 1 to 10, a the area near a pixel; 1 on normal pixels."""
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 10:13, 10:15] = 1  # 15 px
    mask[..., 60:124, 60:124] = 1  # more than 600 px near each of its pixels
    mask[..., 0, 100] = 1  # 1 px
    weights = losses.balance_weights(mask)
    assert torch.allclose(weights[..., 10:13, 10:15], torch.tensor((600 / 15) ** 0.5))
    assert weights[..., 60:124, 60:124].eq(1).all() and weights[mask == 0].eq(1).all()
    assert weights[0, 0, 0, 100] == 10
    assert losses.balance_weights(mask, 0).eq(1).all() and losses.balance_weights(mask * 0).eq(1).all()


def test_the_balanced_loss_against_a_sum_over_components():
    """Two anomalies far apart, each weighted by its own area, and normal pixels."""
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 5:9, 5:9], mask[..., 80:90, 80:92] = 1, 1
    logits = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    total = F.binary_cross_entropy_with_logits(logits[mask == 0], mask[mask == 0], reduction="sum")
    for part in (np.s_[..., 5:9, 5:9], np.s_[..., 80:90, 80:92]):
        loss = F.binary_cross_entropy_with_logits(logits[part], mask[part], reduction="sum")
        total += (600 / mask[part].numel()) ** 0.5 * loss
    assert losses.segmentation_loss(logits, mask).parts["bce"].item() == pytest.approx(total.item() / 128**2, rel=1e-5)
    plain = losses.segmentation_loss(logits, mask, balance=0)
    assert torch.allclose(plain.parts["bce"], losses.bce_loss(logits, mask))
    assert torch.allclose(plain.parts["focal"], losses.focal_loss(logits, mask))
