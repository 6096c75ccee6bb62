"""The patcher: rolls into square patches, patches back into rolls; `Dataset` classes for loops of your own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from draem_aitex.data.fabric_edges import Edges, check_edges
from draem_aitex.data.rolls import NORMAL, Roll
from draem_aitex.errors import InputError, check_choice, check_number, check_seed, check_type

PATCH = 256  # pixels, the data set's own patch size
UNKNOWN = -1  # label of a patch from a defective image without a mask
Shape = tuple[int, ...]


def patch_columns(edges: Edges, size: int = PATCH, stride: int | None = None, remainder: str = "drop") -> list[int]:
    """First columns of the patches that lie side by side on the fabric.

    edges: `(start, end)` in columns; size, stride: pixels; the stride is the size where none is given. remainder: what
    happens to columns at the end that no whole step reaches: "drop" leaves them out (the protocol of every figure here;
    no patch where the fabric is narrower than one), "cover" adds a last patch that ends with the fabric and overlaps
    the one before (where the fabric is narrower than one patch, a patch that starts with it and hangs over).

    Returns a list of ints.
    """
    stride = size if stride is None else stride
    check_number("size", size, 1, whole=True)
    check_number("stride", stride, 1, whole=True)
    check_choice("remainder", remainder, ("drop", "cover"))
    if remainder == "cover" and stride > size:
        raise InputError(f"stride: {stride}; expected {size} (the size) or less to cover all; take a smaller one")
    start, end = edges
    columns = list(range(start, end - size + 1, stride))
    if remainder == "cover" and end > start and (not columns or columns[-1] + size < end):
        columns.append(max(start, end - size))
    return columns


def patch_corners(
    shape: Shape, edges: Edges | None = None, size: int = PATCH, stride: int | None = None, remainder: str = "drop"
) -> list[tuple[int, int]]:
    """`(row, column)` of the upper left pixel of each patch of an image of this shape, row by row."""
    if edges is None:
        edges = 0, shape[1]
    else:
        check_edges(edges, shape[1])
    rows = patch_columns((0, shape[0]), size, stride, remainder)
    return [(y, x) for y in rows for x in patch_columns(edges, size, stride, remainder)]


def extract_patches(
    image: np.ndarray, edges: Edges | None = None, size: int = PATCH, stride: int | None = None, remainder: str = "drop"
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Cut the fabric of a roll into patches, the rows likewise from the top.

    image: any dtype `(H, W)`; edges: `(start, end)` in columns, None for all of them; the rest as in `patch_columns`. A
    patch that hangs over the image repeats its last row or column there.

    Returns `(patches, corners)`: patches `(N, size, size)`, row by row, and the `(row, column)` of each one's upper
    left pixel.
    """
    _check_array("image", image, 2)
    corners = patch_corners(image.shape, edges, size, stride, remainder)
    over = [max(0, max((corner[axis] for corner in corners), default=0) + size - image.shape[axis]) for axis in (0, 1)]
    padded = np.pad(image, ((0, over[0]), (0, over[1])), mode="edge") if corners and any(over) else image
    patches = [padded[y : y + size, x : x + size] for y, x in corners]
    return np.array(patches, image.dtype).reshape(-1, size, size), corners


def stitch_patches(patches: np.ndarray, corners: list[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    """Put patches back where they came from: `(H, W)` of the patches' dtype, zero where there was no patch.

    Where patches overlap they are blended, each with a weight that falls towards its border, so that no seam shows.
    What `extract_patches` cut from an image with remainder "cover" comes back exactly, whatever the size and stride.

    patches: `(N, h, w)`; corners: as `extract_patches` returns them; shape: `(H, W)` of the roll.
    """
    _check_array("patches", patches, 3)
    for row, column in corners:
        if not (0 <= row < shape[0] and 0 <= column < shape[1]):
            raise InputError(f"corners: ({row}, {column}); expected pixels of an image of {shape[0]} x {shape[1]}")
    if len(corners) != len(patches):
        raise InputError(f"corners: {len(corners)} for {len(patches)} patches; expected one for each")
    # Weights 1, 2, 3, … up to the middle and down again.
    tapered = np.outer(*(np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)) for n in patches.shape[1:]))
    first = np.zeros(shape, patches.dtype)
    change = np.zeros(shape, np.float64)  # of the blend against the first patch there: 0 where all patches agree
    total = np.zeros(shape, np.float64)
    for patch, (y, x) in zip(patches, corners, strict=True):
        patch = patch[: shape[0] - y, : shape[1] - x]
        area = np.s_[y : y + patch.shape[0], x : x + patch.shape[1]]
        weight = tapered[: patch.shape[0], : patch.shape[1]]
        first[area] = np.where(total[area] == 0, patch, first[area])
        change[area] += weight * (patch.astype(np.float64) - first[area])
        total[area] += weight
    blended = first + change / np.maximum(total, 1)
    return (blended if np.issubdtype(patches.dtype, np.floating) else blended.round()).astype(patches.dtype)


def patch_maxima(array: np.ndarray, edges: Edges, size: int = PATCH, remainder: str = "drop") -> np.ndarray:
    """Maximum inside each patch of a roll: `(N,)`. Of an anomaly map: the patch scores; of a mask: the labels.

    remainder: as in `patch_columns`; what of a patch hangs over the image holds nothing.
    """
    corners = patch_corners(array.shape, edges, size, remainder=remainder)
    return np.array([array[y : y + size, x : min(x + size, edges[1])].max() for y, x in corners])


def _check_array(name, array, axes):
    check_type(name, array, np.ndarray)
    if array.ndim != axes:
        raise InputError(f"{name}: shape {array.shape}; expected {axes} axes")


class PatchDataset(Dataset):
    """Patches of rolls, from the first fabric column on.

    size, stride: pixels; remainder: "drop" or "cover", as in `patch_columns`.

    An item is a dict: `image` float32 `(1, size, size)` in [0, 1]; `mask` float32 `(1, size, size)` of 0 and 1; `label`
    1 where the mask has a pixel, 0 where it has none, -1 for a defective roll without a mask; `name` of the roll;
    `row`, `column` of the patch's upper left pixel.
    """

    def __init__(self, rolls: Iterable[Roll], size: int = PATCH, stride: int | None = None, remainder: str = "drop"):
        patch_columns((0, 0), size, stride, remainder)  # checks them where there are no rolls
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
    check_seed(seed)
    whole = [replace(roll, edges=(0, roll.image.shape[1])) for roll in rolls]
    patches = PatchDataset(whole, size)
    names = {roll.name for roll in rolls if roll.defect == NORMAL}
    normal = [index for index, item in enumerate(patches.items) if item[3] in names]
    defective = [index for index, item in enumerate(patches.items) if item[2] == 1]
    check_number("shots", shots, 0, whole=True)
    if shots > len(defective):
        raise InputError(f"shots={shots}: the rolls have {len(defective)} defective patches; ask for 0 to that many")
    generator = np.random.default_rng(seed)
    normal, defective = generator.permutation(normal).tolist(), generator.permutation(defective).tolist()
    count = round(0.75 * len(normal))
    test = normal[count:] + defective[shots:]
    return OpenSetSplit(Subset(patches, normal[:count]), Subset(patches, defective[:shots]), Subset(patches, test))
