import math

import numpy as np
import pytest
import torch

from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(shape, counts, angles):
    """Gradient noise for one sample, pixel by pixel, from Perlin's description."""
    image = np.zeros(shape)
    for y in range(shape[0]):
        for x in range(shape[1]):
            v, u = y * counts[0] / shape[0], x * counts[1] / shape[1]
            i, j = int(v), int(u)
            corners = {}
            for di in (0, 1):
                for dj in (0, 1):
                    angle = angles[i + di, j + dj]
                    corners[di, dj] = math.cos(angle) * (v - i - di) + math.sin(angle) * (u - j - dj)
            s, t = ((((6 * f - 15) * f + 10) * f**3) for f in (v - i, u - j))
            top = corners[0, 0] * (1 - t) + corners[0, 1] * t
            bottom = corners[1, 0] * (1 - t) + corners[1, 1] * t
            image[y, x] = top * (1 - s) + bottom * s
    return image


@pytest.mark.parametrize("finest", [None, 7, 12])
def test_values_against_the_reference(finest):
    """Counts that are no powers of two, and that do not divide the size; one lattice a sample."""
    lattice = torch.tensor([[3, 5], [1, 2], [7, 7]])
    noise = perlin_noise((20, 31), lattice, seeded(3), finest)
    points = (finest or 7) + 1
    angles = 2 * math.pi * torch.rand(3, points, points, generator=seeded(3)).double().numpy()
    for sample, counts in enumerate(lattice.tolist()):
        assert np.abs(noise[sample].numpy() - reference((20, 31), counts, angles[sample])).max() < 1e-5


def test_zero_on_the_lattice_and_bounded():
    noise = perlin_noise((64, 64), torch.full((8, 2), 8), seeded())
    assert noise[:, ::8, ::8].abs().max() < 1e-6
    assert noise.abs().max() <= math.sqrt(0.5) and noise.std() > 0.15


def test_more_cells_are_finer():
    coarse, fine = perlin_noise((128, 128), torch.tensor([[2, 2], [32, 32]]), seeded())
    assert fine.diff(dim=1).abs().mean() > 4 * coarse.diff(dim=1).abs().mean()


def test_one_cell_a_pixel_is_the_finest():
    assert perlin_noise((8, 16), torch.tensor([[8, 16]]), seeded()).abs().max() < 1e-5, "a lattice point on each pixel"
    with pytest.raises(InputError, match="9 cells along 8 pixels; expected at most 8"):
        perlin_noise((8, 16), torch.tensor([[9, 2]]), seeded())


@pytest.mark.parametrize(
    "lattice", [torch.tensor([[0, 2]]), torch.tensor([1, 2]), torch.tensor([[1.0, 2.0]]), torch.ones(1, 3, dtype=int)]
)
def test_bad_lattice(lattice):
    with pytest.raises(InputError, match="lattice"):
        perlin_noise((8, 8), lattice, seeded())
