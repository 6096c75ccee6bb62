"""The reconstructive and the discriminative network of DRAEM (Zavrtanik et al., ICCV 2021, section 3).

The reconstructive network, an encoder-decoder *without* skip connections, repaints the input as it would look without
a defect. The discriminative network, a U-Net *with* skips, sees the reconstruction and the input one above the other
and marks where they differ in a way that matters. One definition serves two presets: `paper` is the published pair
(97 M parameters, seconds a step on a laptop), `compact` the same shape with narrow widths, for live training.
"""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from draem_aitex.errors import InputError, check_unit
from draem_aitex.model.unet import NetworkConfig, UNet

PRESETS = {
    "compact": NetworkConfig(
        reconstructive=(16, 32, 64),  # with a level more it paints plain grey, and no threads, for all of a lesson
        discriminative=(16, 32, 64, 128),
        classes=1,
        stem=2,
        # With ReLU the narrow pair came to mark cloth by active features and everything odd by none at all: the
        # strongest anomalies all scored sigmoid(bias), in no order.
        negative_slope=0.1,
        upsampling="nearest",  # aligned corners would make a pixel's score depend on the width of the picture
        up_convolution=False,
    ),
    "paper": NetworkConfig(),
}


class DRAEM(nn.Module):
    """Both networks in a row.

    images: float32 `(B, channels, H, W)` in [0, 1], any H and W (mirrored outwards inside, cropped back).
    Returns `(reconstruction, logits)`: `(B, channels, H, W)`, not clipped, and `(B, 1, H, W)`, positive where a defect
    is more likely than not. The order of the discriminative network's input is the authors' code's, (reconstruction,
    image). Of two classes the logit is their difference: its sigmoid is the softmax of the second, the defect.

    Raises `InputError` for other shapes, channels or dtypes, and for values outside [0, 1] where looking costs no wait
    for a device, that is on the CPU.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        channels = config.channels
        self.reconstructive = UNet(channels, channels, config.reconstructive, False, config)
        self.discriminative = UNet(2 * channels, config.classes, config.discriminative, True, config)

    def forward(self, images):
        self._check(images)
        height, width = images.shape[-2:]
        padded = mirror_to_multiple(images, self.config.multiple)
        reconstruction = self.reconstructive(padded)
        logits = self.discriminative(torch.cat([reconstruction, padded], dim=1))
        if self.config.classes == 2:
            logits = logits[:, 1:] - logits[:, :1]
        return reconstruction[..., :height, :width], logits[..., :height, :width]

    def _check(self, images):
        dtype = self.reconstructive.head.weight.dtype
        if images.ndim != 4 or images.shape[1] != self.config.channels or images.dtype != dtype or not images.numel():
            raise InputError(
                f"images: {images.dtype} of shape {tuple(images.shape)}; expected {dtype} of shape "
                f"(B, {self.config.channels}, H, W) in [0, 1]"
            )
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            check_unit(images.detach(), "images")


def mirror_to_multiple(images, multiple):
    """Mirror pictures outwards, down and to the right, until both sides are multiples of `multiple`.

    Unlike padding with reflection this takes pictures smaller than what is added: they are mirrored several times.
    """
    if not any(side % multiple for side in images.shape[-2:]):
        return images
    rows, columns = (_mirrored(side, side + -side % multiple, images.device) for side in images.shape[-2:])
    return images[..., rows[:, None], columns]


def _mirrored(length, wanted, device):
    """Indices 0, 1 ... length - 1, length - 2 ... 1, 0, 1 ... of the wanted number."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(wanted, device=device) % period
    return torch.minimum(index, period - index)


def build_draem(preset="compact", seed=0, channels=1):
    """A fresh pair of networks, its weights drawn from the seed; torch's global random state stays as it was.

    preset: a name in `PRESETS`, with the given number of picture channels, or a `NetworkConfig`, taken as it is.
    Weights start as PyTorch draws them; the authors' code draws those of convolutions from N(0, 0.02).
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise InputError(f"preset: {preset!r}; expected one of {', '.join(PRESETS)}")
        preset = replace(PRESETS[preset], channels=channels)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return DRAEM(preset)


def fold_batch_norm(model):
    """A copy for inference, each batch norm folded into the convolution before it; the original stays as it is.

    In evaluation mode a batch norm is a factor and an offset per channel, which the convolution can do on its way.
    Outputs agree to 1e-5.
    """
    folded = copy.deepcopy(model).eval()
    for block in folded.modules():
        for index in range(len(block) - 1 if isinstance(block, nn.Sequential) else 0):
            if isinstance(block[index], nn.Conv2d) and isinstance(block[index + 1], nn.BatchNorm2d):
                block[index] = fuse_conv_bn_eval(block[index], block[index + 1])
                block[index + 1] = nn.Identity()
    return folded


def count_parameters(module):
    """Number of trained values in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
