"""Where a made-up defect lies: numbers, blobs and lines drawn for a whole batch, on the batch's device.

All fields are float32 `(B, 1, H, W)`, all numbers `(B, 1, 1, 1)`. They are sums and products of one row and one column
a sample, so a field costs one pass over its pixels. Nothing here waits for the device.
"""

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

WAVES = 3  # of a wandering line, each three times as fast and a third as high as the one before
WAVE_LENGTH = 256  # pixels, of the slowest
TILT = 3.0  # degrees by which a line along warp or weft may be off; the broken picks of AITEX climb up to 3


@dataclass(frozen=True)
class Blob:
    """A turned ellipse. squared: squared distance from its middle, 1 on the ellipse; half: short half axis, px."""

    squared: torch.Tensor
    half: torch.Tensor


@dataclass(frozen=True)
class Line:
    """A wandering line. distance: signed, px, from it; along: px along it, 0 in its middle; half: half its length, px;
    window: 1 on its length, 0 a pixel beyond its ends; (down, across): the unit vector in which `distance` grows.
    """

    distance: torch.Tensor
    along: torch.Tensor
    half: torch.Tensor
    window: torch.Tensor
    down: torch.Tensor
    across: torch.Tensor


def uniform(like, low, high, generator):
    """Numbers `(B, 1, 1, 1)`, one a sample of `like`, even between low and high."""
    return _numbers(like).uniform_(low, high, generator=generator)


def log_uniform(like, low, high, generator):
    """Numbers `(B, 1, 1, 1)`, as often between 8 and 80 as between 80 and 800."""
    return uniform(like, math.log(low), math.log(high), generator).exp_()


def coin(like, share, generator):
    """1.0 for `share` of the samples, else 0.0: `(B, 1, 1, 1)`."""
    return _numbers(like).bernoulli_(share, generator=generator)


def sign(like, generator):
    """+1 or -1: `(B, 1, 1, 1)`."""
    return coin(like, 0.5, generator).mul_(2).sub_(1)


def _numbers(like):
    return torch.empty(len(like), 1, 1, 1, device=like.device)


def lattice(like, low, high, generator):
    """Lattices for `perlin_noise`: int64 `(B, 2)` and the finest count, never more than a cell a pixel."""
    high = min(high, *like.shape[-2:])
    low = min(low, high)
    counts = torch.empty(len(like), 2, device=like.device).uniform_(math.log(low), math.log(high), generator=generator)
    return counts.exp_().round_().long(), high


def draw_blob(fabric, smallest, largest, aspect, generator):
    """An ellipse with its middle on the fabric; area log-uniform in px, long axis up to `aspect` times the short."""
    area = log_uniform(fabric, smallest, largest, generator)
    ratio = log_uniform(fabric, 1, aspect, generator)
    half = (area / math.pi / ratio).sqrt()
    angle = uniform(fabric, 0, math.pi, generator)
    y, x = _axes_from(fabric, *_middle(fabric, generator))
    along, across = (half * ratio) ** -2, half**-2
    sin, cos = angle.sin(), angle.cos()
    squared = (along * sin**2 + across * cos**2) * y**2 + (along * cos**2 + across * sin**2) * x**2
    return Blob(squared.addcmul_(2 * sin * cos * (along - across) * y, x), half)


def draw_line(fabric, shortest, wander, generator, free=0.0):
    """A line through the fabric along weft or warp, half each; `free` of the samples: along any direction.

    Length log-uniform from `shortest` px to twice the picture (then it runs through); wander: px by which its slowest
    wave may leave the straight.
    """
    longest = 2.0 * max(fabric.shape[-2:])
    half = log_uniform(fabric, min(shortest, longest), longest, generator) / 2
    tilt = math.radians(TILT)
    angle = coin(fabric, 0.5, generator) * math.pi / 2 + uniform(fabric, -tilt, tilt, generator)
    angle = angle + coin(fabric, free, generator) * uniform(fabric, -math.pi / 2, math.pi / 2, generator)
    y, x = _axes_from(fabric, *_middle(fabric, generator))
    sin, cos = angle.sin(), angle.cos()
    curve_y, curve_x = _wander(y, x, wander, generator)
    distance = (cos * y + sin.abs() * curve_y) + (cos.abs() * curve_x - sin * x)
    along = sin * y + cos * x
    window = rise(half - along.abs())
    return Line(distance, along, half, window, cos, -sin)


