"""The two combined losses of the course, each part a plain function.

    reconstruction = 0.7 * (0.8 * L1 + 0.2 * SSIM) + 0.3 * FFT
    segmentation   = 0.5 * BCE + 0.5 * focal

In a training, L1 weighs pixels under an anomaly ten times, so that leaving it out pays (`removal_weights`), and BCE and
focal weigh those of a small one up to ten times (`balance_weights`).

All take two floating-point tensors of one shape `(B, C, H, W)` and give a scalar mean (the combinations: `LossParts`),
computed in float32 also inside autocast. Targets lie in [0, 1]. Masks are 0 or 1; values between count as soft labels,
for which the focal weight is only approximate. Outputs of a network may have any range. Other shapes, dtypes and ranges
raise `InputError` (ranges on the CPU alone: on a GPU, reading values would wait for the device).
The paper's own losses are L2 + SSIM and focal; the authors' code has focal with gamma 2 and no alpha.

`@part` makes a function a part of a combined loss, with its weight, in every training. To add one, write a function
`NAME_loss(reconstruction, target)`, or `NAME_loss(logits, mask, weight=None)` with a weight for each pixel, under that
one line.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from draem_aitex.errors import ABOVE_0, BELOW_1, InputError, check_number, check_type, check_unit

Weights = Mapping[str, float]  # of the parts of a combined loss, by name
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5  # pixels; Wang et al., IEEE TIP 13(4), 2004, section III.B
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for a range of 1; same place
PARTS: dict[str, Callable[..., Tensor]] = {}  # of both combined losses, by name
RECONSTRUCTION_WEIGHTS: dict[str, float] = {}  # of the parts of either, by name; `part` fills them
SEGMENTATION_WEIGHTS: dict[str, float] = {}
REMOVAL = 10.0  # weight, in L1, of the pixels that the anomaly covers in the network's input
FOCAL_GAMMA, FOCAL_ALPHA = 2.0, 0.75  # alpha: weight of anomalous pixels; normal ones weigh 1 - alpha
BALANCE = 600.0  # pixels; the area from which on an anomaly's pixels weigh no more than normal ones
BALANCE_WINDOW, BALANCE_MOST = 49, 10.0  # pixels to a side in which the area is counted; the greatest weight


@dataclass(frozen=True)
class LossParts:
    """A combined loss: `total`, with gradient, and its `parts` by name, detached, before weighting."""

    total: Tensor
    parts: dict[str, Tensor]


def part(weights: dict[str, float], weight: float) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a function as a part of a combined loss, under its name without `_loss`, see the head of this module.

    weights: `RECONSTRUCTION_WEIGHTS` or `SEGMENTATION_WEIGHTS`. weight: in the sum.
    """

    def registered(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = function.__name__.removesuffix("_loss")
        PARTS[name], weights[name] = function, weight
        return function

    return registered


def _checked(**pair):
    """A network's output and its target, checked, in float32 (float64 stays: gradients are checked in it)."""
    (name, output), (wanted, target) = pair.items()
    check_type(name, output, Tensor)
    check_type(wanted, target, Tensor)
    if output.shape != target.shape or output.ndim != 4 or not output.numel():
        shapes = f"{tuple(output.shape)} and {tuple(target.shape)}"
        raise InputError(f"{name} and {wanted}: shapes {shapes}; expected one shape (B, C, H, W) for both")
    if not (output.is_floating_point() and target.is_floating_point()):
        dtypes = f"{output.dtype} and {target.dtype}"
        raise InputError(f"{name} and {wanted}: {dtypes}; expected floating point; convert with .float()")
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        check_unit(target.detach(), wanted)
    return (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (output, target))


@part(RECONSTRUCTION_WEIGHTS, 0.7 * 0.8)
def l1_loss(reconstruction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference, pixel by pixel. weight: of the pixels, such as `removal_weights`; None is 1."""
    x, y = _checked(reconstruction=reconstruction, target=target)
    difference = (x - y).abs()
    return (difference if weight is None else difference * weight).mean()


@part(RECONSTRUCTION_WEIGHTS, 0.7 * 0.2)
def ssim_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM: local luminance, contrast and structure under a Gaussian window of 11 pixels, sigma 1.5.

    For images of range 1, 11 x 11 pixels or more. The window stays inside the image (no padding), so no window is
    centred on the outermost 5 pixels. 0 for equal images, up to 2. Wang et al. 2004, equation 13.
    """
    x, y = _checked(reconstruction=reconstruction, target=target)
    if min(x.shape[-2:]) < SSIM_WINDOW:
        raise InputError(f"images of {tuple(x.shape[-2:])} pixels; expected {SSIM_WINDOW} x {SSIM_WINDOW} or more")
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
    first is a single product over the rows of all images.
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


@part(RECONSTRUCTION_WEIGHTS, 0.3)
def fft_loss(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the log-magnitude spectra, `log(1 + |F|)`: texture and brightness, not position.

    A cyclic shift of an image changes only the phases and costs nothing.
    """
    x, y = _checked(reconstruction=reconstruction, target=target)
    with torch.autocast(x.device.type, enabled=False):
        return (_log_spectrum(x) - _log_spectrum(y)).abs().mean()


def _log_spectrum(x):
    spectrum = torch.fft.rfft2(x, norm="ortho")
    # A floor, because sqrt has no finite slope at 0; log, because log1p takes seven times as long, for digits far below
    # any that count here.
    return torch.log(1 + (spectrum.real**2 + spectrum.imag**2 + 1e-12).sqrt())


@part(SEGMENTATION_WEIGHTS, 0.5)
def bce_loss(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of a mask (0 or 1) against logits, mean over all pixels. weight: of them; None is 1."""
    logits, mask = _checked(logits=logits, mask=mask)
    return F.binary_cross_entropy_with_logits(logits, mask, weight)


@part(SEGMENTATION_WEIGHTS, 0.5)
def focal_loss(
    logits: Tensor, mask: Tensor, gamma: float = FOCAL_GAMMA, alpha: float | None = FOCAL_ALPHA,
    weight: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Focal loss: cross-entropy weighted by (1 - p)^gamma, p the probability given to the true class.

    Lin et al., ICCV 2017, equation 5. gamma: 0 or more. alpha, above 0 and below 1, weighs anomalous pixels and
    1 - alpha normal ones: by default 0.75 and 0.25, so neither class is free. None weighs both 1 (the authors' code).
    With gamma 0 and alpha None it is `bce_loss`. weight: of the pixels; None is 1. It takes logits and not
    probabilities, because far from 0 a float32 log(sigmoid) would be -inf.

    Raises `InputError` for other values of gamma and alpha.
    """
    logits, mask = _checked(logits=logits, mask=mask)
    if alpha is not None:
        check_number(
            "alpha", alpha, ABOVE_0, BELOW_1, "above 0 and below 1, or None; a class of weight 0 costs nothing"
        )
    check_number("gamma", gamma, 0, expected="0 or more; 0 is plain cross-entropy")
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    p_true = torch.exp(-cross_entropy)
    hard = (1 - p_true).clamp_min(1e-12)  # at exactly 0 a power below 1 has no finite slope
    loss = hard**gamma * cross_entropy
    if alpha is not None:
        loss = loss * ((1 - alpha) + (2 * alpha - 1) * mask)  # alpha where the mask is 1, 1 - alpha where it is 0
    return (loss if weight is None else loss * weight).mean()


def removal_weights(mask: Tensor, removal: float = REMOVAL) -> Tensor:
    """Weights of the pixels in L1, so that leaving an anomaly out pays: `removal` where it was, 1 elsewhere.

    Anomalies are some percent of the pixels: without this a network that copies them loses little, and in a long
    training becomes one that does. mask: float `(B, 1, H, W)` of 0 and 1. removal: 1 or more.
    """
    check_type("mask", mask, Tensor)
    check_number("removal", removal, 1)
    return 1 + (removal - 1) * mask


def balance_weights(mask: Tensor, balance: float = BALANCE) -> Tensor:
    """Weights of the pixels in the segmentation loss, so that a speck counts beside a stain: float32 `(B, C, H, W)`.

    w = min(max((balance / a)^1/2, 1), 10) on anomalous pixels, a the mask's area in px within 24 px up, down and to the
    sides, and 1 on normal ones. Summed over its pixels an anomaly of a px thus counts as (balance * a)^1/2 and not as
    a. After blob loss (Kofler et al., arXiv 2205.08209), which averages over components; the window stands for them,
    for it needs no search and works on a whole batch. mask: `(B, C, H, W)` of 0 and 1. balance: px; 0 weighs all 1.
    """
    check_number("balance", balance, 0)
    down, across = (_box(length, mask) for length in mask.shape[-2:])
    area = (down @ mask @ across).clamp_min(1)
    return 1 + mask * ((balance / area).sqrt().clamp(1, BALANCE_MOST) - 1)


def _box(length, like):
    """Symmetric matrix `(length, length)`: 1 where two positions lie within half the window of each other."""
    position = torch.arange(length, device=like.device)
    return ((position[:, None] - position).abs() <= BALANCE_WINDOW // 2).to(like.dtype)


def reconstruction_loss(
    reconstruction: Tensor, target: Tensor, mask: Tensor | None = None, weights: Weights = RECONSTRUCTION_WEIGHTS,
    removal: float = REMOVAL,
) -> LossParts:  # fmt: skip
    """The weighted sum of L1, SSIM and FFT loss; by default 0.7 * (0.8 * L1 + 0.2 * SSIM) + 0.3 * FFT.

    mask: `(B, 1, H, W)` of 0 and 1, where anomalies were; with it L1 has `removal_weights`. weights: of `l1`, `ssim`
    and `fft`, each 0 or more. Returns `LossParts` with parts of these names.
    """
    options = {}
    if mask is not None:
        check_type("target", target, Tensor)
        options["l1"] = {"weight": removal_weights(mask, removal)}
        if mask.shape != (wanted := (len(target), 1, *target.shape[2:])):
            raise InputError(f"mask: shape {tuple(mask.shape)}; expected {wanted}, one channel for these images")
    return _combined(weights, RECONSTRUCTION_WEIGHTS, options, reconstruction, target)


def segmentation_loss(
    logits: Tensor, mask: Tensor, weights: Weights = SEGMENTATION_WEIGHTS, balance: float = BALANCE
) -> LossParts:
    """The weighted sum of BCE and focal loss, small anomalies balanced; by default 0.5 * BCE + 0.5 * focal.

    Both parts are means over all pixels of a pixel's loss times its weight, see `balance_weights`. weights: of `bce`
    and `focal`, each 0 or more; balance: px, see `balance_weights`. Returns `LossParts` with parts of these names.
    """
    logits, mask = _checked(logits=logits, mask=mask)
    options = dict.fromkeys(SEGMENTATION_WEIGHTS, {"weight": balance_weights(mask, balance)})
    return _combined(weights, SEGMENTATION_WEIGHTS, options, logits, mask)


def _combined(weights, known, options, *tensors):
    if set(weights) != set(known) or not all(0 <= weight < math.inf for weight in weights.values()):
        raise InputError(f"weights: {weights}; expected 0 or more for each of {', '.join(known)}")
    parts = {name: PARTS[name](*tensors, **options.get(name, {})) for name in known}
    total = sum(weights[name] * part for name, part in parts.items())
    return LossParts(total, {name: part.detach() for name, part in parts.items()})
