"""The sampler: all training rolls live on the device, and random crops are gathered there by index.

All defect-free rolls of AITEX are about 115 MB as bytes. Held in one tensor they need no worker processes, no
decoding in the loop and no copy per step; the same lines run on a CPU and on a GPU.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from draem_aitex.data.rolls import Roll
from draem_aitex.devices import Device, check_generator, pick_device
from draem_aitex.errors import ABOVE_0, InputError, check_number, check_type

# Crops drawn evenly hardly ever show the selvedge, and its outermost columns only where a crop starts exactly there.
EDGE_SHARE = 0.4  # of the crops lie at the fabric's left edge: half of these start on it, half within EDGE_COLUMNS
EDGE_COLUMNS = 64
MIRRORED = 4  # times the side of an image, a crop may be: of less there is nothing but its mirrored copies to see
# Fields that change slowly over a crop are drawn on so many positions along an axis and interpolated.
KNOTS, TONE_KNOTS = 6, 3
SLACK = 16  # rows gathered above and below a crop, for threads that wander
STRIPE = 3  # times a crop's height: as many rows are gathered for one, of images that have them


@dataclass(frozen=True)
class NormalAugmentation:
    """How normal fabric varies, from recording to recording and from place to place, beyond what training rolls show.

    AITEX's camera is a line scanner: each image row is one line of the sensor, and how far apart two rows lie on the
    fabric depends on how fast it moved. Rolls of one fabric differ by more than a factor of two in threads per row.
    Threads also wander, lie in bars of another density, and are lighter here than there. Crops that show it are *hard
    normals*: without them whatever is not quite regular scores as high as a small defect. Raises `InputError` for
    values outside the ranges below.
    """

    share: float = 0.5  # of the crops are stretched along the rows
    stretch: tuple[float, float] = (0.3, 1.9)  # roll rows per crop row, log-uniform between the two
    wander_share: float = 0.5  # of the crops have threads that wander
    wander: float = 3.0  # pixels; the displacement's standard deviation is uniform up to this; it changes over 25 px
    bar_share: float = 0.25  # of the crops have a bar, 10 to 60 rows high, of another density of picks
    density: float = 1.4  # greatest factor of that density, up or down, log-uniform
    tone: float = 0.06  # standard deviation of a slow change of tone, as a part of the grey level
    contrast: float = 1.3  # greatest factor about the crop's mean, up or down, log-uniform
    brightness: float = 0.08  # greatest offset, up or down, uniform

    def __post_init__(self) -> None:
        for name in ("share", "wander_share", "bar_share"):
            check_number(name, getattr(self, name), 0, 1, "a share from 0 to 1")
        for name in ("density", "contrast"):
            check_number(name, getattr(self, name), 1, expected="a factor of 1 or more")
        check_number("wander", self.wander, 0, expected="0 pixels or more")
        check_number("tone", self.tone, 0, 1, "a part from 0 to 1")
        check_number("brightness", self.brightness, 0, 1, "an offset from 0 to 1")
        check_type("stretch", self.stretch, tuple, list)
        if len(self.stretch) != 2:
            raise InputError(f"stretch: {self.stretch}; expected two numbers above 0, the smaller first")
        check_number("stretch", self.stretch[0], ABOVE_0, expected="two numbers above 0")
        check_number("stretch", self.stretch[1], self.stretch[0], expected="two numbers, the smaller first")


class CropSampler:
    """Random square crops of the fabric of a list of rolls.

    Rolls may differ in height and width. What is smaller than a crop is mirrored until it is as large, see `MIRRORED`.
    Crops of rolls whose edges were looked for lie at the left edge more often, see `EDGE_SHARE`; those of others lie
    anywhere.

    Args:
        rolls: `data.rolls.Roll`.
        crop: side of a crop in pixels.
        device: where the rolls are kept and the crops gathered.
        normal_augmentation: how crops are varied; without it they are pieces of the rolls, pixel for pixel.
        channels: of the crops; grey is repeated.

    Raises:
        InputError: no rolls, one much smaller than a crop, colour for crops of one channel, or crops that cannot be
            stretched as asked.
    """

    def __init__(
        self, rolls: list[Roll], crop: int, device: Device = "auto",
        normal_augmentation: NormalAugmentation | None = None, channels: int = 1,
    ) -> None:  # fmt: skip
        if not rolls:
            raise InputError("rolls: none given; expected at least one defect-free training roll; check the folder")
        for roll in rolls:
            check_type("rolls", roll, Roll)
        check_number("crop", crop, 1, whole=True)
        check_number("channels", channels, 1, whole=True)
        for roll in rolls:
            height, width = roll.image.shape[0], roll.edges[1] - roll.edges[0]
            if MIRRORED * min(height, width) < crop:
                least = math.ceil(crop / MIRRORED)
                found = f"{roll.name}: {width} x {height} pixels for crops of {crop} x {crop}"
                raise InputError(f"{found}; expected {least} x {least} or more; leave it out or take smaller crops")
        planes = {roll.image.shape[2] if roll.image.ndim == 3 else 1 for roll in rolls}
        if not planes <= {1, channels} or len(planes) > 1:
            found = f"rolls: images of {' and '.join(map(str, sorted(planes)))} channels for networks of {channels}"
            raise InputError(f"{found}; expected the same; read them with channels={channels}")
        fabric = [_at_least(roll.image[:, slice(*roll.edges)], crop) for roll in rolls]
        heights, widths = (torch.tensor([image.shape[axis] for image in fabric]) for axis in (0, 1))
        self.crop, self.channels, self.normal_augmentation = crop, channels, normal_augmentation
        tallest = max(map(len, fabric))
        if normal_augmentation is not None:
            low, high = normal_augmentation.stretch
            most = (tallest - 1) / max(crop - 1, 1) if normal_augmentation.share else math.inf
            limit = f"crops of {crop} pixels of rolls of {tallest} rows can have {most:.3g} at most"
            if low > most:
                raise InputError(f"stretch: from {low:g}; {limit}; give a smaller stretch or smaller crops")
            if high > most:
                warnings.warn(f"stretch: up to {high:g} was asked for; {limit}, which is used", stacklevel=2)
            self.stretch = low, min(high, most)
        # They lie end to end in one long strip, only fabric in it; below a lower one its last row is repeated.
        below = [[(0, tallest - len(image))] + [(0, 0)] * (image.ndim - 1) for image in fabric]
        strip = np.concatenate([np.pad(*pair, mode="edge") for pair in zip(fabric, below, strict=True)], axis=1)
        device = pick_device(device)
        planes_first = strip[None] if strip.ndim == 2 else np.ascontiguousarray(strip.transpose(2, 0, 1))
        self.strip = torch.from_numpy(planes_first).to(device)  # (1 or 3, H, W)
        self.windows = self.strip.unfold(1, crop, 1).unfold(2, crop, 1)  # every crop there is; a view, nothing copied
        self.rows = min(tallest, STRIPE * crop)
        self.stripes = self.strip.unfold(1, self.rows, 1).unfold(2, crop, 1)  # every stripe of a crop's width; a view
        self.heights = heights.to(device)
        self.free = (widths - crop + 1).to(device)  # start columns that leave room for a crop, per roll
        self.first = (widths.cumsum(0) - widths).to(device)
        shares = [EDGE_SHARE if roll.reading.find_edges else 0.0 for roll in rolls]
        self.edge_share = torch.tensor(shares, device=device)
        self.spread = {count: _interpolation(count, crop).to(device) for count in (KNOTS, TONE_KNOTS)}

    def __call__(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Draw crops: float32 `(batch, channels, crop, crop)` in [0, 1]. generator: on the sampler's device."""
        check_number("batch", batch, 1, whole=True)
        device = self.strip.device
        check_generator(generator, device.type)
        roll = torch.randint(len(self.free), (batch,), generator=generator, device=device)
        position = torch.rand(batch, 3, generator=generator, device=device)
        anywhere = position[:, 0] * self.free[roll]
        at_edge = ((2 * position[:, 0] - 1) * EDGE_COLUMNS).clamp_min(0).minimum(self.free[roll] - 1)
        x = self.first[roll] + torch.where(position[:, 2] < self.edge_share[roll], at_edge, anywhere).long()
        if self.normal_augmentation is not None:
            crops = self._varied(x, position[:, 1], self.heights[roll], generator, self.normal_augmentation)
        else:
            y = (position[:, 1] * (self.heights[roll] - self.crop + 1)).long()
            crops = self.windows[:, y, x].transpose(0, 1).float() / 255
        return crops.expand(-1, self.channels, -1, -1)

    def _varied(self, x, down, heights, generator, augmentation):
        """Crops from column x on, `down` (0 to 1) the roll: threads displaced, contrast and tone varied."""
        rows, columns = self._positions(len(x), down, heights, generator, augmentation)
        top = (rows[:, 0, 0].long() - SLACK).clamp(min=0).minimum(heights.clamp_min(self.rows) - self.rows)
        stripes = self.stripes[:, top, x].transpose(0, 1).float()  # (B, 1 or 3, rows, crop)
        rows = rows - top[:, None, None]
        grid = torch.stack([2 * columns / (self.crop - 1) - 1, 2 * rows / (self.rows - 1) - 1], dim=-1)
        read = torch.nn.functional.grid_sample
        crops = read(stripes, grid, mode="bicubic", padding_mode="border", align_corners=True) / 255
        tone = self._slow(self._drawn((len(x), 1, TONE_KNOTS, KNOTS), generator))
        crops = crops * (1 + augmentation.tone * tone)
        contrast, brightness = torch.rand(2, len(x), 1, 1, 1, generator=generator, device=x.device)
        mean = crops.mean((2, 3), keepdim=True)
        gain = augmentation.contrast ** (2 * contrast - 1)
        return ((crops - mean) * gain + mean + (2 * brightness - 1) * augmentation.brightness).clamp(0, 1)

    def _positions(self, batch, down, heights, generator, augmentation):
        """Row of the roll and column of the stripe of each pixel of the crops: two tensors `(B, crop, crop)`."""
        draws = torch.rand(8, batch, 1, generator=generator, device=down.device)
        stretched, much, barred, dense, top, tall, wanders, far = draws
        (least, high), last = self.stretch, (heights - 1)[:, None]
        scale = torch.where(stretched < augmentation.share, least * (high / least) ** much, torch.ones_like(much))
        at = torch.arange(self.crop, device=down.device).expand(batch, -1)
        density = torch.where(
            barred < augmentation.bar_share, augmentation.density ** (2 * dense - 1), torch.ones_like(dense)
        )
        in_bar = (at - top * self.crop).clamp_min(0).minimum(10 + 50 * tall)  # rows of it that lie above
        rows = scale * (at + (density - 1) * in_bar)
        # A crop shows no more rows than there are, nor than are gathered for it.
        most = last if self.rows == self.strip.shape[1] else last.clamp_max(self.rows - 2 * SLACK - 2)
        rows = rows * (most / rows[:, -1:]).clamp_max(1)
        start = down[:, None] * (last - rows[:, -1:])
        whole = (scale == 1) & (density == 1)
        rows = rows + torch.where(whole, start.round(), start)  # whole rows stay as they are
        knots = self._drawn((batch, 2, KNOTS, KNOTS), generator)
        # Threads stay where they are at the crop's border, beyond which there may be none.
        for border in (knots[:, :, 0], knots[:, :, -1], knots[..., 0], knots[..., -1]):
            border.zero_()
        moved = self._slow(knots * (augmentation.wander * far * (wanders < augmentation.wander_share))[..., None, None])
        return rows[:, :, None] + moved[:, 0], at[:, None] + moved[:, 1]

    def _drawn(self, shape, generator):
        return torch.randn(shape, generator=generator, device=self.strip.device)

    def _slow(self, knots):
        """Values on a coarse grid `(..., n, m)`, interpolated smoothly to crops: `(..., crop, crop)`."""
        down, across = (self.spread[count] for count in knots.shape[-2:])
        return down @ knots @ across.T


def _at_least(image, side):
    """An image, mirrored downwards and to the right where it is smaller than `side` pixels."""
    missing = [(0, max(0, side - length)) for length in image.shape[:2]] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, missing, mode="reflect") if np.any(missing) else image


def _interpolation(count, length):
    """Matrix `(length, count)` that interpolates `count` values, the outermost at the borders, by cubics."""
    each = torch.eye(count)[None, None]
    return torch.nn.functional.interpolate(each, size=(length, count), mode="bicubic", align_corners=True)[0, 0]
