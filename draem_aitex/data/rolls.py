"""Rolls: known by their names (`Record`), split into parts (`Collection`), loaded with fabric edges and mask (`Roll`).

A roll is one long image of fabric, as AITEX has them; an image of one's own is one too, however small.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import NoneType

import cv2
import numpy as np

from draem_aitex.data.fabric_edges import Edges, check_edges, check_image, fabric_edges, find_selvedges
from draem_aitex.data.images import DEPTHS, image_size, read_image, read_noted
from draem_aitex.data.masks import check_mask, read_mask_file
from draem_aitex.errors import InputError, check_choice, check_type

AITEX_NAME = re.compile(r"(\d{4})_(\d{2,3})_(\d{2})")  # number, defect code, fabric code
OWN = "own"  # the fabric of an image of one's own
NORMAL = "000"  # the defect code of a roll without a defect
PARTS = ("train", "calibration", "development", "test")
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, half open
SYNTHETIC = "synthetic"  # the defect of a normal image that is judged once more, with synthetic anomalies put on it


@dataclass(frozen=True)
class Reading:
    """How image files become rolls. The defaults are AITEX's. Raises `InputError` for other values than are said here.

    channels: 1 for grey, 3 for colour (RGB). bit_depth: of 16-bit files; None is what each one uses. find_edges: look
    for the fabric's edges; else an image is all fabric. cover: patches cover the image, the last of a row or column
    overlaps the one before, and a smaller image is its own patch; else only whole patches side by side count.
    """

    channels: int = 1
    bit_depth: int | None = None
    find_edges: bool = True
    cover: bool = False

    def __post_init__(self) -> None:
        check_choice("channels", self.channels, (1, 3))
        check_choice("bit_depth", self.bit_depth, (None, *DEPTHS))
        check_choice("find_edges", self.find_edges, (False, True))

    @property
    def remainder(self) -> str:
        """What the patcher does with the rest of an image, see `patcher.patch_columns`."""
        return "cover" if self.cover else "drop"


AITEX = Reading()


@dataclass(frozen=True)
class Record:
    """One roll on disk, known by its name alone.

    `number`, `defect` ("000" where there is none) and `fabric` are parsed from the file name, or say where an image of
    one's own lies; `masks` holds none, one or several files; `disputed` are boxes in which a person sees a defect that
    filing and masks do not know; `label` is its name where that is not the file's; `reading` says how it is read.
    """

    path: Path
    number: int
    defect: str
    fabric: str
    masks: tuple[Path, ...] = ()
    disputed: tuple[Box, ...] = ()
    label: str = ""
    reading: Reading = AITEX

    @property
    def name(self) -> str:
        return self.label or self.path.stem

    @property
    def is_normal(self) -> bool:
        return self.defect == NORMAL


@dataclass(frozen=True)
class Collection:
    """A folder of rolls, split by what each may be used for; no roll is in two parts. Images are read when needed.

    source: "AITEX", "simulated fabric" or "own pictures: FOLDER", the label that every figure taken from it carries.
    records: in the order of their names; train, calibration, development, test: of them; quirks: sentences about what
    is odd; rule: how images of one's own were split.
    """

    root: Path
    source: str
    records: tuple[Record, ...]
    train: tuple[Record, ...]
    calibration: tuple[Record, ...]
    development: tuple[Record, ...]
    test: tuple[Record, ...]
    quirks: tuple[str, ...] = ()
    fabrics: tuple[str, ...] = ()  # the codes chosen by `of_fabrics`; none: all
    rule: str = ""

    @property
    def reading(self) -> Reading:
        """How its files are read, all of them alike."""
        return self.records[0].reading

    def of_fabrics(self, codes: Iterable[str]) -> "Collection":
        """The rolls of some fabrics alone, all of them for no code. Raises `InputError` for an unknown code."""
        known = sorted({record.fabric for record in self.records})
        if unknown := set(codes) - set(known):
            raise InputError(f"fabric {min(unknown)}: not in {self.root}; expected some of {', '.join(known)}")
        parts = {part: tuple(r for r in getattr(self, part) if r.fabric in codes) for part in ("records", *PARTS)}
        return replace(self, fabrics=tuple(codes), **parts) if codes else self  # type: ignore[arg-type]


@dataclass(frozen=True)
class Roll:
    """A loaded roll: image uint8 `(H, W)`, fabric edges (columns, half open), mask bool `(H, W)` or None.

    An image in colour is `(H, W, 3)`, RGB. `disputed`, `reading`: see `Record`. `selvedges` are the parts of the fabric
    that are its border, see `find_selvedges`; looked for on first use.
    """

    name: str
    fabric: str
    defect: str
    image: np.ndarray
    edges: Edges
    mask: np.ndarray | None
    disputed: tuple[Box, ...] = ()
    reading: Reading = AITEX

    @cached_property
    def selvedges(self) -> tuple[Edges, Edges]:
        return find_selvedges(grey_levels(self.image), self.edges)


def grey_levels(image: np.ndarray) -> np.ndarray:
    """The grey levels of an image that may be in colour: uint8 `(H, W)`."""
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def load_roll(record: Record) -> Roll:
    """Read a record's image and mask and find its fabric, see `Reading`. Raises `InputError` naming the file."""
    image = read_image(record.path, record.reading.channels, record.reading.bit_depth)
    try:
        edges = fabric_edges(grey_levels(image)) if record.reading.find_edges else (0, image.shape[1])
    except InputError as error:
        raise InputError(f"{record.path}: {error}") from None
    what = (record.name, record.fabric, record.defect, image, edges, read_mask(record), record.disputed)
    return Roll(*what, record.reading)


