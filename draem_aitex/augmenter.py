"""The augmenter: defects on demand, a whole batch at once and on the batch's device.

The published generator (DRAEM, section 3.3) pastes a foreign texture where Perlin noise passes a threshold. Those
masks have a median of 3,500 pixels; AITEX's defects have one of 95 a roll. So sizes here are log-uniform from a few
pixels up, and beside the two published ideas (Perlin texture, cut-paste: Li et al., CVPR 2021) there are three kinds
that woven cloth suggests: a thread, a spot, and a slip of the threads along a wandering line.

A kind is a function `(images, severity, generator) -> (corrupted, masks)`: images and corrupted float32
`(B, 1, H, W)` in [0, 1], severity float32 `(B,)` in [0, 1], masks float32 `(B, 1, H, W)` of 0 and 1. To add one of
your own, write the function and register it: `KINDS["mine"] = my_kind`.
"""

import math
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from draem_aitex.errors import InputError
from draem_aitex.perlin import perlin_noise

SMALLEST, LARGEST = 8, 6000  # pixels of area, log-uniform between them
MINIMUM_MASK = 4  # pixels; a corruption that touched fewer counts as none


@dataclass(frozen=True)
class AugmenterConfig:
    """How the kinds are mixed."""

    clean_share: float = 0.3  # of the samples stay untouched; the paper's code has 0.5
    weights: dict = field(
        default_factory=lambda: {"perlin_texture": 0.125, "cut_paste": 0.125, "thread": 0.2, "spot": 0.15, "slip": 0.4}
    )


@dataclass(frozen=True)
class AugmentedBatch:
    """A corrupted batch.

    images, masks: float32 `(B, 1, H, W)`; kinds: int64 `(B,)`, 0 for untouched, i for the i-th of `names`;
    severity: float32 `(B,)`, 0 where untouched.
    """

    images: torch.Tensor
    masks: torch.Tensor
    kinds: torch.Tensor
    severity: torch.Tensor
    names: tuple

    def name(self, index):
        """What happened to one sample: the kind's name, or "untouched"."""
        kind = int(self.kinds[index])
        return self.names[kind - 1] if kind else "untouched"


class Augmenter:
    """Corrupts a batch: each sample stays clean or gets one kind, drawn by weight."""

    def __init__(self, config=None):
        self.config = config or AugmenterConfig()
        self.names = tuple(self.config.weights)
        unknown = sorted(set(self.names) - set(KINDS))
        if unknown:
            raise InputError(f"weights: unknown kind {unknown[0]!r}; expected some of {', '.join(KINDS)}")

    def __call__(self, images, generator=None):
        """images: float32 `(B, 1, H, W)` in [0, 1], all of it fabric. Returns an `AugmentedBatch`."""
        if images.ndim != 4 or images.shape[1] != 1:
            raise InputError(f"images: shape {tuple(images.shape)}; expected (B, 1, H, W); add the missing axes")
        batch, device = len(images), images.device
        weights = torch.tensor([*self.config.weights.values()], device=device, dtype=torch.float32)
        kinds = 1 + torch.multinomial(weights, batch, replacement=True, generator=generator)
        clean = torch.rand(batch, generator=generator, device=device) < self.config.clean_share
        kinds = kinds.masked_fill(clean, 0)
        severity = torch.rand(batch, generator=generator, device=device)
        corrupted, masks = images.clone(), torch.zeros_like(images)
        for number, name in enumerate(self.names, start=1):
            chosen = (kinds == number).nonzero()[:, 0]
            if len(chosen):
                corrupted[chosen], masks[chosen] = KINDS[name](images[chosen], severity[chosen], generator)
        kept = masks.sum((1, 2, 3)) >= MINIMUM_MASK
        shown = kept[:, None, None, None]
        return AugmentedBatch(
            torch.where(shown, corrupted, images), masks * shown, kinds * kept, severity * kept, self.names
        )


