"""Nine kinds of synthetic anomaly, each a plain function over a whole batch.

The published generator (DRAEM, section 3.3) pastes a foreign texture where Perlin noise passes a threshold. Its masks
have a median of 3,500 pixels, those of AITEX's rolls one of 95. So sizes here are log-uniform from 8 px up, and beside
Perlin texture and cut-paste (Li et al., CVPR 2021) there are kinds that woven fabric suggests: threads, spots, creases,
holes, and slips of the weave, which no pasted texture can imitate.

A kind is a function `(images, fabric, severity, generator) -> (corrupted, masks)`:

- images, corrupted: float32 `(B, C, H, W)` in [0, 1], any C
- fabric: float32 `(B, 1, H, W)`, 1 on the fabric and 0 off it
- severity: float32 `(B,)` in [0, 1], from faint to strong; each kind's docstring says what it sets
- generator: `torch.Generator` on the images' device
- masks: float32 `(B, 1, H, W)` of 0 and 1, 1 where threads or tone were changed; gaps narrower than a thread's pitch
  are closed, so that a mask is a band and not a comb

`@kind` registers a function in `KINDS` under its name. A registered kind checks its arguments, changes nothing off the
fabric, keeps values in [0, 1], and corrupts a sample so that it can be seen (`VISIBLE`), with a mask of 4 px or more,
or else leaves it exactly as it was, with an empty mask. To add a kind, write a function under that one line; severity
reaches it as `(B, 1, 1, 1)`, ready to be multiplied with images. A parameter named `foreign` is given other images of
the batch to take fabric from (a batch of one has only itself), one named `scale` a number: how large a defect may be,
compared with AITEX's (`sizes`).
"""

import inspect
import math
from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import torch
from torch import Generator, Tensor

from draem_aitex.anomalies import shapes
from draem_aitex.anomalies.changes import PITCH, contrast, mean, permuted, resampled, visibility
from draem_aitex.devices import check_generator
from draem_aitex.errors import InputError, check_type, check_unit

SMALLEST, LARGEST = 8, 6000  # pixels of area
MINIMUM_MASK = 4  # pixels
# Least visibility, see `visibility`. A change of tone over many threads, and a line where threads do not meet, is seen
# where a speck of the same strength is lost in the weave.
VISIBLE, VISIBLE_OF = 0.9, {"slip": 0.5, "crease": 0.5, "stain": 0.6}
KINDS: dict[str, "Kind"] = {}
OF_THREADS = ("thread", "slip")  # kinds that make sense where threads are seen
MOVING = {"slip"}  # kinds that move the fabric and whatever lies on it, so they only ever come first on a sample
Changed = tuple[Tensor, Tensor]  # images and masks


class Kind:
    """A registered kind: the function with its arguments checked and its promises kept, see the head of this module."""

    def __init__(self, function: Callable[..., Changed]) -> None:
        update_wrapper(self, function)
        self.function = function
        takes = inspect.signature(function).parameters
        self.takes_foreign, self.takes_scale = "foreign" in takes, "scale" in takes

    def __call__(
        self, images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, foreign: Tensor | None = None,
        checked: bool = False, scale: float = 1.0,
    ) -> Changed:  # fmt: skip
        """Corrupt a batch.

        foreign: as `images`, for kinds that take it; without it each sample is given the one before it.
        checked: the caller has checked the arguments; looking at values waits for a CUDA device. scale: of sizes.

        Raises `InputError` for other shapes, types and ranges.
        """
        if not checked:
            check_type("images", images, Tensor)
            check_batch(images, fabric, generator)
            if severity.shape != (len(images),):
                raise InputError(f"severity: shape {tuple(severity.shape)}; expected ({len(images)},), one a sample")
            check_unit(severity, "severity")
        more: dict[str, Any] = {"foreign": images.roll(1, 0) if foreign is None else foreign, "scale": scale}
        taken = {"foreign": self.takes_foreign, "scale": self.takes_scale}
        more = {name: value for name, value in more.items() if taken[name]}
        corrupted, masks = self.function(images, fabric, severity[:, None, None, None], generator, **more)
        found, wanted = ([tuple(part.shape) for part in pair] for pair in ((corrupted, masks), (images, fabric)))
        if found != wanted:
            raise InputError(f"{self.function.__name__}: returned shapes {found}; expected {wanted}; correct the kind")
        masks, corrupted = masks * fabric, torch.lerp(images, corrupted.clamp(0, 1), fabric)
        seen = visibility(images, corrupted, masks, fabric) >= VISIBLE_OF.get(self.function.__name__, VISIBLE)
        kept = seen & (masks.sum((1, 2, 3), keepdim=True) >= MINIMUM_MASK)
        return torch.where(kept, corrupted, images), masks * kept