def load_rolls(records: Iterable[Record]) -> list[Roll]:
    """`load_roll` for many records, in the same order."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(load_roll, records))


def check_readable(records: Iterable[Record]) -> None:
    """`load_roll` for many records, one after the other and kept by nobody: bad files are found before long work."""
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(load_roll, records):
            continue


def roll_of_array(
    image: np.ndarray, fabric: str | None = None, name: str = "image", edges: Edges | None = None,
    reading: Reading = AITEX,
) -> tuple[Roll, list[str]]:  # fmt: skip
    """An image as a roll without a mask, and notes about it.

    image: uint8 `(H, W)`, or `(H, W, 3)` where `reading` is in colour, to which grey is brought. Its fabric's edges are
    found where they are not given and `reading` has them looked for; where no fabric is found, as in a close-up or a
    fabric without a repeat, the image counts as a whole, which a note says. Raises `InputError` for another dtype or
    shape, and for edges that do not lie in the image.
    """
    if isinstance(image, np.ndarray) and image.ndim == 2 and reading.channels == 3:
        image = np.repeat(image[..., None], 3, axis=2)
    check_image(image, name, (reading.channels,))
    check_type("fabric", fabric, str, NoneType)
    notes, width = [], image.shape[1]
    if edges is not None:
        check_edges(edges, width)
    start, end = (0, width) if edges is None else edges
    if edges is None and reading.find_edges:
        try:
            start, end = fabric_edges(grey_levels(image))
        except InputError as error:
            notes = [f"{str(error).split(';')[0]}; judged as a whole"]
    return Roll(name, fabric or "", NORMAL, image, (start, end), None, reading=reading), notes


def roll_of_file(
    path: Path | str, fabric: str | None = None, edges: Edges | None = None, reading: Reading = AITEX
) -> tuple[Roll, list[str]]:
    """An image file as a roll, see `roll_of_array`, and notes about it; by default of the fabric that its name says."""
    image, notes = read_noted(path, reading.channels, reading.bit_depth)
    roll, more = roll_of_array(image, fabric_code(path) if fabric is None else fabric, str(path), edges, reading)
    return replace(roll, name=Path(path).stem), notes + more


def fabric_code(path: Path | str) -> str | None:
    """The fabric code in an image's name, None where it is no AITEX name."""
    match = AITEX_NAME.fullmatch(Path(path).stem)
    return match[3] if match else None


def read_mask(record: Record) -> np.ndarray | None:
    """The defect mask of a record: bool `(H, W)`, all of its mask files joined, or None where it has none.

    A defect-free roll has no mask file and gives None too. Raises `InputError` where a mask has another size than
    its image, where that of a normal image marks something and, but for AITEX, where that of a defective one marks
    nothing or all of the image.
    """
    if not record.masks:
        return None
    joined = np.zeros(image_size(record.path)[:2], bool)
    for path in record.masks:
        mask = read_mask_file(path)
        if mask.shape != joined.shape:
            (height, width), (rows, columns) = joined.shape, mask.shape
            what = f"mask of {columns} x {rows} pixels for an image of {width} x {height} ({record.path.name})"
            raise InputError(f"{path}: {what}; expected the same size; get both files anew")
        joined |= mask
    if record.is_normal and joined.any():
        found = f"filed as normal, but {record.masks[0]} marks {joined.sum()} pixels of it"
        raise InputError(f"{record.path}: {found}; expected no defect; file it as defective, or remove the mask")
    if not record.is_normal and record.reading.cover:
        check_mask(record.masks[0], joined, record.path)
    return joined
