"""What goes into an augmenter and what comes out of it: the checks of a batch, and `AugmentedBatch`."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from draem_aitex.errors import InputError, check_unit


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
        images, masks, kinds, severity = (v[first:last] for v in (self.images, self.masks, self.kinds, self.severity))
        return AugmentedBatch(images, masks, kinds, severity, self.names)


def check_batch(images: Tensor, fabric: Tensor | None, generator: Generator, values: bool = True) -> None:
    """Raise `InputError` for images, fabric or a generator that no augmenter can take.

    values: also look whether images and fabric lie in [0, 1]; on CUDA this waits for the device.
    """
    device, shape = images.device.type, tuple(images.shape)
    if len(shape) != 4 or images.dtype != torch.float32 or 0 in shape:
        raise InputError(f"images: {images.dtype} of shape {shape}; expected float32 (B, C, H, W) in [0, 1]")
    wanted = (shape[0], 1, *shape[2:])
    if fabric is not None and (tuple(fabric.shape) != wanted or fabric.dtype != torch.float32):
        raise InputError(f"fabric: {fabric.dtype} {tuple(fabric.shape)}; expected float32 {wanted}, of 0 and 1")
    if not isinstance(generator, Generator) or generator.device.type != device:
        raise InputError(f"generator: {getattr(generator, 'device', None)}; expected a torch.Generator on {device}")
    for name, given in (("images", images), ("fabric", fabric)):
        if values and given is not None:
            check_unit(given, name)
