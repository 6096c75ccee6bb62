"""The published augmenter: synthetic anomalies as the authors' data loader makes them (DRAEM, section 3.3).

For comparison with `augmenter.Augmenter`, and for training the published networks as they were trained. Where paper and
authors' code differ, this follows the code:

====================  ===================  =================================  ========================================
what                  paper                authors' code                      here
====================  ===================  =================================  ========================================
lattice               not given            2^0 to 2^5 cells along each axis   as the code
noise                 Perlin, thresholded  times sqrt(2), rotated by up to    as the code
                                           90 degrees, 0 outside; above 0.5
opacity of texture    0.1 to 1             0.2 to 1                           as the code
left untouched        not given            half, besides those with an        as the code
                                           empty mask
texture               DTD                  DTD, 3 of 10 operations of imgaug  any folder, the same by torchvision
normal image rotated  up to 45 degrees     up to 90, 3 in 10 samples          never; `training.sampler` augments crops
====================  ===================  =================================  ========================================

Of the operations two differ: imgaug changes gamma channel by channel, torchvision all channels alike; imgaug adds to
hue and saturation, torchvision shifts the hue and scales the saturation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from draem_aitex.anomalies.augmenter import AugmentedBatch
from draem_aitex.anomalies.kinds import check_batch
from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.anomalies.shapes import uniform
from draem_aitex.data.images import SUFFIXES
from draem_aitex.errors import InputError

FINEST_EXPONENT = 5  # lattices have 2^0 to 2^5 cells along an axis
THRESHOLD, UNTOUCHED, FAINTEST = 0.5, 0.5, 0.2  # of the noise times sqrt(2); share of the samples; opacity


@dataclass(frozen=True)
class PaperAugmenterConfig:
    """Settings of the published augmenter.

    textures: folder with texture images, such as DTD's `images`, in it or in folders below it.
    """

    textures: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "textures", str(self.textures))  # a Path would not load again from a checkpoint

    def build(self) -> "PaperAugmenter":
        """The augmenter that has these settings."""
        return PaperAugmenter(self)


class PaperAugmenter:
    """The published augmenter, with the interface of `augmenter.Augmenter`.

    Textures are read and changed one by one on the host, as in the authors' loader, so this is slow and waits for the
    device. Noise and masks are made on the images' device. Raises `InputError` where the folder has no images.
    """

    names = ("published",)

    def __init__(self, config: PaperAugmenterConfig) -> None:
        self.config = config
        found = sorted(Path(config.textures).rglob("*"))
        self.paths = [path for path in found if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
        if not self.paths:
            raise InputError(f"textures: {config.textures}: no images; expected a folder with some, such as DTD's")

    def __call__(self, images: Tensor, generator: Generator, fabric: Tensor | None = None) -> AugmentedBatch:
        """Corrupt a batch; the images given are left as they are.

        images: float32 `(B, 3, H, W)`, or `(B, 1, H, W)` for grey, in [0, 1], H and W 32 or more; generator and fabric
        as for `Augmenter`. The severity returned is the texture's opacity.

        Raises `InputError` for other images and for a texture that cannot be read.
        """
        check_batch(images, fabric, generator)
        if images.shape[1] not in (1, 3):
            raise InputError(f"images: {images.shape[1]} channels; expected 3, or 1 for grey")
        masks = paper_masks(images, generator) * (1 if fabric is None else fabric)
        masks = masks * (uniform(images, 0, 1, generator) >= UNTOUCHED)
        opacity = uniform(images, FAINTEST, 1, generator)
        drawn = torch.rand(len(images), 1 + 2 * len(operations()), generator=generator, device=images.device).tolist()
        textures = torch.stack([self.texture(numbers, images.shape[1:]) for numbers in drawn]).to(images)
        kinds = F.pad((masks.amax((2, 3)) > 0).long(), (0, 1))  # never a second one
        severity = opacity[:, :, 0, 0] * kinds
        return AugmentedBatch(torch.lerp(images, textures, masks * opacity), masks, kinds, severity, self.names)

    def texture(self, numbers: list[float], shape: torch.Size) -> Tensor:
        """One texture, float32 `(C, H, W)` in [0, 1], of the given shape.

        numbers: 21 from 0 to 1, which choose the file, three operations and their strengths.
        """
        channels, height, width = shape
        path = self.paths[int(numbers[0] * len(self.paths))]
        data, flag = np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
        image = cv2.imdecode(data, flag) if len(data) else None
        if image is None:
            raise InputError(f"{path}: not a readable image; expected a texture; take it out of the folder")
        texture = torch.from_numpy(cv2.resize(image, (width, height)).reshape(height, width, channels)).permute(2, 0, 1)
        order, strengths = np.array(numbers[1:]).reshape(2, -1)
        for index in order.argsort()[:3]:
            texture = [*operations().values()][index](texture, strengths[index])
        return texture.float() / 255


@cache
def operations() -> dict[str, Callable[[Tensor, float], Tensor]]:
    """The ten operations on a texture, uint8 `(C, H, W)`, with a strength from 0 to 1; ranges are the authors'."""
    from torchvision.transforms.v2 import functional as tv  # only where textures are read: it takes a second to import

    return {
        "gamma": lambda texture, u: tv.adjust_gamma(texture, 0.5 * 4**u),
        "brightness": lambda texture, u: (texture.float() * (0.8 + 0.4 * u) + 60 * u - 30).clamp(0, 255).byte(),
        "sharpness": lambda texture, u: tv.adjust_sharpness(texture, 2 * u),
        "hue and saturation": lambda texture, u: tv.adjust_saturation(tv.adjust_hue(texture, 0.4 * u - 0.2), 0.5 + u),
        "solarize": lambda texture, u: tv.solarize(texture, 32 + 192 * u) if u < 0.5 else texture,
        "posterize": lambda texture, u: tv.posterize(texture, 1 + round(7 * u)),
        "invert": lambda texture, u: tv.invert(texture), "autocontrast": lambda texture, u: tv.autocontrast(texture),
        "equalize": lambda texture, u: tv.equalize(texture),
        "rotate": lambda texture, u: tv.rotate(texture, 90 * u - 45),
    }  # fmt: skip


def paper_masks(images: Tensor, generator: Generator) -> Tensor:
    """Masks of the published augmenter: float32 `(B, 1, H, W)` of 0 and 1, some of them empty.

    images: `(B, C, H, W)`; only size and device count. Raises `InputError` for images under 32 px.
    """
    finest, size = 2**FINEST_EXPONENT, images.shape[-2:]
    if min(size) < finest:
        raise InputError(f"images: {tuple(size)} pixels; expected {finest} or more, as the finest lattice has cells")
    exponents = torch.randint(0, FINEST_EXPONENT + 1, (len(images), 2), generator=generator, device=images.device)
    noise = math.sqrt(2) * perlin_noise(size, 2**exponents, generator, finest)
    return (rotated(noise[:, None], uniform(images, -math.pi / 2, math.pi / 2, generator)) > THRESHOLD).float()


def rotated(images: Tensor, angle: Tensor) -> Tensor:
    """Images rotated about their middle; 0 where there was no image. angle: radians, `(B, 1, 1, 1)`."""
    height, width = images.shape[-2:]
    sin, cos, none = angle.sin(), angle.cos(), torch.zeros_like(angle)
    matrix = torch.cat([cos, -sin * height / width, none, sin * width / height, cos, none], dim=1).view(-1, 2, 3)
    return F.grid_sample(images, F.affine_grid(matrix, list(images.shape), align_corners=False), align_corners=False)
