"""The augmenter: corrupts a whole batch at once on its device, and gives masks, kinds and severities.

The kinds themselves are in `kinds`; here they are mixed. Which sample gets which kind is drawn on the host, how each
anomaly looks on the device, so that nothing waits for a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor

from draem_aitex.anomalies.kinds import KINDS, MOVING, OF_THREADS, check_batch
from draem_aitex.data.fabric_edges import thread_pitch
from draem_aitex.errors import InputError, check_number, check_type

AITEX_ROWS = 256  # px, the height of AITEX's rolls, for whose defects the kinds' sizes are


@dataclass(frozen=True)
class AugmentedBatch:
    """A batch with synthetic anomalies.

    images: float32 `(B, C, H, W)` in [0, 1], corrupted where `masks` are 1.
    masks: float32 `(B, 1, H, W)` of 0 and 1.
    kinds: int64 `(B, 2)`, the first kind of anomaly and the one on top of it: i for the i-th of `names`, 0 for none.
    severity: float32 `(B, 2)` in [0, 1], 0 where there is no anomaly.
    names: what the numbers in `kinds` stand for.
    """

    images: Tensor
    masks: Tensor
    kinds: Tensor
    severity: Tensor
    names: tuple[str, ...]

    @property
    def corrupted(self) -> Tensor:
        """bool `(B,)`: which samples have an anomaly."""
        return self.kinds.amax(dim=1) > 0

    def name(self, index: int) -> str:
        """What was done to one sample: its kind, "one + another", or "untouched"."""
        return " + ".join(self.names[number - 1] for number in self.kinds[index].tolist() if number) or "untouched"

    def part(self, first: int, last: int) -> "AugmentedBatch":
        """The samples from `first` up to, but not including, `last`: views, nothing is copied."""
        samples = slice(first, last)
        columns = self.images[samples], self.masks[samples], self.kinds[samples], self.severity[samples]
        return AugmentedBatch(*columns, self.names)


@dataclass(frozen=True)
class AugmenterConfig:
    """How the kinds are mixed. Raises `InputError` for an unknown kind and for shares or weights out of range."""

    clean_share: float = 0.2  # of the samples stay untouched; the authors' code has 0.5
    pair_share: float = 0.5  # of the others get a second kind on top of the first, any but a slip
    # How often each kind comes, relative to the others. Most defects of AITEX are specks; slips take longest to learn.
    weights: dict[str, float] = field(default_factory=lambda: {
        "perlin_texture": 0.09, "cut_paste": 0.06, "cut_paste_scar": 0.05, "thread": 0.15, "slip": 0.2, "spot": 0.3,
        "stain": 0.05, "crease": 0.05, "hole": 0.05,
    })  # fmt: skip
    scale: float = 1.0  # how large defects may be, see `kinds.sizes`; 1 is for images of 256 rows

    @classmethod
    def for_images(cls, images: Sequence[np.ndarray]) -> "tuple[AugmenterConfig, str]":
        """The default mix for normal images of one's own, and what it is, in words.

        Sizes grow and shrink with the images' shorter side, the median of them, against AITEX's 256 px. Where fewer
        than half of the images show a weave (`fabric_edges.thread_pitch`), kinds that need threads are left out.

        images: uint8 `(H, W)`, any sizes, one or more.
        """
        side = float(np.median([min(image.shape) for image in images]))
        woven = sum(thread_pitch(image) is not None for image in images)
        weights, threads = cls().weights, 2 * woven >= len(images)
        kept = {name: weight for name, weight in weights.items() if threads or name not in OF_THREADS}
        scale = round(min(max(side / AITEX_ROWS, 0.125), 8.0), 3)
        which = "all kinds" if threads else f"without {' and '.join(OF_THREADS)}"
        said = f"a weave found in {woven} of {len(images)} images, {which}; sizes for images of {side:g} px"
        return cls(weights=kept, scale=scale), f"synthetic anomalies: {said}"

    def __post_init__(self) -> None:
        check_type("weights", self.weights, dict)
        for name, weight in self.weights.items():
            check_number(f"weights, {name}", weight, 0)
        if unknown := sorted(set(self.weights) - set(KINDS)):
            raise InputError(f"weights: unknown kind {unknown[0]!r}; expected some of {', '.join(KINDS)}")
        if not sum(self.weights.values()) > 0:
            raise InputError(f"weights: {self.weights}; expected numbers of 0 or more, one of them above 0")
        for name in ("clean_share", "pair_share"):
            check_number(name, getattr(self, name), 0, 1, "a share from 0 to 1")
        check_number("scale", self.scale, 0.1, 10, "a factor from 0.1 to 10")

    def build(self) -> "Augmenter":
        """The augmenter that has these settings."""
        return Augmenter(self)


class Augmenter:
    """Corrupts batches: a sample stays untouched or gets a kind, drawn by weight, and some get a second one.

    Samples are drawn independently of each other, so a large batch is as good as several small ones made one by one:
    `AugmentedBatch.part` cuts it up.

    Example:
        >>> normal = torch.full((8, 1, 64, 64), 0.5)
        >>> Augmenter()(normal, torch.Generator().manual_seed(0)).masks.shape
        torch.Size([8, 1, 64, 64])
    """

    def __init__(self, config: AugmenterConfig | None = None) -> None:
        self.config = config or AugmenterConfig()
        self.names = tuple(self.config.weights)
        self._range_seen = False

    def __call__(self, images: Tensor, generator: Generator, fabric: Tensor | None = None) -> AugmentedBatch:
        """Corrupt a batch; the images given are left as they are.

        images: float32 `(B, C, H, W)` in [0, 1]. generator: `torch.Generator` on the images' device. fabric: float32
        `(B, 1, H, W)`, 1 on the fabric and 0 off it; without it there is fabric everywhere.

        Raises `InputError` for other shapes, types and ranges. On CUDA the range is checked at the first call alone,
        because reading values waits for the device.
        """
        check_type("images", images, Tensor)
        check_batch(images, fabric, generator, values=images.device.type == "cpu" or not self._range_seen)
        self._range_seen = True
        batch, device = len(images), images.device
        everywhere = torch.ones(1, device=device).expand(batch, 1, *images.shape[2:])
        clean, *layers = self._draw_counts(batch, host_generator(generator))
        order = torch.randperm(batch, generator=generator, device=device)[clean:]
        severity = torch.rand(batch, 2, generator=generator, device=device)
        kinds = torch.zeros(batch, 2, dtype=torch.long, device=device)
        corrupted, masks = images.clone(), torch.zeros(everywhere.shape, device=device)
        for layer, counts in enumerate(layers):
            for number, chosen in enumerate(order[: sum(counts)].split(counts), start=1):
                if len(chosen) == 0:
                    continue
                apply = KINDS[self.names[number - 1]]
                before, strength = corrupted.index_select(0, chosen), severity[chosen, layer]
                ground = everywhere[: len(chosen)] if fabric is None else fabric.index_select(0, chosen)
                foreign = images[chosen - 1] if apply.takes_foreign else None
                changed, mask = apply(before, ground, strength, generator, foreign, True, self.config.scale)
                corrupted.index_copy_(0, chosen, changed)
                kinds[chosen, layer] = number * (mask.amax((1, 2, 3)) > 0)
                masks.index_copy_(0, chosen, mask if layer == 0 else mask.maximum(masks.index_select(0, chosen)))
            order = order[torch.randperm(len(order), generator=generator, device=device)]
        return AugmentedBatch(corrupted, masks, kinds, severity * (kinds > 0), self.names)

    def _draw_counts(self, batch, host):
        """How many samples stay clean, and how many get each kind first and how many each kind second: ints."""
        weights = torch.tensor([*self.config.weights.values()], dtype=torch.float32)
        # A kind that moves the fabric would move the first anomaly away from its mask.
        on_top = weights * torch.tensor([name not in MOVING for name in self.names])
        corrupted = int((torch.rand(batch, generator=host) >= self.config.clean_share).sum())
        paired = int((torch.rand(corrupted, generator=host) < self.config.pair_share).sum())
        layers = []
        for count, lots in ((corrupted, weights), (paired, on_top)):
            drawn = torch.multinomial(lots, count, True, generator=host) if count and lots.any() else lots[:0].long()
            layers.append(torch.bincount(drawn, minlength=len(lots)).tolist())
        return batch - corrupted, *layers


def host_generator(generator: Generator) -> Generator:
    """A generator on the host, for what must be known there; for a generator on the CPU it is the given one.

    The state of a CUDA generator (seed and offset) lies in the host's memory, so reading it waits for nothing. The
    offset moves on with every draw, and so does what is derived from it.
    """
    if generator.device.type == "cpu":
        return generator
    seed, offset = generator.get_state().view(torch.int64).tolist()
    return Generator().manual_seed((seed * 1_000_003 + offset) % 2**63)
