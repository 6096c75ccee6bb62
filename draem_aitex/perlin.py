"""Perlin noise, a whole batch at a time and on any device (K. Perlin, SIGGRAPH 1985; the fade curve of 2002)."""

import math

import torch

from draem_aitex.errors import InputError


def fade(t):
    """Perlin's fade curve 6t^5 - 15t^4 + 10t^3: 0 at 0, 1 at 1, flat at both ends."""
    return t * t * t * (t * (t * 6 - 15) + 10)


def perlin_noise(shape, lattice, generator=None):
    """Gradient noise on a lattice of random unit vectors.

    shape: `(H, W)` of the picture in pixels, any size. lattice: int tensor `(B, 2)`, lattice cells down and across,
    one pair a sample; *more cells make finer noise* (anomalib's docstring has it the other way round).
    generator: on the lattice's device.

    Returns float32 `(B, H, W)`; 0 at every lattice point, never beyond +-sqrt(1/2), about +-0.5 in practice.
    """
    if lattice.ndim != 2 or lattice.shape[1] != 2 or int(lattice.min()) < 1:
        raise InputError(f"lattice: shape {tuple(lattice.shape)}; expected (B, 2) with counts of 1 or more")
    device, most = lattice.device, int(lattice.max())
    angles = 2 * math.pi * torch.rand(len(lattice), most + 1, most + 1, generator=generator, device=device)
    cell_y, in_y = _cells(shape[0], lattice[:, 0])
    cell_x, in_x = _cells(shape[1], lattice[:, 1])
    sample = torch.arange(len(lattice), device=device)[:, None, None]
    in_y, in_x = in_y[:, :, None], in_x[:, None, :]

    def corner(down, right):
        """Dot product of the corner's gradient with the way from the corner to each pixel."""
        angle = angles[sample, (cell_y + down)[:, :, None], (cell_x + right)[:, None, :]]
        return angle.cos() * (in_y - down) + angle.sin() * (in_x - right)

    top = torch.lerp(corner(0, 0), corner(0, 1), fade(in_x).expand(-1, shape[0], -1))
    bottom = torch.lerp(corner(1, 0), corner(1, 1), fade(in_x).expand(-1, shape[0], -1))
    return torch.lerp(top, bottom, fade(in_y).expand(-1, -1, shape[1]))


def _cells(length, counts):
    """Lattice cell and place in it, 0 to 1, of each pixel along one axis: int64 and float32 `(B, length)`."""
    at = torch.arange(length, device=counts.device)[None] * counts[:, None] / length
    cell = at.floor()
    return cell.long(), at - cell
