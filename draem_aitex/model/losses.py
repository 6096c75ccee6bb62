"""The two combined losses of the course, each part a plain function.

    reconstruction = 0.7 * (0.8 * L1 + 0.2 * SSIM) + 0.3 * FFT
    segmentation   = 0.5 * BCE + 0.5 * focal

All take two floating-point tensors of one shape `(B, C, H, W)` and give a scalar mean, the combinations as `LossParts`,
computed in float32 also inside autocast. Targets lie in [0, 1], masks are 0 or 1 (values between are taken as soft
labels, the focal weight then as a rough one); what a network gives is not held to a range. Other shapes, dtypes and
ranges raise `InputError` (ranges on the CPU alone: on a GPU, looking would wait for the device).
The paper's own losses are L2 + SSIM and focal; the authors' code has focal with gamma 2 and no alpha.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from draem_aitex.errors import InputError, check_unit

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al., IEEE TIP 13(4), 2004, section III.B
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for a range of 1; same place
RECONSTRUCTION_WEIGHTS = {"l1": 0.7 * 0.8, "ssim": 0.7 * 0.2, "fft": 0.3}
SEGMENTATION_WEIGHTS = {"bce": 0.5, "focal": 0.5}
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.75  # alpha: weight of the defect class; the normal class weighs 1 - alpha


@dataclass(frozen=True)
class LossParts:
    """A combined loss: `total`, with gradient, and its `parts` by name, detached, before weighting."""

    total: torch.Tensor
    parts: dict


def _checked(**pair):
    """What a network gave and what it should have given, in float32 (float64 stays: gradients are checked in it)."""
    (name, output), (wanted, target) = pair.items()
    if output.shape != target.shape or output.ndim != 4 or not output.numel():
        raise InputError(
            f"{name} and {wanted}: shapes {tuple(output.shape)} and {tuple(target.shape)}; expected one shape "
            "(B, C, H, W) for both"
        )
    if not (output.is_floating_point() and target.is_floating_point()):
        raise InputError(
            f"{name} and {wanted}: {output.dtype} and {target.dtype}; expected floating point; convert with .float()"
        )
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        check_unit(target.detach(), wanted)
    return (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (output, target))


def l1_loss(reconstruction, target):
    """Mean absolute difference: likeness pixel by pixel."""
    return _l1(*_checked(reconstruction=reconstruction, target=target))


def _l1(x, y):
    return (x - y).abs().mean()


def ssim_loss(reconstruction, target):
    """1 - SSIM: local luminance, contrast and structure under a Gaussian window of 11 pixels, sigma 1.5.

    For pictures of range 1. The window stays inside the picture (no padding), so a border of 5 pixels has no window
    of its own. 0 for equal pictures, up to 2. Wang et al. 2004, equation 13.
    """
    return _ssim(*_checked(reconstruction=reconstruction, target=target))


def _ssim(x, y):
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"pictures of {tuple(x.shape[-2:])} pixels; expected {SSIM_WINDOW} x {SSIM_WINDOW} or more")
    with torch.autocast(x.device.type, enabled=False):
        bands = [_band(length, x) for length in x.shape[-2:]]
        mean_x, mean_y = _gaussian(x, *bands), _gaussian(y, *bands)
        squares, product = _gaussian(x * x + y * y, *bands), _gaussian(x * y, *bands)
        mean_product, mean_squares = mean_x * mean_y, mean_x**2 + mean_y**2
        # Of the variances only the sum is needed, so their windows are taken together.
        alike = (2 * mean_product + SSIM_C1) * (2 * (product - mean_product) + SSIM_C2)
        apart = (mean_squares + SSIM_C1) * (squares - mean_squares + SSIM_C2)
        return 1 - (alike / apart).mean()


def _gaussian(x, down, across):
    """Gaussian window across and then down, without padding; down, across: the `_band` of each side's length.

    Each pass is a product with a band matrix: for one channel that is several times faster than a convolution. The
    first is a single product over the rows of all pictures.
    """
    rows = x.reshape(-1, x.shape[-1]) @ across.T.contiguous()
    return down @ rows.view(*x.shape[:-1], -1)


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
    return _fft(*_checked(reconstruction=reconstruction, target=target))


def _fft(x, y):
    with torch.autocast(x.device.type, enabled=False):
        return (_log_spectrum(x) - _log_spectrum(y)).abs().mean()


def _log_spectrum(x):
    spectrum = torch.fft.rfft2(x, norm="ortho")
    # A floor, because sqrt has no finite slope at 0; log, because log1p takes seven times as long, for digits far below
    # any that count here.
    return torch.log(1 + (spectrum.real**2 + spectrum.imag**2 + 1e-12).sqrt())


def bce_loss(logits, mask):
    """Binary cross-entropy of a mask (0 or 1) against logits, mean over all pixels."""
    logits, mask = _checked(logits=logits, mask=mask)
    return F.binary_cross_entropy_with_logits(logits, mask)


def focal_loss(logits, mask, gamma=FOCAL_GAMMA, alpha=FOCAL_ALPHA):
    """Focal loss: cross-entropy weighted by (1 - p)^gamma, p the probability given to the true class.

    Lin et al., ICCV 2017, equation 5. alpha in (0, 1) weighs the pixels of a defect and 1 - alpha those of cloth: by
    default 0.75 and 0.25, neither is free. None weighs both 1 (the DRAEM authors' code). With gamma 0 and alpha None it
    is `bce_loss`. gamma: 0 or more. Logits, not probabilities: far from 0, log(sigmoid) of a float32 would be -inf.
    """
    logits, mask = _checked(logits=logits, mask=mask)
    return _focal(F.binary_cross_entropy_with_logits(logits, mask, reduction="none"), mask, gamma, alpha)


def _focal(cross_entropy, mask, gamma, alpha):
    if alpha is not None and not 0 < alpha < 1:
        raise InputError(f"alpha: {alpha}; expected above 0 and below 1, or None; a class of weight 0 costs nothing")
    if not gamma >= 0:
        raise InputError(f"gamma: {gamma}; expected 0 or more; 0 is plain cross-entropy")
    p_true = torch.exp(-cross_entropy)
    hard = (1 - p_true).clamp_min(1e-12)  # at exactly 0 a power below 1 has no finite slope
    loss = hard**gamma * cross_entropy
    if alpha is not None:
        loss = loss * ((1 - alpha) + (2 * alpha - 1) * mask)  # alpha where the mask is 1, 1 - alpha where it is 0
    return loss.mean()


def reconstruction_loss(reconstruction, target, weights=RECONSTRUCTION_WEIGHTS):
    """The weighted sum of L1, SSIM and FFT loss; by default 0.7 * (0.8 * L1 + 0.2 * SSIM) + 0.3 * FFT.

    weights: dict with `l1`, `ssim` and `fft`, 0 or more. Returns `LossParts` with parts of these names.
    """
    x, y = _checked(reconstruction=reconstruction, target=target)  # once, for all three
    return _combined({"l1": _l1(x, y), "ssim": _ssim(x, y), "fft": _fft(x, y)}, weights)


def segmentation_loss(logits, mask, weights=SEGMENTATION_WEIGHTS, gamma=FOCAL_GAMMA, alpha=FOCAL_ALPHA):
    """The weighted sum of BCE and focal loss; by default 0.5 * BCE + 0.5 * focal.

    weights: dict with `bce` and `focal`, 0 or more; gamma, alpha: of `focal_loss`. Returns `LossParts` with parts of
    these names.
    """
    logits, mask = _checked(logits=logits, mask=mask)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")  # once, for both
    return _combined({"bce": cross_entropy.mean(), "focal": _focal(cross_entropy, mask, gamma, alpha)}, weights)


def _combined(parts, weights):
    if set(weights) != set(parts) or not all(weight >= 0 for weight in weights.values()):
        raise InputError(f"weights: {weights}; expected 0 or more for each of {', '.join(parts)}")
    total = sum(weights[name] * part for name, part in parts.items())
    return LossParts(total, {name: part.detach() for name, part in parts.items()})
