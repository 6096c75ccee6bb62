"""The pair of networks of DRAEM (Zavrtanik et al., ICCV 2021, section 3).

The reconstructive network, an encoder-decoder *without* skip connections, reconstructs the input as it would look
without an anomaly. The discriminative network, a U-Net *with* skips, sees reconstruction and input together and
predicts a mask of where they differ in a way that matters. One definition serves two presets: `paper` is the published
pair (97 M parameters, seconds a step on a laptop), `compact` the same shape with narrow widths, for live training.
"""

import copy
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from draem_aitex.errors import InputError, check_choice, check_seed, check_type, check_unit
from draem_aitex.model.unet import NetworkConfig, UNet

# `compact`: of plain blocks this small the first network paints grey for all of a lesson; with a linear path and nearly
# all of its weights at the lowest level it paints threads within a minute and leaves defects out. The second needs to
# see specks of a few pixels, for which plain blocks did as well and are cheaper. With ReLU the narrow pair came to
# encode fabric by active features and everything odd by none at all, so that the strongest anomalies all scored
# sigmoid(bias), in no order. With aligned corners a score would depend on the image's width.
PRESETS = {
    "compact": NetworkConfig(
        reconstructive=(16, 32, 64, 96), discriminative=(16, 32, 64, 128), classes=1, stem=2, negative_slope=0.1,
        upsampling="nearest", up_convolution=False, reconstructive_block="residual", residual=(0, 0, 0, 8),
    ),
    "paper": NetworkConfig(),
}  # fmt: skip


class DRAEM(nn.Module):
    """Both networks in a row.

    images: float32 `(B, channels, H, W)` in [0, 1], any H and W (mirrored outwards inside, cropped back).

    Returns `(reconstruction, logits)`: `(B, channels, H, W)`, not clipped, and `(B, 1, H, W)`, positive where an
    anomaly is more likely than not. The discriminative network's input has the order of the authors' code,
    (reconstruction, image). Of two classes the logit is their difference: its sigmoid is the softmax of the anomaly.

    Raises `InputError` for other shapes, channels or dtypes and, on the CPU, for values outside [0, 1]; on a GPU
    reading values would wait for the device.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels, blocks = config.channels, (config.reconstructive_block, config.discriminative_block)
        self.reconstructive = UNet(channels, channels, config.reconstructive, False, config, blocks[0])
        self.discriminative = UNet(2 * channels, config.classes, config.discriminative, True, config, blocks[1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images to reconstruction and logits, see the class."""
        self._check(images)
        height, width = images.shape[-2:]
        padded = mirror_to_multiple(images, self.config.multiple)
        reconstruction = self.reconstructive(padded)
        logits = self.discriminative(torch.cat([reconstruction, padded], dim=1))
        if self.config.classes == 2:
            logits = logits[:, 1:] - logits[:, :1]
        return reconstruction[..., :height, :width], logits[..., :height, :width]

    def _check(self, images):
        check_type("images", images, Tensor)
        dtype, channels, shape = self.reconstructive.head.weight.dtype, self.config.channels, tuple(images.shape)
        if len(shape) != 4 or shape[1] != channels or images.dtype != dtype or not images.numel():
            wanted = f"expected {dtype} of shape (B, {channels}, H, W) in [0, 1]"
            hint = "; repeat grey images: images.expand(-1, 3, -1, -1)" * (channels == 3 and shape[1:2] == (1,))
            raise InputError(f"images: {images.dtype} of shape {shape}; {wanted}{hint}")
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            check_unit(images.detach(), "images")


def mirror_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Mirror images `(..., H, W)` outwards, down and to the right, until both sides are multiples of `multiple` pixels.

    Unlike padding with reflection this takes images smaller than what is added: they are mirrored several times.
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


def build_draem(preset: str | NetworkConfig = "compact", seed: int = 0, channels: int = 1) -> DRAEM:
    """A fresh pair of networks, its weights drawn from the seed; torch's global random state stays as it was.

    preset: a name in `PRESETS`, or a `NetworkConfig`, which brings its own channels. channels: of the images, with a
    name. Weights start as PyTorch draws them; the authors' code draws those of convolutions from N(0, 0.02).

    Raises `InputError` for an unknown name.
    """
    if isinstance(preset, str):
        check_choice("preset", preset, PRESETS)
        preset = replace(PRESETS[preset], channels=channels)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return DRAEM(preset)


def fold_batch_norm(model: DRAEM) -> DRAEM:
    """A copy for inference, each batch norm folded into the convolution before it; the original stays as it is.

    In evaluation mode a batch norm is a factor and an offset per channel, which the convolution can include.
    Outputs agree to 1e-5.
    """
    folded = copy.deepcopy(model).eval()
    for block in (module for module in folded.modules() if isinstance(module, nn.Sequential)):
        for index, (layer, norm) in enumerate(pairwise(list(block))):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[index], block[index + 1] = nn.utils.fuse_conv_bn_eval(layer, norm), nn.Identity()
    return folded


def count_parameters(module: nn.Module) -> int:
    """Number of trained values in a module."""
    return sum(parameter.numel() for parameter in module.parameters())