def kind(function: Callable[..., Changed]) -> Kind:
    """Register a kind of synthetic anomaly under its function's name, see the head of this module."""
    KINDS[function.__name__] = registered = Kind(function)
    return registered


def check_batch(images: Tensor, fabric: Tensor | None, generator: Generator, values: bool = True) -> None:
    """Raise `InputError` for images, fabric or a generator that no augmenter can take.

    values: also look whether images and fabric lie in [0, 1]; on CUDA this waits for the device.
    """
    device, shape = images.device.type, tuple(images.shape)
    if len(shape) != 4 or images.dtype != torch.float32 or 0 in shape:
        raise InputError(f"images: {images.dtype} of shape {shape}; expected float32 (B, C, H, W) in [0, 1]")
    wanted = (shape[0], 1, *shape[2:])
    if fabric is not None and (tuple(fabric.shape) != wanted or fabric.dtype != torch.float32):
        raise InputError(f"fabric: {fabric.dtype} {tuple(fabric.shape)}; expected float32 {wanted}, of 0 and 1")
    check_generator(generator, device)
    for name, given in (("images", images), ("fabric", fabric)):
        if values and given is not None:
            check_unit(given, name)


def sizes(images: Tensor, least: float, most: float, scale: float) -> tuple[float, float]:
    """Bounds of an area in px, for images `scale` times as large as AITEX's rolls are high.

    In smaller images the smallest defects are smaller too; in larger ones small defects stay, and large ones grow to
    half a crop at most.
    """
    if scale <= 1:
        return max(MINIMUM_MASK, least * scale**2), max(2 * MINIMUM_MASK, most * scale**2)
    return least, max(most, min(most * scale**2, images.shape[-2] * images.shape[-1] / 2))


@kind
def perlin_texture(
    images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, foreign: Tensor, scale: float = 1.0
) -> Changed:
    """A texture where Perlin noise passes a threshold (DRAEM section 3.3), inside a blob of log-uniform area.

    The texture, a third of the samples each: another image's fabric, turned by 90 degrees (mirrored where images are
    not square); procedural noise; the image itself, cut in tiles and permuted (an idea of MemSeg). Severity is the
    opacity, 0.15 to 1. The paper draws it from 0.1 to 1, its code from 0.2 to 1.
    """
    noise = shapes.noise(images, 2, 32, generator)
    passed = (noise > shapes.uniform(images, -0.1, 0.15, generator)).float()
    inside = (shapes.draw_blob(fabric, *sizes(images, SMALLEST, LARGEST, scale), 3, generator)[0] < 1).float()
    other = foreign.flip(-1)
    other = (other.mT if other.shape[-2] == other.shape[-1] else other) * shapes.uniform(images, 0.6, 1.5, generator)
    grain = shapes.noise(images, 8, 32, generator)
    procedural = shapes.uniform(images, 0.1, 0.9, generator) + grain * shapes.uniform(images, 0.1, 1, generator)
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    texture = torch.where(chosen < 1 / 3, other, torch.where(chosen < 2 / 3, procedural, permuted(images, generator)))
    masks = shapes.close_gaps(passed * inside, PITCH)
    return torch.lerp(images, texture.clamp(0, 1), masks * (0.15 + 0.85 * severity)), masks


