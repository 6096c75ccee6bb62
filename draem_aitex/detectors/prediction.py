"""What a detector says of one image: map, score, verdict, regions."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from draem_aitex.detectors.regions import find_regions, overlay
from draem_aitex.errors import InputError


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one image.

    image: uint8 `(H, W)`, as it was judged. map: float32 `(H, W)`, exactly 0 off the fabric, above 0 and at most 1 on
    it, the higher the likelier a defect. edges: first and last column of the fabric, half open. fabric: its code, ""
    where it is unknown. normalised: whether the scores were moved by the fabric's offset; of others the threshold's
    false-positive rate is unknown. threshold: None for a detector without one. notes: sentences about the image.
    """

    image: np.ndarray
    map: np.ndarray
    edges: tuple[int, int]
    fabric: str
    normalised: bool
    threshold: float | None
    notes: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The map's maximum."""
        return float(self.map.max())

    @property
    def is_defective(self) -> bool:
        """Whether the score is above the threshold. Raises `InputError` for a detector without one."""
        return self.score > self._threshold()

    @cached_property
    def regions(self) -> list[dict[str, Any]]:
        """Where the map is above the threshold, see `find_regions`. Raises `InputError` where there is no threshold."""
        return find_regions(self.map, self._threshold())

    @property
    def overlay(self) -> np.ndarray:
        """The image with the map in red and the regions outlined: uint8 `(H, W, 3)`, RGB."""
        return overlay(self.image, self.map, 1.0 if self.threshold is None else self.threshold)

    def _threshold(self) -> float:
        if self.threshold is None:
            raise InputError("threshold: the detector has none yet; call its calibrate(data) before it predicts")
        return self.threshold

    def __str__(self) -> str:
        if self.threshold is None:
            return f"score {self.score:.4f}, no threshold yet"
        count = len(self.regions)
        verdict = f"defective, {count} region{'s' if count > 1 else ''}" if self.is_defective else "normal"
        return f"score {self.score:.4f}, threshold {self.threshold:.4f}: {verdict}"
