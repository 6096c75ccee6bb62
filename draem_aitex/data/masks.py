"""Ground-truth masks: whatever drew them, a pixel is defect or it isn't; a mask that can't be true is refused."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from draem_aitex.data.images import FORMATS, decoded
from draem_aitex.errors import InputError

CLASSES = 32  # a mask without brighter levels than this holds class indices, not tones
FAINTEST = 64  # grey level that a JPEG mask must reach: what is darker is lost among its errors
MOST = 0.95  # of an image's pixels; a mask that marks more is taken for one that was drawn the wrong way round


def read_mask_file(path: Path | str) -> np.ndarray:
    """The defect in a mask file: bool `(H, W)`, whatever was drawn that is not background.

    The background is black or, where nothing is black, what there is most of. Of two values the other one is defect: 0
    and 1, 0 and 255, one bit, a palette, a colour, 16 bits. Of several, levels that fill areas are classes, and every
    class is a defect; levels that only lie along edges smooth them, and the cut is in the middle, as it is in a JPEG.
    Where the colours say nothing, transparency does.

    Raises `InputError` for a file that cannot be read, and for a JPEG too dark to tell defect from compression.
    """
    levels, lossy = _levels(path)
    middle = 2 ** int(levels.max()).bit_length() // 2 - 0.5  # of 8 bits 127.5, also where 240 is the brightest level
    if lossy:
        if 0 < levels.max() < FAINTEST:
            found = f"a JPEG mask with grey levels up to {levels.max()}, which compression has blurred"
            raise InputError(f"{path}: {found}; expected {FAINTEST} or more for a defect; save the mask as PNG")
        return levels > middle
    if levels.min() > 0:  # nothing is black
        values, counts = np.unique(levels, return_counts=True)
        return levels != values[counts.argmax()] if len(values) > 1 else np.ones(levels.shape, bool)
    square = np.ones((3, 3), np.uint8)
    filling = levels[cv2.erode(levels, square) == cv2.dilate(levels, square)]
    classes = levels.max() < CLASSES or ((filling > 0) & (filling <= middle)).any()
    return levels > (0 if classes else middle)


def check_mask(path: Path | str, mask: np.ndarray, image: Path | str) -> None:
    """Raise `InputError` for a defective image's mask that marks nothing, or all. mask: bool `(H, W)`."""
    share, wanted = mask.mean(), "expected the defect, and nothing else"
    if not share:
        raise InputError(
            f"{path}: an empty mask for a defective image ({image}); {wanted}; draw it, or remove the mask"
        )
    if share > MOST:
        found = f"a mask that covers {share:.0%} of its image ({image})"
        raise InputError(f"{path}: {found}; {wanted}; draw it anew (is it the wrong way round?)")


def _levels(path):
    """A number for each pixel, uint8, uint16 or int32 `(H, W)`, 0 for black; and whether the file is a JPEG."""
    pixels, _ = decoded(path)
    with Image.open(path, formats=FORMATS) as image:
        lossy, transparent = image.format == "JPEG", image.has_transparency_data
        if transparent and (pixels == pixels[0, 0]).all():
            return np.array(image.convert("RGBA").getchannel("A")), lossy
    if pixels.ndim == 2:
        return pixels, lossy
    brightest = np.ascontiguousarray(pixels.max(axis=2))
    if brightest.min() == 0 or lossy:
        return brightest, lossy
    return pixels.astype(np.int32) @ (1, 256, 65536), lossy  # nothing is black: each colour counts as itself
