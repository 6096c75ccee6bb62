"""What both baselines share: from how odd each pixel is to a map of scores, what a fit leaves behind, checkpoints."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from draem_aitex.data.rolls import roll_of_array
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.devices import Device, check_generator, memory_errors, pick_device
from draem_aitex.errors import InputError, check_choice, check_number, one_line
from draem_aitex.files import FilePath
from draem_aitex.training.schema import SCHEMAS, Other
from draem_aitex.training.trainer import precision

MOST_SMOOTHING = 64  # px


@dataclass(eq=False, kw_only=True)
class Baseline(Detector):
    """A detector that measures how odd each pixel is; its score is odd / (odd + usual).

    So a score of 0.5 means as odd as usual, where "usual" comes from the fit. A subclass has more fields, its options;
    `what`, the detector in words; and says how to measure (`_oddness`), what a checkpoint must hold (`_state`) and how
    to read that (`_restore`). A kind that `training.schema` does not name may keep what `schema.Other` has.
    """

    smoothing: float = 0.0  # standard deviation of the map's Gaussian, px
    normalised: bool = True  # whether scores are normalised by fabric, see `Detector`
    device: InitVar[Device] = "auto"  # type: ignore[assignment]

    def __init_subclass__(cls) -> None:
        SCHEMAS.setdefault(cls.kind, Other)

    def __post_init__(self, device: Device) -> None:
        super().__init__()
        check_number("smoothing", self.smoothing, 0, MOST_SMOOTHING, f"0 to {MOST_SMOOTHING} px")
        check_choice("normalised", self.normalised, (True, False))
        self.device = pick_device(device)

    @property
    def what(self) -> str:
        """The detector in words."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """What a checkpoint keeps of the constructor's arguments: those that make another detector."""
        how = ("search", "pretrained")  # to compute, not what
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in how}

    @torch.inference_mode()
    def raw_map(self, image: np.ndarray, edges: tuple[int, int], fabric: str | None = None) -> np.ndarray:
        """Scores before normalisation: float32 `(H, W)`, exactly 0 off the fabric, from 1e-6 to 1 on it.

        image: uint8 `(H, W)`; edges: `(start, end)` in columns; fabric: its code, which only banks of single fabrics
        need. Raises `InputError` before `fit`, for a fabric without a bank, for an image that is not uint8 `(H, W)`,
        edges outside it, less fabric than `least` px either way, and where memory runs out.
        """
        pixels = self._pixels(image, edges, fabric)
        advice = f"image: {image.shape[0]} x {image.shape[1]} pixels; give a smaller one, or device='cpu'"
        with memory_errors(advice), precision(self.device, "float32"):
            odd, usual = self._oddness(pixels, fabric)
            return on_roll(image, edges, odds_to_scores(smoothed(odd, self.smoothing) / usual))

    def content(self) -> dict[str, Any]:
        """What a checkpoint must hold; `InputError` before `fit`."""
        self._check_fitted()
        return {"detector": self.kind, "what": self.what, "options": self.options, "state": self._state()}

    @classmethod
    def from_content(cls, content: dict[str, Any], path: FilePath, device: Device = "auto", **options: Any) -> Self:
        """The detector of a checkpoint's content, not calibrated; `InputError` where its parts do not fit together.

        path: of the file, for messages. options: of the constructor, those that a checkpoint does not keep.
        """
        try:
            detector = cls(**content["options"], device=device, **options)
            detector._restore(content["state"])
        except InputError as error:
            raise InputError(f"{Path(path).name}: {error}") from None
        except (TypeError, KeyError, RuntimeError, AttributeError, ValueError) as error:
            raise InputError(f"{Path(path).name}: no whole {cls.name} ({one_line(error)}); fit it anew") from None
        return detector

    def _oddness(self, pixels: Tensor, fabric: str | None) -> tuple[Tensor, Tensor | float]:
        """How odd each pixel is, `(1, 1, H, W)` of float32 from 0 up, and how odd is usual. No value is read."""
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def _check_fitted(self) -> None:
        if not self.size_bytes:
            raise InputError(f"{self.name}: not fitted; expected a fitted one; call fit(rolls, generator) first")

    @contextmanager
    def _fitting(self, generator: torch.Generator, advice: str) -> Iterator[None]:
        """Around a fit: what an earlier one was calibrated to goes, seed and seconds are noted."""
        check_generator(generator)
        Detector.__init__(self)
        started = time.perf_counter()
        with memory_errors(advice), precision(self.device, "float32"):
            yield
        self.about = {"seed": generator.initial_seed(), "seconds": time.perf_counter() - started}

    def _pixels(self, image: np.ndarray, edges: tuple[int, int], fabric: str | None = None) -> Tensor:
        """The fabric's columns of an image as float32 `(1, 1, H, end - start)` in [0, 1], on the device."""
        self._check_fitted()
        self.check(roll_of_array(image, fabric, edges=edges)[0])
        grey = torch.from_numpy(np.ascontiguousarray(image[:, slice(*edges)]))[None, None]
        return grey.to(self.device).float().div_(255)


def convolution(inputs: int, outputs: int, stride: int = 1, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A 3 x 3 convolution, batch norm and an activation.

    Borders are continued, not set to zero: most positions of a small training crop lie at its border, and with zeros
    there the network would expect zeros beside a whole roll too.
    """
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="replicate")
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), activation())


def smoothed(field: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of float32 `(1, 1, H, W)`; sigma: standard deviation, px; borders are continued."""
    margin = math.ceil(3 * sigma)
    if margin == 0:
        return field
    taps = torch.softmax(-0.5 * (torch.arange(-margin, margin + 1, device=field.device) / sigma) ** 2, 0)
    padded = nn.functional.pad(field, (margin,) * 4, mode="replicate")
    return torch.conv2d(torch.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))


def odds_to_scores(odds: Tensor) -> Tensor:
    """x / (1 + x): a number from 0 up, in units of what is usual, as a score from 1e-6 to 1; 0.5 is one unit."""
    return (odds / (1 + odds)).clamp_min(FLOOR)


def on_roll(image: np.ndarray, edges: tuple[int, int], values: Tensor) -> np.ndarray:
    """Values `(1, 1, H, end - start)` in the fabric's columns of a roll: float32 `(H, W)`, 0 beside them."""
    whole = np.zeros(image.shape, np.float32)
    whole[:, edges[0] : edges[1]] = values[0, 0].float().cpu().numpy()
    return whole
