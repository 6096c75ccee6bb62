import cv2
import numpy as np
import pytest
import torch

from draem_aitex.anomalies import shapes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pitch", [3, 9])
def test_closing_is_opencvs(pitch):
    """On an image with nothing round it, as here; OpenCV's own border would count as mask when it erodes."""
    masks = (torch.rand(4, 1, 60, 80, generator=seeded()) > 0.97).float()
    closed = shapes.close_gaps(masks, pitch)
    for mask, ours in zip(masks[:, 0], closed[:, 0], strict=True):
        wide = cv2.copyMakeBorder(mask.numpy(), *[2 * pitch] * 4, cv2.BORDER_CONSTANT)
        theirs = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((pitch, pitch)))
        assert np.array_equal(ours.numpy(), theirs[2 * pitch : -2 * pitch, 2 * pitch : -2 * pitch])
    assert (closed >= masks).all() and torch.equal(shapes.close_gaps(closed, pitch), closed)


def test_a_comb_of_threads_becomes_a_band():
    comb = torch.zeros(1, 1, 64, 64)
    comb[:, :, 20:40, 10:43:8] = 1
    closed = shapes.close_gaps(comb, 9)
    assert (closed[0, 0, 20:40, 10:43] == 1).all() and closed.sum() == 20 * 33


def test_bell_and_rise_are_exact_at_their_ends():
    t = torch.linspace(-3, 3, 601)
    bell, rise = shapes.bell(t), shapes.rise(t)
    assert (bell[t.abs() >= 2] == 0).all() and (bell - torch.exp(-(t**2))).abs().max() < 0.08
    assert (rise[t <= -1] == 0).all() and (rise[t >= 1] == 1).all() and (rise.diff() >= 0).all()


def test_blobs_have_the_areas_that_were_drawn():
    """Log-uniform between the bounds: quartiles at a quarter, half and three quarters of the way."""
    fabric = torch.zeros(2000, 1, 128, 128)
    fabric[:, :, 56:72, 56:72] = 1  # middles near the middle, so that no blob is cut off
    areas = (shapes.draw_blob(fabric, 8, 2000, 2, seeded())[0] < 1).sum((1, 2, 3)).float()
    at = torch.log(areas.quantile(torch.tensor([0.25, 0.5, 0.75])) / 8) / np.log(2000 / 8)
    assert (at - torch.tensor([0.25, 0.5, 0.75])).abs().max() < 0.05


def test_middles_lie_on_the_fabric():
    fabric = torch.zeros(500, 1, 128, 100)
    fabric[..., 60:] = 1
    squared, _ = shapes.draw_blob(fabric, 8, 8, 1, seeded())
    columns = squared.flatten(1).argmin(1) % 100
    assert (columns >= 58).all() and 70 < columns.float().mean() < 90


def test_lines_run_along_warp_and_weft_or_anywhere():
    fabric = torch.ones(400, 1, 64, 64)
    line = shapes.draw_line(fabric, 10, 3, seeded())
    leading = torch.stack([line.down, line.across]).abs().amax(0)
    assert leading.min() > np.cos(np.radians(shapes.TILT)) - 1e-3, "along a thread, but for a tilt"
    assert 0.4 < (line.down.abs() > 0.5).float().mean() < 0.6, "half along the weft"
    free = shapes.draw_line(fabric, 10, 3, seeded(), free=1.0)
    assert torch.stack([free.down, free.across]).abs().amax(0).min() < 0.8


def test_a_lines_distance_is_in_pixels():
    line = shapes.draw_line(torch.ones(64, 1, 64, 64), 10, 0, seeded())
    slope = torch.hypot(*torch.gradient(line.distance, dim=(2, 3)))
    assert (slope - 1).abs().max() < 1e-3
