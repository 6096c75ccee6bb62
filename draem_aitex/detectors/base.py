"""What every detector has in common: predict, calibrate, save, load.

`DraemDetector`, the variational autoencoder and the memory bank derive from `Detector`; evaluation, reports and the
command line ask for nothing else.
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from tqdm.auto import tqdm

from draem_aitex.data.fabric_edges import Edges, check_edges
from draem_aitex.data.patcher import patch_maxima
from draem_aitex.data.rolls import OWN, Collection, Reading, Record, Roll, load_roll, roll_of_array, roll_of_file
from draem_aitex.detectors.calibration import Calibration, Threshold, held_out_scores, normalised_scores, offsets_of
from draem_aitex.detectors.regions import Prediction, check_map
from draem_aitex.devices import Device
from draem_aitex.errors import InputError, check_type
from draem_aitex.files import FilePath
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint
from draem_aitex.training.model_card import headline

RATE = 0.01  # false-positive rate that a threshold is set for, where no other is asked for


class Detector:
    """A detector gives every pixel of an image's fabric a score from 0 to 1, and a verdict by its threshold.

    It comes from `train`, from `load_detector`, or from a baseline's `fit`. A subclass has a `name`; `kind`, the word
    by which a checkpoint says which detector it holds; `size_bytes`, `raw_map`, `content` and `from_content`.

    Example:
        >>> from draem_aitex import load_detector, load_simulated
        >>> detector = load_detector("compact_loom", quiet=True).calibrate(load_simulated().calibration[:6], fpr=0.05)
        >>> 0 < detector.threshold.value < 1
        True
    """

    name: ClassVar[str] = "detector"
    kind: ClassVar[str] = ""
    least: int = 1  # px of fabric that it needs, either way
    normalised: bool = True  # False: scores of all fabrics are compared as they are
    fabrics: Sequence[str] = ()  # that it can judge; none named: any
    device: torch.device  # on which it computes

    def __init__(self) -> None:
        self.offsets: dict[str, float] = {}  # of calibrated fabrics: code to logit, see `calibration.offsets_of`
        self.threshold: Threshold | None = None
        self.calibration: Calibration | None = None
        self.about: dict[str, Any] = {}  # how it was made: source, split, figures, …; goes into its checkpoint

    @property
    def size_bytes(self) -> int:
        """Memory of the weights or the bank."""
        raise NotImplementedError

    def raw_map(self, image: np.ndarray, edges: Edges, fabric: str | None = None) -> np.ndarray:
        """Scores before normalisation: float32 `(H, W)`, exactly 0 off the fabric, from 1e-6 to 1 on it.

        image: uint8 `(H, W)`; edges: `(start, end)` in columns.
        """
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """What a checkpoint needs to hold of this detector: a dict of tensors and plain values."""
        raise NotImplementedError

    @classmethod
    def from_content(cls, content: dict[str, Any], path: FilePath, device: Device = "auto", **options: Any) -> Self:
        """The detector of a checkpoint's content, not calibrated. path: of the file, for messages."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: FilePath, device: Device = "auto", quiet: bool = False, **options: Any) -> Self:
        """The detector of a checkpoint file, with its calibration; prints what it is, unless `quiet`.

        options: of the subclass. Raises `InputError` for a file that is no checkpoint or holds another detector.
        """
        return cls.restored(load_checkpoint(path, cls.kind), path, device, quiet, **options)

    @classmethod
    def restored(
        cls, content: dict[str, Any], path: FilePath, device: Device = "auto", quiet: bool = False, **options: Any
    ) -> Self:
        """`load`, from a content that was read already."""
        detector = cls.from_content(content, path, device, **options)
        own = {"format", "training", "fabric_offsets", "threshold", "calibration", *detector.content()}
        detector.about = {name: value for name, value in content.items() if name not in own or name in detector.about}
        detector.offsets = dict(content.get("fabric_offsets", {}))
        if "threshold" in content:
            detector.threshold = Threshold(**content["threshold"])
        if "calibration" in content:
            kept = content["calibration"]
            detector.calibration = Calibration(np.array(kept["scores"]), kept["rolls"])
        if not quiet:
            print(f"{Path(path).name}:\n{detector}")
        return detector

    def save(self, path: FilePath) -> None:
        """Write the detector, its calibration and what is known of it to one file, atomically.

        Every command takes that file, and `load_detector` reads it.

        Args:
            path: File to write; a detector that lies there is replaced.

        Raises:
            InputError: The folder is missing, the disk is full, or `path` holds a training that is not finished, which
                could then not go on.

        Example:
            >>> import tempfile; from draem_aitex import load_detector
            >>> load_detector("compact_loom", quiet=True).save(tempfile.mkdtemp() + "/mine.pt")
        """
        if Path(path).exists() and "training" in load_checkpoint(path):
            raise InputError(f"{path}: holds a training that is not finished; expected another name; choose one")
        save_checkpoint(path, self._whole())

    def _whole(self) -> dict[str, Any]:
        content = {**self.content(), **self.about, "fabric_offsets": self.offsets}
        if self.threshold is not None:
            content["threshold"] = asdict(self.threshold)
        if self.calibration is not None:
            content["calibration"] = {"scores": self.calibration.scores.tolist(), "rolls": self.calibration.rolls}
        return content

    def __str__(self) -> str:
        return "\n".join(headline(self._whole()))

    def judges(self, fabric: str | None) -> bool:
        """Whether it can judge rolls of this fabric at all; a bank for each fabric cannot judge others."""
        return not self.fabrics or fabric in self.fabrics

    def is_calibrated(self, fabric: str | None) -> bool:
        """Whether its scores are comparable with the threshold; an unnamed image may be one of one's own fabric."""
        return fabric in self.offsets or (not fabric and list(self.offsets) == [OWN])

    @property
    def reading(self) -> Reading:
        """How image files were read for it, and are for `predict`: channels, bit depth, edges."""
        return Reading(**self.about.get("reading", {}))

    def calibrate(self, data: Collection | Iterable[Record | Roll], fpr: float | None = None) -> Self:
        """Take offsets and threshold from normal rolls that were not trained on.

        Some fabrics are livelier than others, and a detector says so in every score; the offsets make the scores of
        different fabrics comparable. For the threshold each roll is normalised by the *other* rolls of its fabric.

        Args:
            data: A `Collection`, whose calibration part is used, or normal rolls.
            fpr: False-positive rate wanted, a share of patches. None: 0.01, or, warning, the least that is possible.

        Returns:
            The detector itself, with `offsets`, `calibration` and `threshold`.

        Raises:
            InputError: A roll has a defect, there is no patch of 256 x 256 pixels, or `fpr` is finer than the patches
                can promise.

        Example:
            >>> from draem_aitex import load_detector, load_simulated
            >>> detector = load_detector("compact_loom", quiet=True).calibrate(load_simulated().calibration[:2], 0.1)
        """
        given: Any = data.calibration if isinstance(data, Collection) else data
        check_type("data", given, Iterable)
        rolls: list[Roll] = [load_roll(roll) if isinstance(roll, Record) else roll for roll in given]
        for roll in rolls:
            check_type("data", roll, Roll, Record)
            if roll.defect != "000" or (roll.mask is not None and roll.mask.any()):
                found = f"a roll with a defect, {roll.defect}"
                raise InputError(f"{roll.name}: {found}; expected normal calibration rolls; leave it out")
        rolls = [roll for roll in rolls if self.judges(roll.fabric)]
        scores, fabrics = self.raw_patch_scores(rolls), [roll.fabric for roll in rolls]
        if not sum(map(len, scores)):
            found = f"no patch of 256 x 256 pixels of fabric in {len(rolls)} rolls"
            raise InputError(f"calibration: {found}; expected normal rolls; give some, or larger images")
        self.offsets = offsets_of(scores, fabrics) if self.normalised else dict.fromkeys(sorted(set(fabrics)), 0.0)
        moved = self.normalised and len(set(fabrics)) > 1  # the scores of a single fabric stay as they are
        held_out = held_out_scores(scores, fabrics, self.offsets) if moved else scores
        self.calibration = Calibration(np.sort(np.concatenate(held_out).astype(np.float64))[::-1], len(rolls))
        if fpr is None and self.calibration.finest_rate > RATE:
            fpr = self.calibration.finest_rate
            found = f"{len(self.calibration.scores)} calibration patches are too few to promise a false-positive rate"
            warnings.warn(f"{found} of {RATE:.0%}; the threshold is for {fpr:.1%}, the least they can", stacklevel=2)
        self.threshold = self.calibration.threshold(RATE if fpr is None else fpr)
        return self

    def predict(
        self, image: FilePath | np.ndarray | Roll | Record, *, fabric: str | None = None, edges: Edges | None = None
    ) -> Prediction:
        """Judge one image: anomaly map, score, verdict, regions.

        Scores are moved so that normal fabric of every kind scores alike (`calibrate`). Where the fabric is not named
        they stay as they are, and so they do, with a warning, for a fabric that was not calibrated.

        Args:
            image: A file, an array, a loaded roll or a record of one.
            fabric: Fabric code; by default the roll's, or the one in an AITEX file name.
            edges: First and last column of the fabric, half open; by default the roll's, or found in the image; all of
                it where no fabric is found, which a note says.

        Shapes:
            image: uint8 `(H, W)`, grey, for an array. The prediction's map: float32 `(H, W)`.

        Returns:
            A `Prediction`: `.map`, `.score`, `.is_defective`, `.regions`, `.overlay`.

        Raises:
            InputError: The file cannot be read, the array is no grey image, or the detector cannot judge it.

        Example:
            >>> from draem_aitex import load_detector, load_simulated
            >>> load_detector("compact_loom", quiet=True).predict(load_simulated().test[-1]).map.shape
            (256, 4096)
        """
        roll, notes = self._as_roll(image, fabric, edges)
        self.check(roll)
        (anomaly_map,) = self.maps([roll])
        threshold = None if self.threshold is None else self.threshold.value
        normalised = self.is_calibrated(roll.fabric)
        return Prediction(roll.image, anomaly_map, roll.edges, roll.fabric, normalised, threshold, tuple(notes))

    def check(self, roll: Roll, name: str = "") -> None:
        """Raise `InputError` for a roll that the detector cannot judge. name: for the message."""
        check_edges(roll.edges, roll.image.shape[1])
        check_type("fabric", roll.fabric, str)
        name, (height, width) = name or roll.name, (len(roll.image), roll.edges[1] - roll.edges[0])
        if not self.judges(roll.fabric):
            known = f"expected one of {', '.join(self.fabrics)}, which alone this detector can judge"
            raise InputError(f"{name}: fabric {roll.fabric or 'not named'}; {known}; name it, or leave the image out")
        if min(height, width) < self.least:
            least = f"{self.least} x {self.least} or more for {self.name}"
            raise InputError(f"{name}: {height} x {width} pixels of fabric; expected {least}; leave it out")

    def maps(self, rolls: Iterable[Roll], quiet: bool = True) -> Iterator[np.ndarray]:
        """The normalised anomaly map of each roll, in their order, with a progress bar unless `quiet`."""
        return (anomaly_map for _, anomaly_map in self.scored(rolls, quiet))

    def scored(self, rolls: Iterable[Roll], quiet: bool = True) -> Iterator[tuple[Roll, np.ndarray]]:
        """Each roll with its normalised anomaly map, see `maps`.

        rolls may be a generator: they are taken as they are needed, several together where memory allows.
        """
        total = len(rolls) if isinstance(rolls, Sequence) else None
        for roll, scores in tqdm(self._judged(rolls), desc="predicting", unit="roll", total=total, disable=quiet):
            yield roll, self._normalised(scores, roll)

    def raw_maps(self, rolls: Iterable[Roll]) -> Iterator[np.ndarray]:
        """`raw_map` of many rolls, a generator in their order."""
        for roll in rolls:
            yield self.raw_map(roll.image, roll.edges, roll.fabric)

    def raw_patch_scores(self, rolls: Iterable[Roll]) -> list[np.ndarray]:
        """The patch scores of each roll, not normalised: a list of float32 `(N,)`."""
        pairs = self._judged(rolls)
        return [patch_maxima(scores, roll.edges, remainder=roll.reading.remainder) for roll, scores in pairs]

    def _judged(self, rolls: Iterable[Roll]) -> Iterator[tuple[Roll, np.ndarray]]:
        """Each roll with its raw map. All scores come from here: a map that is not finite never becomes one."""
        waiting: deque[Roll] = deque()  # taken, not judged yet

        def taken() -> Iterator[Roll]:
            for roll in rolls:
                waiting.append(roll)
                yield roll

        for scores in self.raw_maps(taken()):
            roll = waiting.popleft()
            try:
                check_map(scores, roll.image.shape[:2])
            except InputError as error:
                raise InputError(f"{roll.name}: {error}") from None
            yield roll, scores

    def _normalised(self, scores: np.ndarray, roll: Roll) -> np.ndarray:
        if self.is_calibrated(roll.fabric):
            on_fabric = scores[:, slice(*roll.edges)]
            on_fabric[...] = normalised_scores(on_fabric, self.offsets, roll.fabric)
        elif self.offsets and roll.fabric:
            found = f"fabric {roll.fabric}: not calibrated (known: {', '.join(self.offsets)}); scored as is"
            warnings.warn(f"{found}, and the threshold's false-positive rate does not hold for it", stacklevel=3)
        return scores

    def _as_roll(self, image: Any, fabric: str | None, edges: Edges | None) -> tuple[Roll, list[str]]:
        """Whatever `predict` takes, as a roll, and notes about it."""
        if isinstance(image, str | Path):
            return roll_of_file(image, fabric, edges, self.reading)
        if isinstance(image, np.ndarray):
            return roll_of_array(image, fabric, edges=edges, reading=self.reading)
        if isinstance(image, Record):
            image = load_roll(image)
        if not isinstance(image, Roll):
            raise InputError(f"image: {type(image).__name__}; expected a path, a uint8 array (H, W) or a roll")
        return replace(image, fabric=image.fabric if fabric is None else fabric, edges=edges or image.edges), []
