"""The loom: simulated woven fabric in AITEX's layout, so that everything runs without a download.

`fabrics` says what is woven, `cloth` weaves and photographs it, `defects` spoils it; here a roll is put together with
its exact mask, and a whole set is written. No image of AITEX is used, only figures measured on it (`realism`).
"""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from draem_aitex.data.aitex import FABRIC_FOLDERS, SIMULATED_MARK, load_aitex
from draem_aitex.data.rolls import Collection
from draem_aitex.errors import InputError, check_number, check_seed, check_type
from draem_aitex.files import (
    FilePath,
    cache_folders,
    is_writable,
    locked,
    not_written,
    remove_leftovers,
    temporary_beside,
)
from draem_aitex.simulation.cloth import EDGE_WANDER, ROLL_HEIGHT, ROLL_WIDTH, Change, Cloth
from draem_aitex.simulation.defects import MAKERS
from draem_aitex.simulation.fabrics import FABRICS, read_data

LOOM_VERSION = 6  # raise it with every change of the images: an older folder is then made anew
SET_WIDTH = ROLL_WIDTH  # px, of the rolls of a set
VISIBLE_CHANGE = 6.0  # grey levels; a pixel that a defect changes by more belongs to its mask

_OWN_NAME = re.compile(rf"\d{{4}}_\d{{3}}_\d{{2}}(_mask)?\.png|{re.escape(SIMULATED_MARK)}")
_ROLLS = read_data("rolls.json")

# Of every fabric. The split by number (`aitex.split_records`) makes them 4 training, 2 calibration (4, 14) and 2 test
# rolls (9, 19), each half from the first and half from the last recording, as AITEX's 1-10 and 11-20 are.
NORMAL_NUMBERS: tuple[int, ...] = tuple(_ROLLS["normal"])

# (defect, fabric) of the defective rolls, numbered from 1 through the whole set as in AITEX: six on every fabric, each
# defect where AITEX has it first. The last of each line in the file has a number divisible by 4: a development roll.
DEFECTIVE_ROLLS: tuple[tuple[str, str], ...] = tuple((defect, fabric) for defect, fabric in _ROLLS["defective"])


