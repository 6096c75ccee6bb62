"""The memory bank: remember what normal fabric looks like, position by position; score by distance to the nearest."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from draem_aitex.baselines.backbones import BACKBONES, Backbone, Shallow, build_backbone
from draem_aitex.baselines.baseline import Baseline
from draem_aitex.baselines.neighbours import searcher
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.detectors.tiling import Span, tiles
from draem_aitex.errors import InputError, check_choice, check_number
from draem_aitex.training.sampler import CropSampler, NormalAugmentation

CROP = 128  # px, of the crops that the pool is taken from; less where a backbone's positions do not fill that
SILENT = 0.1  # of the mean standard deviation: a feature that stirs less in training would outweigh all others
RIM = 1  # positions at a crop's border that are not taken: what a backbone sees there is not all fabric
KEPT = 25  # positions of a crop, on average
BATCH = 16  # crops at once
PROJECTED = 64  # numbers a vector has while the coreset is chosen
MOST_POSITIONS = 31  # to a side of a neighbourhood
TILE = 2**18  # px that the backbone looks at at once
EVERY = "all fabrics"  # the pooled bank's name


class Bank(NamedTuple):
    """The memory of one fabric, or of all: float32, on the detector's device."""

    vectors: Tensor  # (M, D), standardised features of normal positions
    mean: Tensor  # (D,), of the features
    deviation: Tensor  # (D,), standard deviation of the features
    radius: Tensor  # (1,), the greatest distance to `vectors` of a normal position that is not among them


