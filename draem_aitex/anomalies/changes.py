"""How an anomaly changes pixels: contrasts in measures of the fabric, tiles and threads moved; and how well it is seen.

Images are float32 `(B, C, H, W)`, `fabric` and `masks` `(B, 1, H, W)`; numbers, one for each sample, `(B, 1, 1, 1)`.
"""

import torch
from torch import Generator, Tensor

from draem_aitex.anomalies import shapes

PITCH = 9  # pixels from thread to thread; AITEX's fabrics have 7 to 10
TILE = 16  # pixels; the size of the pieces in which an image is permuted, at most a quarter of its side


def visibility(images: Tensor, corrupted: Tensor, masks: Tensor, fabric: Tensor) -> Tensor:
    """How well an anomaly is seen: `(B, 1, 1, 1)`.

    The root mean square change under the mask, in standard deviations of each image's own fabric; where the mask is
    smaller than a square of one pitch, that times (area / pitch^2)^1/4, so that a speck of 8 px needs nearly twice the
    contrast. Threads displaced by a whole pitch change little by this measure, as they do for the eye.
    """
    area = masks.sum((1, 2, 3), keepdim=True).clamp_min(1)
    change = ((corrupted - images).square() * masks).mean(1, keepdim=True).sum((2, 3), keepdim=True) / area
    return change.sqrt() / deviation(images, fabric) * (area / PITCH**2).clamp_max(1) ** 0.25


def contrast(
    images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, low: float = 0.7, high: float = 6
) -> Tensor:
    """Signed contrast `(B, 1, 1, 1)`: severity, on a log scale, in standard deviations of each image's fabric.

    AITEX's fuzzyballs are one to three of these darker than their fabric.
    """
    return low * (high / low) ** severity * deviation(images, fabric) * shapes.sign(images, generator)


def deviation(images: Tensor, fabric: Tensor) -> Tensor:
    """Standard deviation over each image's fabric, 0.02 at least: `(B, 1, 1, 1)`."""
    # The plain formula: torch's own std takes longer than all the rest of a kind.
    variance = mean(images * images, fabric) - mean(images, fabric) ** 2
    return variance.clamp_min(0.02**2).sqrt()


def mean(images: Tensor, fabric: Tensor) -> Tensor:
    """Mean over each image's fabric: `(B, 1, 1, 1)`."""
    pixels = fabric.sum((1, 2, 3), keepdim=True).clamp_min(1) * images.shape[1]
    return (images * fabric).sum((1, 2, 3), keepdim=True) / pixels


def permuted(images: Tensor, generator: Generator) -> Tensor:
    """Each image cut in tiles, their rows and their columns shuffled; a remainder stays where it is."""
    tile = max(1, min(TILE, *(length // 4 for length in images.shape[2:])))
    for axis in (2, 3):
        index = torch.arange(images.shape[axis], device=images.device)
        tiles = index[: len(index) // tile * tile].view(-1, tile)
        tiles.copy_(tiles[torch.randperm(len(tiles), generator=generator, device=images.device)])
        images = images.index_select(axis, index)
    return images


def resampled(images: Tensor, down: Tensor, across: Tensor, beyond: str = "reflection") -> Tensor:
    """The images read `down` and `across` px beside each pixel, by bicubic interpolation."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    grid = torch.empty(len(images), height, width, 2, device=images.device)
    # Written in place: stacking two fields would take as long as all else here but the interpolation.
    torch.add((2 * x + 1) / width - 1, across[:, 0], alpha=2 / width, out=grid[..., 0])
    torch.add((2 * y + 1) / height - 1, down[:, 0], alpha=2 / height, out=grid[..., 1])
    sample = torch.nn.functional.grid_sample
    return sample(images, grid, mode="bicubic", padding_mode=beyond, align_corners=False)
