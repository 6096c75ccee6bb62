"""The U-Net that both networks of DRAEM are made of, with and without skip connections, and its configuration."""

from dataclasses import dataclass

import torch
from torch import nn

from draem_aitex.errors import InputError, check_choice, check_number

BLOCKS = ("plain", "residual")
MOST_LEVELS, MOST_BLOCKS, MOST_CHANNELS, MOST_STEM = 8, 64, 2**14, 16  # more would be a mistake, or a trap in a file
Parts = tuple[nn.Module, nn.ModuleList, nn.ModuleList, nn.ModuleList, int]  # down, encoder, up, decoder, last channels


@dataclass(frozen=True)
class NetworkConfig:
    """What defines the pair of networks. The defaults are the authors' code's, except for the channels of the image.

    Each network is made of one kind of block, "plain" (published) or "residual", see `UNet`. Raises `InputError` for
    widths that are no tuple of whole numbers and for unknown settings.
    """

    channels: int = 1  # of the image: 1 for grey, 3 for colour (published)
    reconstructive: tuple[int, ...] = (128, 256, 512, 1024, 1024)  # channels level by level, each level half the size
    discriminative: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    classes: int = 2  # of the discriminative output: 2 for a softmax, 1 for a logit; the same function
    stem: int = 1  # pixel-unshuffle factor: stem x stem pixels become channels before the first convolution
    negative_slope: float = 0.0  # slope of the activations below zero; 0 is ReLU
    upsampling: str = "bilinear"  # of plain blocks, on the way up: with aligned corners (published), or "nearest"
    up_convolution: bool = True  # of plain blocks: a 3x3 convolution behind each upsampling
    reconstructive_block: str = "plain"
    discriminative_block: str = "plain"
    residual: tuple[int, ...] = ()  # of a residual network: blocks level by level, the same number on the way up

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
        first = self._receptive_field(len(self.reconstructive), self.reconstructive_block)
        return first + self._receptive_field(len(self.discriminative), self.discriminative_block)

    def _receptive_field(self, levels, block):
        positions = [self.stem * 2**level for level in range(levels)]  # pixels of a position, level by level
        steps = sum(positions[:-1])
        # A pixel lies anywhere in its position: one step more at each way down, each way up, and at the stem.
        inside = 2 * steps + self.stem - 1
        if block == "plain":
            return inside + 2 * sum(positions) + 2 * steps + positions[0] + (steps if self.up_convolution else 0)
        there_and_back = [*positions, *positions[:-1]]
        counts = [*self.residual, *self.residual[:-1]]
        blocks = sum(2 * count * size for count, size in zip(counts, there_and_back, strict=True))
        return inside + 2 * positions[0] + blocks

    def __post_init__(self) -> None:
        for name in ("reconstructive", "discriminative"):
            widths = getattr(self, name)
            if not _are_numbers(widths, 1, MOST_CHANNELS) or not 1 <= len(widths) <= MOST_LEVELS:
                wanted = f"a tuple of channels, 1 to {MOST_CHANNELS}, one for each of {MOST_LEVELS} levels or fewer"
                raise InputError(f"{name}: {widths!r}; expected {wanted}")
            check_choice(f"{name}_block", block := getattr(self, f"{name}_block"), BLOCKS)
            blocks = _are_numbers(self.residual, 0, MOST_BLOCKS)
            if not blocks or (block == "residual" and len(self.residual) != len(widths)):
                wanted = f"a tuple of {len(widths)} numbers of blocks, 0 to {MOST_BLOCKS}, one for each level of {name}"
                raise InputError(f"residual: {self.residual!r}; expected {wanted}")
        check_number("channels", self.channels, 1, MOST_CHANNELS, whole=True)
        check_number("stem", self.stem, 1, MOST_STEM, whole=True)
        check_number("negative_slope", self.negative_slope, 0, 1)
        check_choice("up_convolution", self.up_convolution, (False, True))
        check_choice("classes", self.classes, (1, 2))
        check_choice("upsampling", self.upsampling, ("bilinear", "nearest"))


def _are_numbers(values, low, high):
    """Whether this is a tuple of whole numbers from low to high."""
    return isinstance(values, tuple) and all(type(value) is int and low <= value <= high for value in values)


def convolution(inputs: int, outputs: int, config: NetworkConfig) -> list[nn.Module]:
    """The layers of one step: 3x3 convolution, batch norm, (leaky) ReLU."""
    activation = nn.LeakyReLU(config.negative_slope, inplace=True) if config.negative_slope else nn.ReLU(inplace=True)
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), activation]


