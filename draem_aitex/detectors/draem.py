"""DRAEM on whole rolls: an image becomes an anomaly map of the same size, without seams and in bounded memory."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch

from draem_aitex.data.fabric_edges import check_edges, check_image
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.detectors.tiling import bytes_per_pixel, smallest_tile, tiles
from draem_aitex.devices import Device, memory_errors, pick_device
from draem_aitex.errors import ABOVE_0, check_number, check_type
from draem_aitex.files import FilePath
from draem_aitex.model.draem import DRAEM, fold_batch_norm
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.checkpoint import load_model, network_content
from draem_aitex.training.trainer import precision

MEMORY_MB = 512  # for what the networks hold while they look at fabric, unless another bound is given


def anomaly_map(model: DRAEM, image: np.ndarray, edges: tuple[int, int], memory_mb: float = MEMORY_MB) -> np.ndarray:
    """Score every pixel of a roll's fabric.

    The networks are fully convolutional: trained on crops, they take any size. They see the fabric alone, without
    what lies to its left, in one pass; where that would take more than `memory_mb`, through tiles that overlap so far
    that every pixel has its whole receptive field. They begin on the poolings' grid, so that the map is that of one
    pass (with `compact`: to rounding; upsampling with aligned corners, as `paper` has it, depends on an image's width).
    No tile is smaller than its context asks for: with `paper` a roll of 256 rows takes 1.6 GB, whatever the bound.
    Columns or rows at the end that do not fill the grid are seen by a tile of their own, which ends with the fabric:
    nothing is padded on, for mirrored fabric has a seam that looks like a defect.

    image: uint8 `(H, W)`, or `(H, W, 3)` for networks of three channels; edges: `(start, end)` in columns. Returns
    float32 `(H, W)`: the probability of a defect, exactly 0 outside the fabric, from 1e-6 to 1 on it.
    """
    return next(anomaly_maps(model, [(image, edges)], memory_mb))


@torch.inference_mode()
def anomaly_maps(
    model: DRAEM, images: Iterable[tuple[np.ndarray, tuple[int, int]]], memory_mb: float = MEMORY_MB
) -> Iterator[np.ndarray]:
    """`anomaly_map` for many images: a generator of maps, in their order.

    images: iterable of `(image, edges)`. As many tiles of one size as `memory_mb` allows go through the networks
    together, from as many images as that takes: on a GPU that is faster, on a CPU it makes no difference.
    """
    check_number("memory_mb", memory_mb, ABOVE_0, expected=f"more than 0, such as {MEMORY_MB}")
    config, dtype = model.config, next(model.parameters()).dtype
    most = int(memory_mb * 2**20 / bytes_per_pixel(config, dtype))  # pixels at once
    waiting: list[_TiledImage] = []
    pixels = 0
    for image, edges in images:
        check_image(image, channels=(1, config.channels))
        check_edges(edges, image.shape[1])
        if waiting and pixels + image.shape[0] * image.shape[1] > most:
            yield from _scored(model, waiting, most)
            waiting, pixels = [], 0
        waiting.append(_TiledImage(config, image, edges, most))
        pixels += image.shape[0] * image.shape[1]
    yield from _scored(model, waiting, most)


class _TiledImage:
    """One image on its way through the networks: its tiles, and its map, filled tile by tile."""

    def __init__(self, config: NetworkConfig, image: np.ndarray, edges: tuple[int, int], most: int) -> None:
        start, end = edges
        self.image, self.start, self.channels = image, start, config.channels
        self.scores = np.zeros(image.shape[:2], np.float32)
        smallest = smallest_tile(config.receptive_field, config.multiple)
        rows = tiles(len(image), max(most // smallest, smallest), config.receptive_field, config.multiple)
        height = rows[0][0][1] - rows[0][0][0]
        columns = tiles(end - start, most // height, config.receptive_field, config.multiple)
        self.tiles = [(down, across) for down in rows for across in columns]

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of a tile."""
        (top, bottom), (left, right) = (tile for tile, _ in self.tiles[index])
        return bottom - top, right - left

    def view(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """A tile as `(1, channels, h, w)` in [0, 1], of the dtype and on the device of `like`; grey is repeated."""
        (down, _), (across, _) = self.tiles[index]
        part = np.ascontiguousarray(self.image[slice(*down), self.start + across[0] : self.start + across[1]])
        pixels = torch.from_numpy(part).to(like.device).reshape(*part.shape[:2], -1).permute(2, 0, 1)[None]
        return (pixels.to(like.dtype) / 255).expand(-1, self.channels, -1, -1)

    def take(self, index: int, logits: torch.Tensor) -> None:
        """Keep a tile's valid region. logits: `(h, w)`."""
        ((top, _), rows), ((left, _), columns) = self.tiles[index]
        part = logits[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        scores = torch.sigmoid(part.float()).clamp_min(FLOOR).cpu().numpy()
        self.scores[slice(*rows), self.start + columns[0] : self.start + columns[1]] = scores


def _scored(model: DRAEM, images: list[_TiledImage], most: int) -> Iterator[np.ndarray]:
    """The maps of some images: their tiles shape by shape, as many at once as `most` pixels allow."""
    shapes: dict[tuple[int, int], list[tuple[_TiledImage, int]]] = {}
    for image in images:
        for index in range(len(image.tiles)):
            shapes.setdefault(image.shape(index), []).append((image, index))
    weights = next(model.parameters())
    for (height, width), jobs in shapes.items():
        count = max(1, most // (height * width))
        for begin in range(0, len(jobs), count):
            batch = jobs[begin : begin + count]
            with precision(weights.device, "float32"):  # or the weights' own sixteen bits, but no TF32
                logits = model(torch.cat([image.view(index, weights) for image, index in batch]))[1]
            for (image, index), one in zip(batch, logits[:, 0], strict=True):
                image.take(index, one)
    for image in images:
        yield image.scores


class DraemDetector(Detector):
    """DRAEM with the interface every detector has.

    model: a `model.draem.DRAEM`; a copy is taken, with its batch norms folded, and put on `device`. memory_mb: see
    `anomaly_map`; several rolls go through the networks together where it allows. bfloat16: compute in sixteen bits,
    which is faster where the device does so by itself; a roll's score changes by less than 0.03, a pixel's by less than
    0.15 (measured with the shipped detectors on 21 rolls, real and simulated: 0.012 and 0.104 at most, no verdict).
    """

    name, kind = "DRAEM", "draem"

    def __init__(
        self, model: DRAEM, device: Device = "auto", memory_mb: float = MEMORY_MB, bfloat16: bool = False
    ) -> None:
        super().__init__()
        check_number("memory_mb", memory_mb, ABOVE_0, expected=f"more than 0, such as {MEMORY_MB}")
        check_type("model", model, DRAEM)
        self.device = pick_device(device)
        self._networks = network_content(model)  # as they were trained, for `save`
        folded = fold_batch_norm(model).to(memory_format=torch.channels_last).to(self.device)
        self.model = folded.to(torch.bfloat16) if bfloat16 else folded
        self.memory_mb = memory_mb
        # What a checkpoint says of its training; of networks from a loop of one's own nothing more is known.
        self.about = {
            "config": {"preset": asdict(model.config), "seed": None}, "steps": 0, "seconds": 0.0, "log": [],
            "finished": True,
        }  # fmt: skip

    def content(self) -> dict[str, Any]:
        """Networks and weights."""
        return dict(self._networks)

    @classmethod
    def from_content(cls, content: dict[str, Any], path: FilePath, device: Device = "auto", **options: Any) -> Self:
        """The detector of a checkpoint's content. options: `memory_mb` and `bfloat16`."""
        return cls(load_model(content, str(path)), device, **options)

    @property
    def size_bytes(self) -> int:
        """Memory of the weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    def raw_map(self, image: np.ndarray, edges: tuple[int, int], fabric: str | None = None) -> np.ndarray:
        """`anomaly_map` of a roll; the fabric does not matter."""
        return next(self.raw_maps([Roll("image", fabric or "", "000", image, edges, None)]))

    def raw_maps(self, rolls: Iterable[Roll]) -> Iterator[np.ndarray]:
        """`anomaly_maps` of many rolls."""
        with memory_errors("memory_mb: the networks do not fit; give a smaller bound, or device='cpu'"):
            yield from anomaly_maps(self.model, ((roll.image, roll.edges) for roll in rolls), self.memory_mb)
