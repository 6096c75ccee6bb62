"""Paper mode: anomalies as the published generator makes them (DRAEM, section 3.3, and the authors' data loader).

For comparison with `augmenter.Augmenter`, and for training the published networks as they were trained. Where paper and
code differ, this follows the code:

| | paper | authors' code |
|---|---|---|
| lattice | not given | 2^0 to 2^5 cells along each axis |
| noise | Perlin, thresholded | times sqrt(2), turned by up to 90 degrees, 0 where it leaves the picture; above 0.5 |
| opacity of the texture | 0.1 to 1 | 0.2 to 1 |
| samples left untouched | not given | half, besides those with an empty mask |
| texture | DTD | DTD and 3 of 10 operations of imgaug (dead; here the same ten by torchvision, and any folder) |
| normal picture turned | up to 45 degrees | up to 90, 0.3 of the samples (not here: a matter of what is loaded) |
"""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from draem_aitex.anomalies.augmenter import AugmentedBatch
from draem_aitex.anomalies.kinds import check_images
from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.anomalies.shapes import uniform
from draem_aitex.errors import InputError, check_unit

FINEST_EXPONENT = 5  # lattices have 2^0 to 2^5 cells along an axis
THRESHOLD = 0.5  # of the noise times sqrt(2)
UNTOUCHED = 0.5  # share of the samples
FAINTEST = 0.2  # opacity
ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

# The ten operations: texture uint8 (C, H, W), and a number from 0 to 1 that sets how strong. Ranges are the authors';
# imgaug adds to hue and saturation, torchvision turns the one and scales the other.
OPERATIONS = {
    "gamma": lambda texture, u: tv.adjust_gamma(texture, 0.5 * 4**u),
    "brightness": lambda texture, u: (texture.float() * (0.8 + 0.4 * u) + 60 * u - 30).clamp(0, 255).byte(),
    "sharpness": lambda texture, u: tv.adjust_sharpness(texture, 2 * u),
    "hue and saturation": lambda texture, u: tv.adjust_saturation(tv.adjust_hue(texture, 0.4 * u - 0.2), 0.5 + u),
    "solarize": lambda texture, u: tv.solarize(texture, 32 + 192 * u) if u < 0.5 else texture,
    "posterize": lambda texture, u: tv.posterize(texture, 1 + round(7 * u)),
    "invert": lambda texture, u: tv.invert(texture),
    "autocontrast": lambda texture, u: tv.autocontrast(texture),
    "equalize": lambda texture, u: tv.equalize(texture),
    "rotate": lambda texture, u: tv.rotate(texture, 90 * u - 45),
}


class PaperAugmenter:
    """The published generator, with the interface of `augmenter.Augmenter`.

    folder: texture pictures (such as DTD), in it or in folders below it. Textures are read and changed one by one on
    the host, as in the authors' loader, so this is slow; noise and masks are made on the images' device.
    """

    names = ("published",)

    def __init__(self, folder):
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected one with texture pictures, such as DTD's images")
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
        if not self.paths:
            raise InputError(f"{folder}: no picture ({', '.join(ENDINGS)}); expected texture pictures in it")

    def __call__(self, images, generator, fabric=None):
        """Corrupt a batch.

        images: float32 `(B, 3, H, W)`, or `(B, 1, H, W)` for grey, in [0, 1], H and W of 32 or more; generator and
        fabric as for `Augmenter`. Returns an `AugmentedBatch`; severity is the texture's opacity. Raises `InputError`
        for other images and for a texture that cannot be read.
        """
        everywhere = torch.ones(1, device=images.device).expand(len(images), 1, *images.shape[2:])
        fabric = everywhere if fabric is None else fabric
        check_images(images, fabric, generator)
        check_unit(images, "images")
        if images.shape[1] not in (1, 3):
            raise InputError(f"images: {images.shape[1]} channels; expected 3, or 1 for grey")
        masks = paper_masks(images, generator) * fabric
        touched = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) >= UNTOUCHED
        masks = masks * touched
        opacity = uniform(images, FAINTEST, 1, generator)
        picked = torch.rand(len(images), 1 + 2 * len(OPERATIONS), generator=generator, device=images.device).cpu()
        textures = torch.stack([self.texture(row, images.shape[1:]) for row in picked]).to(images.device)
        corrupted = torch.lerp(images, textures, masks * opacity)
        kinds = torch.zeros(len(images), 2, dtype=torch.long, device=images.device)
        kinds[:, 0] = masks.amax((1, 2, 3)) > 0
        return AugmentedBatch(corrupted, masks, kinds, opacity[:, :, 0, 0] * kinds, self.names)

    def texture(self, numbers, shape):
        """One texture, float32 `(C, H, W)` in [0, 1]: `numbers`, 21 from 0 to 1, choose file, operations, strengths."""
        numbers = numbers.tolist()
        path = self.paths[int(numbers[0] * len(self.paths))]
        data = np.frombuffer(path.read_bytes(), np.uint8)
        flag = cv2.IMREAD_COLOR if shape[0] == 3 else cv2.IMREAD_GRAYSCALE
        picture = cv2.imdecode(data, flag) if len(data) else None
        if picture is None:
            raise InputError(f"{path}: not a readable picture; expected a texture; take it out of the folder")
        picture = cv2.resize(picture, (shape[2], shape[1])).reshape(*shape[1:], shape[0])
        texture = torch.from_numpy(picture).permute(2, 0, 1).flip(0)  # OpenCV's colours are blue, green, red
        lots, strengths = np.array(numbers[1:]).reshape(2, len(OPERATIONS))
        names = list(OPERATIONS)
        for index in lots.argsort()[:3]:
            texture = OPERATIONS[names[index]](texture, strengths[index])
        return texture.float() / 255


def paper_masks(images, generator):
    """Masks of the published generator: float32 `(B, 1, H, W)` of 0 and 1, some of them empty."""
    batch, device = len(images), images.device
    exponents = torch.randint(0, FINEST_EXPONENT + 1, (batch, 2), generator=generator, device=device)
    if min(images.shape[-2:]) < 2**FINEST_EXPONENT:
        raise InputError(
            f"images: {tuple(images.shape[-2:])} pixels; a lattice of {2**FINEST_EXPONENT} cells is finer than the "
            f"picture; expected {2**FINEST_EXPONENT} x {2**FINEST_EXPONENT} or more"
        )
    noise = math.sqrt(2) * perlin_noise(images.shape[-2:], 2**exponents, generator, 2**FINEST_EXPONENT)
    return (turned(noise[:, None], uniform(images, -math.pi / 2, math.pi / 2, generator)) > THRESHOLD).float()


def turned(pictures, angle):
    """Pictures turned about their middle by `angle`, radians `(B, 1, 1, 1)`; 0 where there was no picture."""
    height, width = pictures.shape[-2:]
    sin, cos = angle.sin().flatten(), angle.cos().flatten()
    none = torch.zeros_like(sin)
    matrix = torch.stack([cos, -sin * height / width, none, sin * width / height, cos, none], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, pictures.shape, align_corners=False)
    return F.grid_sample(pictures, grid, align_corners=False)
