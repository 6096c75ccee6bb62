"""Reading AITEX: names become records, masks are paired by parsed name, quirks are reported.

The data set (AFID) is described in Silvestre-Blanes et al., AUTEX Research Journal 19(4), 2019,
doi 10.2478/aut-2019-0035: grey rolls of 256 x 4096 pixels named `nnnn_ddd_ff.png` (number, defect code, fabric code)
and masks named `nnnn_ddd_ff_mask.png`.
"""

import csv
import hashlib
import re
import struct
import zlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from draem_aitex.errors import InputError

DEFECTS = {
    "000": "no defect",
    "002": "broken end",
    "006": "broken yarn",
    "010": "broken pick",
    "016": "weft curling",
    "019": "fuzzyball",
    "022": "cut selvage",
    "023": "crease",
    "025": "warp ball",
    "027": "knots",
    "029": "contamination",
    "030": "nep",
    "036": "weft crack",
}

FABRIC_FOLDERS = {
    "00": "2311694-2040n7u",
    "01": "2608691-202020u",
    "02": "2306894-210033u",
    "03": "2311694-1930c7u",
    "04": "2311517-195063u",
    "05": "2306881-210020u",
    "06": "2311980-185026u",
}

# The folder names seen in the official archives and in the copies people have, in lower case.
FOLDERS = {
    "normal": ("nodefect_images", "nodefect"),
    "defect": ("defect_images", "defect"),
    "mask": ("mask_images", "mask"),
}

SIMULATED_MARK = "simulated.json"  # the loom leaves this file in every folder it makes
MASK_LEVEL = 127  # a mask pixel counts as defect above this grey level; the edges are anti-aliased
ROLL_HEIGHT, ROLL_WIDTH = 256, 4096  # pixels

_IMAGE_NAME = re.compile(r"(\d{4})_(\d{2,3})_(\d{2})")
_MASK_NAME = re.compile(r"(\d{4}_\d{2,3}_\d{2})_mask\d?")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Record:
    """One roll on disk, known by its name alone.

    `number`, `defect` ("000" where there is none) and `fabric` are parsed from the file name; `masks` holds none, one
    or two files.
    """

    path: Path
    number: int
    defect: str
    fabric: str
    masks: tuple[Path, ...] = ()

    @property
    def name(self):
        return self.path.stem

    @property
    def is_normal(self):
        return self.defect == "000"


@dataclass(frozen=True)
class Collection:
    """What `scan` found: the records in the order of their names, and every quirk as a sentence."""

    root: Path
    records: tuple[Record, ...]
    quirks: tuple[str, ...]
    simulated: bool

    @property
    def source(self):
        """ "simulated fabric" or "AITEX": the label that every figure taken from this folder carries."""
        return "simulated fabric" if self.simulated else "AITEX"


@dataclass(frozen=True)
class Split:
    """Records by what they may be used for; no roll is in two parts."""

    train: tuple[Record, ...]
    calibration: tuple[Record, ...]
    development: tuple[Record, ...]
    test: tuple[Record, ...]