@kind
def cut_paste(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, scale: float = 1.0) -> Changed:
    """A rectangle, up to three times as long as wide, filled with fabric from elsewhere in the image.

    After CutPaste (Li et al., CVPR 2021, section 2.2). Severity sets the angle by which the fabric is turned, 30 to 90
    degrees, and its change of tone, up to 1.5 standard deviations of the fabric.
    """
    return _pasted(images, fabric, severity, generator, *sizes(images, SMALLEST, LARGEST, scale), (1, 3))


@kind
def cut_paste_scar(
    images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, scale: float = 1.0
) -> Changed:
    """The second form of `cut_paste`: a scar, 6 to 30 times as long as wide (CutPaste, section 2.2)."""
    return _pasted(images, fabric, severity, generator, *sizes(images, 4 * SMALLEST, LARGEST / 6, scale), (6, 30))


@kind
def thread(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator) -> Changed:
    """A thread too thin, too thick, missing or foreign, along warp or weft or, three in ten, in any direction.

    Half width 0.7 to 3.5 px, length 10 px up to all of the crop. Too thin or too thick is a change of tone; where the
    thread is missing (a third of the samples) its weave is gone as well. Severity is the contrast, 0.7 to 6 standard
    deviations of the fabric, darker or lighter, and how much of the weave is gone.
    """
    line = shapes.draw_line(fabric, 10, 3, generator, free=0.3)
    half = shapes.log_uniform(images, 0.7, 3.5, generator)
    turns = torch.sin(line.along * (2 * math.pi / shapes.log_uniform(images, 6, 60, generator)))  # of the yarn's twist
    profile = shapes.bell(line.distance / half).mul_(line.extent)
    gone = shapes.coin(images, 1 / 3, generator) * (0.4 + 0.6 * severity) * profile
    flat = mean(images, fabric) - images
    tone = contrast(images, fabric, severity, generator) * profile * (1 + 0.4 * turns)
    masks = ((line.distance.abs() < 1.2 * half.clamp_min(1)).float()).mul_((line.extent > 0.5).float())
    return images + gone * flat + tone, masks


@kind
def slip(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator) -> Changed:
    """Threads displaced across a wandering line along weft or warp: no tone changes, only the weave moves.

    This is how a broken pick looks: where a thread is gone its neighbours close the gap, and from there on the weave is
    out of step. The two sides move apart or together by 0.5 to 8 px in all (severity, log scale; the pitch is 7 to 10),
    within 0.3 to 3 px of the line; half a pitch shows most, a whole one hardly. The move fades slowly or fast with the
    distance and fans out round the ends of the line, as round the end of a thread, so that no second line shows there.
    In a quarter of the samples the gap stays open, a thin dark or light line. The mask is a band of 3 px to each side
    of the line: what lies beyond is moved but normal.
    """
    line = shapes.draw_line(fabric, 24, 6, generator)
    amount = 0.5 * (8 / 0.5) ** severity * shapes.sign(images, generator)
    step = shapes.uniform(images, 0.3, 3, generator)
    decay = shapes.log_uniform(images, 6, 600, generator)  # px over which the move fades
    # Both sides move by half: resampling blurs a little, and blur on one side alone would show where the line is.
    moved = shapes.rise(line.distance / step).sub_(0.5).mul_(amount)
    away = line.distance.abs()
    moved = moved.mul_(shapes.rise((line.half - line.along.abs()).div_(1 + away))).mul_((away / -decay).exp_())
    slipped = resampled(images, moved * line.down, moved * line.across, "border")
    ajar = shapes.coin(images, 0.25, generator) * contrast(images, fabric, 0.7 * severity, generator)
    gap = shapes.bell(line.distance / shapes.uniform(images, 0.6, 2, generator)).mul_(line.extent)
    masks = (away <= 3).float().mul_((line.extent > 0.5).float())
    return slipped + ajar * gap, masks


