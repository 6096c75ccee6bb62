"""The two combined losses of the series, each part a plain function.

    reconstruction = 0.7 * (0.8 * L1 + 0.2 * SSIM) + 0.3 * FFT
    segmentation   = 0.5 * BCE + 0.5 * focal

All take float tensors `(B, C, H, W)` and return a scalar mean, computed in float32 also inside autocast.
The paper's own losses are L2 + SSIM and focal; the authors' code has focal with gamma 2 and no alpha.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from draem_aitex.errors import InputError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al., IEEE TIP 13(4), 2004, section III.B
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for a range of 1; same place
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.75  # alpha: weight of the defect class; the normal class weighs 1 - alpha


@dataclass(frozen=True)
class LossParts:
    """A combined loss: `total`, with gradient, and its `parts` by name, detached, before weighting."""

    total: torch.Tensor
    parts: dict


def _same(first, second, names):
    if first.shape != second.shape or first.ndim != 4:
        raise InputError(
            f"{names}: shapes {tuple(first.shape)} and {tuple(second.shape)}; expected one shape (B, C, H, W) for both"
        )
    return first.float(), second.float()


def l1_loss(reconstruction, target):
    """Mean absolute difference: likeness pixel by pixel."""
    reconstruction, target = _same(reconstruction, target, "reconstruction and target")
    return (reconstruction - target).abs().mean()


def ssim_loss(reconstruction, target):
    """1 - SSIM: local luminance, contrast and structure under a Gaussian window of 11 pixels, sigma 1.5.

    For pictures of range 1. The window stays inside the picture (no padding), so a border of 5 pixels has no window
    of its own. 0 for equal pictures, up to 2. Wang et al. 2004, equation 13.
    """
    x, y = _same(reconstruction, target, "reconstruction and target")
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"pictures of {tuple(x.shape[-2:])} pixels; expected {SSIM_WINDOW} x {SSIM_WINDOW} or more")
    with torch.autocast(x.device.type, enabled=False):
        means = _gaussian(torch.cat([x, y, x * x, y * y, x * y], dim=1))
        mean_x, mean_y, square_x, square_y, product = means.chunk(5, dim=1)
        variances = square_x - mean_x**2 + square_y - mean_y**2
        covariance = product - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
        structure = (2 * covariance + SSIM_C2) / (variances + SSIM_C2)
        return 1 - (luminance * structure).mean()


def _gaussian(x):
    """Gaussian window down and then across, without padding.

    Each pass is a product with a band matrix: for one channel that is several times faster than a convolution.
    """
    down, across = (_band(length, x) for length in x.shape[-2:])
    return down @ x @ across.T


def _band(length, like):
    """Matrix `(length - 10, length)` whose rows are the Gaussian window, shifted by one pixel each."""
    offsets = torch.arange(length, device=like.device, dtype=like.dtype)
    starts = torch.arange(length - SSIM_WINDOW + 1, device=like.device, dtype=like.dtype)[:, None]
    distance = offsets - starts - SSIM_WINDOW // 2
    weights = torch.exp(-(distance**2) / (2 * SSIM_SIGMA**2)) * (distance.abs() <= SSIM_WINDOW // 2)
    return weights / weights.sum(dim=1, keepdim=True)


def fft_loss(reconstruction, target):
    """Mean absolute difference of the log-magnitude spectra, log(1 + |F|): texture and brightness, blind to place.

    A cyclic shift of a picture changes only the phases and costs nothing.
    """
    x, y = _same(reconstruction, target, "reconstruction and target")
    with torch.autocast(x.device.type, enabled=False):
        return (_log_spectrum(x) - _log_spectrum(y)).abs().mean()


def _log_spectrum(x):
    spectrum = torch.fft.rfft2(x, norm="ortho")
    # sqrt with a floor: the gradient of abs() at exactly zero is not finite
    return torch.log1p((spectrum.real**2 + spectrum.imag**2 + 1e-12).sqrt())


def bce_loss(logits, mask):
    """Binary cross-entropy of a mask (0 or 1) against logits, mean over all pixels."""
    logits, mask = _same(logits, mask, "logits and mask")
    return F.binary_cross_entropy_with_logits(logits, mask)


def focal_loss(logits, mask, gamma=FOCAL_GAMMA, alpha=FOCAL_ALPHA):
    """Focal loss: cross-entropy weighted by (1 - p)^gamma, p the probability given to the true class.

    Lin et al., ICCV 2017, equation 5. alpha in (0, 1) weighs the defect class and 1 - alpha the normal class, so that
    neither is free; None weighs both 1 (the DRAEM authors' code). With gamma 0 and alpha None it is `bce_loss`.
    """
    logits, mask = _same(logits, mask, "logits and mask")
    if alpha is not None and not 0 < alpha < 1:
        raise InputError(f"alpha: {alpha}; expected above 0 and below 1, or None; a class of weight 0 costs nothing")
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    p_true = torch.exp(-cross_entropy)
    loss = (1 - p_true) ** gamma * cross_entropy
    if alpha is not None:
        loss = loss * (alpha * mask + (1 - alpha) * (1 - mask))
    return loss.mean()


def reconstruction_loss(reconstruction, target):
    """0.7 * (0.8 * L1 + 0.2 * SSIM) + 0.3 * FFT, with parts `l1`, `ssim`, `fft`."""
    l1, ssim = l1_loss(reconstruction, target), ssim_loss(reconstruction, target)
    fft = fft_loss(reconstruction, target)
    parts = {"l1": l1.detach(), "ssim": ssim.detach(), "fft": fft.detach()}
    return LossParts(0.7 * (0.8 * l1 + 0.2 * ssim) + 0.3 * fft, parts)


def segmentation_loss(logits, mask):
    """0.5 * BCE + 0.5 * focal, with parts `bce`, `focal`."""
    bce, focal = bce_loss(logits, mask), focal_loss(logits, mask)
    return LossParts(0.5 * bce + 0.5 * focal, {"bce": bce.detach(), "focal": focal.detach()})
