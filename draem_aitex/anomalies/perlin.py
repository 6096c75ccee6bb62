"""Perlin noise, a whole batch at a time and on any device (K. Perlin, SIGGRAPH 1985; the fade curve of 2002)."""

import math

import torch

from draem_aitex.errors import InputError


def fade(t):
    """Perlin's fade curve 6t^5 - 15t^4 + 10t^3: 0 at 0, 1 at 1, flat at both ends."""
    return t * t * t * (t * (t * 6 - 15) + 10)


def perlin_noise(shape, lattice, generator, finest=None):
    """Gradient noise on a lattice of random unit vectors.

    shape: `(H, W)` of the picture in pixels, any size. lattice: int tensor `(B, 2)`, lattice cells down and across,
    one pair a sample, any counts from 1 to one cell a pixel; *more cells make finer noise* (anomalib's docstring has
    it the other way round). generator: on the lattice's device. finest: the largest count that can occur, where the
    caller knows it; without it the lattice is looked at, for which a CUDA device has to be waited for.

    Returns float32 `(B, H, W)`; 0 at every lattice point, never beyond +-sqrt(1/2), about +-0.5 in practice (the
    authors' code multiplies by sqrt(2)). Raises `InputError` for a lattice of another form or finer than the picture.
    """
    finest = _check_lattice(shape, lattice, finest)
    angles = 2 * math.pi * torch.rand(len(lattice), finest + 1, finest + 1, generator=generator, device=lattice.device)
    weight_y, slope_y = _influence(shape[0], lattice[:, 0], finest)
    weight_x, slope_x = _influence(shape[1], lattice[:, 1], finest)
    # Each lattice point adds gradient . (pixel - point), faded down and across. Both directions at once, as one
    # product of matrices: that is what makes it fast.
    down = torch.cat([slope_y @ angles.cos(), weight_y @ angles.sin()], dim=2)
    across = torch.cat([weight_x, slope_x], dim=2)
    return down @ across.mT


def _influence(length, counts, finest):
    """How each lattice line acts on each pixel along one axis: faded weight and weight * distance.

    Both float32 `(B, length, finest + 1)`. A line is felt within one cell: fade(1 - distance), which is the usual
    blend of a cell's two borders, since fade(1 - t) = 1 - fade(t).
    """
    at = torch.arange(length, device=counts.device) * counts[:, None] / length
    offset = at[:, :, None] - torch.arange(finest + 1, device=counts.device)
    weight = fade((1 - offset.abs()).clamp_min(0))
    return weight, weight * offset


def _check_lattice(shape, lattice, finest):
    if lattice.ndim != 2 or lattice.shape[1] != 2 or lattice.is_floating_point():
        raise InputError(
            f"lattice: {lattice.dtype} of shape {tuple(lattice.shape)}; expected whole numbers (B, 2), cells down and "
            "across for each sample"
        )
    if finest is None:
        least, finest = int(lattice.min()), int(lattice.max())
        if least < 1:
            raise InputError(f"lattice: {least} cells; expected 1 or more along each axis")
        for axis, length in enumerate(shape):
            if int(lattice[:, axis].max()) > length:
                raise InputError(
                    f"lattice: {int(lattice[:, axis].max())} cells along {length} pixels is finer than the picture; "
                    f"expected at most {length}; take fewer cells or a larger picture"
                )
    return finest
