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
from draem_aitex.devices import Device, pick_device
from draem_aitex.errors import InputError, check_number

# Crops drawn evenly hardly ever show the selvedge, and its outermost columns only where a crop starts exactly there.
EDGE_SHARE = 0.4  # of the crops lie at the fabric's left edge: half of these start on it, half within EDGE_COLUMNS
EDGE_COLUMNS = 64


@dataclass(frozen=True)
class NormalAugmentation:
    """How normal fabric varies from recording to recording, beyond what the training rolls show.

    AITEX's camera is a line scanner: each image row is one line of the sensor, and how far apart two rows lie on the
    fabric depends on how fast it moved. Rolls of one fabric differ by more than a factor of two in threads per row.
    Raises `InputError` for values outside the ranges below.
    """

    share: float = 0.5  # of the crops are stretched along the rows
    stretch: tuple[float, float] = (0.3, 1.9)  # roll rows per crop row, log-uniform between the two
    contrast: float = 1.3  # greatest factor about the crop's mean, up or down, log-uniform
    brightness: float = 0.08  # greatest offset, up or down, uniform

    def __post_init__(self) -> None:
        check_number("share", self.share, 0, 1, "a share from 0 to 1")
        check_number("contrast", self.contrast, 1, expected="a factor of 1 or more")
        check_number("brightness", self.brightness, 0, 1, "an offset from 0 to 1")
        if len(self.stretch) != 2 or not 0 < self.stretch[0] <= self.stretch[1] < math.inf:
            raise InputError(f"stretch: {self.stretch}; expected two numbers above 0, the smaller first")


class CropSampler:
    """Random square crops of the fabric of a list of rolls.

    Args:
        rolls: `data.rolls.Roll`, all of one height.
        crop: side of a crop in pixels.
        device: where the rolls are kept and the crops gathered.
        normal_augmentation: how crops are varied; without it they are pieces of the rolls, pixel for pixel.
        channels: of the crops; grey is repeated.

    Raises:
        InputError: no rolls, different heights, a roll smaller than a crop, or crops that cannot be stretched as asked.
    """

    def __init__(
        self, rolls: list[Roll], crop: int, device: Device = "auto",
        normal_augmentation: NormalAugmentation | None = None, channels: int = 1,
    ) -> None:  # fmt: skip
        if not rolls:
            raise InputError("rolls: none given; expected at least one defect-free training roll; check the folder")
        heights = {roll.image.shape[0] for roll in rolls}
        if len(heights) > 1:
            raise InputError(f"rolls: heights {sorted(heights)} pixels; expected one height; resize or train apart")
        for roll in rolls:
            height, width = roll.image.shape[0], roll.edges[1] - roll.edges[0]
            if min(height, width) < crop:
                found = f"{roll.name}: {width} x {height} pixels of fabric; expected {crop} x {crop} or more"
                raise InputError(f"{found}; leave the roll out or take smaller crops")
        self.crop, self.channels, self.normal_augmentation = crop, channels, normal_augmentation
        if normal_augmentation is not None:
            low, high = normal_augmentation.stretch
            most = (height - 1) / max(crop - 1, 1) if normal_augmentation.share else math.inf
            limit = f"crops of {crop} pixels of rolls of {height} rows can have {most:.3g} at most"
            if low > most:
                raise InputError(f"stretch: from {low:g}; {limit}; give a smaller stretch or smaller crops")
            if high > most:
                warnings.warn(f"stretch: up to {high:g} was asked for; {limit}, which is used", stacklevel=2)
            self.stretch = low, min(high, most)
        # Rolls may differ in width: they lie end to end in one long strip, only fabric in it.
        strip = np.concatenate([roll.image[:, roll.edges[0] : roll.edges[1]] for roll in rolls], axis=1)
        widths = torch.tensor([roll.edges[1] - roll.edges[0] for roll in rolls])
        device = pick_device(device)
        self.strip = torch.from_numpy(strip).to(device)
        self.windows = self.strip.unfold(0, crop, 1).unfold(1, crop, 1)  # every crop there is; a view, nothing copied
        self.columns = self.strip.unfold(1, crop, 1)  # every stripe of a crop's width over all rows; also a view
        self.free = (widths - crop + 1).to(device)  # start columns that leave room for a crop, per roll
        self.first = (widths.cumsum(0) - widths).to(device)

    def __call__(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Draw crops: float32 `(batch, channels, crop, crop)` in [0, 1]. generator: on the sampler's device."""
        device = self.strip.device
        roll = torch.randint(len(self.free), (batch,), generator=generator, device=device)
        position = torch.rand(batch, 3, generator=generator, device=device)
        anywhere = position[:, 0] * self.free[roll]
        at_edge = ((2 * position[:, 0] - 1) * EDGE_COLUMNS).clamp_min(0).minimum(self.free[roll] - 1)
        x = self.first[roll] + torch.where(position[:, 2] < EDGE_SHARE, at_edge, anywhere).long()
        if self.normal_augmentation is not None:
            crops = self._varied(x, position[:, 1], generator, self.normal_augmentation)
        else:
            y = (position[:, 1] * (self.strip.shape[0] - self.crop + 1)).long()
            crops = self.windows[y, x].float() / 255
        return crops[:, None].expand(-1, self.channels, -1, -1)

    def _varied(self, x, down, generator, augmentation):
        """Crops from column x on, `down` (0 to 1) the roll, some stretched along the rows, contrast and tone varied."""
        chance, much, contrast, brightness = torch.rand(4, len(x), generator=generator, device=x.device)
        (low, high), height = self.stretch, self.strip.shape[0]
        stretched = low * (high / low) ** much
        scale = torch.where(chance < augmentation.share, stretched, torch.ones_like(stretched))
        start = down * (height - 1 - (self.crop - 1) * scale)
        start = torch.where(chance < augmentation.share, start, start.round())  # whole rows stay as they are
        rows = start[:, None] + scale[:, None] * torch.arange(self.crop, device=x.device)
        stripes = self.columns[:, x].transpose(0, 1).float()  # (B, height, crop)
        crops = row_weights(rows, height) @ stripes / 255
        mean = crops.mean((1, 2), keepdim=True)
        gain = augmentation.contrast ** (2 * contrast - 1)
        offset = (2 * brightness - 1) * augmentation.brightness
        return ((crops - mean) * gain[:, None, None] + mean + offset[:, None, None]).clamp(0, 1)


def row_weights(rows: torch.Tensor, height: int) -> torch.Tensor:
    """Weights of an image's rows in a resampling at the positions `rows`, by cubic (Catmull-Rom) interpolation.

    rows: float32 `(B, N)`, from 0 to height - 1. Returns float32 `(B, N, height)`; times an image `(B, height, W)` it
    gives `(B, N, W)`. Rows beyond the image's border count as the outermost.
    """
    before = rows.floor()
    t = rows - before
    outer = ((1 - 0.5 * t) * t - 0.5) * t, (t - 1) * t * t / 2
    inner = (1.5 * t - 2.5) * t * t + 1, ((2 - 1.5 * t) * t + 0.5) * t
    four = torch.stack([outer[0], *inner, outer[1]], -1)
    index = (before[..., None].long() + torch.arange(-1, 3, device=rows.device)).clamp(0, height - 1)
    return torch.zeros(*rows.shape, height, device=rows.device).scatter_add_(2, index, four)