@kind
def spot(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, scale: float = 1.0) -> Changed:
    """A nep, a knot or a fuzzball: 8 to 800 px with an uneven, hard or soft edge.

    Severity is its contrast, 0.7 to 6 standard deviations of the fabric, darker or lighter.
    """
    squared, half = shapes.draw_blob(fabric, *sizes(images, SMALLEST, 800, scale), 2, generator)
    ragged = shapes.noise(images, 8, 32, generator)
    softness = shapes.uniform(images, 0.1, 0.6, generator) + 0.5 / half
    profile = shapes.rise((1 - squared - 1.2 * ragged) * (2 / softness))
    masks = shapes.close_gaps((profile > 0.4).float(), PITCH)
    return images + contrast(images, fabric, severity, generator) * profile, masks


@kind
def stain(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, scale: float = 1.0) -> Changed:
    """Oil, dye or dirt: 200 to 6,000 px of cloudy tone under which the threads still show.

    Severity is its contrast, 0.4 to 3 standard deviations of the fabric, darker or lighter.
    """
    squared, _ = shapes.draw_blob(fabric, *sizes(images, 200, LARGEST, scale), 3, generator)
    cloudy = shapes.noise(images, 2, 10, generator)
    softness = shapes.uniform(images, 0.2, 1, generator)
    profile = shapes.rise((1 - squared - cloudy) * (1.5 / softness)).mul_(1 + cloudy)
    masks = shapes.close_gaps((profile > 0.35).float(), PITCH)
    return images + contrast(images, fabric, severity, generator, 0.4, 3) * profile, masks


@kind
def crease(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator) -> Changed:
    """A fold along warp or weft or, three in ten, in any direction: brightness changes, no thread is moved.

    A ridge, or a bright side and a dark one, 2 to 10 px to each side. Severity is the change of brightness, 6 to 50 %.
    """
    line = shapes.draw_line(fabric, 30, 5, generator, free=0.3)
    half = shapes.log_uniform(images, 2, 10, generator)
    at = line.distance / half
    ridge = shapes.bell(at).mul_(line.extent)
    two_sided = shapes.coin(images, 0.5, generator)
    profile = ridge * (two_sided * 2 * at + (1 - two_sided))
    change = 0.06 * (0.5 / 0.06) ** severity * shapes.sign(images, generator)
    masks = (at.abs() < 1.2).float().mul_((line.extent > 0.5).float())
    return images * (1 + change * profile), masks


@kind
def hole(images: Tensor, fabric: Tensor, severity: Tensor, generator: Generator, scale: float = 1.0) -> Changed:
    """Threads gone, 8 to 3,000 px: the background shows, dark or bright, with a bright rim of loose ends.

    Severity is how much of the background shows, 0.3 to 1.
    """
    squared, half = shapes.draw_blob(fabric, *sizes(images, SMALLEST, 3000, scale), 3, generator)
    ragged = shapes.noise(images, 8, 32, generator)
    depth = (1 - squared - ragged) * half.clamp_max(8)
    open_ = shapes.rise(depth)
    background = 0.08 + 0.84 * shapes.coin(images, 0.5, generator)
    rim = 0.15 * severity * shapes.bell(depth + 1)
    masks = shapes.close_gaps((depth > -1.5).float(), PITCH)
    return torch.lerp(images, background.expand_as(images), open_ * (0.3 + 0.7 * severity)) + rim, masks


def _pasted(images, fabric, severity, generator, smallest, largest, aspects):
    """A box filled with fabric from the middle half of the image, turned."""
    masks, y, x = shapes.draw_box(fabric, smallest, largest, aspects, generator)
    height, width = images.shape[-2:]
    angle = (math.radians(30) + math.radians(60) * severity) * shapes.sign(images, generator)
    sin, cos = angle.sin(), angle.cos()
    # y and x count from the box's middle, so they begin at minus its row and column.
    down = shapes.uniform(images, 0.25, 0.75, generator) * height + y[:, :, :1]
    across = shapes.uniform(images, 0.25, 0.75, generator) * width + x[..., :1]
    turned = resampled(images, (cos - 1) * y + (sin * x + down), -sin * y + ((cos - 1) * x + across))
    tone = contrast(images, fabric, severity, generator, 0.1, 1.5)
    return torch.lerp(images, (turned + tone).clamp(0, 1), masks), shapes.close_gaps(masks, PITCH)
