"""The reconstructive and the discriminative network of DRAEM (Zavrtanik et al., ICCV 2021, section 3).

The reconstructive network, an encoder-decoder *without* skip connections, repaints the input as it would look without
a defect. The discriminative network, a U-Net *with* skips, sees the reconstruction and the input one above the other
and marks where they differ in a way that matters. The paper's pair (widths 128 and 64, 97 M parameters) takes seconds
a step on a laptop; the preset `compact` keeps the shape and shrinks the widths.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from draem_aitex.errors import InputError


@dataclass(frozen=True)
class NetworkConfig:
    """What defines the pair of networks."""

    channels: int = 1  # picture channels, 1 for grey
    width: int = 16  # channels at the first level; doubled at each level down
    levels: int = 4  # levels of resolution
    stem: int = 2  # pixel-unshuffle factor: stem x stem pixels become channels before the first convolution
    # Slope of the activations below zero; the paper's ReLU is 0. With ReLU the narrow pair came to mark cloth by active
    # features and everything odd by none at all: the strongest anomalies all scored sigmoid(bias), in no order.
    negative_slope: float = 0.1


PRESETS = {"compact": NetworkConfig()}


def conv_block(inputs, outputs, negative_slope):
    """Two 3x3 convolutions, each with batch norm and leaky ReLU."""
    layers = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
        layers += [nn.LeakyReLU(negative_slope, inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder over `levels` resolutions, with or without skip connections.

    Input `(B, inputs, H, W)`, output `(B, outputs, H, W)`; H and W divisible by `stem * 2 ** (levels - 1)`.
    """

    def __init__(self, inputs, outputs, config, skips):
        super().__init__()
        self.skips, self.stem = skips, config.stem
        widths = [config.width * 2**level for level in range(config.levels)]
        packed = config.stem**2
        self.encoder = nn.ModuleList(
            conv_block(before, after, config.negative_slope)
            for before, after in zip([inputs * packed] + widths, widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            conv_block(below + (here if skips else 0), here, config.negative_slope)
            for below, here in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], outputs * packed, 3, padding=1)

    def forward(self, x):
        x = F.pixel_unshuffle(x, self.stem)  # (B, inputs * stem^2, H / stem, W / stem)
        features = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            features.append(x)
        for block, feature in zip(self.decoder, features[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, feature], dim=1) if self.skips else x)
        return F.pixel_shuffle(self.head(x), self.stem)


class DRAEM(nn.Module):
    """Both networks in a row.

    images: float32 `(B, channels, H, W)` in [0, 1], any H and W of 16 or more (padded inside, cropped back).
    Returns `(reconstruction, logits)`: `(B, channels, H, W)`, not clipped, and `(B, 1, H, W)`, positive where a defect
    is more likely than not. The order of the discriminative network's input is the authors' code's, (reconstruction,
    image); one logit stands for their two softmax classes, which is the same function with fewer weights.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.multiple = config.stem * 2 ** (config.levels - 1)
        self.reconstructive = UNet(config.channels, config.channels, config, skips=False)
        self.discriminative = UNet(2 * config.channels, 1, config, skips=True)

    def forward(self, images):
        self._check(images)
        height, width = images.shape[-2:]
        down, right = -height % self.multiple, -width % self.multiple
        padded = F.pad(images, (0, right, 0, down), mode="reflect") if down or right else images
        reconstruction = self.reconstructive(padded)
        logits = self.discriminative(torch.cat([reconstruction, padded], dim=1))
        return reconstruction[..., :height, :width], logits[..., :height, :width]

    def _check(self, images):
        found = f"{tuple(images.shape)} {images.dtype}"
        if images.ndim != 4 or images.shape[1] != self.config.channels or not images.is_floating_point():
            raise InputError(f"images: {found}; expected float (B, {self.config.channels}, H, W) in [0, 1]")
        if min(images.shape[-2:]) < 16:
            raise InputError(f"images: {found}; expected 16 x 16 pixels or more; take larger crops")


def build_draem(preset="compact", seed=0):
    """A fresh pair of networks, its weights drawn from the seed; torch's global random state stays as it was.

    preset: a name in `PRESETS` or a `NetworkConfig`.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise InputError(f"preset: {preset!r}; expected one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return DRAEM(preset)


def count_parameters(module):
    """Number of trained values in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
