"""The sampler: all training rolls live on the device, and random crops are gathered there by index.

All defect-free rolls of AITEX are about 115 MB as bytes. Held in one tensor they need no worker processes, no
decoding in the loop and no copy per step; the same lines run on a CPU and on a GPU.
"""

import numpy as np
import torch

from draem_aitex.errors import InputError

# Crops drawn evenly hardly ever show the selvedge, and its outermost columns only where a crop starts exactly there.
EDGE_SHARE = 0.4  # of the crops lie at the fabric's left edge: half of these start on it, half within EDGE_COLUMNS
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
        self.windows = self.strip.unfold(0, crop, 1).unfold(1, crop, 1)  # every crop there is; a view, nothing copied
        self.free = (widths - crop + 1).to(device)  # start columns that leave room for a crop, per roll
        self.first = (widths.cumsum(0) - widths).to(device)

    def __call__(self, batch, generator):
        """Draw crops: float32 `(batch, 1, crop, crop)` in [0, 1]. generator: on the sampler's device."""
        device = self.strip.device
        roll = torch.randint(len(self.free), (batch,), generator=generator, device=device)
        place = torch.rand(batch, 3, generator=generator, device=device)
        anywhere = place[:, 0] * self.free[roll]
        at_edge = ((2 * place[:, 0] - 1) * EDGE_COLUMNS).clamp_min(0).minimum(self.free[roll] - 1)
        x = self.first[roll] + torch.where(place[:, 2] < EDGE_SHARE, at_edge, anywhere).long()
        y = (place[:, 1] * (self.strip.shape[0] - self.crop + 1)).long()
        return self.windows[y, x][:, None].float() / 255