def simulate_roll(
    fabric: str, defect: str | None = None, *, generator: np.random.Generator, width: int = ROLL_WIDTH,
    height: int = ROLL_HEIGHT, recording: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Weave one roll: `(image, mask)`, uint8 and bool `(height, width)`.

    fabric: code in `FABRICS`; defect: code in `MAKERS`, or None; recording: index in the fabric's recordings,
    drawn where None. The same state of the generator gives the same roll, and the same cloth with or without a defect.
    Below 4096 columns, what lies left of the fabric shrinks with the width. Raises `InputError` for unknown codes and
    recordings and for sizes too small.
    """
    if fabric not in FABRICS:
        raise InputError(f"fabric {fabric!r}: not on the loom; expected {', '.join(FABRICS)}; use one")
    if defect is not None and defect not in MAKERS:
        raise InputError(f"defect {defect!r}: not on the loom; expected None, {', '.join(MAKERS)}; use one")
    check_number("width", width, 512, 2**20, whole=True)
    check_number("height", height, 64, 2**14, whole=True)
    check_type("generator", generator, np.random.Generator)
    count = len(FABRICS[fabric].recordings)
    if recording is not None and recording not in range(count):
        raise InputError(f"recording {recording!r}: fabric {fabric} has {count}, from 0 on; use one of these or None")
    # Children of their own for cloth, sensor and defect: a defect changes nothing but itself.
    cloth_draws, sensor_draws, defect_draws = map(np.random.default_rng, generator.integers(2**63, size=3))
    cloth = Cloth(FABRICS[fabric], cloth_draws, width, height, recording)
    threads = np.zeros((height, width), np.float32)
    for left in range(cloth.start - EDGE_WANDER, width, 512):  # in parts that fit the processor's cache
        part = np.s_[0:height, left : min(left + 512, width)]
        threads[part] = cloth.threads(Change(part))
    image, mask = cloth.photograph(threads), np.zeros((height, width), bool)
    if defect is not None:
        normal, change = image, MAKERS[defect](cloth, defect_draws)
        threads[change.window] = cloth.threads(change)
        image = cloth.photograph(threads)
        mask = _changed(image, normal, cloth)
    noise = sensor_draws.standard_normal(image.shape, np.float32)
    image = image + (1.4 + 0.0125 * image) * noise  # brighter is noisier: photons
    return cv2.convertScaleAbs(np.maximum(image, 0)), mask


def _changed(image, normal, cloth):
    """The mask: pixels that the defect changed, closed over one weave repeat so that a band is no comb."""
    difference = np.abs(image - normal)
    changed = difference > min(VISIBLE_CHANGE, 0.5 * difference.max())
    weave = cloth.fabric.weave
    size = round(max(cloth.pick_pitch * len(weave), cloth.end_pitch * len(weave[0])) / 2) * 2 + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    padded = cv2.copyMakeBorder(changed.astype(np.uint8), size, size, size, size, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[size:-size, size:-size] > 0
    closed[:, : cloth.start] = False
    return closed


def simulate(out: FilePath, seed: int = 0, progress: bool = False, overwrite: bool = False) -> Path:
    """Weave a whole set in AITEX's layout and return its folder.

    Eight normal rolls a fabric (`NORMAL_NUMBERS`), 42 defective rolls with masks (`DEFECTIVE_ROLLS`), and
    `simulated.json`, which says what it is. The same seed gives the same files, and the folder appears complete or not
    at all. progress: show a bar. Raises `InputError` if `out` exists and is not empty, cannot be written, or is being
    written by another process; with `overwrite` a simulated set is replaced, and anything else is still refused.
    """
    out = Path(out)
    check_seed(seed)
    _make_room(out)
    with locked(out):
        return _weave(out, seed, progress, overwrite)


def ensure_simulated(folder: FilePath | None = None, seed: int = 0) -> Path:
    """Return a folder with the simulated set of this seed and loom version; weave it if it is not there yet.

    folder: if None, `simulated` in the first of `files.cache_folders` that has this set, or else in which it can be
    made. A simulated set of another seed or version is replaced; of several processes that call at once one weaves, and
    the others wait. Raises `InputError` if the folder holds anything else.
    """
    check_seed(seed)
    folder = _default_folder(seed) if folder is None else Path(folder)
    if _mark(folder) == _wanted(seed):
        return folder
    _make_room(folder)
    with locked(folder, wait=True):
        return folder if _mark(folder) == _wanted(seed) else _weave(folder, seed, False, overwrite=True)


def _default_folder(seed):
    folders = [folder / "simulated" for folder in cache_folders()]
    ready = [folder for folder in folders if _mark(folder) == _wanted(seed)]
    return [*ready, *(folder for folder in folders if is_writable(folder.parent, new=True)), *folders][0]


def _make_room(folder):
    """Make the folder in which a set's folder is going to lie."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None


def _weave(out, seed, progress, overwrite):
    """`simulate`, under the lock: woven beside, then moved into place."""
    before = _mark(out)
    if out.is_file() or (out.exists() and any(out.iterdir()) and not (before and overwrite)):
        what = "not empty" if before else "not simulated rolls"
        raise InputError(
            f"{out}: {what}; expected an empty folder, or a simulated set with overwrite=True; use another"
        )
    strange = [path for path in out.rglob("*") if path.is_file() and not _OWN_NAME.fullmatch(path.name)]
    if strange:
        raise InputError(f"{strange[0]}: not made by the loom, which would replace its folder; move it elsewhere")
    remove_leftovers([out])
    beside = temporary_beside(out)
    try:
        _write_set(beside / "new", seed, progress)
        if before and _mark(out):
            out.rename(beside / "old")
        elif out.exists():  # empty, or else what somebody has put there meanwhile stays
            out.rmdir()
        (beside / "new").rename(out)
    except OSError as error:
        raise not_written(out, error) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def load_simulated(folder: FilePath | None = None, seed: int = 0) -> Collection:
    """The embedded simulated set as a `Collection`; it is woven where it is not there yet, in about ten seconds.

    Args:
        folder: Where it lies; by default where `ensure_simulated` says.
        seed: Another seed gives another set.

    Returns:
        A `Collection` whose source is "simulated fabric": 98 rolls of 256 x 4096 pixels of seven fabrics.

    Raises:
        InputError: The folder holds something else, or cannot be written.

    Example:
        >>> from draem_aitex import load_simulated
        >>> len(load_simulated().train)
        28
    """
    return load_aitex(ensure_simulated(folder, seed))


def _wanted(seed):
    return {"loom": LOOM_VERSION, "seed": seed}


def _mark(folder):
    """Loom version and seed of a simulated set; None where the folder is none."""
    try:
        mark = json.loads((folder / SIMULATED_MARK).read_text(encoding="utf-8"))
        return {"loom": mark["loom"], "seed": mark["seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_set(folder, seed, progress):
    rolls = [(fabric, number, None) for fabric in FABRICS for number in NORMAL_NUMBERS]
    rolls += [(fabric, number, defect) for number, (defect, fabric) in enumerate(DEFECTIVE_ROLLS, 1)]
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda roll: _write_roll(folder, seed, *roll), rolls)
        list(tqdm(done, total=len(rolls), desc="weaving", unit="roll", disable=not progress))
    about = {"what": "simulated fabric, not AITEX", **_wanted(seed), "fabrics": list(FABRICS)}
    (folder / SIMULATED_MARK).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _recording(fabric, number, defect):
    """Which recording a roll of the set is from: the last for normal rolls above 10, the others up to 10."""
    count = len(FABRICS[fabric].recordings)
    if defect is not None:
        return number % count
    return count - 1 if number > 10 else number % max(1, count - 1)


def _write_roll(folder, seed, fabric, number, defect):
    """One roll from a generator of its own, so that neither order nor the number of workers matters."""
    generator = np.random.default_rng(np.random.SeedSequence((seed, int(fabric), number, int(defect or 0))))
    index = _recording(fabric, number, defect)
    image, mask = simulate_roll(fabric, defect, generator=generator, width=SET_WIDTH, recording=index)
    name = f"{number:04d}_{defect or '000'}_{fabric}"
    images = {f"NODefect_images/{FABRIC_FOLDERS[fabric]}/{name}.png": image}
    if defect is not None:
        images = {f"Defect_images/{name}.png": image, f"Mask_images/{name}_mask.png": mask.astype(np.uint8) * 255}
    for place, pixels in images.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
