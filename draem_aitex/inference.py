"""Whole rolls: a roll's picture becomes an anomaly map of the same size, without seams and in bounded memory."""

import math

import numpy as np
import torch

from draem_aitex.checkpoint import load_model
from draem_aitex.detector import FLOOR, Detector
from draem_aitex.errors import InputError
from draem_aitex.networks import fold_batch_norm

MEMORY_MB = 512  # for what the networks hold while they look at cloth, unless another bound is given
WINDOW_STEP = 128  # columns; a few widths for all rolls, or the convolutions' buffers pile up width by width


def anomaly_map(model, image, edges, memory_mb=MEMORY_MB):
    """Score every pixel of a roll's fabric.

    The networks are fully convolutional: trained on crops, they take any size. They see the fabric alone, without
    what lies to its left, in one pass; where that would take more than `memory_mb`, through windows that overlap so far
    that every pixel has all the context that can matter to it. They begin on the poolings' grid, so that the map is
    that of one pass (with `compact`: to rounding; upsampling with aligned corners, as `paper` has it, depends on a
    picture's width). No window is smaller than its context asks for: with `paper` a roll of 256 rows takes 1.6 GB,
    whatever the bound. Columns or rows at the end that do not fill the grid are seen by a window of their own, which
    ends with the fabric: nothing is padded on, for mirrored cloth has a seam that looks like a defect.

    image: uint8 `(H, W)`; edges: `(start, end)` in columns. Returns float32 `(H, W)`: the probability of a defect,
    exactly 0 outside the fabric, from 1e-6 to 1 on it.
    """
    return next(anomaly_maps(model, [(image, edges)], memory_mb))


@torch.inference_mode()
def anomaly_maps(model, pictures, memory_mb=MEMORY_MB):
    """`anomaly_map` for many pictures: a generator of maps, in their order.

    pictures: iterable of `(image, edges)`. As many windows of one size as `memory_mb` allows go through the networks
    together, from as many pictures as that takes: on a GPU that is faster, on a CPU it makes no difference.
    """
    config, dtype = model.config, next(model.parameters()).dtype
    most = int(memory_mb * 2**20 / bytes_per_pixel(config, dtype))  # pixels at once
    waiting, pixels = [], 0
    for image, edges in pictures:
        if image.ndim != 2 or image.dtype != np.uint8:
            raise InputError(f"image: {image.dtype} of shape {image.shape}; expected uint8 (H, W); convert it to grey")
        if waiting and pixels + image.size > most:
            yield from _scored(model, waiting, most)
            waiting, pixels = [], 0
        waiting.append(_Picture(config, image, edges, most))
        pixels += image.size
    yield from _scored(model, waiting, most)