@dataclass(eq=False)
class PatchCore(Baseline):
    """PatchCore: features of normal positions, a coreset of them, and the distance to the nearest one kept.

    A position is one of the feature map, 8 x 8 px with `fft`.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265: features
    of middle layers averaged over neighbours and laid on the finest layer's grid (section 3.1), greedy coreset chosen
    under a random projection (3.2), distance to the nearest vector, upsampled and smoothed (3.3). Different here: every
    feature is standardised on the training positions; the pool that the coreset is chosen from is a random sample;
    positions come from random crops, which may be augmented as DRAEM's are; images keep their size; scores are not
    weighted by the neighbourhood of the nearest vector; and they are d / (d + r), d the distance and r, the radius, the
    greatest distance to the bank of a normal position outside it, so that 0.5 is as odd as the oddest training
    position. The order stays the same.

    Raises `InputError` for an option out of its range.
    """

    backbone: str = "fft"  # one of `backbones.BACKBONES`
    per_fabric: bool = False  # a bank for each fabric instead of one for all
    bank_size: int = 2000  # vectors kept, of each bank
    pool_size: int = 20_000  # random positions that they are chosen from
    coreset: str = "greedy"  # how they are chosen, or "random"
    neighbourhood: int = 1  # side of the square of positions over which features are averaged, odd
    learn_steps: int = 300  # training of `shallow`; 0 leaves it random
    search: str = "auto"  # see `neighbours.searcher`
    pretrained: bool = True  # see `build_backbone`

    name, kind, least = "PatchCore", "patchcore", 32  # px; an image is mirrored at its borders

    def __post_init__(self, device: str | torch.device) -> None:
        super().__post_init__(device)
        check_choice("backbone", self.backbone, BACKBONES)
        check_choice("coreset", self.coreset, ("greedy", "random"))
        searcher(torch.zeros(1, 1), self.search)  # refuses what cannot be searched with, before a fit
        check_choice("per_fabric", self.per_fabric, (True, False))
        check_number("pool_size", self.pool_size, 1, whole=True)
        check_number(
            "bank_size", self.bank_size, 1, self.pool_size, f"1 to {self.pool_size}, the pool_size", whole=True
        )
        check_number("learn_steps", self.learn_steps, 0, whole=True)
        wanted = f"an odd number of positions up to {MOST_POSITIONS}, such as 3"
        check_number("neighbourhood", self.neighbourhood, 1, MOST_POSITIONS, wanted, whole=True)
        if self.neighbourhood % 2 == 0:
            raise InputError(f"neighbourhood: {self.neighbourhood}; expected {wanted}")
        self.network: Backbone  # from `fit` on
        self.banks: dict[str, Bank] = {}  # by fabric code, or one under `EVERY`

    @property
    def what(self) -> str:
        """The detector in words."""
        steps = self.network.steps if self.banks else None
        trained = "" if steps is None else f" (trained {steps} steps on the normal rolls)" if steps else " (random)"
        banks = f"a bank for each of {len(self.banks)} fabrics," if self.per_fabric else "one bank"
        count, length = next(iter(self.banks.values())).vectors.shape if self.banks else (0, 0)
        return f"PatchCore, backbone {self.backbone}{trained}, {banks} of {count:,} vectors of {length} numbers"

    @property
    def fabrics(self) -> list[str]:  # type: ignore[override]
        """Fabric codes that have a bank of their own; none for a pooled bank."""
        return sorted(self.banks) if self.per_fabric else []

    @property
    def size_bytes(self) -> int:
        """Memory of the banks; 0 before `fit`."""
        return sum(tensor.numel() * tensor.element_size() for bank in self.banks.values() for tensor in bank)

    def fit(
        self, rolls: list[Roll], generator: torch.Generator, normal_augmentation: NormalAugmentation | None = None
    ) -> Self:
        """Fill the bank, or the bank of each fabric, from normal rolls. The same generator gives the same bank.

        rolls: in grey. generator: on the CPU, draws crops, positions, weights and the first vector kept.
        normal_augmentation: of the crops; None is no augmentation. Returns the detector itself, not calibrated. Raises
        `InputError` for no rolls, rolls in colour, and where memory runs out.
        """
        CropSampler(rolls, CROP, "cpu")  # refuses what no bank can be filled from, before weights are fetched
        self.banks, banks = {}, {}
        with self._fitting(generator, "bank_size, pool_size: give smaller ones, or device='cpu'"):
            self.network = build_backbone(self.backbone, generator, self.pretrained).to(self.device)
            if isinstance(self.network, Shallow):
                crops = CropSampler(rolls, CROP // 2, "cpu", normal_augmentation)
                self.network.learn(crops, generator, self.learn_steps)
            crop = CROP // self.network.multiple * self.network.multiple
            for fabric in sorted({roll.fabric for roll in rolls}) if self.per_fabric else [EVERY]:
                own = [roll for roll in rolls if fabric in (EVERY, roll.fabric)]
                banks[fabric] = self._filled(CropSampler(own, crop, "cpu", normal_augmentation), generator)
        self.banks = banks
        return self

    @torch.inference_mode()
    def _filled(self, sampler: CropSampler, generator: torch.Generator) -> Bank:
        pool = self._pool(sampler, generator)
        mean, deviation = pool.mean(0), pool.std(0)
        deviation = deviation.maximum((SILENT * deviation.mean().double() + FLOOR).float())
        pool = (pool - mean) / deviation
        if self.coreset == "greedy":
            chosen = greedy_coreset(pool, self.bank_size, generator)
        else:
            chosen = torch.randperm(len(pool), generator=generator)[: self.bank_size].to(self.device)
        vectors = pool.index_select(0, chosen)
        search = searcher(vectors, self.search)
        distances = search(pool).index_fill_(0, chosen, 0)  # of a vector to itself: nothing but rounding
        if 2 * len(vectors) > len(pool):  # too few are left over to say how far a normal position may lie
            distances = search((self._pool(sampler, generator) - mean) / deviation)
        return Bank(vectors, mean, deviation, distances.max().clamp_min(FLOOR).reshape(1))

    def _pool(self, sampler: CropSampler, generator: torch.Generator) -> Tensor:
        """The features `(pool_size, D)` of random positions of random crops."""
        pool = torch.empty(self.pool_size, self.network.channels, device=self.device)  # the memory is there, or not
        for part in pool.split(BATCH * KEPT):
            crops = sampler(BATCH, generator).to(self.device, non_blocking=True)
            positions = self._embedded(crops)[..., RIM:-RIM, RIM:-RIM].permute(0, 2, 3, 1).flatten(0, 2)
            some = torch.randperm(len(positions), generator=generator)[: len(part)]
            part.copy_(positions[some.to(self.device, non_blocking=True)])
        return pool

    def _oddness(self, pixels: Tensor, fabric: str | None) -> tuple[Tensor, Tensor]:
        """The distance of each position to the nearest vector, upsampled; and the radius."""
        bank = self.banks[fabric or "" if self.per_fabric else EVERY]
        search, stride, multiple = searcher(bank.vectors, self.search), self.network.stride, self.network.multiple
        height, width = pixels.shape[2:]
        pixels = F.pad(pixels, (0, -width % multiple, 0, -height % multiple), mode="reflect")
        distances = torch.zeros(pixels.shape[2] // stride, pixels.shape[3] // stride, device=self.device)
        margin = self.network.margin + self.neighbourhood // 2 * stride
        rows = tiles(pixels.shape[2], int(TILE**0.5), margin, multiple)
        columns = tiles(pixels.shape[3], TILE // (rows[0][0][1] - rows[0][0][0]), margin, multiple)
        for ((top, bottom), valid_rows), ((left, right), valid_columns) in product(rows, columns):
            field = self._embedded(pixels[..., top:bottom, left:right])[0]
            field = field[:, _positions(valid_rows, stride, top), _positions(valid_columns, stride, left)]
            found = search((field.flatten(1).T - bank.mean) / bank.deviation).view(field.shape[1:])
            distances[_positions(valid_rows, stride), _positions(valid_columns, stride)] = found
        distances = F.interpolate(distances[None, None], scale_factor=stride, mode="bilinear", align_corners=False)
        return distances[..., :height, :width], bank.radius

    def _embedded(self, images: Tensor) -> Tensor:
        """Images `(B, 1, H, W)` to features `(B, D, H / stride, W / stride)`: all layers on the finest one's grid."""
        maps = self.network(images)
        if (size := self.neighbourhood) > 1:
            maps = [F.avg_pool2d(field, size, 1, size // 2, count_include_pad=False) for field in maps]
        finest = maps[0].shape[2:]
        coarser = [F.interpolate(field, size=finest, mode="bilinear", align_corners=False) for field in maps[1:]]
        return torch.cat([maps[0], *coarser], dim=1)

    def _state(self) -> dict[str, Any]:
        """Of pretrained backbones the name alone is kept, among the options."""
        return {
            "backbone": self.network.state_dict() if isinstance(self.network, Shallow) else {},
            "backbone_steps": self.network.steps or 0,
            "banks": {fabric: bank._asdict() for fabric, bank in self.banks.items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.network = build_backbone(self.backbone, torch.Generator(), self.pretrained).to(self.device)
        if isinstance(self.network, Shallow):
            self.network.load_state_dict(state["backbone"])
            self.network.steps = state["backbone_steps"]
        length = self.network.channels
        for fabric, kept in state["banks"].items():
            bank = Bank(**{name: tensor.to(self.device) for name, tensor in kept.items()})
            found = [tuple(tensor.shape) for tensor in bank if tensor.dtype == torch.float32]
            if found != [(len(bank.vectors), length), (length,), (length,), (1,)]:
                shape = tuple(bank.vectors.shape)
                raise InputError(f"the bank of {fabric} is {shape}; expected {length} numbers each; fit it anew")
            self.banks[fabric] = bank
        if not self.size_bytes or self.per_fabric == (EVERY in self.banks):
            wanted = "one for each fabric" if self.per_fabric else f"one, of {EVERY}"
            raise InputError(f"banks of {', '.join(self.banks) or 'nothing'}; expected {wanted}; fit it anew")


def greedy_coreset(points: Tensor, count: int, generator: torch.Generator, projected: int = PROJECTED) -> Tensor:
    """Choose a k-centre subset of `points`: indices `(min(count, N),)`, each the farthest from all before it.

    Source: PatchCore, algorithm 1. Distances are those of a random projection to `projected` numbers, which keeps them
    to within some ten per cent (Johnson and Lindenstrauss 1984) and makes each of the `count` passes cheap; vectors
    that are no longer than that are compared as they are. The indices are on the device of the points, which is not
    waited for.

    points: float32 `(N, D)`; generator: on the CPU, draws the projection and the first index.
    """
    check_number("count", count, 1, whole=True)
    if not len(points):
        raise InputError("points: none; expected one or more")
    if points.shape[1] > projected:
        projection = torch.randn(points.shape[1], projected, generator=generator) / projected**0.5
        points = points @ projection.to(points.device)
    last = torch.randint(len(points), (1,), generator=generator).to(points.device)
    squares = (points**2).sum(1)
    distance = torch.full_like(squares, math.inf)
    chosen = [last]
    for _ in range(min(count, len(points)) - 1):
        centre = points.index_select(0, last)[0]
        torch.minimum(distance, torch.addmv(squares + squares[last], points, centre, alpha=-2), out=distance)
        distance.index_fill_(0, last, -math.inf)  # never twice, whatever the rounding
        last = distance.argmax(0, keepdim=True)
        chosen.append(last)
    return torch.cat(chosen)


def _positions(span: Span, stride: int, first: int = 0) -> slice:
    """Pixels `(first, last)`, half open, as positions of a map that begins at pixel `first`."""
    return slice((span[0] - first) // stride, (span[1] - first) // stride)
