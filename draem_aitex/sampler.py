"""The sampler: all training rolls live on the device, and random crops are gathered there by index.

All defect-free rolls of AITEX are about 115 MB as bytes. Held in one tensor they need no worker processes, no
decoding in the loop and no copy per step; the same lines run on a CPU and on a GPU.
"""

import numpy as np
import torch

from draem_aitex.errors import InputError

EDGE_SHARE = 0.1  # of the crops start within EDGE_COLUMNS of the fabric's edge; else the selvedge is hardly seen
EDGE_COLUMNS = 64


class CropSampler:
    """Random square crops of the fabric of a list of rolls.

    rolls: list of `fabric.Roll`, all of one height. crop: pixels. device: where rolls are kept and crops gathered.
    Raises `InputError` where there are no rolls or none is large enough for a crop.
    """

    def __init__(self, rolls, crop, device="cpu"):
        if not rolls:
            raise InputError("rolls: none given; expected at least one defect-free training roll; check the folder")
        heights = {roll.image.shape[0] for roll in rolls}
        if len(heights) > 1:
            raise InputError(f"rolls: heights {sorted(heights)} pixels; expected one height; resize or train apart")
        for roll in rolls:
            if min(roll.image.shape[0], roll.edges[1] - roll.edges[0]) < crop:
                raise InputError(
                    f"{roll.name}: {roll.edges[1] - roll.edges[0]} x {roll.image.shape[0]} pixels of fabric; "
                    f"expected {crop} x {crop} or more; leave the roll out or take smaller crops"
                )
        self.crop = crop
        # Rolls may differ in width: they lie end to end in one long strip, only fabric in it.
        strip = np.concatenate([roll.image[:, roll.edges[0] : roll.edges[1]] for roll in rolls], axis=1)
        widths = torch.tensor([roll.edges[1] - roll.edges[0] for roll in rolls])
        self.strip = torch.from_numpy(strip).to(device)
        self.free = (widths - crop + 1).to(device)  # start columns that leave room for a crop, per roll
        self.first = (widths.cumsum(0) - widths).to(device)

    def __call__(self, batch, generator):
        """Draw crops: float32 `(batch, 1, crop, crop)` in [0, 1]. generator: on the sampler's device."""
        device = self.strip.device
        roll = torch.randint(len(self.free), (batch,), generator=generator, device=device)
        place = torch.rand(batch, 3, generator=generator, device=device)
        free = self.free[roll]
        near_edge = torch.minimum(free, torch.full_like(free, EDGE_COLUMNS))
        free = torch.where(place[:, 2] < EDGE_SHARE, near_edge, free)
        x = self.first[roll] + (place[:, 0] * free).long()
        y = (place[:, 1] * (self.strip.shape[0] - self.crop + 1)).long()
        offsets = torch.arange(self.crop, device=device)
        crops = self.strip[(y[:, None] + offsets)[:, :, None], (x[:, None] + offsets)[:, None, :]]
        return crops[:, None].float() / 255