def perlin_texture(images, severity, generator=None):
    """Foreign texture where Perlin noise passes a threshold (DRAEM section 3.3), inside a blob of the drawn size.

    The source is another sample of the batch turned by 90 degrees, or fine procedural noise. Severity is the opacity,
    0.15 to 1 (the paper draws it from 0.1 to 1, its code from 0.2 to 1).
    """
    batch, _, height, width = images.shape
    noise = perlin_noise((height, width), _lattice(batch, (2, 32), generator, images.device), generator)
    inside = _blob_distance(images, generator)[0] < 1
    threshold = _uniform(batch, 0.0, 0.2, generator, images.device)
    masks = ((noise > threshold[:, None, None]) & inside).float()[:, None]
    fine = perlin_noise((height, width), _lattice(batch, (16, 64), generator, images.device), generator)
    level = _uniform(batch, 0.1, 0.9, generator, images.device)[:, None, None]
    procedural = (level + fine * _uniform(batch, 0.1, 1.0, generator, images.device)[:, None, None])[:, None]
    neighbour = images.roll(1, 0).flip(-1)
    if height == width:
        neighbour = neighbour.transpose(-1, -2)
    gain = _uniform(batch, 0.6, 1.5, generator, images.device)[:, None, None, None]
    from_cloth = _coin(batch, 0.5, generator, images.device)[:, None, None, None]
    texture = torch.where(from_cloth, neighbour * gain, procedural).clamp(0, 1)
    opacity = masks * (0.15 + 0.85 * severity)[:, None, None, None]
    return images + opacity * (texture - images), masks


def cut_paste(images, severity, generator=None):
    """A rectangle, stout or thin as a scar, filled with cloth from elsewhere, turned and slightly toned.

    After CutPaste (Li et al., CVPR 2021, section 2.2). Severity drives the angle by which the cloth is turned, 5 to 90
    degrees, and its change of tone, up to +-0.15.
    """
    batch, _, height, width = images.shape
    device = images.device
    _, (across, along), (half_across, half_along) = _blob_distance(images, generator, aspect=8)
    masks = ((across.abs() < half_across) & (along.abs() < half_along)).float()[:, None]
    angle = math.radians(5) + severity * math.radians(85) * _sign(batch, generator, device)
    shift = _uniform(2 * batch, -0.5, 0.5, generator, device).view(batch, 2)
    cos, sin = angle.cos(), angle.sin()
    # x stretches with the picture's aspect in normalised coordinates
    rotation = torch.stack(
        [cos, -sin * height / width, shift[:, 0], sin * width / height, cos, shift[:, 1]], dim=1
    ).view(batch, 2, 3)
    grid = F.affine_grid(rotation, images.shape, align_corners=False)
    cloth = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    tone = 0.15 * severity * _uniform(batch, -1, 1, generator, device)
    return torch.lerp(images, (cloth + tone[:, None, None, None]).clamp(0, 1), masks), masks


def thread(images, severity, generator=None):
    """A thread that is too thin, too thick, missing or foreign: a wandering line along warp or weft.

    1 to 6 px thick, 10 px to all of the crop long. Severity is its contrast, 0.06 to 0.5 of full range, lighter or
    darker.
    """
    batch = len(images)
    distance, window, _ = _line(images, generator)
    half = _log_uniform(batch, 0.7, 3.0, generator, images.device)[:, None, None]
    contrast = (0.06 + 0.44 * severity) * _sign(batch, generator, images.device)
    profile = torch.exp(-((distance / half) ** 2)) * window
    uneven = 0.75 + perlin_noise(images.shape[-2:], _lattice(batch, (8, 32), generator, images.device), generator) / 2
    corrupted = images + (contrast[:, None, None] * profile * uneven)[:, None]
    masks = ((distance.abs() < half.clamp_min(1) * 1.2) & (window > 0.5)).float()[:, None]
    return corrupted.clamp(0, 1), masks


def spot(images, severity, generator=None):
    """A nep, a knot, a fuzzball or a stain: an ellipse with an uneven, soft edge, lighter or darker.

    Severity is its contrast, 0.05 to 0.5 of full range.
    """
    batch = len(images)
    distance, _, (half, _) = _blob_distance(images, generator, largest=2000)
    uneven = perlin_noise(images.shape[-2:], _lattice(batch, (4, 24), generator, images.device), generator)
    distance = distance + 0.8 * uneven
    softness = _uniform(batch, 0.1, 0.5, generator, images.device)[:, None, None] + 0.5 / half
    profile = torch.sigmoid((1 - distance) / softness * 4)
    contrast = (0.05 + 0.45 * severity) * _sign(batch, generator, images.device)
    corrupted = images + (contrast[:, None, None] * profile)[:, None]
    return corrupted.clamp(0, 1), (profile > 0.4).float()[:, None]


