"""Nine kinds of made-up defects, each a plain function over a whole batch.

The published generator (DRAEM, section 3.3) pastes a foreign texture where Perlin noise passes a threshold; its masks
have a median of 3,500 pixels, AITEX's defects one of 95 a roll. So sizes here are log-uniform from 8 px up, and beside
Perlin texture and cut-paste (Li et al., CVPR 2021) there are kinds that woven cloth suggests: threads, spots, creases,
holes, and slips of the weave that no paint can imitate.

A kind is a function `(images, fabric, severity, generator) -> (corrupted, masks)`:

- images, corrupted: float32 `(B, C, H, W)` in [0, 1], any C
- fabric: float32 `(B, 1, H, W)` of 0 and 1, where there is cloth
- severity: float32 `(B,)` in [0, 1], from faint to strong; what it drives stands in each kind's docstring
- generator: `torch.Generator` on the images' device
- masks: float32 `(B, 1, H, W)` of 0 and 1, where threads or tone were changed, as bands rather than combs: gaps
  narrower than a thread's pitch are closed

`@kind` registers it under its name in `KINDS`, checks its arguments, and keeps its promises for it: nothing changes
off the fabric, values stay in [0, 1], and a sample is either corrupted, with a mask of 4 px or more, or untouched to
the bit, with an empty one. A kind of one's own is a function under that one line; inside it severity comes as
`(B, 1, 1, 1)`, ready to be multiplied with pictures. A kind with a fifth parameter `foreign` is given other pictures
of the batch to take cloth from (a batch of one has only itself).
"""

import inspect
import math
from functools import wraps

import torch
from torch.nn import functional as F

from draem_aitex.anomalies import shapes
from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.errors import InputError, check_unit

SMALLEST, LARGEST = 8, 6000  # pixels of area
PITCH = 9  # pixels from thread to thread; AITEX's fabrics have 7 to 10
MINIMUM_MASK = 4  # pixels
TILE = 16  # pixels; the size of the pieces in which a patch is permuted, a quarter of smaller pictures
KINDS = {}
MOVING = {"slip"}  # kinds that move cloth, and with it what was laid on it: only ever the first defect of a sample


def kind(function):
    """Register a kind of defect under its function's name, see the head of this module."""
    takes_foreign = "foreign" in inspect.signature(function).parameters

    def unchecked(images, fabric, severity, generator, foreign=None):
        more = (images.roll(1, 0) if foreign is None else foreign,) if takes_foreign else ()
        corrupted, masks = function(images, fabric, severity[:, None, None, None], generator, *more)
        if corrupted.shape != images.shape or masks.shape != fabric.shape:
            raise InputError(
                f"{function.__name__}: returned shapes {tuple(corrupted.shape)} and {tuple(masks.shape)}; expected "
                f"pictures {tuple(images.shape)} and masks {tuple(fabric.shape)}; correct the kind"
            )
        masks = masks * fabric
        kept = (masks.sum((1, 2, 3), keepdim=True) >= MINIMUM_MASK).float()
        return torch.lerp(images, corrupted.clamp(0, 1), fabric * kept), masks * kept

    @wraps(function)
    def checked(images, fabric, severity, generator, **foreign):
        check_images(images, fabric, generator)
        check_unit(images, "images")
        check_unit(fabric, "fabric")
        if severity.shape != (len(images),):
            raise InputError(f"severity: shape {tuple(severity.shape)}; expected ({len(images)},), one a sample")
        check_unit(severity, "severity")
        return unchecked(images, fabric, severity, generator, **foreign)

    checked.unchecked, checked.takes_foreign = unchecked, takes_foreign
    KINDS[function.__name__] = checked
    return checked


