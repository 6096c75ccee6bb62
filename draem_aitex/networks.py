"""The reconstructive and the discriminative network of DRAEM (Zavrtanik et al., ICCV 2021, section 3).

The reconstructive network, an encoder-decoder *without* skip connections, repaints the input as it would look without
a defect. The discriminative network, a U-Net *with* skips, sees the reconstruction and the input one above the other
and marks where they differ in a way that matters. One definition serves two presets: `paper` is the published pair
(97 M parameters, seconds a step on a laptop), `compact` the same shape with narrow widths, for live training.
"""

import copy
import re
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from draem_aitex.errors import InputError, check_unit, one_line


def _is_count(value):
    return isinstance(value, int) and value >= 1


@dataclass(frozen=True)
class NetworkConfig:
    """What defines the pair of networks. The defaults are the authors' code's, but for the channels of the picture."""

    channels: int = 1  # picture channels: 1 for grey, 3 for colour (published)
    reconstructive: tuple = (128, 256, 512, 1024, 1024)  # channels level by level, each level half the size
    discriminative: tuple = (64, 128, 256, 512, 512, 512)
    classes: int = 2  # of the discriminative output: 2 for a softmax, 1 for a logit; the same function
    stem: int = 1  # pixel-unshuffle factor: stem x stem pixels become channels before the first convolution
    negative_slope: float = 0.0  # slope of the activations below zero; 0 is ReLU
    upsampling: str = "bilinear"  # on the way up: "bilinear" with aligned corners (published), or "nearest"
    up_convolution: bool = True  # a 3x3 convolution behind each upsampling

    @property
    def multiple(self):
        """Pixels of a picture's side that become one place of the lowest level; other sides are mirrored outwards."""
        return self.stem * 2 ** (max(len(self.reconstructive), len(self.discriminative)) - 1)

    @property
    def reach(self):
        """Pixels to each side that can have a say in one output pixel, at most: of one network and then the other."""
        return self._reach(len(self.reconstructive)) + self._reach(len(self.discriminative))

    def _reach(self, levels):
        places = [self.stem * 2**level for level in range(levels)]  # pixels of a place of each level
        steps = sum(places[:-1])
        convolutions = 2 * sum(places) + 2 * steps + places[0] + (steps if self.up_convolution else 0)
        # A pixel also lies somewhere in its place: one step more at each pooling, each upsampling, and at the stem.
        return convolutions + 2 * steps + self.stem - 1

    def __post_init__(self):
        for name in ("reconstructive", "discriminative"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple) or not widths or not all(_is_count(width) for width in widths):
                raise InputError(f"{name}: {widths!r}; expected a tuple of channels, 1 or more, one for each level")
        for name in ("channels", "stem"):
            if not _is_count(getattr(self, name)):
                raise InputError(f"{name}: {getattr(self, name)!r}; expected a whole number, 1 or more")
        for name, known in (("classes", (1, 2)), ("upsampling", ("bilinear", "nearest"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: {getattr(self, name)!r}; expected {known[0]} or {known[1]}")


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


def convolution(inputs, outputs, config):
    """The layers of one step: 3x3 convolution, batch norm, (leaky) ReLU."""
    activation = nn.LeakyReLU(config.negative_slope, inplace=True) if config.negative_slope else nn.ReLU(inplace=True)
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), activation]


class UNet(nn.Module):
    """Encoder and decoder, one level for each of `widths`, with or without skip connections.

    Input `(B, inputs, H, W)`, output `(B, outputs, H, W)`; H and W divisible by `stem * 2 ** (len(widths) - 1)`.
    The decoder leaves each level with the channels of the next finer one, as in the authors' code; without skips the
    second convolution of a level narrows, with skips the first.
    """

    def __init__(self, inputs, outputs, widths, skips, config):
        super().__init__()
        self.skips, self.stem = skips, config.stem
        packed = config.stem**2
        self.encoder = nn.ModuleList(
            nn.Sequential(*convolution(before, after, config), *convolution(after, after, config))
            for before, after in zip((inputs * packed, *widths), widths, strict=False)
        )
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        below = widths[-1]
        for level in range(len(widths) - 2, -1, -1):
            after = widths[max(level - 1, 0)]
            middle = after if skips else below
            aligned = True if config.upsampling == "bilinear" else None
            enlarge = [nn.Upsample(scale_factor=2, mode=config.upsampling, align_corners=aligned)]
            if config.up_convolution:
                enlarge, below = enlarge + convolution(below, middle, config), middle
            self.up.append(nn.Sequential(*enlarge))
            joined = below + (widths[level] if skips else 0)
            self.decoder.append(
                nn.Sequential(*convolution(joined, middle, config), *convolution(middle, after, config))
            )
            below = after
        self.head = nn.Conv2d(below, outputs * packed, 3, padding=1)

    def forward(self, x):
        x = F.pixel_unshuffle(x, self.stem)  # (B, inputs * stem^2, H / stem, W / stem)
        features = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            features.append(x)
        for up, block, feature in zip(self.up, self.decoder, features[-2::-1], strict=True):
            x = up(x)
            x = block(torch.cat([x, feature], dim=1) if self.skips else x)
        return F.pixel_shuffle(self.head(x), self.stem)


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


# Names in the authors' code (VitjanZ/DRAEM, model_unet.py) and here, in both networks. Their levels of the encoder
# count from 1; the decoder of the discriminative network has one level more, "_b", before its first.
PUBLISHED_NAMES = (
    (r"(?:encoder|encoder_segment)\.block(\d)\.", lambda n, deeper: f"encoder.{int(n) - 1}."),
    (r"(?:decoder|decoder_segment)\.up(_b|\d)\.", lambda n, deeper: f"up.{_step_up(n, deeper)}."),
    (r"(?:decoder|decoder_segment)\.db(_b|\d)\.", lambda n, deeper: f"decoder.{_step_up(n, deeper)}."),
    (r"(?:decoder|decoder_segment)\.(fin_out)\.0\.", lambda n, deeper: "head."),
)


def _step_up(name, deeper):
    return 0 if name == "_b" else int(name) - 1 + deeper


def rename_published(weights):
    """A state dict of one of the authors' two networks, under this module's names. Raises for a name it does not know.

    weights: dict of name to tensor; which of the two networks it is of shows in the names.
    """
    deeper = int(any(name.startswith("encoder_segment.") for name in weights))
    renamed = {}
    for name, tensor in weights.items():
        for pattern, ours in PUBLISHED_NAMES:
            if match := re.match(pattern, name):
                renamed[ours(match[1], deeper) + name[match.end() :]] = tensor
                break
        else:
            raise InputError(f"weights: {name!r} is no name of the authors' networks; expected a state dict of theirs")
    return renamed


def load_published_weights(model, reconstructive, discriminative):
    """Fill a `paper` pair with the authors' two state dicts; afterwards it computes what theirs compute.

    reconstructive, discriminative: state dicts of their ReconstructiveSubNetwork and DiscriminativeSubNetwork (their
    files NAME.pckl and NAME_seg.pckl, read with `torch.load(..., weights_only=True)`). Raises `InputError` where names
    or shapes differ.
    """
    filled = copy.deepcopy(model)  # so that weights of which one half does not fit leave the model as it is
    for name, weights in (("reconstructive", reconstructive), ("discriminative", discriminative)):
        try:
            getattr(filled, name).load_state_dict(rename_published(weights))
        except RuntimeError as error:
            raise InputError(
                f"{name}: weights do not fit ({one_line(error, 300)}); expected the authors' for this model"
            ) from None
    model.load_state_dict(filled.state_dict())


def count_parameters(module):
    """Number of trained values in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