class _Picture:
    """One picture on its way through the networks: its windows, and its map, filled window by window."""

    def __init__(self, config, image, edges, most):
        start, end = edges
        self.image, self.start, self.scores = image, start, np.zeros(image.shape, np.float32)
        smallest = smallest_window(config.reach, config.multiple)
        rows = windows(len(image), max(most // smallest, smallest), config.reach, config.multiple)
        height = rows[0][0][1] - rows[0][0][0]
        columns = windows(end - start, most // height, config.reach, config.multiple)
        self.windows = [(down, across) for down in rows for across in columns]

    def shape(self, index):
        """Rows and columns of a window."""
        return tuple(last - first for (first, last), _ in self.windows[index])

    def view(self, index, like):
        """A window's grey levels as `(1, 1, h, w)` in [0, 1], of the dtype and on the device of `like`."""
        (down, _), (across, _) = self.windows[index]
        part = self.image[slice(*down), self.start + across[0] : self.start + across[1]]
        return torch.from_numpy(np.ascontiguousarray(part)).to(like.device)[None, None].to(like.dtype) / 255

    def take(self, index, logits):
        """Keep a window's own part. logits: `(h, w)`."""
        ((top, _), rows), ((left, _), columns) = self.windows[index]
        part = logits[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        scores = torch.sigmoid(part.float()).clamp_min(FLOOR).cpu().numpy()
        self.scores[slice(*rows), self.start + columns[0] : self.start + columns[1]] = scores


def _scored(model, pictures, most):
    """The maps of some pictures: their windows shape by shape, as many at once as `most` pixels allow."""
    shapes = {}
    for picture in pictures:
        for index in range(len(picture.windows)):
            shapes.setdefault(picture.shape(index), []).append((picture, index))
    weights = next(model.parameters())
    for (height, width), jobs in shapes.items():
        count = max(1, most // (height * width))
        for begin in range(0, len(jobs), count):
            batch = jobs[begin : begin + count]
            logits = model(torch.cat([picture.view(index, weights) for picture, index in batch]))[1]
            for (picture, index), one in zip(batch, logits[:, 0], strict=True):
                picture.take(index, one)
    for picture in pictures:
        yield picture.scores


def bytes_per_pixel(config, dtype=torch.float32):
    """Memory that the networks take for each pixel they look at, at most, in bytes; for `compact` a test holds it."""
    widest = max(config.reconstructive[0], config.discriminative[0])
    return 12 * widest // config.stem**2 * dtype.itemsize + 16


def windows(length, most, margin, multiple):
    """Cover `length` rows or columns: a list of `(window, own)`, both `(first, last)`, half open.

    The `own` parts do not overlap. As few windows as possible of at most `most`, all of one size, each with `margin` of
    context or more beside its own part; they begin and end at multiples of `multiple`. What is left over at the end
    belongs to a last window that ends there. A length below `multiple` is one window, mirrored by the networks.
    """
    whole = length // multiple * multiple
    if not whole:
        return [((0, length), (0, length))]
    step, smallest = math.lcm(WINDOW_STEP, multiple), smallest_window(margin, multiple)
    found = _on_the_grid(whole, max(most // step * step, smallest), margin, multiple, step)
    if whole == length:
        return found
    last = min(smallest, whole)
    cut = (whole + length - last) // 2  # as far from the end of the one as from the beginning of the other
    found = [(window, (own[0], min(own[1], cut))) for window, own in found if own[0] < cut]
    window, own = found[-1]
    return [*found[:-1], (window, (own[0], cut)), ((length - last, length), (cut, length))]


def smallest_window(margin, multiple):
    """Rows or columns that a window needs at least, or it would show no pixel with all of its context."""
    step = math.lcm(WINDOW_STEP, multiple)
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


class DraemDetector(Detector):
    """DRAEM with the interface every detector has.

    model: a `networks.DRAEM`; a copy is taken, with its batch norms folded. levels: of `levels_from`; without them,
    scores stay as the networks give them. memory_mb: see `anomaly_map`; several rolls go through the networks together
    where it allows. bfloat16: compute in sixteen bits, which is faster where the device does so by itself and changes
    scores by about a hundredth.
    """

    name, kind = "DRAEM", "draem"

    def __init__(self, model, levels=None, memory_mb=MEMORY_MB, bfloat16=False):
        if not memory_mb > 0:
            raise InputError(f"memory_mb: {memory_mb}; expected more than 0, such as {MEMORY_MB}")
        model = fold_batch_norm(model).to(memory_format=torch.channels_last)
        self.model, self.levels = model.to(torch.bfloat16) if bfloat16 else model, dict(levels or {})
        self.memory_mb = memory_mb

    @classmethod
    def from_content(cls, content, path, device="cpu", **options):
        """The detector of a checkpoint's content. options: `memory_mb` and `bfloat16`."""
        return cls(load_model(content, path).to(device), content.get("fabric_levels"), **options)

    @property
    def size_bytes(self):
        """Memory of the weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    def raw_map(self, image, edges, fabric=None):
        """`anomaly_map` of a roll; the fabric does not matter."""
        return anomaly_map(self.model, image, edges, self.memory_mb)

    def raw_maps(self, rolls):
        """`anomaly_maps` of many rolls."""
        return anomaly_maps(self.model, ((roll.image, roll.edges) for roll in rolls), self.memory_mb)