def scan(root):
    """Read the names in an AITEX folder, real or simulated, and pair the masks.

    Accepts the official layout and the common copies (`NODefect_images`, `NoDefect_images`, `NoDefect`, with or
    without a folder per fabric). A part of the data set is fine.

    Returns a `Collection`. Raises `InputError` where `root` is no folder or holds no roll with an AITEX name.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected an AITEX folder (see data/README.md)")
    paths = {kind: _pngs(root, names) for kind, names in FOLDERS.items()}
    quirks = []
    masks = _pair_masks(paths["mask"], quirks)
    records = []
    for kind in ("normal", "defect"):
        for path in paths[kind]:
            record = _parse(path, kind, masks, quirks)
            if record is not None:
                records.append(record)
    if not records:
        raise InputError(
            f"{root}: no AITEX folder: found no roll named nnnn_ddd_ff.png in NODefect_images or Defect_images; "
            "give the folder that holds these two (see data/README.md)"
        )
    for stem in sorted(set(masks) - {record.name for record in records}):
        quirks.append(f"{stem}: has a mask but no picture; the mask is not used")
    return Collection(root, tuple(records), tuple(quirks), (root / SIMULATED_MARK).is_file())


def _pngs(root, folder_names):
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in folder_names]
    return [path for folder in folders for path in sorted(folder.rglob("*.png"))]


def _pair_masks(paths, quirks):
    masks = {}
    for path in paths:
        match = _MASK_NAME.fullmatch(path.stem)
        if match is None:
            quirks.append(f"{path.name}: no mask name (nnnn_ddd_ff_mask.png); not used")
        else:
            masks.setdefault(match[1], []).append(path)
    return masks


def _parse(path, kind, masks, quirks):
    match = _IMAGE_NAME.fullmatch(path.stem)
    if match is None:
        quirks.append(f"{path.name}: no roll name (nnnn_ddd_ff.png); not used")
        return None
    number, defect, fabric = match.groups()
    if len(defect) == 2:
        quirks.append(f"{path.name}: malformed name (two digits of defect code); kept as a roll of its own")
        defect = "0" + defect
    own_masks = tuple(masks.get(path.stem, ()))
    if kind == "normal" and defect != "000":
        quirks.append(f"{path.name}: lies among the defect-free rolls with defect code {defect}; not used")
        return None
    if kind == "defect" and not own_masks:
        quirks.append(f"{path.name}: no mask; counts at roll level only")
    if len(own_masks) > 1:
        quirks.append(f"{path.name}: {len(own_masks)} masks; joined")
    return Record(path, int(number), defect, fabric, own_masks)


def find_quirks(collection):
    """Open every file's header and every mask: quirks that names alone don't show.

    Returns sentences about other widths, alpha channels and empty masks, after the collection's own quirks.
    """
    quirks = list(collection.quirks)
    with_alpha = 0
    for record in collection.records:
        height, width, channels = png_header(record.path)
        with_alpha += channels in (2, 4)
        if (height, width) != (ROLL_HEIGHT, ROLL_WIDTH):
            quirks.append(f"{record.path.name}: {width} x {height} pixels instead of 4096 x 256; used as it is")
        mask = read_mask(record)
        if record.masks and not mask.any():
            quirks.append(f"{record.path.name}: its mask is empty; counts at roll level only")
    if with_alpha:
        quirks.append(f"{with_alpha} pictures carry an alpha channel; ignored")
    return tuple(quirks)


def split_records(records):
    """Split by roll and by name, without a seed, so that everyone has the same parts.

    Defect-free rolls: a number that ends in 4 is calibration, in 9 test, the others train. Defective rolls: a number
    divisible by 4 is development (whatever is *chosen* on real defects is chosen there), the others test.
    """
    parts = {"train": [], "calibration": [], "development": [], "test": []}
    for record in records:
        if record.is_normal:
            part = {4: "calibration", 9: "test"}.get(record.number % 10, "train")
        else:
            part = "development" if record.number % 4 == 0 else "test"
        parts[part].append(record)
    return Split(**{part: tuple(found) for part, found in parts.items()})


def read_image(path):
    """Read a picture as grey levels.

    PNG, JPEG, TIFF or BMP; colour becomes grey, an alpha channel is ignored, 16 bits become 8.

    Returns uint8 `(H, W)`. Raises `InputError` for a file that is missing, unreadable or truncated.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing picture file") from None
    if data.startswith(_PNG_SIGNATURE):
        _check_png(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise InputError(f"{path}: not a readable picture; expected PNG, JPEG, TIFF or BMP; get the file anew")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{path}: pixels of type {image.dtype}; expected 8 or 16 bit; convert the picture")
    if image.ndim == 3:
        to_grey = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
        image = cv2.cvtColor(image, to_grey[image.shape[2]]) if image.shape[2] in to_grey else image[..., 0]
    return np.ascontiguousarray(image)


def _check_png(path, data):
    """OpenCV fills the rest of a truncated PNG with grey and says nothing, so the chunks are checked here."""
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise InputError(f"{path}: truncated PNG ({len(data)} bytes, no end mark); get the file anew")
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            raise InputError(f"{path}: truncated PNG ({len(data)} bytes, no end mark); get the file anew")
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack(">I", data[end - 4 : end])[0]:
            raise InputError(f"{path}: damaged PNG (checksum differs at byte {position}); get the file anew")
        position = end


def png_header(path):
    """Size and channels of a PNG, read from its first 26 bytes: `(height, width, channels)`."""
    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) < 26 or not head.startswith(_PNG_SIGNATURE):
        raise InputError(f"{path}: not a PNG; expected AITEX's PNG files; get the file anew")
    width, height, _, colour = struct.unpack(">IIBB", head[16:26])
    return height, width, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 1)


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
        joined |= mask > MASK_LEVEL
    return joined


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest():
    """The complete data set as shipped with the package: rows with `path`, `bytes`, `sha256` of 354 files."""
    with files("draem_aitex").joinpath("aitex_manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def verify(root):
    """Compare a folder with the manifest, file by file.

    Files are matched by kind (defect-free, defective, mask) and file name, whatever the folders are called.

    Returns a list of dicts `{"file", "status"}`, status one of `ok`, `altered`, `unknown`, `missing`.
    Raises `InputError` where `root` is no AITEX folder.
    """
    root = scan(root).root
    expected = {(_kind(Path(row["path"])), Path(row["path"]).name): row for row in read_manifest()}
    rows = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = path.relative_to(root)
        if any(part.startswith(".") for part in relative.parts):
            continue
        row = expected.pop((_kind(relative), path.name), None)
        if row is None:
            status = "unknown"
        else:
            same = path.stat().st_size == int(row["bytes"]) and sha256(path) == row["sha256"]
            status = "ok" if same else "altered"
        rows.append({"file": relative.as_posix(), "status": status})
    return rows + [{"file": row["path"], "status": "missing"} for row in expected.values()]


def _kind(relative):
    for kind, names in FOLDERS.items():
        if relative.parts[0].lower() in names:
            return kind
    return None