def check_images(images, fabric, generator):
    """Raise `InputError` for shapes and types that no kind can take; looks at no value."""
    if images.ndim != 4 or images.dtype != torch.float32 or 0 in images.shape:
        raise InputError(f"images: {images.dtype} of shape {tuple(images.shape)}; expected float32 (B, C, H, W)")
    wanted = (len(images), 1, *images.shape[2:])
    if tuple(fabric.shape) != wanted or fabric.dtype != torch.float32:
        raise InputError(
            f"fabric: {fabric.dtype} of shape {tuple(fabric.shape)}; expected float32 {wanted}, 1 on cloth and 0 off it"
        )
    if not isinstance(generator, torch.Generator) or generator.device.type != images.device.type:
        found = generator.device if isinstance(generator, torch.Generator) else repr(generator)
        raise InputError(
            f"generator: {found}; expected a torch.Generator on {images.device.type}, where the images are"
        )


@kind
def perlin_texture(images, fabric, severity, generator, foreign):
    """A texture where Perlin noise passes a threshold (DRAEM section 3.3), inside a blob of log-uniform area.

    Texture, a third of the samples each: other cloth, turned by 90 degrees (mirrored where a picture is not square);
    procedural noise; the patch itself, cut in
    tiles and permuted (MemSeg's idea). Severity is the opacity, 0.15 to 1: the paper draws it from 0.1 to 1, its code
    from 0.2 to 1.
    """
    shape = images.shape[-2:]
    noise = _noise(images, 2, 32, generator)
    passed = (noise > shapes.uniform(images, -0.1, 0.15, generator)).float()
    inside = (shapes.draw_blob(fabric, SMALLEST, LARGEST, 3, generator).squared < 1).float()
    other = foreign.flip(-1)
    other = (other.mT if shape[0] == shape[1] else other) * shapes.uniform(images, 0.6, 1.5, generator)
    grain = _noise(images, 8, 32, generator)
    procedural = shapes.uniform(images, 0.1, 0.9, generator) + grain * shapes.uniform(images, 0.1, 1, generator)
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    first, second = (chosen < 1 / 3).float(), (chosen < 2 / 3).float()
    texture = first * other + (second - first) * procedural + (1 - second) * _permuted(images, generator)
    masks = shapes.close_gaps(passed * inside, PITCH)
    return torch.lerp(images, texture.clamp(0, 1), masks * (0.15 + 0.85 * severity)), masks


@kind
def cut_paste(images, fabric, severity, generator):
    """A stout rectangle filled with cloth from elsewhere in the picture, turned and slightly toned.

    After CutPaste (Li et al., CVPR 2021, section 2.2). Severity drives the angle by which the cloth is turned, 5 to 90
    degrees, and its change of tone, up to 1.5 standard deviations of the cloth.
    """
    return _pasted(images, fabric, severity, generator, *shapes.draw_box(fabric, SMALLEST, LARGEST, (1, 3), generator))


@kind
def cut_paste_scar(images, fabric, severity, generator):
    """`cut_paste` in its second form: a scar, 6 to 30 times as long as it is broad (CutPaste, section 2.2)."""
    return _pasted(
        images, fabric, severity, generator, *shapes.draw_box(fabric, 4 * SMALLEST, LARGEST / 6, (6, 30), generator)
    )


@kind
def thread(images, fabric, severity, generator):
    """A thread too thin, too thick or missing, or a foreign one, along warp or weft or, three in ten, any direction.

    Half breadth 0.7 to 3.5 px, 10 px to all of the crop long. Too thin or thick is a change of tone; where it is
    missing (a third of the samples) the weave under it is gone as well. Severity is the contrast, 0.7 to 6 standard
    deviations of the cloth, darker or lighter, and how much of the weave is gone.
    """
    line = shapes.draw_line(fabric, 10, 3, generator, free=0.3)
    half = shapes.log_uniform(images, 0.7, 3.5, generator)
    turns = torch.sin(line.along * (2 * math.pi / shapes.log_uniform(images, 6, 60, generator)))  # of the yarn's twist
    profile = shapes.bell(line.distance / half).mul_(line.window)
    gone = shapes.coin(images, 1 / 3, generator) * (0.4 + 0.6 * severity) * profile
    flat = _mean(images, fabric) - images
    tone = _contrast(images, fabric, severity, generator) * profile * (1 + 0.4 * turns)
    masks = ((line.distance.abs() < 1.2 * half.clamp_min(1)).float()).mul_((line.window > 0.5).float())
    return images + gone * flat + tone, masks


