"""`Dataset` classes for readers with loaders of their own.

The course keeps all rolls on the device and draws crops there (`training.sampler`); these are for other loops, and for
images that are not AITEX's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from draem_aitex.data.patcher import PATCH, extract_patches
from draem_aitex.data.rolls import NORMAL, Roll
from draem_aitex.errors import InputError

UNKNOWN = -1  # label of a patch from a defective image without a mask


class PatchDataset(Dataset):
    """Patches of rolls, from the first fabric column on.

    size, stride: pixels; remainder: "drop" or "cover", as in `patcher.patch_columns`.

    An item is a dict: `image` float32 `(1, size, size)` in [0, 1]; `mask` float32 `(1, size, size)` of 0 and 1; `label`
    1 where the mask has a pixel, 0 where it has none, -1 for a defective roll without a mask; `name` of the roll;
    `row`, `column` of the patch's upper left pixel.
    """

    def __init__(self, rolls: Iterable[Roll], size: int = PATCH, stride: int | None = None, remainder: str = "drop"):
        self.items: list[tuple] = []
        for roll in rolls:
            patches, corners = extract_patches(roll.image, roll.edges, size, stride, remainder)
            mask = np.zeros(roll.image.shape, bool) if roll.mask is None else roll.mask
            masks, _ = extract_patches(mask, roll.edges, size, stride, remainder)
            judged = roll.defect == NORMAL or roll.mask is not None
            for patch, defect, (row, column) in zip(patches, masks, corners, strict=True):
                self.items.append((patch, defect, int(defect.any()) if judged else UNKNOWN, roll.name, row, column))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        patch, mask, label, name, row, column = self.items[index]
        image = torch.from_numpy(patch)[None].float() / 255
        mask = torch.from_numpy(mask)[None].float()
        return {"image": image, "mask": mask, "label": label, "name": name, "row": row, "column": column}


@dataclass(frozen=True)
class OpenSetSplit:
    """Patches by use: normal ones to train on, the few defects shown in training, and all others to test on."""

    train: Subset
    shots: Subset
    test: Subset


def open_set_split(rolls: Sequence[Roll], shots: int = 0, seed: int = 0, size: int = PATCH) -> OpenSetSplit:
    """The open-set literature's protocol, a second split beside `aitex.split_records`, to compare with its figures.

    Patches of the whole image, backlight and machine bed included, are split at random: three quarters of those of
    defect-free rolls train, the others test, with every patch that has a mask pixel except the `shots` shown in
    training. It is optimistic: patches of one roll stand on both sides. So it publishes nothing of this course.

    shots: 0, 1 or 10 in the literature; seed: of the draw. Returns an `OpenSetSplit`.
    Raises `InputError` where there are fewer defective patches than shots.

    Source: Ding, Pang and Shen, "Catching both gray and black swans", CVPR 2022, section 4; which patches fell where
    is not published there, so figures compare in the protocol, not patch by patch.
    """
    whole = [replace(roll, edges=(0, roll.image.shape[1])) for roll in rolls]
    patches = PatchDataset(whole, size)
    names = {roll.name for roll in rolls if roll.defect == NORMAL}
    normal = [index for index, item in enumerate(patches.items) if item[3] in names]
    defective = [index for index, item in enumerate(patches.items) if item[2] == 1]
    if not 0 <= shots <= len(defective):
        raise InputError(f"shots={shots}: the rolls have {len(defective)} defective patches; ask for 0 to that many")
    generator = np.random.default_rng(seed)
    normal, defective = generator.permutation(normal).tolist(), generator.permutation(defective).tolist()
    count = round(0.75 * len(normal))
    test = normal[count:] + defective[shots:]
    return OpenSetSplit(Subset(patches, normal[:count]), Subset(patches, defective[:shots]), Subset(patches, test))
