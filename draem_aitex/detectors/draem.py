"""Whole rolls: a roll's picture becomes an anomaly map of the same size, without seams and in bounded memory."""

import numpy as np
import torch

from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.detectors.tiling import bytes_per_pixel, smallest_tile, tiles
from draem_aitex.errors import InputError
from draem_aitex.model.draem import fold_batch_norm
from draem_aitex.training.checkpoint import load_model

MEMORY_MB = 512  # for what the networks hold while they look at cloth, unless another bound is given


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
        smallest = smallest_tile(config.receptive_field, config.multiple)
        rows = tiles(len(image), max(most // smallest, smallest), config.receptive_field, config.multiple)
        height = rows[0][0][1] - rows[0][0][0]
        columns = tiles(end - start, most // height, config.receptive_field, config.multiple)
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


class DraemDetector(Detector):
    """DRAEM with the interface every detector has.

    model: a `networks.DRAEM`; a copy is taken, with its batch norms folded. levels: of `offsets_from`; without them,
    scores stay as the networks give them. memory_mb: see `anomaly_map`; several rolls go through the networks together
    where it allows. bfloat16: compute in sixteen bits, which is faster where the device does so by itself and changes
    scores by about a hundredth.
    """

    name, kind = "DRAEM", "draem"

    def __init__(self, model, levels=None, memory_mb=MEMORY_MB, bfloat16=False):
        if not memory_mb > 0:
            raise InputError(f"memory_mb: {memory_mb}; expected more than 0, such as {MEMORY_MB}")
        model = fold_batch_norm(model).to(memory_format=torch.channels_last)
        self.model, self.offsets = model.to(torch.bfloat16) if bfloat16 else model, dict(levels or {})
        self.memory_mb = memory_mb

    @classmethod
    def from_content(cls, content, path, device="cpu", **options):
        """The detector of a checkpoint's content. options: `memory_mb` and `bfloat16`."""
        return cls(load_model(content, path).to(device), content.get("fabric_offsets"), **options)

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
