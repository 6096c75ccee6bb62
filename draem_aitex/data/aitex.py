"""Reading AITEX: names become records, masks are paired by parsed name, quirks are reported.

The data set (AFID) is described in Silvestre-Blanes et al., AUTEX Research Journal 19(4), 2019,
doi 10.2478/aut-2019-0035: grey rolls of 256 x 4096 pixels named `nnnn_ddd_ff.png` (number, defect code, fabric code)
and masks named `nnnn_ddd_ff_mask.png`.
"""

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from draem_aitex.data.images import files_in, image_size, read_image
from draem_aitex.data.rolls import AITEX_NAME, NORMAL, PARTS, Box, Collection, Record, read_mask
from draem_aitex.errors import InputError, check_type
from draem_aitex.files import FilePath, sha256

TABLES: dict[str, dict] = json.loads(Path(__file__).with_name("aitex.json").read_text(encoding="utf-8"))
DEFECTS: dict[str, str] = TABLES["defects"]  # code to name
FABRIC_FOLDERS: dict[str, str] = TABLES["fabric_folders"]  # fabric code to the folder of its normal rolls
FOLDERS: dict[str, list[str]] = TABLES["role_folders"]  # of the official archives and of copies, in lower case
SIMULATED_MARK = "simulated.json"  # the loom leaves this file in every folder it makes
ROLL_HEIGHT, ROLL_WIDTH = 256, 4096  # pixels

_MASK_NAME = re.compile(r"(\d{4}_\d{2,3}_\d{2})_mask\d?")


def defect_name(code: str) -> str:
    """A defect code in words, "unknown defect" for one that AITEX does not have; other words stay as they are."""
    return DEFECTS.get(code, "unknown defect" if code.isdigit() else code)


def load_aitex(root: FilePath) -> Collection:
    """Read the names in an AITEX folder, real or simulated, pair the masks, and split the rolls (`split_records`).

    Accepts the official layout and the common copies (`NODefect_images`, `NoDefect_images`, `NoDefect`, with or
    without a folder per fabric). A part of the data set is fine.

    Args:
        root: The folder that holds `NODefect_images`, `Defect_images` and `Mask_images`.

    Returns:
        A `Collection` whose source is "AITEX", or "simulated fabric" for a folder of the loom. No image is opened.

    Raises:
        InputError: `root` is no folder or holds no roll with an AITEX name.

    Example:
        >>> from draem_aitex import load_aitex, load_simulated
        >>> load_aitex(load_simulated().root).source
        'simulated fabric'
    """
    check_type("root", root, str, os.PathLike)
    if not os.path.isdir(root):  # which answers for every name; `Path.is_dir` raises for one that is too long
        raise InputError(f"{root}: no such folder; expected an AITEX folder (see data/README.md)")
    root = Path(root)
    quirks: list[str] = []
    paths = {role: _pngs(root, names, quirks) for role, names in FOLDERS.items()}
    masks = _pair_masks(paths["mask"], quirks)
    found = [_parse(path, role, masks, quirks) for role in ("normal", "defective") for path in paths[role]]
    records = tuple(record for record in found if record is not None)
    if not records:
        raise InputError(f"{root}: no AITEX folder: holds no roll nnnn_ddd_ff.png; give another (see data/README.md)")
    names = {record.name for record in records}
    quirks += [f"{stem}: has a mask but no image; the mask is not used" for stem in sorted(masks) if stem not in names]
    source = "simulated fabric" if (root / SIMULATED_MARK).is_file() else "AITEX"
    if source == "AITEX":
        records = tuple(replace(record, disputed=read_disputed().get(record.name, ())) for record in records)
    parts = split_records(records)
    used = {record for part in parts.values() for record in part}
    unused = [record.path.name for record in records if record not in used]
    quirks += [f"{name}: filed as normal, but holds a defect; in no part" for name in unused]
    return Collection(root, source, records, quirks=tuple(quirks), **parts)  # type: ignore[arg-type]