@kind
def slip(images, fabric, severity, generator):
    """Threads displaced across a wandering line along weft or warp: nothing is painted, only the weave moves.

    What a broken pick is: of a thread that is gone, its neighbours close the gap, and from there on the weave is out
    of step. The two sides move apart or together by 0.5 to 8 px in all (severity, log scale; a pitch is 7 to 10),
    within 0.3 to 3 px of the line, and the move lasts or fades with the distance; half a pitch shows most, a whole one
    hardly. Round the line's ends it fans out,
    as round the end of a thread: no second line shows where it stops. In a quarter of the samples the gap stays open,
    a thin dark or light line. The mask is a band of 3 px to each side of the line: what lies behind it is moved but
    flawless.
    """
    line = shapes.draw_line(fabric, 24, 6, generator)
    amount = 0.5 * (8 / 0.5) ** severity * shapes.sign(images, generator)
    step = shapes.uniform(images, 0.3, 3, generator)
    reach = shapes.log_uniform(images, 6, 600, generator)
    # Both sides move by half: resampling blurs a little, and cloth blurred on one side would tell where the line is.
    moved = shapes.rise(line.distance / step).sub_(0.5).mul_(amount)
    away = line.distance.abs()
    moved = moved.mul_(shapes.rise((line.half - line.along.abs()).div_(1 + away))).mul_((away / -reach).exp_())
    cloth = _resampled(images, moved * line.down, moved * line.across, "border")
    ajar = shapes.coin(images, 0.25, generator) * _contrast(images, fabric, 0.7 * severity, generator)
    gap = shapes.bell(line.distance / shapes.uniform(images, 0.6, 2, generator)).mul_(line.window)
    masks = (away <= 3).float().mul_((line.window > 0.5).float())
    return cloth + ajar * gap, masks


@kind
def spot(images, fabric, severity, generator):
    """A nep, a knot or a fuzzball: 8 to 800 px with an uneven, hard or soft edge.

    Severity is its contrast, 0.7 to 6 standard deviations of the cloth, darker or lighter.
    """
    blob = shapes.draw_blob(fabric, SMALLEST, 800, 2, generator)
    ragged = _noise(images, 8, 32, generator)
    softness = shapes.uniform(images, 0.1, 0.6, generator) + 0.5 / blob.half
    profile = shapes.rise((1 - blob.squared - 1.2 * ragged) * (2 / softness))
    masks = shapes.close_gaps((profile > 0.4).float(), PITCH)
    return images + _contrast(images, fabric, severity, generator) * profile, masks


@kind
def stain(images, fabric, severity, generator):
    """Oil, dye or dirt: 200 to 6,000 px of cloudy tone under which the threads still show.

    Severity is its contrast, 0.4 to 3 standard deviations of the cloth, darker or lighter.
    """
    blob = shapes.draw_blob(fabric, 200, LARGEST, 3, generator)
    cloudy = _noise(images, 2, 10, generator)
    softness = shapes.uniform(images, 0.2, 1, generator)
    profile = shapes.rise((1 - blob.squared - cloudy) * (1.5 / softness)).mul_(1 + cloudy)
    masks = shapes.close_gaps((profile > 0.35).float(), PITCH)
    return images + _contrast(images, fabric, severity, generator, (0.4, 3)) * profile, masks


@kind
def crease(images, fabric, severity, generator):
    """A fold along warp or weft or, three in ten, any direction: light falls on it otherwise, no thread is moved.

    Tone alone: a ridge, or a bright side and a dark one, 2 to 10 px to each side. Severity is the change of
    brightness, 6 to 50 per cent.
    """
    line = shapes.draw_line(fabric, 30, 5, generator, free=0.3)
    half = shapes.log_uniform(images, 2, 10, generator)
    at = line.distance / half
    ridge = shapes.bell(at).mul_(line.window)
    two_sided = shapes.coin(images, 0.5, generator)
    profile = ridge * (two_sided * 2 * at + (1 - two_sided))
    change = 0.06 * (0.5 / 0.06) ** severity * shapes.sign(images, generator)
    masks = (at.abs() < 1.2).float().mul_((line.window > 0.5).float())
    return images * (1 + change * profile), masks


