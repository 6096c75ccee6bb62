"""The patcher: rolls into square patches, patches back into rolls, and a roll's map into patch scores."""

import numpy as np

from draem_aitex.errors import InputError

PATCH = 256  # pixels, the data set's own patch size


def patch_columns(edges, size=PATCH):
    """First columns of the patches that fit side by side into the fabric; the remainder at the end is dropped.

    edges: `(start, end)` in columns. Returns a list of ints, empty where the fabric is narrower than one patch.
    """
    if size < 1:
        raise InputError(f"size: {size}; expected a patch size of 1 pixel or more")
    start, end = edges
    return list(range(start, end - size + 1, size))


def extract_patches(image, edges, size=PATCH):
    """Cut the fabric of a roll into patches without overlap, the rows likewise from the top.

    image: any dtype `(H, W)`. Returns `(patches, corners)`: patches `(N, size, size)`, row by row, and the `(row,
    column)` of each one's upper left pixel.
    """
    corners = patch_corners(image.shape, edges, size)
    patches = [image[y : y + size, x : x + size] for y, x in corners]
    return np.array(patches, image.dtype).reshape(-1, size, size), corners


def patch_corners(shape, edges, size=PATCH):
    """`(row, column)` of the upper left pixel of each patch of a roll of this shape."""
    return [(y, x) for y in patch_columns((0, shape[0]), size) for x in patch_columns(edges, size)]


def stitch_patches(patches, corners, shape):
    """Put patches back where they came from: `(H, W)`, zero where there was no patch; overlaps are averaged.

    patches: `(N, size, size)`; corners: as `extract_patches` returns them; shape: `(H, W)` of the roll.
    """
    total = np.zeros(shape, np.float64)
    count = np.zeros(shape, np.int32)
    for patch, (y, x) in zip(patches, corners, strict=True):
        height, width = patch.shape
        total[y : y + height, x : x + width] += patch
        count[y : y + height, x : x + width] += 1
    return (total / np.maximum(count, 1)).astype(patches.dtype)


def patch_maxima(array, edges, size=PATCH):
    """Maximum inside each patch of a roll: `(N,)`. Of an anomaly map: the patch scores; of a mask: the labels."""
    return np.array([array[y : y + size, x : x + size].max() for y, x in patch_corners(array.shape, edges, size)])
