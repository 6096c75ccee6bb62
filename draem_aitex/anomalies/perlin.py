"""Perlin noise, a whole batch at a time and on any device (K. Perlin, SIGGRAPH 1985; the fade curve of 2002)."""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from draem_aitex.errors import InputError, check_type


def fade(t: Tensor) -> Tensor:
    """Perlin's fade curve 6t^5 - 15t^4 + 10t^3: 0 at 0, 1 at 1, flat at both ends. Takes and returns any shape."""
    return t * t * t * (t * (t * 6 - 15) + 10)


def perlin_noise(shape: Sequence[int], lattice: Tensor, generator: Generator, finest: int | None = None) -> Tensor:
    """Gradient noise on a lattice of random unit vectors.

    shape: `(H, W)` of the image in pixels, any size.
    lattice: int tensor `(B, 2)`, lattice cells down and across for each sample, from 1 to one cell a pixel. *More cells
    make finer noise* (anomalib's docstring has it the other way round).
    generator: on the lattice's device.
    finest: the largest number of cells that can occur, where the caller knows it. Without it the values of `lattice`
    are read and checked, which on CUDA waits for the device.

    Returns float32 `(B, H, W)`: 0 at every lattice point, never beyond +-sqrt(1/2), about +-0.5 in practice (the
    authors' code multiplies by sqrt(2)). Raises `InputError` for a lattice of another form or finer than the image.
    """
    finest = _check_lattice(shape, lattice, finest)
    angles = 2 * math.pi * torch.rand(len(lattice), finest + 1, finest + 1, generator=generator, device=lattice.device)
    weight_y, slope_y = _influence(shape[0], lattice[:, 0], finest)
    weight_x, slope_x = _influence(shape[1], lattice[:, 1], finest)
    # Each lattice point adds gradient . (pixel - point), faded down and across. Both directions together are one
    # matrix product, which is what makes it fast.
    down = torch.cat([slope_y @ angles.cos(), weight_y @ angles.sin()], dim=2)
    across = torch.cat([weight_x, slope_x], dim=2)
    return down @ across.mT


def _influence(length, counts, finest):
    """How each lattice line acts on each pixel along one axis: faded weight and weight * distance.

    Both float32 `(B, length, finest + 1)`. A line acts up to one cell away, with fade(1 - distance). That is the usual
    blend between the two borders of a cell, since fade(1 - t) = 1 - fade(t).
    """
    at = torch.arange(length, device=counts.device) * counts[:, None] / length
    offset = at[:, :, None] - torch.arange(finest + 1, device=counts.device)
    weight = fade((1 - offset.abs()).clamp_min(0))
    return weight, weight * offset


def _check_lattice(shape, lattice, finest):
    check_type("lattice", lattice, Tensor)
    if len(shape) != 2 or min(shape) < 1 or not len(lattice):
        raise InputError(
            f"shape: {tuple(shape)}, lattice: {len(lattice)}; expected (H, W) and a sample, 1 or more each"
        )
    if lattice.ndim != 2 or lattice.shape[1] != 2 or lattice.is_floating_point():
        raise InputError(f"lattice: {lattice.dtype} {tuple(lattice.shape)}; expected whole numbers, cells (B, 2)")
    if finest is not None:
        return finest
    if (least := int(lattice.min())) < 1:
        raise InputError(f"lattice: {least} cells; expected 1 or more along each axis")
    for cells, length in zip(lattice.amax(dim=0).tolist(), shape, strict=True):
        if cells > length:
            raise InputError(f"lattice: {cells} cells along {length} pixels; expected at most {length}, one a pixel")
    return int(lattice.max())