@kind
def hole(images, fabric, severity, generator):
    """Threads gone, 8 to 3,000 px: the background shows, dark or bright, and loose ends round it catch the light.

    Severity is how much of the background shows, 0.3 to 1.
    """
    blob = shapes.draw_blob(fabric, SMALLEST, 3000, 3, generator)
    ragged = _noise(images, 8, 32, generator)
    depth = (1 - blob.squared - ragged) * blob.half.clamp_max(8)
    open_ = shapes.rise(depth)
    background = 0.08 + 0.84 * shapes.coin(images, 0.5, generator)
    rim = 0.15 * severity * shapes.bell(depth + 1)
    masks = shapes.close_gaps((depth > -1.5).float(), PITCH)
    return torch.lerp(images, background.expand_as(images), open_ * (0.3 + 0.7 * severity)) + rim, masks


def _contrast(images, fabric, severity, generator, bounds=(0.7, 6)):
    """Signed contrast `(B, 1, 1, 1)`: severity, on a log scale, in standard deviations of each picture's cloth.

    AITEX's fuzzyballs are one to three of these darker than their cloth.
    """
    low, high = bounds
    # The plain formula: torch's own std takes longer than all the rest of a kind.
    variance = _mean(images * images, fabric) - _mean(images, fabric) ** 2
    spread = variance.clamp_min(0.02**2).sqrt()
    return low * (high / low) ** severity * spread * shapes.sign(images, generator)


def _mean(images, fabric):
    """Mean over each picture's cloth: `(B, 1, 1, 1)`."""
    pixels = fabric.sum((1, 2, 3), keepdim=True).clamp_min(1) * images.shape[1]
    return (images * fabric).sum((1, 2, 3), keepdim=True) / pixels


def _noise(images, low, high, generator):
    """Perlin noise `(B, 1, H, W)`, on a lattice of low to high cells along each axis of each sample."""
    counts, finest = shapes.lattice(images, low, high, generator)
    return perlin_noise(images.shape[-2:], counts, generator, finest)[:, None]


def _permuted(images, generator):
    """Each picture cut in tiles, their rows and their columns shuffled; a remainder stays where it is."""
    tile = max(1, min(TILE, *(length // 4 for length in images.shape[2:])))
    for axis in (2, 3):
        length = images.shape[axis]
        count = length // tile
        order = torch.randperm(count, generator=generator, device=images.device)
        index = torch.arange(length, device=images.device)
        index[: count * tile] = (order[:, None] * tile + index[:tile]).flatten()
        images = images.index_select(axis, index)
    return images


def _pasted(images, fabric, severity, generator, masks, y, x):
    """Fill a box with cloth from the middle half of the picture, turned; rows y and columns x count from the box."""
    height, width = images.shape[-2:]
    angle = (math.radians(5) + math.radians(85) * severity) * shapes.sign(images, generator)
    sin, cos = angle.sin(), angle.cos()
    down = shapes.uniform(images, 0.25, 0.75, generator) * height + y[:, :, :1]  # y begins at minus the box's row
    across = shapes.uniform(images, 0.25, 0.75, generator) * width + x[..., :1]
    cloth = _resampled(images, (cos - 1) * y + (sin * x + down), -sin * y + ((cos - 1) * x + across))
    tone = _contrast(images, fabric, severity, generator, (0.1, 1.5))
    return torch.lerp(images, (cloth + tone).clamp(0, 1), masks), shapes.close_gaps(masks, PITCH)


def _resampled(images, down, across, beyond="reflection"):
    """The pictures read `down` and `across` px beside each pixel, by cubic interpolation."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    grid = torch.empty(len(images), height, width, 2, device=images.device)
    # Written in place: stacking two fields would take as long as everything else here but the reading itself.
    torch.add((2 * x + 1) / width - 1, across[:, 0], alpha=2 / width, out=grid[..., 0])
    torch.add((2 * y + 1) / height - 1, down[:, 0], alpha=2 / height, out=grid[..., 1])
    return F.grid_sample(images, grid, mode="bicubic", padding_mode=beyond, align_corners=False)
