"""TODO."""

import math

import torch

TILE_STEP = 128  # columns; a few widths for all rolls, or the convolutions' buffers pile up width by width


def bytes_per_pixel(config, dtype=torch.float32):
    """Memory that the networks take for each pixel they look at, at most, in bytes; for `compact` a test holds it."""
    widest = max(config.reconstructive[0], config.discriminative[0])
    return 12 * widest // config.stem**2 * dtype.itemsize + 16


def tiles(length, most, margin, multiple):
    """Cover `length` rows or columns: a list of `(window, own)`, both `(first, last)`, half open.

    The `own` parts do not overlap. As few windows as possible of at most `most`, all of one size, each with `margin` of
    context or more beside its own part; they begin and end at multiples of `multiple`. What is left over at the end
    belongs to a last window that ends there. A length below `multiple` is one window, mirrored by the networks.
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
    found = [(window, (own[0], min(own[1], cut))) for window, own in found if own[0] < cut]
    window, own = found[-1]
    return [*found[:-1], (window, (own[0], cut)), ((length - last, length), (cut, length))]


def smallest_tile(margin, multiple):
    """Rows or columns that a window needs at least, or it would show no pixel with all of its context."""
    step = math.lcm(TILE_STEP, multiple)
    return math.ceil(2 * (margin + multiple) / step) * step


def _on_the_grid(whole, most, margin, multiple, step):
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