def slip(images, severity, generator=None):
    """Threads displaced along a wandering line, as beside a broken pick: nothing is painted, only the weave moves.

    Behind the line the cloth is shifted by 0.4 to 8 px (severity, log scale), at once or over up to 2.5 px, and the
    shift lasts or fades with the distance. The mask is a band of 2 px to each side of the line.
    """
    batch, _, height, width = images.shape
    device = images.device
    distance, window, vertical = _line(images, generator, wander=0.06, shortest=24)
    shift = 0.4 * (8 / 0.4) ** severity * _sign(batch, generator, device)
    step = _uniform(batch, 0.3, 2.5, generator, device)[:, None, None]
    reach = _log_uniform(batch, 6, 400, generator, device)[:, None, None]
    moved = shift[:, None, None] * torch.sigmoid(distance / step * 2) * torch.exp(-distance.clamp_min(0) / reach)
    moved = moved * window
    y = torch.arange(height, device=device, dtype=torch.float32)[None, :, None] + torch.where(vertical, 0, moved)
    x = torch.arange(width, device=device, dtype=torch.float32)[None, None, :] + torch.where(vertical, moved, 0)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    corrupted = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # Interpolation blurs; only where threads moved, so the blur cannot give the rest away.
    corrupted = torch.where(moved[:, None].abs() > 0.02, corrupted, images)
    masks = ((distance.abs() <= 2) & (window > 0.5)).float()[:, None]
    return corrupted, masks


KINDS = {
    "perlin_texture": perlin_texture,
    "cut_paste": cut_paste,
    "thread": thread,
    "spot": spot,
    "slip": slip,
}


def _uniform(count, low, high, generator, device):
    return low + (high - low) * torch.rand(count, generator=generator, device=device)


def _log_uniform(count, low, high, generator, device):
    return low * (high / low) ** torch.rand(count, generator=generator, device=device)


def _coin(count, share, generator, device):
    return torch.rand(count, generator=generator, device=device) < share


def _sign(count, generator, device):
    return torch.where(_coin(count, 0.5, generator, device), 1.0, -1.0)


def _lattice(batch, bounds, generator, device):
    low, high = bounds
    return _log_uniform(2 * batch, low, high, generator, device).round().long().view(batch, 2)


def _blob_distance(images, generator, largest=LARGEST, aspect=3):
    """A turned ellipse of log-uniform area, somewhere in the picture.

    Returns `(distance, (across, along), (half_across, half_along))`: distance float32 `(B, H, W)`, 1 on the ellipse;
    pixel coordinates across and along its axes `(B, H, W)`; its half axes in px `(B, 1, 1)`.
    """
    batch, _, height, width = images.shape
    device = images.device
    area = _log_uniform(batch, SMALLEST, largest, generator, device)
    ratio = _log_uniform(batch, 1, aspect, generator, device)
    half_across = (area / math.pi / ratio).sqrt()[:, None, None]
    half_along = half_across * ratio[:, None, None]
    center = torch.rand(batch, 2, generator=generator, device=device)
    angle = _uniform(batch, 0, math.pi, generator, device)[:, None, None]
    y = torch.arange(height, device=device)[None, :, None] - center[:, 0, None, None] * height
    x = torch.arange(width, device=device)[None, None, :] - center[:, 1, None, None] * width
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    distance = ((along / half_along) ** 2 + (across / half_across) ** 2).sqrt()
    return distance, (across, along), (half_across, half_along)


def _line(images, generator, wander=0.03, shortest=10):
    """A slowly wandering line along weft (across the picture) or warp (down), of log-uniform length.

    Returns `(distance, window, vertical)`: signed distance from the line in px and a window along it, 1 on its
    length, both float32 `(B, H, W)`; vertical bool `(B, 1, 1)`.
    """
    batch, _, height, width = images.shape
    device = images.device
    vertical = _coin(batch, 0.5, generator, device)[:, None, None]
    y = torch.arange(height, device=device, dtype=torch.float32)[None, :, None]
    x = torch.arange(width, device=device, dtype=torch.float32)[None, None, :]
    along, across = torch.where(vertical, y, x), torch.where(vertical, x, y)
    length_along = torch.where(vertical, float(height), float(width))
    length_across = torch.where(vertical, float(width), float(height))
    curve = _uniform(batch, 0.05, 0.95, generator, device)[:, None, None] * length_across
    for waves in (0.5, 1.5, 4.0):
        phase = _uniform(batch, 0, 2 * math.pi, generator, device)[:, None, None]
        size = _uniform(batch, 0, wander / waves, generator, device)[:, None, None] * length_across
        curve = curve + size * torch.sin(2 * math.pi * waves * along / length_along + phase)
    longest = 2.0 * max(height, width)  # longer than the crop: the line runs through
    half = _log_uniform(batch, shortest, longest, generator, device)[:, None, None] / 2
    middle = _uniform(batch, 0, 1, generator, device)[:, None, None] * length_along
    window = torch.sigmoid((half - (along - middle).abs()) * 1.5)
    return across - curve, window, vertical
