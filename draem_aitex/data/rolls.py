"""Rolls: known by their names (`Record`), split into parts (`Collection`), loaded with fabric edges and mask (`Roll`).

A roll is one long image of fabric, as AITEX has them; an image of one's own is one too, however small.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from draem_aitex.data.fabric_edges import fabric_edges, find_selvedges
from draem_aitex.data.images import png_header, read_image
from draem_aitex.errors import InputError

NORMAL = "000"  # the defect code of a roll without a defect
PARTS = ("train", "calibration", "development", "test")
MASK_THRESHOLD = 127  # a mask pixel counts as defect above this grey level; the edges are anti-aliased


@dataclass(frozen=True)
class Record:
    """One roll on disk, known by its name alone.

    `number`, `defect` ("000" where there is none) and `fabric` are parsed from the file name; `masks` holds none, one
    or several files.
    """

    path: Path
    number: int
    defect: str
    fabric: str
    masks: tuple[Path, ...] = ()

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
        for code in codes:
            if code not in known:
                raise InputError(f"fabric {code}: not in {self.root}; expected some of {', '.join(known)}")
        if not codes:
            return self
        parts = {part: tuple(r for r in getattr(self, part) if r.fabric in codes) for part in ("records", *PARTS)}
        return replace(self, fabrics=tuple(codes), **parts)


@dataclass(frozen=True)
class Roll:
    """A loaded roll: picture uint8 `(H, W)`, fabric edges (columns, half open), mask bool `(H, W)` or None.

    `selvedges` are the parts of the fabric that are its border, see `find_selvedges`; looked for on first use.
    """

    name: str
    fabric: str
    defect: str
    image: np.ndarray
    edges: tuple[int, int]
    mask: np.ndarray | None

    @cached_property
    def selvedges(self):
        return find_selvedges(self.image, self.edges)


def load_roll(record):
    """Read a record's picture and mask and find its fabric. Raises `InputError` naming the file."""
    image = read_image(record.path)
    try:
        edges = fabric_edges(image)
    except InputError as error:
        raise InputError(f"{record.path}: {error}") from None
    return Roll(record.name, record.fabric, record.defect, image, edges, read_mask(record))


def load_rolls(records):
    """`load_roll` for many records, in the same order."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(load_roll, records))


def read_mask(record):
    """The defect mask of a record: bool `(H, W)`, all of its mask files joined, or None where it has none.

    A defect-free roll has no mask file and gives None too. Raises `InputError` where a mask has another size than
    its picture.
    """
    if not record.masks:
        return None
    height, width, _ = png_header(record.path)
    joined = np.zeros((height, width), bool)
    for path in record.masks:
        mask = read_image(path)
        if mask.shape != joined.shape:
            raise InputError(
                f"{path}: mask of {mask.shape[1]} x {mask.shape[0]} pixels for a picture of {width} x {height} "
                f"({record.path.name}); expected the same size; get both files anew"
            )
        joined |= mask > MASK_THRESHOLD
    return joined
