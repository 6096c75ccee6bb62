"""A detector judged on rolls that it has not seen: `evaluate` goes through them, `Evaluation` is what it found."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from tqdm.auto import tqdm

from draem_aitex.data.aitex import defect_name
from draem_aitex.data.patcher import PATCH, patch_maxima
from draem_aitex.data.rolls import NORMAL, SYNTHETIC, Record, Roll, check_readable, load_roll
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import Threshold
from draem_aitex.detectors.regions import check_map
from draem_aitex.errors import ABOVE_0, InputError, check_number, check_type
from draem_aitex.evaluation import figures, metrics, text_table
from draem_aitex.evaluation.cases import Case, case, strip
from draem_aitex.evaluation.pixel_metrics import PixelHistogram
from draem_aitex.evaluation.synthetic import with_anomaly
from draem_aitex.files import FilePath, Writer, sha256, write_whole
from draem_aitex.training import distributed


@dataclass(repr=False, eq=False)
class Evaluation:
    """What a detector did on test rolls: printed, a table; `figures()` has all figures, `to_html` writes a page.

    Mask pixels beside the fabric that was found count as missed defects and in no pixel figure. Maps are not kept, but
    a crop of 100 kilobytes for every miss and every false positive.

    images: keep a small image of every roll with a defect or a false positive, for the page. source, part: which rolls
    these are, None where it is unknown; trained_on, n_train_rolls: what the detector learnt from; headline: what it is.
    """

    threshold: Threshold
    mm_per_px: float | None = None
    images: bool = False
    source: str | None = None
    part: str | None = None
    trained_on: str | None = None
    n_train_rolls: int | None = None
    headline: str = ""
    rolls: list[figures.RollResult] = field(default_factory=list)
    pixels: dict[tuple[str, bool], PixelHistogram] = field(default_factory=dict)  # by fabric, and giant masks or others
    missed: list[Case] = field(default_factory=list)
    false_positives: list[Case] = field(default_factory=list)
    strips: list[tuple[str, bytes]] = field(default_factory=list)  # title and JPEG of whole rolls

    def __post_init__(self) -> None:
        if self.mm_per_px is not None:
            wanted = "millimetres above 0; leave it out if unknown"
            check_number("mm_per_px", self.mm_per_px, ABOVE_0, expected=wanted)
        self._figures: dict[str, Any] = {}  # taken once: a thousand resamples take seconds

    def add(self, roll: Roll, scores: np.ndarray) -> None:
        """Take in one roll and its anomaly map, float32 `(H, W)`. Raises `InputError` for a roll without fabric."""
        check_map(scores, roll.image.shape[:2])
        start, end = roll.edges
        if end - start < 1:
            raise InputError(f"{roll.name}: no fabric columns; expected some; leave the roll out")
        self._figures, threshold = {}, self.threshold.value
        outcome = metrics.match_defects(roll, scores, threshold)
        if self.images and (roll.defect != NORMAL or outcome.false_positives):
            self.strips.append(strip(roll, scores, threshold, outcome))
        what = (roll.name, roll.fabric, roll.defect, float(scores.max()), end - start)
        if roll.defect != NORMAL and (roll.mask is None or not roll.mask.any()):
            self.rolls.append(figures.RollResult(*what))
            return
        mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
        giant = int(mask.sum()) >= figures.GIANT
        boxes = np.zeros(scores.shape, bool)
        for left, top, right, bottom in roll.disputed:
            boxes[top:bottom, left:right] = True
        labels, disputed, maxima = (
            patch_maxima(array, roll.edges, remainder=roll.reading.remainder) for array in (mask, boxes, scores)
        )
        mask_on, scores_on = mask[:, start:end], scores[:, start:end]
        self.pixels.setdefault((roll.fabric, giant), PixelHistogram()).add(scores_on, mask_on)
        counts = metrics.decision_counts(mask_on, scores_on > threshold)
        in_no_patch = 0 if roll.reading.cover else (end - start) % PATCH if len(labels) else end - start
        found = (labels, maxima.astype(float), outcome.defects, len(outcome.false_positives), counts)
        self.rolls.append(
            figures.RollResult(*what, True, giant, *found, disputed & ~labels, in_no_patch, roll.reading.cover)
        )
        for missed in [defect for defect in outcome.defects if not defect.hit]:
            title = f"{defect_name(missed.defect)}, {missed.pixels} px"
            self.missed.append(case(roll, scores, *missed.centroid, title, missed.score))
        for row, column, score in outcome.false_positives:
            self.false_positives.append(case(roll, scores, row, column, f"row {row}, column {column}", score))

    def __iadd__(self, other: "Evaluation") -> Self:
        """Take in what another one found, with the same threshold, on other rolls."""
        self._figures = {}
        for name in ("rolls", "missed", "false_positives", "strips"):
            getattr(self, name).extend(getattr(other, name))
        for key, histogram in other.pixels.items():
            self.pixels[key] = self.pixels.get(key, PixelHistogram()) + histogram
        return self

    def figures(self) -> dict[str, Any]:
        """All figures, as plain values; NaN where a class is missing, None for what is unknown.

        Rates are shares from 0 to 1; `intervals` has the confidence intervals, `[low, high]`, that there are.
        """
        self._figures = self._figures or figures.figures(self.rolls, self.pixels, self.threshold, self.mm_per_px)
        origin = {name: getattr(self, name) for name in ("source", "trained_on", "part", "n_train_rolls")}
        return origin | self._figures

    def patch_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels bool, scores float64 and rolls (index into `rolls`) of all patches: `(N,)` each."""
        return figures.patch_arrays(self.rolls)

    def __repr__(self) -> str:
        return text_table.text(self.figures())

    def _repr_html_(self) -> str:
        from draem_aitex.evaluation import html_report

        return html_report.tables(self)

    def page(self) -> Writer:
        """What writes the HTML page of `to_html`; the page is made here."""
        from draem_aitex.evaluation import html_report  # with matplotlib

        page = html_report.page(self).encode()
        return lambda file: file.write(page)

    def to_html(self, path: FilePath) -> None:
        """Write one HTML page: tables, curves, every miss and every false positive, and whole rolls with `images`.

        Raises `InputError` where the file cannot be written, or was not written by this program.
        """
        write_whole(path, self.page())


