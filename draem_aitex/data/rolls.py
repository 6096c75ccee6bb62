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

import numpy as np

from draem_aitex.data.fabric_edges import Edges, check_edges, check_grey, fabric_edges, find_selvedges
from draem_aitex.data.images import image_size, read_image, read_noted
from draem_aitex.errors import InputError, check_type

AITEX_NAME = re.compile(r"(\d{4})_(\d{2,3})_(\d{2})")  # number, defect code, fabric code
NORMAL = "000"  # the defect code of a roll without a defect
PARTS = ("train", "calibration", "development", "test")
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, half open
MASK_THRESHOLD = 127  # a mask pixel counts as defect above this grey level; the edges are anti-aliased


@dataclass(frozen=True)
class Record:
    """One roll on disk, known by its name alone.

    `number`, `defect` ("000" where there is none) and `fabric` are parsed from the file name; `masks` holds none, one
    or several files; `disputed` are boxes in which a person sees a defect that filing and masks do not know.
    """

    path: Path
    number: int
    defect: str
    fabric: str
    masks: tuple[Path, ...] = ()
    disputed: tuple[Box, ...] = ()

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def is_normal(self) -> bool:
        return self.defect == NORMAL


@dataclass(frozen=True)
class Collection:
    """A folder of rolls, split by what each may be used for; no roll is in two parts. Images are read when needed.

    source: "AITEX", "simulated fabric" or "own pictures", the label that every figure taken from it carries. records:
    in the order of their names; train, calibration, development, test: of them; quirks: sentences about what is odd.
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

    `disputed`: see `Record`. `selvedges` are the parts of the fabric that are its border, see `find_selvedges`; looked
    for on first use.
    """

    name: str
    fabric: str
    defect: str
    image: np.ndarray
    edges: Edges
    mask: np.ndarray | None
    disputed: tuple[Box, ...] = ()

    @cached_property
    def selvedges(self) -> tuple[Edges, Edges]:
        return find_selvedges(self.image, self.edges)


def load_roll(record: Record) -> Roll:
    """Read a record's image and mask and find its fabric. Raises `InputError` naming the file."""
    image = read_image(record.path)
    try:
        edges = fabric_edges(image)
    except InputError as error:
        raise InputError(f"{record.path}: {error}") from None
    return Roll(record.name, record.fabric, record.defect, image, edges, read_mask(record), record.disputed)


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
    image: np.ndarray, fabric: str | None = None, name: str = "image", edges: Edges | None = None
) -> tuple[Roll, list[str]]:
    """An image as a roll without a mask, and notes about it.

    image: uint8 `(H, W)`. Its fabric's edges are found where they are not given; where no fabric is found, as in a
    close-up or a fabric without a repeat, the image counts as a whole, which a note says. Raises `InputError` for
    another dtype or shape, and for edges that do not lie in the image.
    """
    check_grey(image, name)
    check_type("fabric", fabric, str, NoneType)
    notes, width = [], image.shape[1]
    if edges is not None:
        check_edges(edges, width)
    try:
        start, end = fabric_edges(image) if edges is None else edges
    except InputError as error:
        start, end, notes = 0, width, [f"{str(error).split(';')[0]}; judged as a whole"]
    return Roll(name, fabric or "", NORMAL, image, (start, end), None), notes


def roll_of_file(path: Path | str, fabric: str | None = None, edges: Edges | None = None) -> tuple[Roll, list[str]]:
    """An image file as a roll, see `roll_of_array`, and notes about it; by default of the fabric that its name says."""
    image, notes = read_noted(path)
    roll, more = roll_of_array(image, fabric_code(path) if fabric is None else fabric, str(path), edges)
    return replace(roll, name=Path(path).stem), notes + more


def fabric_code(path: Path | str) -> str | None:
    """The fabric code in an image's name, None where it is no AITEX name."""
    match = AITEX_NAME.fullmatch(Path(path).stem)
    return match[3] if match else None


def read_mask(record: Record) -> np.ndarray | None:
    """The defect mask of a record: bool `(H, W)`, all of its mask files joined, or None where it has none.

    A defect-free roll has no mask file and gives None too. Raises `InputError` where a mask has another size than
    its image.
    """
    if not record.masks:
        return None
    joined = np.zeros(image_size(record.path)[:2], bool)
    for path in record.masks:
        mask = read_image(path)
        if mask.shape != joined.shape:
            (height, width), (rows, columns) = joined.shape, mask.shape
            what = f"mask of {columns} x {rows} pixels for an image of {width} x {height} ({record.path.name})"
            raise InputError(f"{path}: {what}; expected the same size; get both files anew")
        joined |= mask > MASK_THRESHOLD
    return joined
