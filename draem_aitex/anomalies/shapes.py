"""Where a synthetic anomaly lies: random numbers, blobs and lines for a whole batch, on the batch's device.

Fields are float32 `(B, 1, H, W)`, numbers one for each sample, `(B, 1, 1, 1)`. Fields are sums and products of one row
and one column for each sample, so that each costs one pass over its pixels. Nothing here waits for the device.

`like` and `fabric`, float32 `(B, C, H, W)`, give batch size, image size and device; `generator` is on that device.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from draem_aitex.anomalies.perlin import perlin_noise

WAVES = 3  # of a wandering line, each three times as fast and a third as high as the one before
WAVE_LENGTH = 256  # pixels, of the slowest
TILT = 3.0  # degrees by which a line along warp or weft may be off; the broken picks of AITEX climb up to 3


Box = tuple[Tensor, Tensor, Tensor]  # mask, rows, columns


@dataclass(frozen=True)
class Line:
    """A wandering line.

    distance: field, signed distance from it in px. along: field, px along it, 0 in its middle.
    half: number, half its length in px. extent: field, 1 on its length, 0 from a pixel beyond its ends on.
    down, across: numbers, the unit vector in which `distance` grows.
    """

    distance: Tensor
    along: Tensor
    half: Tensor
    extent: Tensor
    down: Tensor
    across: Tensor


def uniform(like: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """Numbers `(B, 1, 1, 1)`, one a sample of `like`, uniform from low to high."""
    return like.new_empty(len(like), 1, 1, 1).uniform_(low, high, generator=generator)


def log_uniform(like: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """Numbers `(B, 1, 1, 1)` whose logarithm is uniform: as often from 8 to 80 as from 80 to 800."""
    return uniform(like, math.log(low), math.log(high), generator).exp_()


def coin(like: Tensor, share: float, generator: Generator) -> Tensor:
    """1.0 with probability `share`, else 0.0: `(B, 1, 1, 1)`."""
    return like.new_empty(len(like), 1, 1, 1).bernoulli_(share, generator=generator)


def sign(like: Tensor, generator: Generator) -> Tensor:
    """+1 or -1: `(B, 1, 1, 1)`."""
    return coin(like, 0.5, generator).mul_(2).sub_(1)


def noise(like: Tensor, low: int, high: int, generator: Generator) -> Tensor:
    """Perlin noise: fields, on lattices of low to high cells along each axis, log-uniform, at most a cell a pixel."""
    high = min(high, *like.shape[-2:])
    low = min(low, high)
    counts = like.new_empty(len(like), 2).uniform_(math.log(low), math.log(high), generator=generator)
    return perlin_noise(like.shape[-2:], counts.exp_().round_().long(), generator, high)[:, None]


def draw_blob(fabric: Tensor, least: float, most: float, aspect: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """A turned ellipse with its middle on the fabric: `(squared, half)`.

    least, most: bounds of its log-uniform area in px; aspect: how many times as long as wide it may be.
    squared: field, the squared distance from its middle, 1 on the ellipse; half: number, its short half axis in px.
    """
    area, ratio, sin, cos, y, x = _turned(fabric, least, most, (1, aspect), generator)
    half = (area / math.pi / ratio).sqrt()
    along, across = (half * ratio) ** -2, half**-2
    squared = (along * sin**2 + across * cos**2) * y**2 + (along * cos**2 + across * sin**2) * x**2
    return squared.addcmul_(2 * sin * cos * (along - across) * y, x), half


def draw_line(fabric: Tensor, shortest: float, wander: float, generator: Generator, free: float = 0.0) -> Line:
    """A line through the fabric along weft or warp, half the samples each.

    shortest: the length is log-uniform from this many px to twice the image's longer side (then it runs through).
    wander: px by which its slowest wave may leave the straight. free: share of the samples with a line along any
    direction instead.
    """
    longest = 2.0 * max(fabric.shape[-2:])
    half = log_uniform(fabric, min(shortest, longest), longest, generator) / 2
    tilt = math.radians(TILT)
    angle = coin(fabric, 0.5, generator) * math.pi / 2 + uniform(fabric, -tilt, tilt, generator)
    angle = angle + coin(fabric, free, generator) * uniform(fabric, -math.pi / 2, math.pi / 2, generator)
    y, x = _axes(fabric, generator)
    sin, cos = angle.sin(), angle.cos()
    curve_y, curve_x = _wander(y, x, wander, generator)
    distance = (cos * y + sin.abs() * curve_y) + (cos.abs() * curve_x - sin * x)
    along = sin * y + cos * x
    return Line(distance, along, half, rise(half - along.abs()), cos, -sin)


def draw_box(fabric: Tensor, least: float, most: float, aspects: tuple[float, float], generator: Generator) -> Box:
    """A turned rectangle with its middle on the fabric: `(mask, y, x)`.

    least, most: bounds of its log-uniform area in px; aspects: bounds of length to width.
    mask: field of 0 and 1; y, x: rows `(B, 1, H, 1)` and columns `(B, 1, 1, W)` in px from its middle.
    """
    area, ratio, sin, cos, y, x = _turned(fabric, least, most, aspects, generator)
    half = (area / ratio).sqrt().clamp_min(2) / 2
    along, across = sin * y + cos * x, cos * y - sin * x
    return (along.abs() <= half * ratio).float().mul_((across.abs() <= half).float()), y, x


def _turned(fabric, least, most, aspects, generator):
    """Area, ratio of length to width, sine and cosine of the angle, and `_axes` of a shape that is turned anyhow."""
    area = log_uniform(fabric, least, most, generator)
    ratio = log_uniform(fabric, *aspects, generator)
    angle = uniform(fabric, 0, math.pi, generator)
    return area, ratio, angle.sin(), angle.cos(), *_axes(fabric, generator)


def bell(t: Tensor) -> Tensor:
    """`exp(-t^2)` to within 0.08, but exactly 0 from `|t| = 2` on.

    The tails of a true bell are denormal numbers, with which a CPU computes ten times more slowly.
    """
    return t.square().mul_(-0.25).add_(1).clamp_min_(0).square_().square_()  # (1 - t^2 / 4)^4


def rise(t: Tensor) -> Tensor:
    """A smooth step: 0 up to t = -1, 1/2 at 0, 1 from t = 1 on. Exact at both ends, for the same reason as `bell`."""
    t = (t + 1).mul_(0.5).clamp_(0, 1)
    return (t * -2).add_(3).mul_(t).mul_(t)  # 3 t^2 - 2 t^3


def close_gaps(masks: Tensor, pitch: int) -> Tensor:
    """Close gaps narrower than `pitch` px, an odd number, in masks of 0 and 1: dilation, then erosion by a square.

    What is displaced or covered lies on threads, and between two of them a pixel may look as before: the anomaly is
    a band, not a comb. Outside the image there is no mask.
    """
    dilated = _running_maximum(torch.nn.functional.pad(masks, [pitch - 1] * 4), pitch)
    return 1 - _running_maximum(1 - dilated, pitch)


def _running_maximum(fields, size):
    """Maximum over each square of `size` px inside the field: `(B, 1, H - size + 1, W - size + 1)`.

    Each round doubles the length covered, which on a CPU is ten times faster than max pooling.
    """
    for axis in (2, 3):
        covered = 1
        while covered < size:
            step = min(covered, size - covered)
            rest = fields.shape[axis] - step
            fields = torch.maximum(fields.narrow(axis, 0, rest), fields.narrow(axis, step, rest))
            covered += step
    return fields


def _axes(fabric, generator):
    """Pixels from a random position on the fabric: down as `(B, 1, H, 1)`, across as `(B, 1, 1, W)`.

    The position is looked for on a coarse grid, so it may lie half a step of that grid off the fabric. Where there is
    no fabric it is any position, and the mask comes out empty.
    """
    height, width = fabric.shape[-2:]
    step = max(1, min(height, width) // 16)
    coarse = fabric[:, 0, step // 2 :: step, step // 2 :: step]
    lots = coarse * (1e-3 + torch.rand(coarse.shape, generator=generator, device=fabric.device))
    chosen = lots.flatten(1).argmax(dim=1)[:, None, None, None]
    row = chosen // coarse.shape[2] * step + uniform(fabric, 0, step, generator)
    column = chosen % coarse.shape[2] * step + uniform(fabric, 0, step, generator)
    y = torch.arange(height, device=fabric.device, dtype=torch.float32)[:, None] - row.clamp_max(height - 1)
    x = torch.arange(width, device=fabric.device, dtype=torch.float32) - column.clamp_max(width - 1)
    return y, x


def _wander(y, x, most, generator):
    """A slow random curve at the rows y and at the columns x: sines of three lengths, the longer the higher."""
    at = torch.cat([y.flatten(1), x.flatten(1)], dim=1)[:, :, None]
    faster = 3.0 ** torch.arange(WAVES, device=at.device)
    numbers = torch.rand(len(at), 2, WAVES, generator=generator, device=at.device)
    phase, size = 2 * math.pi * numbers[:, :1], (most * numbers[:, 1] / faster)[:, :, None]
    curve = torch.sin(at * (2 * math.pi / WAVE_LENGTH * faster) + phase) @ size
    return curve[:, : y.shape[2]].reshape(y.shape), curve[:, y.shape[2] :].reshape(x.shape)
