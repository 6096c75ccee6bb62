"""The memory bank: remember what good cloth looks like, cell by cell, and score by distance to the nearest memory."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from draem_aitex.baselines.backbones import NAMES, build_backbone
from draem_aitex.baselines.neighbours import searcher
from draem_aitex.baselines.parts import MOST_SMOOTHING, check_picture, odds_to_scores, on_roll, smoothed
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.detectors.tiling import tiles
from draem_aitex.devices import pick_device
from draem_aitex.errors import InputError, one_line
from draem_aitex.training.sampler import CropSampler

CROP = 128  # px, of the crops that the pool is taken from; less where a backbone's cells do not fill that
SILENT = 0.1  # of the mean spread: less, and a feature that training cloth never stirs would outweigh all others
RIM = 1  # cells at a crop's border that are not taken: what a backbone sees there is not all cloth
CELLS = 25  # kept of a crop, on average
BATCH = 16  # crops at once
PROJECTED = 64  # numbers a vector has while the coreset is chosen
WINDOW = 2**18  # px that the backbone looks at at once
EVERY = "all fabrics"  # the pooled bank's name


class PatchCore(Detector):
    """PatchCore: features of flawless cells, a coreset of them, and the distance to the nearest one kept.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265: features
    of middle layers averaged over neighbours and laid on the finest layer's grid (section 3.1), greedy coreset chosen
    under a random projection (3.2), distance to the nearest vector, upsampled and smoothed (3.3). Different here: every
    feature is standardised on the training cells; the pool that the coreset is chosen from is a random sample; cells
    come from random crops, which may be varied as DRAEM's are; pictures keep their size; scores are not weighted by the
    neighbourhood of the nearest vector; and they are d / (d + r), d the distance and r the greatest distance of a
    pooled cell to the bank, so that 0.5 is as odd as the oddest training cell. The order stays the same.

    backbone: one of `backbones.NAMES`. per_fabric: a bank for each fabric instead of one for all. bank_size: vectors
    kept, of each bank; pool_size: of so many random cells. coreset: "greedy" or "random". neighbourhood: cells over
    whose square features are averaged, odd; smoothing: standard deviation of the map's Gaussian, px. normalised:
    whether scores are normalised by fabric, see `Detector`. learn_steps: of training for `shallow`, 0 leaves it random.
    search: see `neighbours.searcher`. pretrained: see `build_backbone`.
    """

    name, kind, least = "PatchCore", "patchcore", 32  # px; a picture is mirrored at its borders

    def __init__(
        self,
        backbone="fft",
        per_fabric=False,
        bank_size=2000,
        pool_size=20_000,
        coreset="greedy",
        neighbourhood=1,
        smoothing=0.0,
        normalised=True,
        learn_steps=300,
        search="auto",
        device="cpu",
        pretrained=True,
    ):
        if backbone not in NAMES:
            raise InputError(f"backbone: {backbone!r}; expected one of {', '.join(NAMES)}; choose one")
        if coreset not in ("greedy", "random"):
            raise InputError(f"coreset: {coreset!r}; expected 'greedy' or 'random'; choose one of them")
        if not 1 <= bank_size <= pool_size:
            raise InputError(
                f"bank_size: {bank_size}, pool_size: {pool_size}; expected 1 <= bank_size <= pool_size; change one"
            )
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise InputError(f"neighbourhood: {neighbourhood}; expected an odd number of cells, such as 3")
        if not 0 <= smoothing <= MOST_SMOOTHING or learn_steps < 0:
            raise InputError(
                f"smoothing: {smoothing}, learn_steps: {learn_steps}; expected 0 to {MOST_SMOOTHING} px, and 0 or "
                "more; change them"
            )
        searcher(torch.zeros(1, 1), search)  # refuse what cannot be searched with before anything is fitted
        self.options = {
            "backbone": backbone, "per_fabric": per_fabric, "bank_size": bank_size, "pool_size": pool_size,
            "coreset": coreset, "neighbourhood": neighbourhood, "smoothing": smoothing, "normalised": normalised,
            "learn_steps": learn_steps,
        }  # fmt: skip
        self.normalised = normalised
        self.search, self.device, self.pretrained = search, pick_device(device), pretrained
        self.backbone, self.banks, self.offsets = None, {}, {}

    @property
    def what(self):
        """The detector in words."""
        backbone, steps = self.options["backbone"], getattr(self.backbone, "steps", None)
        trained = "" if steps is None else f" (trained {steps} steps on the normal rolls)" if steps else " (random)"
        banks = f"a bank for each of {len(self.banks)} fabrics," if self.options["per_fabric"] else "one bank"
        kept = next(iter(self.banks.values()), {"vectors": np.empty((0, 0))})["vectors"].shape
        return f"PatchCore, backbone {backbone}{trained}, {banks} of {kept[0]:,} vectors of {kept[1]} numbers"

    @property
    def fabrics(self):
        """Fabric codes that have a bank of their own; none for a pooled bank."""
        return sorted(self.banks) if self.options["per_fabric"] else []

    @property
    def size_bytes(self):
        """Memory of the banks."""
        return sum(tensor.numel() * tensor.element_size() for bank in self.banks.values() for tensor in bank.values())

    def fit(self, rolls, generator, normal_augmentation=None):
        """Fill the bank, or the bank of each fabric, from defect-free rolls. The same generator gives the same bank.

        rolls: list of `fabric.Roll`; generator: on the CPU, draws crops, cells, weights and the first vector kept;
        normal_augmentation: a `sampler.NormalAugmentation` of the crops, None leaves them as recorded. Returns self. Raises `InputError`
        for no rolls, for rolls of different height, and for fabric smaller than a crop of 128 px.
        """
        CropSampler(rolls, CROP)  # refuses what no bank can be filled from, before weights are fetched
        self.backbone = build_backbone(self.options["backbone"], generator, self.pretrained).to(self.device)
        if self.options["backbone"] == "shallow":
            self.backbone.learn(
                CropSampler(rolls, CROP // 2, normal_augmentation=normal_augmentation),
                generator,
                self.options["learn_steps"],
            )
        fabrics = sorted({roll.fabric for roll in rolls}) if self.options["per_fabric"] else [EVERY]
        self.banks, self.offsets = {}, {}
        for fabric in fabrics:
            own = [roll for roll in rolls if fabric in (EVERY, roll.fabric)]
            crop = CROP // self.backbone.multiple * self.backbone.multiple
            self.banks[fabric] = self._filled(
                CropSampler(own, crop, normal_augmentation=normal_augmentation), generator
            )
        return self

    @torch.inference_mode()
    def _filled(self, sampler, generator):
        """One bank: `vectors` (M, D), `mean` and `spread` (D,) of the features, `radius` (1,)."""
        pool = []
        for _ in range(math.ceil(self.options["pool_size"] / (BATCH * CELLS))):
            field = self._embedded(sampler(BATCH, generator).to(self.device))[..., RIM:-RIM, RIM:-RIM]
            cells = field.permute(0, 2, 3, 1).flatten(0, 2)
            pool.append(cells[torch.randperm(len(cells), generator=generator)[: BATCH * CELLS].to(self.device)])
        pool = torch.cat(pool)[: self.options["pool_size"]]
        mean, spread = pool.mean(0), pool.std(0)
        spread = spread.clamp_min(SILENT * float(spread.mean()) + FLOOR)
        pool = (pool - mean) / spread
        if self.options["coreset"] == "greedy":
            chosen = greedy_coreset(pool, self.options["bank_size"], generator)
        else:
            chosen = torch.randperm(len(pool), generator=generator)[: self.options["bank_size"]]
        vectors = pool[chosen.to(self.device)].clone()
        radius = searcher(vectors, self.search)(pool).max().clamp_min(FLOOR)
        return {"vectors": vectors, "mean": mean, "spread": spread, "radius": radius.reshape(1)}

    @torch.inference_mode()
    def raw_map(self, image, edges, fabric=None):
        """Score a roll: d / (d + r) of each cell, upsampled and smoothed. Raises `InputError` before `fit`, for a
        fabric that has no bank, and for less than 32 x 32 px of fabric."""
        cloth = check_picture(image, edges, self.least)
        bank = self._bank_of(fabric)
        search, stride = searcher(bank["vectors"], self.search), self.backbone.stride
        multiple = self.backbone.multiple
        pixels = torch.from_numpy(np.ascontiguousarray(cloth))[None, None].to(self.device).float() / 255
        pixels = _mirrored(pixels, -cloth.shape[0] % multiple, -cloth.shape[1] % multiple)
        distances = torch.zeros(pixels.shape[2] // stride, pixels.shape[3] // stride, device=self.device)
        margin = self.backbone.margin + self.options["neighbourhood"] // 2 * stride
        rows = tiles(pixels.shape[2], int(WINDOW**0.5), margin, multiple)
        columns = tiles(pixels.shape[3], WINDOW // (rows[0][0][1] - rows[0][0][0]), margin, multiple)
        for seen_rows, own_rows in rows:
            for seen_columns, own_columns in columns:
                field = self._embedded(pixels[..., slice(*seen_rows), slice(*seen_columns)])[0]
                down, across = _own(seen_rows, own_rows, stride), _own(seen_columns, own_columns, stride)
                cells = field[:, down, across].flatten(1).T
                found = search((cells - bank["mean"]) / bank["spread"])
                place = (slice(*(n // stride for n in own)) for own in (own_rows, own_columns))
                distances[tuple(place)] = found.view(down.stop - down.start, across.stop - across.start)
        distances = F.interpolate(distances[None, None], scale_factor=stride, mode="bilinear", align_corners=False)
        distances = smoothed(distances[..., : cloth.shape[0], : cloth.shape[1]], self.options["smoothing"])
        return on_roll(image, edges, odds_to_scores(distances / bank["radius"]))

    def _bank_of(self, fabric):
        if not self.banks:
            raise InputError("PatchCore: found an empty bank; expected a fitted one; call fit(rolls, generator) first")
        bank = self.banks.get(fabric if self.options["per_fabric"] else EVERY)
        if bank is None:
            raise InputError(
                f"fabric {fabric}: no bank of this fabric, there are {', '.join(self.banks)}; expected one of these; "
                "name it, or fit a bank for all fabrics"
            )
        return bank

    def _embedded(self, pictures):
        """Pictures `(B, 1, H, W)` to features `(B, D, H / stride, W / stride)`: all layers on the finest one's grid."""
        maps = self.backbone(pictures)
        size = self.options["neighbourhood"]
        if size > 1:
            maps = [F.avg_pool2d(field, size, 1, size // 2, count_include_pad=False) for field in maps]
        finest = maps[0].shape[2:]
        coarser = [F.interpolate(field, size=finest, mode="bilinear", align_corners=False) for field in maps[1:]]
        return torch.cat([maps[0], *coarser], dim=1)

    def content(self):
        """What a checkpoint needs to hold; of pretrained backbones the name alone."""
        weights = self.backbone.state_dict() if self.options["backbone"] == "shallow" else {}
        return {
            "detector": self.kind,
            "what": self.what,
            "options": self.options,
            "state": {
                "backbone": {name: tensor.cpu() for name, tensor in weights.items()},
                "backbone_steps": getattr(self.backbone, "steps", 0),
                "banks": {name: {key: t.cpu() for key, t in bank.items()} for name, bank in self.banks.items()},
            },
        }

    @classmethod
    def from_content(cls, content, path, device="cpu", search="auto", pretrained=True):
        """The detector of a checkpoint's content; `InputError` where its banks do not fit its backbone."""
        try:
            detector = cls(**content["options"], search=search, device=device, pretrained=pretrained)
            state = content["state"]
            backbone = build_backbone(content["options"]["backbone"], torch.Generator(), pretrained)
            if state["backbone"]:
                backbone.load_state_dict(state["backbone"])
                backbone.steps = state["backbone_steps"]
            banks = {fabric: {key: bank[key].to(detector.device) for key in ("vectors", "mean", "spread", "radius")}
                     for fabric, bank in state["banks"].items()}  # fmt: skip
            if not banks or any(tensor.dtype != torch.float32 or not tensor.ndim for tensor in _all(banks)):
                raise KeyError("banks")
        except (TypeError, KeyError, RuntimeError, AttributeError, ValueError) as error:
            raise InputError(f"{Path(path).name}: no whole memory bank ({one_line(error)}); fit it anew") from None
        for fabric, bank in banks.items():
            found, wanted = {key: tuple(tensor.shape) for key, tensor in bank.items()}, (backbone.channels,)
            if found != {"vectors": (len(bank["vectors"]), *wanted), "mean": wanted, "spread": wanted, "radius": (1,)}:
                raise InputError(
                    f"{Path(path).name}: the bank of {fabric} holds vectors of shape {found['vectors']}; expected "
                    f"{backbone.channels} numbers each, of backbone {content['options']['backbone']}; fit it anew"
                )
        detector.backbone, detector.banks = backbone.to(detector.device), banks
        detector.offsets = dict(content.get("fabric_offsets", {}))
        return detector


def greedy_coreset(points, count, generator, projected=PROJECTED):
    """Choose a k-centre subset of `points`: indices `(min(count, N),)`, each the farthest from all before it.

    Source: PatchCore, algorithm 1. Distances are those of a random projection to `projected` numbers, which keeps them
    to within some ten per cent (Johnson and Lindenstrauss 1984) and makes each of the `count` passes cheap; vectors
    that are no longer than that are compared as they are.

    points: float32 `(N, D)`; generator: on the CPU, draws the projection and the first index.
    """
    if points.shape[1] > projected:
        projection = torch.randn(points.shape[1], projected, generator=generator) / projected**0.5
        points = points @ projection.to(points.device)
    first = int(torch.randint(len(points), (1,), generator=generator))
    squares = (points**2).sum(1)
    distance = torch.full_like(squares, math.inf)
    chosen = [first]
    for _ in range(min(count, len(points)) - 1):
        centre = points[chosen[-1]]
        torch.minimum(distance, torch.addmv(squares + squares[chosen[-1]], points, centre, alpha=-2), out=distance)
        distance[chosen[-1]] = -math.inf  # never twice, whatever the rounding
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)


def _all(banks):
    return [tensor for bank in banks.values() for tensor in bank.values()]


def _own(seen, own, stride):
    """A window's own part, in cells of its own features."""
    return slice((own[0] - seen[0]) // stride, (own[1] - seen[0]) // stride)


def _mirrored(pixels, below, right):
    """Lengthen pictures by mirrored rows and columns; 32 px and more give that much."""
    return F.pad(pixels, (0, right, 0, below), mode="reflect")