class ResidualBlock(nn.Module):
    """x + convolution(activation(batch norm(convolution(x)))), the last convolution 0 at the start: then it is x.

    Any `(B, width, H, W)`, which comes back in that shape. After He et al., CVPR 2016; the start at zero after Zhang et
    al. (Fixup), ICLR 2019.
    """

    def __init__(self, width: int, config: NetworkConfig) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(*convolution(width, width, config), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return x + self.body(x)


class UNet(nn.Module):
    """Encoder and decoder, one level for each of `widths`, with or without skip connections.

    Input float32 `(B, inputs, H, W)`, output `(B, outputs, H, W)`; H and W divisible by `stem * 2 ** (levels - 1)`.

    Of "plain" blocks (the authors' code) a level is two convolutions with norm and activation; max pooling leads down,
    upsampling up, and the decoder leaves each level with the channels of the next finer one. Without skips the second
    convolution of a level reduces the channels, with skips the first.

    Of "residual" blocks the path from input to output is linear: strided convolutions lead down, a 1x1 convolution and
    pixel shuffle up, without norm or activation. Beside it the residual blocks start at zero. So the network begins as
    a linear coder, which shows threads within a minute, and learns what to leave out.
    """

    def __init__(
        self, inputs: int, outputs: int, widths: tuple[int, ...], skips: bool, config: NetworkConfig,
        block: str = "plain",
    ) -> None:  # fmt: skip
        super().__init__()
        self.skips, self.stem = skips, config.stem
        packed = config.stem**2
        parts = _plain_parts if block == "plain" else _residual_parts
        self.down, self.encoder, self.up, self.decoder, last = parts(inputs * packed, widths, skips, config)
        self.head = nn.Conv2d(last, outputs * packed, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Input to output, see the class."""
        x = nn.functional.pixel_unshuffle(x, self.stem)  # (B, inputs * stem^2, H / stem, W / stem)
        features: list[torch.Tensor] = []
        for block in self.encoder:
            x = block(self.down(x) if features else x)
            features.append(x)
        for up, block, feature in zip(self.up, self.decoder, features[-2::-1], strict=True):
            x = up(x)
            x = block(torch.cat([x, feature], dim=1) if self.skips else x)
        return nn.functional.pixel_shuffle(self.head(x), self.stem)


def _plain_parts(inputs: int, widths: tuple[int, ...], skips: bool, config: NetworkConfig) -> Parts:
    encoder = nn.ModuleList(
        nn.Sequential(*convolution(before, after, config), *convolution(after, after, config))
        for before, after in zip((inputs, *widths), widths, strict=False)
    )
    ups, decoder = nn.ModuleList(), nn.ModuleList()
    aligned = True if config.upsampling == "bilinear" else None
    below = widths[-1]
    for level in range(len(widths) - 2, -1, -1):
        after = widths[max(level - 1, 0)]
        middle = after if skips else below
        enlarge: list[nn.Module] = [nn.Upsample(scale_factor=2, mode=config.upsampling, align_corners=aligned)]
        if config.up_convolution:
            enlarge, below = enlarge + convolution(below, middle, config), middle
        ups.append(nn.Sequential(*enlarge))
        below += widths[level] if skips else 0
        decoder.append(nn.Sequential(*convolution(below, middle, config), *convolution(middle, after, config)))
        below = after
    return nn.MaxPool2d(2), encoder, ups, decoder, below


def _residual_parts(inputs: int, widths: tuple[int, ...], skips: bool, config: NetworkConfig) -> Parts:
    def level(first: nn.Module, number: int) -> nn.Module:
        return nn.Sequential(first, *(ResidualBlock(widths[number], config) for _ in range(config.residual[number])))

    def smaller(number: int) -> nn.Module:
        return nn.Conv2d(widths[number - 1], widths[number], 2, stride=2)

    def larger(number: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(widths[number + 1], 4 * widths[number], 1), nn.PixelShuffle(2))

    def joined(number: int) -> nn.Module:
        return nn.Conv2d(2 * widths[number], widths[number], 1) if skips else nn.Identity()

    lower, upwards = range(1, len(widths)), range(len(widths) - 2, -1, -1)
    first = level(nn.Conv2d(inputs, widths[0], 3, padding=1), 0)
    encoder = nn.ModuleList([first, *(level(smaller(number), number) for number in lower)])
    decoder = nn.ModuleList(level(joined(number), number) for number in upwards)
    return nn.Identity(), encoder, nn.ModuleList(map(larger, upwards)), decoder, widths[0]