def evaluate(
    detector: Detector, rolls: Iterable[Record | Roll], *, fpr: float | None = None,
    threshold: Threshold | None = None, mm_per_px: float | None = None, images: bool = False, quiet: bool = False,
    shared: bool = False,
) -> Evaluation:  # fmt: skip
    """Judge a detector on rolls that it has not seen.

    Rolls that it was trained or calibrated on, which are known by the content of their files, and rolls of fabrics
    that it was not made for are left out, with a warning. Records are read once to find out whether they can be, and
    then loaded one after the other, as they are needed.

    Args:
        detector: A calibrated detector.
        rolls: Records such as `data.test`, or loaded rolls. A loaded roll has no file: it is taken for an unseen one.
        fpr: A false-positive rate of normal patches, for another threshold than the detector's own.
        threshold: A threshold in place of the detector's own.
        mm_per_px: Resolution of the images, mm per pixel, for figures in mm and per metre.
        images: Keep small images of whole rolls, for the HTML page.
        quiet: No progress bar.
        shared: Share the rolls among the processes of a `torchrun` job, all of which have to call this: each gets the
            joint result.

    Returns:
        An `Evaluation`: print it for a table; `.figures()` are all figures, `.to_html(path)` writes a page.

    Raises:
        InputError: No roll is left, one can't be read, the detector is not calibrated, or `fpr` is finer than its
            calibration allows.

    Example:
        >>> from draem_aitex import evaluate, load_detector, load_simulated
        >>> judged = evaluate(load_detector("compact_loom", quiet=True), load_simulated().test[:3], quiet=True)
    """

    def judged(share: Callable[[list], Sequence]) -> Evaluation:
        check_type("rolls", rolls, Iterable)
        result = Evaluation(_threshold(detector, fpr, threshold), mm_per_px, images)
        return _judge(detector, list(rolls), result, share, quiet)

    if not shared:
        return judged(list)
    result, *others = distributed.on_all(lambda: judged(distributed.share))
    for other in others:
        result += other
    return result


def _judge(
    detector: Detector, rolls: list[Record | Roll], result: Evaluation, share: Callable[[list], Sequence], quiet: bool
) -> Evaluation:
    """Take into `result` what a detector does on the unseen ones of some rolls, or on this process's share of them."""
    about = detector.about
    result.trained_on, result.headline = about.get("source"), str(detector) if about else detector.name
    result.n_train_rolls = len(about["split"]["train"]) if "split" in about else None
    for roll in rolls:
        check_type("rolls", roll, Record, Roll)
    chosen, parts = _unseen(about, rolls)
    if all(parts):  # of the very set that the detector comes from
        result.source, result.part = about.get("source"), " and ".join(sorted(set(parts)))
    mine = share(chosen)
    check_readable(roll for roll in mine if isinstance(roll, Record))
    judged = detector.scored(map(_loaded, mine))
    for roll, scores in tqdm(judged, desc="evaluating", unit="roll", total=len(mine), disable=quiet):
        result.add(roll, scores)
    return result


def _loaded(roll: Record | Roll) -> Roll:
    if not isinstance(roll, Record):
        return roll
    loaded = load_roll(roll)
    return with_anomaly(loaded, roll.number) if roll.defect == SYNTHETIC else loaded


def _threshold(detector: Detector, fpr: float | None, threshold: Threshold | None) -> Threshold:
    if fpr is not None and threshold is not None:
        raise InputError("fpr and threshold: both given; expected one of them; leave one out")
    if fpr is None:
        threshold = threshold or detector.threshold
    elif detector.calibration is not None:
        return detector.calibration.threshold(fpr)
    if threshold is None:
        raise InputError(f"{detector.name}: not calibrated; expected a threshold; call detector.calibrate(data) first")
    return threshold


def _unseen(about: dict[str, Any], rolls: list[Record | Roll]) -> tuple[list[Record | Roll], list[str]]:
    """The rolls to judge, and of each the part that it is of in the split that the detector comes from; "": of none."""
    fabrics = about.get("fabrics") or [roll.fabric for roll in rolls]
    part_of = {digest: part for part, files in about.get("split", {}).items() for digest in files.values()}
    parts = [part_of.get(sha256(roll.path), "") if isinstance(roll, Record) else "" for roll in rolls]
    seen, strange = [part in ("train", "calibration") for part in parts], [r.fabric not in fabrics for r in rolls]
    chosen = [index for index in range(len(rolls)) if not seen[index] and not strange[index]]
    known = f"{sum(seen)} of {len(rolls)} rolls left out that the detector was trained or calibrated on"
    left_out = f"{known}, {sum(strange)} of fabrics that it was not made for"
    if not chosen:
        raise InputError(f"rolls to judge: none ({left_out}); expected unseen ones; add some")
    if len(chosen) < len(rolls):
        warnings.warn(left_out, stacklevel=5)  # at who called `evaluate`
    return [rolls[index] for index in chosen], [parts[index] for index in chosen]