def _pngs(root, folder_names, quirks):
    """The PNG files of one role, each name once; what else lies there is reported."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in folder_names]
    found = {}
    for path in (path for folder in folders for path in files_in(folder)):
        place = path.relative_to(root).as_posix()
        if path.suffix.lower() != ".png":
            quirks.append(f"{place}: not a PNG; not used")
        elif (first := found.setdefault(path.stem, path)) is not path:
            quirks.append(f"{place}: the same name as {first.relative_to(root).as_posix()}; not used")
        elif path.parent.name == "unused":
            quirks.append(f"{place}: in a folder called unused, but a complete roll of AITEX; used")
    return list(found.values())


def _pair_masks(paths, quirks):
    masks = {}
    for path in paths:
        if match := _MASK_NAME.fullmatch(path.stem):
            masks.setdefault(match[1], []).append(path)
        else:
            quirks.append(f"{path.name}: no mask name (nnnn_ddd_ff_mask.png); not used")
    return masks


def _parse(path, role, masks, quirks):
    match = AITEX_NAME.fullmatch(path.stem)
    if match is None:
        quirks.append(f"{path.name}: no roll name (nnnn_ddd_ff.png); not used")
        return None
    number, digits, fabric = match.groups()
    defect, folder, own_masks = digits.zfill(3), path.parent.name, tuple(masks.get(path.stem, ()))
    if (role == "normal") != (defect == NORMAL):
        quirks.append(f"{path.name}: lies among the {role} rolls with defect code {defect}; not used")
        return None
    strange = folder in FABRIC_FOLDERS.values() and folder != FABRIC_FOLDERS.get(fabric)
    odd = {
        "malformed name (two digits of defect code); kept as a roll of its own": len(digits) == 2,
        f"unknown defect code {defect}; used as a defect without a name": defect not in DEFECTS,
        f"lies in another fabric's folder ({folder}); the name decides: {fabric}": strange,
        "no mask; counts at roll level only": role == "defective" and not own_masks,
        f"{len(own_masks)} masks; joined": len(own_masks) > 1,
    }
    quirks += [f"{path.name}: {quirk}" for quirk, found in odd.items() if found]
    return Record(path, int(number), defect, fabric, own_masks)


def find_quirks(collection: Collection) -> tuple[str, ...]:
    """Open every file's header and every mask: quirks that names alone don't show.

    Returns sentences, each with its consequence, after the collection's own quirks: other sizes, empty masks, alpha
    channels, grey mask edges.
    """
    quirks = list(collection.quirks)
    for record in collection.records:
        height, width, _ = image_size(record.path)
        if (height, width) != (ROLL_HEIGHT, ROLL_WIDTH):
            quirks.append(f"{record.path.name}: {width} x {height} pixels instead of 4096 x 256; used as it is")
        if (mask := read_mask(record)) is not None and not mask.any():
            quirks.append(f"{record.path.name}: its mask is empty; counts at roll level only")
    masks = [path for record in collection.records for path in record.masks]
    paths = [path for record in collection.records for path in (record.path, *record.masks)]
    with_alpha = [path.name for path in paths if image_size(path)[2] in (2, 4)]
    grey_edged = [path.name for path in masks if not set(np.unique(read_image(path))) <= {0, 255}]
    if with_alpha:
        quirks.append(f"{len(with_alpha)} files carry an alpha channel; ignored: {', '.join(with_alpha)}")
    if grey_edged:
        what = f"{len(grey_edged)} of {len(masks)} masks have grey edges; defect is what is brighter than half"
        quirks.append(f"{what}: {', '.join(grey_edged)}")
    return tuple(quirks)


def split_records(records: Iterable[Record]) -> dict[str, tuple[Record, ...]]:
    """Split by roll and by name, without a seed, so that everyone has the same parts.

    Defect-free rolls: a number that ends in 4 is calibration, in 9 test, the others train. Defective rolls: a number
    divisible by 4 is development (whatever is *chosen* on real defects is chosen there), the others test. Disputed
    rolls among those to train on or to calibrate with are in no part.

    Returns a dict of part to tuple of records.
    """
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in records:
        if record.is_normal:
            part = {4: "calibration", 9: "test"}.get(record.number % 10, "train")
        else:
            part = "development" if record.number % 4 == 0 else "test"
        if not (record.disputed and part in ("train", "calibration")):
            parts[part].append(record)
    return {part: tuple(found) for part, found in parts.items()}


def read_manifest() -> list[dict[str, str]]:
    """The complete data set as shipped with the package: rows with `path`, `bytes`, `sha256` of 354 files."""
    return list(csv.DictReader(Path(__file__).with_name("aitex_manifest.csv").read_text().splitlines()))


@cache
def read_disputed() -> dict[str, tuple[Box, ...]]:
    """Where AITEX's filing or masks disagree with what a person sees: name of a roll to boxes on it.

    `aitex_disputed.csv` says why for each. Decided by eye, on the images alone, before any score was looked at.
    """
    boxes: dict[str, tuple[Box, ...]] = {}
    for row in csv.DictReader(Path(__file__).with_name("aitex_disputed.csv").read_text().splitlines()):
        box = int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])
        boxes[row["roll"]] = (*boxes.get(row["roll"], ()), box)
    return boxes


def verify(root: FilePath) -> list[dict[str, str]]:
    """Compare a folder with the manifest, file by file.

    Files are matched by role (defect-free, defective, mask) and file name, whatever the folders are called.

    Returns a list of dicts `{"file", "status"}`, status one of `ok`, `altered`, `unknown`, `missing`; what is no file,
    such as a link that leads nowhere, is altered.
    Raises `InputError` where `root` is no AITEX folder.
    """
    root = load_aitex(root).root
    expected = {(_role(Path(row["path"])), Path(row["path"]).name): row for row in read_manifest()}
    rows = []
    for path in files_in(root):
        relative = path.relative_to(root)
        row = expected.pop((_role(relative), path.name), None)
        status = "unknown" if row is None else "ok" if path.is_file() and sha256(path) == row["sha256"] else "altered"
        rows.append({"file": relative.as_posix(), "status": status})
    return rows + [{"file": row["path"], "status": "missing"} for row in expected.values()]


def _role(relative):
    return next((role for role, names in FOLDERS.items() if relative.parts[0].lower() in names), None)
