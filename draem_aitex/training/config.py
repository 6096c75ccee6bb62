"""What defines a training run: networks, budget, batch, schedule, mix of made-up defects, seed."""

import math
from dataclasses import dataclass, field

from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.errors import InputError
from draem_aitex.model.draem import PRESETS
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.sampler import NormalAugmentation

SCHEDULES = ("cosine", "steps")
PRECISIONS = ("auto", "float32")
DROPS, DROP = (0.8, 0.9), 0.2  # parts of a run after which the published schedule multiplies the rate, and by what

# What goes with a preset. `paper`: batch, rate, schedule and plain Adam of the authors' code; their losses' weights and
# their made-up defects are not part of it (notebook 04 has the table of differences).
RECIPES = {
    "compact": {},
    "paper": {"batch": 8, "crop": 256, "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "steps"},
}


@dataclass(frozen=True)
class TrainConfig:
    """What defines a training run. Give `minutes` or `steps`; the schedule fits either."""

    preset: str | NetworkConfig = "compact"  # a name in `networks.PRESETS`, or a pair of your own
    minutes: float | None = None
    steps: int | None = None
    batch: int = 32  # crops a step, on each device
    crop: int = 128  # pixels
    learning_rate: float = 2e-3  # at the peak of the schedule
    weight_decay: float = 0.01  # of AdamW; 0 makes it Adam
    schedule: str = "cosine"  # or "steps", the published one
    warm_up: float = 0.05  # share of the run over which the rate climbs before the cosine
    ema_decay: float = 0.99  # of the averaged weights, per step
    precision: str = "auto"  # bfloat16 where the device computes in it; or "float32"
    seed: int = 0
    normal_augmentation: NormalAugmentation | None = field(default_factory=NormalAugmentation)  # of the flawless crops
    augmenter: AugmenterConfig = field(default_factory=AugmenterConfig)

    def __post_init__(self):
        if not isinstance(self.preset, NetworkConfig) and self.preset not in PRESETS:
            raise InputError(f"preset: {self.preset!r}; expected one of {', '.join(PRESETS)}")
        if (self.minutes is None) == (self.steps is None):
            raise InputError(f"minutes={self.minutes}, steps={self.steps}; expected one of the two; give the other up")
        budget = self.steps if self.minutes is None else self.minutes
        if not (_is_number(budget) and budget > 0):
            raise InputError(f"training budget of {budget}; expected more than 0; give steps or minutes")
        for name in ("steps", "batch", "crop"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name}: {value!r}; expected a whole number, 1 or more")
        if not (_is_number(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate: {self.learning_rate!r}; expected a number above 0, such as 0.002")
        for name in ("warm_up", "ema_decay", "weight_decay"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < 1):
                raise InputError(f"{name}: {value!r}; expected a number from 0 to below 1")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**62:
            raise InputError(f"seed: {self.seed!r}; expected a whole number from 0 to 2^62")
        network = PRESETS[self.preset] if isinstance(self.preset, str) else self.preset
        if self.crop < 2 * network.multiple:
            raise InputError(
                f"crop: {self.crop} pixels; expected {2 * network.multiple} or more, so that the networks' lowest "
                "level has more than one place; take larger crops"
            )
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: {getattr(self, name)!r}; expected {' or '.join(known)}")

    @classmethod
    def of_preset(cls, preset, **changes):
        """The configuration that goes with a preset's name, see `RECIPES`; `changes` come on top."""
        return cls(preset=preset, **{**RECIPES.get(preset, {}), **changes})

    def learning_rate_at(self, steps, progress):
        """Learning rate of the step that comes after `steps` steps, `progress` (0 to 1) of the budget being spent."""
        if self.schedule == "cosine":
            return self.learning_rate * cosine_factor(progress, self.warm_up)
        if self.steps is None:
            return self.learning_rate * DROP ** sum(progress >= part for part in DROPS)
        return self.learning_rate * DROP ** sum(steps >= milestone for milestone in milestones(self.steps))


def _is_number(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def cosine_factor(progress, warm_up):
    """A linear climb over the warm-up, then half a cosine from 1 down to a hundredth. progress: 0 to 1."""
    if progress < warm_up:
        return 0.01 + 0.99 * progress / warm_up
    done = (progress - warm_up) / (1 - warm_up)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1))) / 2


def milestones(steps):
    """Steps after which the published schedule drops the rate: whole numbers, 80 and 90 per cent of the run.

    The authors' code multiplies by 0.2 where an epoch equals 0.8 or 0.9 times their number. That product is seldom a
    whole number: with 7 epochs their rate never drops.
    """
    return tuple(round(part * 100) * steps // 100 for part in DROPS)
