"""Tiling: a long image is seen tile by tile, so that memory stays bounded and no seam shows in the map."""

import math

import torch

from draem_aitex.model.unet import NetworkConfig

Span = tuple[int, int]  # first and last row or column, half open
TILE_STEP = 128  # columns; a few widths for all rolls, or the convolutions' buffers pile up width by width


def bytes_per_pixel(config: NetworkConfig, dtype: torch.dtype = torch.float32) -> int:
    """Memory that the networks take for each pixel they look at, at most, in bytes; for `compact` a test holds it."""
    widest = max(config.reconstructive[0], config.discriminative[0])
    return 12 * widest // config.stem**2 * dtype.itemsize + 16


def tiles(length: int, most: int, margin: int, multiple: int) -> list[tuple[Span, Span]]:
    """Cover `length` rows or columns: a list of `(tile, valid region)`, both `(first, last)`, half open.

    The valid regions do not overlap and cover everything. As few tiles as possible of at most `most`, all of one size,
    each with `margin` of context or more beside its valid region; they begin and end at multiples of `multiple`. What
    is left over at the end belongs to a last tile that ends there. A length below `multiple` is one tile, mirrored by
    the networks.
    """
    whole = length // multiple * multiple
    if not whole:
        return [((0, length), (0, length))]
    step, smallest = math.lcm(TILE_STEP, multiple), smallest_tile(margin, multiple)
    found = _on_the_grid(whole, max(most // step * step, smallest), margin, multiple, step)
    if whole == length:
        return found
    last = min(smallest, whole)
    cut = (whole + length - last) // 2  # as far from the end of the one as from the beginning of the other
    found = [(tile, (valid[0], min(valid[1], cut))) for tile, valid in found if valid[0] < cut]
    tile, valid = found[-1]
    return [*found[:-1], (tile, (valid[0], cut)), ((length - last, length), (cut, length))]


def smallest_tile(margin: int, multiple: int) -> int:
    """Rows or columns that a tile needs at least, or it would show no pixel with all of its context."""
    step = math.lcm(TILE_STEP, multiple)
    return math.ceil(2 * (margin + multiple) / step) * step


def _on_the_grid(whole: int, most: int, margin: int, multiple: int, step: int) -> list[tuple[Span, Span]]:
    if whole <= most:
        return [((0, whole), (0, whole))]
    count = math.ceil((whole - 2 * margin) / (most - 2 * margin))
    while True:
        size = math.ceil((whole + 2 * margin * (count - 1)) / count / step) * step
        firsts = [round(index * (whole - size) / (count - 1) / multiple) * multiple for index in range(count)]
        overlaps = [left + size - right for left, right in zip(firsts, firsts[1:], strict=False)]
        if size <= most and min(overlaps) >= 2 * margin:
            break
        count += 1
    cuts = [0] + [(left + size + right) // 2 for left, right in zip(firsts, firsts[1:], strict=False)] + [whole]
    spans = [(first, first + size) for first in firsts]
    return list(zip(spans, zip(cuts, cuts[1:], strict=False), strict=True))
