"""The augmenter: a whole batch corrupted at once and on its device, with masks, kinds and severities.

The kinds themselves are in `kinds`; here they are mixed. Which sample gets which kind is drawn on the host, how each
looks on the device, so that nothing waits for a GPU.
"""

from dataclasses import dataclass, field

import torch

from draem_aitex.anomalies.kinds import KINDS, MOVING, check_images
from draem_aitex.errors import InputError, check_unit


@dataclass(frozen=True)
class AugmenterConfig:
    """How the kinds are mixed."""

    clean_share: float = 0.2  # of the samples stay untouched; the paper's code has 0.5
    pair_share: float = 0.5  # of the others get a second kind on top of the first, any but a slip
    # How often each kind comes, relative to the others; slips take longest to learn. What each group of kinds is worth
    # on real rolls after three minutes is in benchmarks/results/ablation.json (half of the mix were slips then).
    weights: dict = field(
        default_factory=lambda: {
            "perlin_texture": 0.1, "cut_paste": 0.07, "cut_paste_scar": 0.06, "thread": 0.17, "slip": 0.28,
            "spot": 0.17, "stain": 0.045, "crease": 0.05, "hole": 0.055,
        }
    )  # fmt: skip

    def __post_init__(self):
        unknown = sorted(set(self.weights) - set(KINDS))
        if unknown:
            raise InputError(f"weights: unknown kind {unknown[0]!r}; expected some of {', '.join(KINDS)}")
        if not self.weights or min(self.weights.values()) < 0 or not 0 < sum(self.weights.values()) < float("inf"):
            raise InputError(f"weights: {self.weights}; expected numbers of 0 or more, one of them above 0")
        for name in ("clean_share", "pair_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: {getattr(self, name)}; expected a share from 0 to 1")


@dataclass(frozen=True)
class AugmentedBatch:
    """A corrupted batch.

    images: float32 `(B, C, H, W)`; masks: float32 `(B, 1, H, W)` of 0 and 1; kinds: int64 `(B, 2)`, the first kind and
    the one on top of it, 0 for none and i for the i-th of `names`; severity: float32 `(B, 2)`, 0 where there is none.
    """

    images: torch.Tensor
    masks: torch.Tensor
    kinds: torch.Tensor
    severity: torch.Tensor
    names: tuple

    @property
    def corrupted(self):
        """bool `(B,)`: which samples have a defect."""
        return self.kinds.amax(dim=1) > 0

    def name(self, index):
        """What happened to one sample: its kind, "one + another", or "untouched"."""
        return " + ".join(self.names[number - 1] for number in self.kinds[index].tolist() if number) or "untouched"


class Augmenter:
    """Corrupts batches: a sample stays clean or gets a kind, drawn by weight, and some get a second one."""

    def __init__(self, config=None):
        self.config = config or AugmenterConfig()
        self.names = tuple(self.config.weights)
        self._range_seen = False

    def __call__(self, images, generator, fabric=None):
        """Corrupt a batch.

        images: float32 `(B, C, H, W)` in [0, 1]; generator: `torch.Generator` on the images' device; fabric: float32
        `(B, 1, H, W)` of 0 and 1, where there is cloth, everywhere without it. Returns an `AugmentedBatch`; the
        images given are left as they are. Raises `InputError` for other shapes, types and ranges. On CUDA the range
        is checked at the first call alone: looking at values waits for the device.
        """
        everywhere = torch.ones(1, device=images.device).expand(len(images), 1, *images.shape[2:])
        check_images(images, everywhere if fabric is None else fabric, generator)
        if images.device.type == "cpu" or not self._range_seen:
            check_unit(images, "images")
            if fabric is not None:
                check_unit(fabric, "fabric")
            self._range_seen = True
        return self._corrupt(images, generator, everywhere, fabric)

    def _corrupt(self, images, generator, everywhere, fabric):
        batch, device = len(images), images.device
        clean, *layers = self._draw_counts(batch, host_generator(generator))
        order = torch.randperm(batch, generator=generator, device=device)[clean:]
        severity = torch.rand(batch, 2, generator=generator, device=device)
        kinds = torch.zeros(batch, 2, dtype=torch.long, device=device)
        corrupted, masks = images.clone(), torch.zeros(everywhere.shape, device=device)
        for layer, counts in enumerate(layers):
            first = 0
            for number, count in enumerate(counts, start=1):
                if count == 0:
                    continue
                chosen = order[first : first + count]
                first += count
                apply = KINDS[self.names[number - 1]]
                changed, mask = apply.unchecked(
                    corrupted.index_select(0, chosen),
                    everywhere[:count] if fabric is None else fabric.index_select(0, chosen),
                    severity[chosen, layer],
                    generator,
                    images[chosen - 1] if apply.takes_foreign else None,
                )
                corrupted.index_copy_(0, chosen, changed)
                kinds[chosen, layer] = number * (mask.amax((1, 2, 3)) > 0)
                masks.index_copy_(0, chosen, mask if layer == 0 else mask.maximum(masks.index_select(0, chosen)))
            order = order[torch.randperm(len(order), generator=generator, device=device)]
        return AugmentedBatch(corrupted, masks, kinds, severity * (kinds > 0), self.names)

    def _draw_counts(self, batch, host):
        """How many samples stay clean, and how many get each kind as their first and as their second: whole numbers."""
        weights = torch.tensor([*self.config.weights.values()], dtype=torch.float32)
        # What moves cloth would move a first defect away from its mask.
        on_top = weights * torch.tensor([name not in MOVING for name in self.names])
        corrupted = int((torch.rand(batch, generator=host) >= self.config.clean_share).sum())
        paired = int((torch.rand(corrupted, generator=host) < self.config.pair_share).sum())
        layers = []
        for count, lots in ((corrupted, weights), (paired, on_top)):
            none = torch.empty(0, dtype=torch.long)
            drawn = torch.multinomial(lots, count, True, generator=host) if count and lots.any() else none
            layers.append(torch.bincount(drawn, minlength=len(weights)).tolist())
        return batch - corrupted, *layers


def host_generator(generator):
    """A generator on the host for what must be known there; for CPU batches it is the given one.

    The state of a CUDA generator lies on the host (seed and offset), so that reading it waits for nothing; the offset
    moves on with every draw, and so does what is derived from it.
    """
    if generator.device.type == "cpu":
        return generator
    seed, offset = generator.get_state().view(torch.int64).tolist()
    return torch.Generator().manual_seed((seed * 1_000_003 + offset) % 2**63)