def draw_box(fabric, smallest, largest, aspects, generator):
    """A turned rectangle with its middle on the fabric, `(mask, y, x)`: mask of 0 and 1; rows `(B, 1, H, 1)` and
    columns `(B, 1, 1, W)` of pixels from its middle. aspects: bounds of length to breadth."""
    area = log_uniform(fabric, smallest, largest, generator)
    ratio = log_uniform(fabric, *aspects, generator)
    half = (area / ratio).sqrt().clamp_min(2) / 2
    angle = uniform(fabric, 0, math.pi, generator)
    y, x = _axes_from(fabric, *_middle(fabric, generator))
    along, across = angle.sin() * y + angle.cos() * x, angle.cos() * y - angle.sin() * x
    mask = (along.abs() <= half * ratio).float().mul_((across.abs() <= half).float())
    return mask, y, x


def bell(t):
    """exp(-t^2) to within 0.08, but exactly 0 from |t| = 2 on.

    The tails of a true bell are denormal numbers, with which a CPU computes ten times more slowly.
    """
    return t.square().mul_(-0.25).add_(1).clamp_min_(0).square_().square_()  # (1 - t^2 / 4)^4


def rise(t):
    """A smooth step: 0 up to t = -1, 1/2 at 0, 1 from t = 1 on. Exact at both ends, for the same reason as `bell`."""
    t = (t + 1).mul_(0.5).clamp_(0, 1)
    return (t * -2).add_(3).mul_(t).mul_(t)  # 3 t^2 - 2 t^3


def close_gaps(masks, pitch):
    """Close gaps narrower than `pitch` px, an odd number, in masks of 0 and 1: dilation, then erosion by a square.

    What is displaced or covered lies on threads, and between two of them a pixel may look as before: the defect is
    a band, not a comb. Outside the picture there is no mask.
    """
    dilated = _running_maximum(F.pad(masks, [pitch - 1] * 4), pitch)
    return 1 - _running_maximum(1 - dilated, pitch)


def _running_maximum(fields, size):
    """Maximum over each square of `size` px that lies inside: `(B, 1, H - size + 1, W - size + 1)`.

    By doubling its reach, which is ten times faster than a pooling on a CPU.
    """
    for axis in (2, 3):
        reached = 1
        while reached < size:
            step = min(reached, size - reached)
            rest = fields.shape[axis] - step
            fields = torch.maximum(fields.narrow(axis, 0, rest), fields.narrow(axis, step, rest))
            reached += step
    return fields


def _middle(fabric, generator):
    """A place on the fabric, or within half a step of the coarse grid on which it is looked for: row and column,
    `(B, 1, 1, 1)` each. Without fabric it is some place, and the mask comes out empty."""
    height, width = fabric.shape[-2:]
    step = max(1, min(height, width) // 16)
    coarse = fabric[:, 0, step // 2 :: step, step // 2 :: step]
    lots = coarse * (1e-3 + torch.rand(coarse.shape, generator=generator, device=fabric.device))
    cell = lots.flatten(1).argmax(dim=1)[:, None, None, None]
    inside = [uniform(fabric, 0, step, generator) for _ in range(2)]
    row, column = cell // coarse.shape[2], cell % coarse.shape[2]
    return (row * step + inside[0]).clamp_max(height - 1), (column * step + inside[1]).clamp_max(width - 1)


def _axes_from(fabric, row, column):
    """Pixels from a place: down as `(B, 1, H, 1)`, across as `(B, 1, 1, W)`."""
    y = torch.arange(fabric.shape[2], device=fabric.device, dtype=torch.float32)[:, None]
    x = torch.arange(fabric.shape[3], device=fabric.device, dtype=torch.float32)
    return y - row, x - column


def _wander(y, x, most, generator):
    """A slow random curve, at the rows y and at the columns x: sines of three lengths, the longer the higher."""
    at = torch.cat([y.flatten(1), x.flatten(1)], dim=1)[:, :, None]
    faster = 3.0 ** torch.arange(WAVES, device=at.device)
    numbers = torch.rand(len(at), 2, WAVES, generator=generator, device=at.device)
    phase, size = 2 * math.pi * numbers[:, :1], (most * numbers[:, 1] / faster)[:, :, None]
    curve = torch.sin(at * (2 * math.pi / WAVE_LENGTH * faster) + phase) @ size
    return curve[:, : y.shape[2]].reshape(y.shape), curve[:, y.shape[2] :].reshape(x.shape)
