"""What a checkpoint holds, field by field: types and ranges, declared once and checked whenever one is opened.

A dataclass is a dict with its fields as keys; a field with a default may be missing; other keys are nobody's business.
`Annotated[type, low, high]` is a finite number from low to high; a plain float, as figures are, may be not a number.
Tensors are finite.
"""

import math
import types
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from draem_aitex.data.rolls import AITEX, Reading
from draem_aitex.errors import InputError
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.model_card import FIGURES

MOST_OFFSET = 14  # logit of a score of 1 - 1e-6, rounded up
DTYPES = (torch.float32, torch.int64, torch.uint8)  # weights, counts, random states

Count = Annotated[int, 0, math.inf]
Some = Annotated[int, 1, math.inf]
Unit = Annotated[float, 0, 1]
Positive = Annotated[float, 0, math.inf]
Number = Annotated[float, -math.inf, math.inf]
Offset = Annotated[float, -MOST_OFFSET, MOST_OFFSET]
Weights = dict[str, Tensor]
Figures = make_dataclass("Figures", [(name, float | None) for name in FIGURES])  # type: ignore[misc]


@dataclass(frozen=True)
class Threshold:
    """A decision level, from the patches of normal rolls that were not trained on.

    value: a patch with a higher score is predicted defective. wanted: the false-positive rate (FPR) asked for, a share
    of patches, expected on average. bound: the rate that the calibration patches promise not to pass, see
    `Calibration.threshold`. patches, rolls: how many of them there were.
    """

    value: Unit
    wanted: Unit
    bound: Unit
    patches: Some
    rolls: Some


@dataclass
class Scores:
    """What `detectors.calibration.Calibration` is made of."""

    scores: list[Unit]
    rolls: Some

    def __post_init__(self) -> None:
        if not self.scores or any(low > high for high, low in pairwise(self.scores)):
            raise InputError("scores: none, or not in their order; expected some, the highest first")


@dataclass
class Made:
    """How a detector was made."""

    date: str
    machine: str
    command: str
    versions: str


@dataclass(kw_only=True)
class Content:
    """What the checkpoint of any detector holds."""

    fabric_offsets: dict[str, Offset] = field(default_factory=dict)
    threshold: Threshold | None = None
    calibration: Scores | None = None
    source: str = ""
    fabrics: list[str] = field(default_factory=list)
    split: dict[str, dict[str, str]] = field(default_factory=dict)  # file names with their SHA-256, part by part
    rule: str = ""  # of the split
    reading: Reading = AITEX  # of image files
    figures: dict[str, Figures] = field(default_factory=dict)  # type: ignore[valid-type]
    made: Made | None = None


@dataclass
class Config:
    """What is read of a `TrainConfig`, or of networks from a loop of one's own."""

    preset: str | NetworkConfig
    seed: int | None


@dataclass
class Training:
    """What an unfinished training needs besides to go on."""

    model: Weights
    optimizer: dict[str, Any]
    generators: list[Tensor]


@dataclass(kw_only=True)
class Draem(Content):
    """A checkpoint of DRAEM."""

    network: NetworkConfig
    weights: Weights
    config: Config
    steps: Count
    seconds: Positive
    log: list[dict[str, Number]]
    finished: bool
    training: Training | None = None

    def __post_init__(self) -> None:
        if not self.finished and self.training is None:
            raise InputError("training: missing; expected it while a training is not finished")


@dataclass(kw_only=True)
class Baseline(Content):
    """What the checkpoint of either baseline holds."""

    what: str
    options: dict[str, Any]  # of the detector's constructor, which checks them
    seed: Count
    seconds: Positive


@dataclass
class VAEState:
    """A trained autoencoder."""

    weights: Weights
    unit: Positive
    steps: Some


@dataclass(kw_only=True)
class VAE(Baseline):
    """A checkpoint of the variational autoencoder."""

    state: VAEState


