"""Configuration: everything that defines a training run; saved in its checkpoint, and needed to resume it."""

import math
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.anomalies.paper_augmenter import PaperAugmenterConfig
from draem_aitex.errors import ABOVE_0, BELOW_1, InputError, check_choice, check_number, check_seed, check_type
from draem_aitex.model.draem import PRESETS
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.sampler import NormalAugmentation

SCHEDULES = ("cosine", "steps")
PRECISIONS = ("auto", "float32")
NOTHING = "nothing"  # to start from
DROPS, DROP = (0.8, 0.9), 0.2  # parts of a run after which the published schedule multiplies the rate, and by what

# What goes with a preset. `paper`: batch, crop, learning rate, schedule and plain Adam of the authors' code. What it
# does not share with their code: the weights of the losses, the synthetic anomalies (unless `augmenter` is a
# `PaperAugmenterConfig`), the augmentation of normal crops, gradients clipped to a norm of 1, bfloat16 where the device
# computes in it, and the averaged weights (EMA) that are kept in place of the last ones. A crop as high as the roll
# cannot show more rows than it has, hence the stretch of at most 1.
RECIPES: dict[str, dict[str, Any]] = {
    "compact": {},
    "paper": {
        "batch": 8, "crop": 256, "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "steps",
        "normal_augmentation": NormalAugmentation(stretch=(0.3, 1.0)),
    },
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Everything that defines a training run. Give `minutes` or `steps`; the schedule fits either.

    Whatever the preset, gradients are clipped to a norm of 1, and the weights that a run leaves are an exponential
    moving average (EMA) of those it passed through.

    Args:
        preset: a name in `model.draem.PRESETS` ("compact", "paper"), or a `NetworkConfig` of your own.
        minutes: budget in minutes of training; the first step, which may compile, is not counted.
        steps: budget in steps, instead of minutes; runs with it can be repeated to the bit.
        batch: crops per step, on each device.
        crop: side of a crop in pixels.
        learning_rate: at the peak of the schedule.
        weight_decay: of AdamW; 0 makes it Adam.
        schedule: "cosine", or "steps", the published one.
        warm_up: share of the run over which the learning rate climbs before the cosine.
        ema_decay: of the averaged weights, per step.
        precision: "auto" is bfloat16 where the device computes in it; or "float32".
        seed: of the first weights and of every random draw.
        start: a checkpoint, or a shipped one's name, whose averaged weights are the first; "nothing" draws them from
            the seed, and so does None, but for images of one's own (`workflow.suited`).
        normal_augmentation: of the normal crops; None leaves them as they are.
        augmenter: the mix of synthetic anomalies, or the published ones.

    Raises:
        InputError: a value outside its range, or both or neither of `minutes` and `steps`.

    Example:
        >>> from draem_aitex import TrainConfig
        >>> config = TrainConfig(steps=1000, batch=16)
        >>> config.learning_rate_at(steps=50, progress=0.05)  # at the end of the warm-up
        0.002
    """

    preset: str | NetworkConfig = "compact"
    minutes: float | None = None
    steps: int | None = None
    batch: int = 16
    crop: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warm_up: float = 0.05
    ema_decay: float = 0.99
    precision: str = "auto"
    seed: int = 0
    start: str | None = None
    normal_augmentation: NormalAugmentation | None = field(default_factory=NormalAugmentation)
    augmenter: AugmenterConfig | PaperAugmenterConfig = field(default_factory=AugmenterConfig)

    def __post_init__(self) -> None:
        if not isinstance(self.preset, NetworkConfig):
            check_choice("preset", self.preset, PRESETS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        if (self.minutes is None) == (self.steps is None):
            raise InputError(f"minutes={self.minutes}, steps={self.steps}; expected one of the two; give the other up")
        if self.steps is None:
            check_number("minutes", self.minutes, ABOVE_0, expected="a number above 0")
        else:
            check_number("steps", self.steps, 1, whole=True)
        check_number("batch", self.batch, 1, whole=True)
        least = 2 * self.network.multiple  # two positions at the lowest level
        check_number("crop", self.crop, least, math.inf, f"a whole number, {least} or more, for these networks", True)
        check_number("learning_rate", self.learning_rate, ABOVE_0, expected="a number above 0, such as 0.002")
        for share in ("warm_up", "ema_decay", "weight_decay"):
            check_number(share, getattr(self, share), 0, BELOW_1, "a number from 0 to below 1")
        check_seed(self.seed)
        check_type("augmenter", self.augmenter, AugmenterConfig, PaperAugmenterConfig)
        check_type("normal_augmentation", self.normal_augmentation, NormalAugmentation, NoneType)
        check_type("start", self.start, str, NoneType)

    @property
    def network(self) -> NetworkConfig:
        """The networks that `preset` means."""
        return self.preset if isinstance(self.preset, NetworkConfig) else PRESETS[self.preset]

    @classmethod
    def of_preset(cls, preset: str, **changes: Any) -> "TrainConfig":
        """The configuration that goes with a preset's name, see `RECIPES`; `changes` come on top."""
        return cls(preset=preset, **{**RECIPES.get(preset, {}), **changes})

    def learning_rate_at(self, steps: int, progress: float) -> float:
        """Learning rate of the step that comes after `steps` steps, `progress` (0 to 1) of the budget being spent."""
        if self.schedule == "cosine":
            return self.learning_rate * cosine_factor(progress, self.warm_up)
        if self.steps is None:
            return self.learning_rate * DROP ** sum(progress >= part for part in DROPS)
        return self.learning_rate * DROP ** sum(steps >= milestone for milestone in milestones(self.steps))


def cosine_factor(progress: float, warm_up: float) -> float:
    """A linear climb over the warm-up, then half a cosine from 1 down to a hundredth. progress: 0 to 1."""
    if progress < warm_up:
        return 0.01 + 0.99 * progress / warm_up
    done = (progress - warm_up) / (1 - warm_up)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1))) / 2


def milestones(steps: int) -> tuple[int, ...]:
    """Steps after which the published schedule drops the rate: whole numbers, 80 and 90 per cent of the run.

    The authors' code multiplies by 0.2 where an epoch equals 0.8 or 0.9 times their number. That product is seldom a
    whole number: with 7 epochs their rate never drops.
    """
    return tuple(round(part * 100) * steps // 100 for part in DROPS)
