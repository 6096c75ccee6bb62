"""The U-Net that both networks of DRAEM are made of, with and without skip connections, and its configuration."""

from dataclasses import dataclass

import torch
from torch import nn

from draem_aitex.errors import InputError, check_choice, check_number


@dataclass(frozen=True)
class NetworkConfig:
    """What defines the pair of networks. The defaults are the authors' code's, except for the channels of the image.

    Raises `InputError` for widths that are no tuple of whole numbers and for unknown settings.
    """

    channels: int = 1  # of the image: 1 for grey, 3 for colour (published)
    reconstructive: tuple[int, ...] = (128, 256, 512, 1024, 1024)  # channels level by level, each level half the size
    discriminative: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    classes: int = 2  # of the discriminative output: 2 for a softmax, 1 for a logit; the same function
    stem: int = 1  # pixel-unshuffle factor: stem x stem pixels become channels before the first convolution
    negative_slope: float = 0.0  # slope of the activations below zero; 0 is ReLU
    upsampling: str = "bilinear"  # on the way up: "bilinear" with aligned corners (published), or "nearest"
    up_convolution: bool = True  # a 3x3 convolution behind each upsampling

    @property
    def multiple(self) -> int:
        """Pixels along each axis that become one feature-map position of the lowest level.

        Images whose sides are no multiples of it are mirrored outwards.
        """
        return self.stem * 2 ** (max(len(self.reconstructive), len(self.discriminative)) - 1)

    @property
    def receptive_field(self) -> int:
        """Pixels to each side that can influence one output pixel, through both networks: an upper bound.

        This is the half width: the whole receptive field is 2 * receptive_field + 1 pixels wide.
        """
        return self._receptive_field(len(self.reconstructive)) + self._receptive_field(len(self.discriminative))

    def _receptive_field(self, levels):
        positions = [self.stem * 2**level for level in range(levels)]  # pixels of a position, level by level
        steps = sum(positions[:-1])
        convolutions = 2 * sum(positions) + 2 * steps + positions[0] + (steps if self.up_convolution else 0)
        # A pixel lies anywhere in its position: one step more at each pooling, each upsampling, and at the stem.
        return convolutions + 2 * steps + self.stem - 1

    def __post_init__(self) -> None:
        for name in ("reconstructive", "discriminative"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple) or not widths or not all(isinstance(w, int) and w >= 1 for w in widths):
                raise InputError(f"{name}: {widths!r}; expected a tuple of channels, 1 or more, one for each level")
        for name in ("channels", "stem"):
            check_number(name, getattr(self, name), 1, whole=True)
        check_choice("classes", self.classes, (1, 2))
        check_choice("upsampling", self.upsampling, ("bilinear", "nearest"))


def convolution(inputs: int, outputs: int, config: NetworkConfig) -> list[nn.Module]:
    """The layers of one step: 3x3 convolution, batch norm, (leaky) ReLU."""
    activation = nn.LeakyReLU(config.negative_slope, inplace=True) if config.negative_slope else nn.ReLU(inplace=True)
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), activation]


class UNet(nn.Module):
    """Encoder and decoder, one level for each of `widths`, with or without skip connections.

    Input float32 `(B, inputs, H, W)`, output `(B, outputs, H, W)`; H and W divisible by `stem * 2 ** (levels - 1)`.
    The decoder leaves each level with the channels of the next finer one, as in the authors' code. Without skips the
    second convolution of a level reduces the channels, with skips the first.
    """

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...], skips: bool, config: NetworkConfig) -> None:
        super().__init__()
        self.skips, self.stem = skips, config.stem
        packed = config.stem**2
        self.encoder = nn.ModuleList(
            nn.Sequential(*convolution(before, after, config), *convolution(after, after, config))
            for before, after in zip((inputs * packed, *widths), widths, strict=False)
        )
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        aligned = True if config.upsampling == "bilinear" else None
        below = widths[-1]
        for level in range(len(widths) - 2, -1, -1):
            after = widths[max(level - 1, 0)]
            middle = after if skips else below
            enlarge: list[nn.Module] = [nn.Upsample(scale_factor=2, mode=config.upsampling, align_corners=aligned)]
            if config.up_convolution:
                enlarge, below = enlarge + convolution(below, middle, config), middle
            self.up.append(nn.Sequential(*enlarge))
            below += widths[level] if skips else 0
            self.decoder.append(nn.Sequential(*convolution(below, middle, config), *convolution(middle, after, config)))
            below = after
        self.head = nn.Conv2d(below, outputs * packed, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Input to output, see the class."""
        x = nn.functional.pixel_unshuffle(x, self.stem)  # (B, inputs * stem^2, H / stem, W / stem)
        features: list[torch.Tensor] = []
        for block in self.encoder:
            x = block(nn.functional.max_pool2d(x, 2) if features else x)
            features.append(x)
        for up, block, feature in zip(self.up, self.decoder, features[-2::-1], strict=True):
            x = up(x)
            x = block(torch.cat([x, feature], dim=1) if self.skips else x)
        return nn.functional.pixel_shuffle(self.head(x), self.stem)