@dataclass
class Bank:
    """See `baselines.patchcore.Bank`."""

    vectors: Tensor
    mean: Tensor
    deviation: Tensor
    radius: Tensor

    def __post_init__(self) -> None:
        if not self.vectors.numel() or not (self.deviation > 0).all() or not (self.radius > 0).all():
            raise InputError("no vectors, or no deviations and radius above 0; expected a bank that was filled")


@dataclass
class PatchCoreState:
    """Memory banks and the network that sees for them."""

    backbone: Weights
    backbone_steps: Count
    banks: dict[str, Bank]


@dataclass(kw_only=True)
class PatchCore(Baseline):
    """A checkpoint of the memory bank."""

    state: PatchCoreState


@dataclass(kw_only=True)
class Other(Baseline):
    """A checkpoint of another one, which looks itself at what its state is."""

    state: dict[str, Tensor | dict[str, Tensor] | str | bool | Number]


# By the word for the detector; `baselines.baseline.Baseline` adds those of others.
SCHEMAS: dict[str, type] = {"draem": Draem, "vae": VAE, "patchcore": PatchCore}


def conform(value: Any, wanted: Any, name: str = "") -> Any:
    """A value as the type that is wanted: a dict becomes its dataclass, whose own checks run with that.

    wanted: a plain type, `Tensor`, a dataclass, `dict`, `list` and `tuple` of these, `Annotated`, a union. name: of the
    field, which the `InputError` for any other value begins with.
    """
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return value
    if origin is Annotated:
        low, high = parts[1:]
        if not low <= conform(value, parts[0], name) <= high or math.isinf(value):
            raise InputError(f"{name}: {value!r}; expected {low:g} to {high:g}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, parts, name)
    if is_dataclass(wanted):
        return _built(conform(value, dict[str, Any], name), wanted, name)
    if origin is not None:
        return _each(value, origin, parts, name)
    fits = isinstance(value, (int, float) if wanted is float else wanted) and (
        wanted is bool or type(value) is not bool
    )
    if not fits or (wanted is Tensor and not _is_whole(value)):
        what = "a whole tensor of finite numbers" if wanted is Tensor else f"a value of type {wanted.__name__}"
        raise InputError(f"{name}: {_said(value)}; expected {what}")
    return value


def _built(value, wanted, name):
    """A dict as a dataclass: every field that it must hold, of its type."""
    within, found = f"{name}." if name else "", {}
    hints = get_type_hints(wanted, include_extras=True)
    for one in fields(wanted):
        if one.name in value:
            found[one.name] = conform(value[one.name], hints[one.name], within + one.name)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"{within}{one.name}: missing; expected a whole checkpoint")
    try:
        return wanted(**found)
    except InputError as error:
        raise InputError(f"{within}{error}") from None


def _each(value, container, parts, name):
    """A dict, list or tuple with each of its items of its type."""
    if not isinstance(value, container):
        raise InputError(f"{name}: {_said(value)}; expected a {container.__name__}")
    if container is dict:
        return {
            conform(key, parts[0], f"{name}, a key"): conform(x, parts[1], f"{name}.{key}") for key, x in value.items()
        }
    return container(conform(item, parts[0], f"{name}[{index}]") for index, item in enumerate(value))


def _one_of(value, kinds, name):
    """A value of one of several types; the last one's error where it is of none."""
    for kind in kinds:
        try:
            return conform(value, kind, name)
        except InputError as error:
            last = error
    raise last


def _is_whole(tensor):
    """Whether a tensor is a plain one: on the CPU, not larger than its memory, of a known type and finite."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
        return False
    # One number expanded to a terabyte takes four bytes in a file.
    return tensor.nbytes <= tensor.untyped_storage().nbytes() and bool(tensor.isfinite().all())


def _said(value):
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}, perhaps not finite"
    return f"{type(value).__name__} {value!r}"[:60]
