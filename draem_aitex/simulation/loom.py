"""The loom: simulated woven fabric in AITEX's layout, so that everything runs without a download.

`loom_fabrics` says what is woven, `loom_cloth` weaves and photographs it, `loom_defects` spoils it; here a roll is
put together with its exact mask, and a whole set is written. No picture of AITEX is used, only figures measured on
it (`likeness`).
"""

import json
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from draem_aitex.data.aitex import FABRIC_FOLDERS, SIMULATED_MARK, load_aitex
from draem_aitex.data.rolls import Collection
from draem_aitex.errors import InputError
from draem_aitex.simulation.cloth import EDGE_WANDER, ROLL_HEIGHT, ROLL_WIDTH, Change, Cloth
from draem_aitex.simulation.defects import MAKERS
from draem_aitex.simulation.fabrics import FABRICS

LOOM_VERSION = 6  # raise it with every change of the pictures: an older folder is then made anew
SET_WIDTH = ROLL_WIDTH  # px, of the rolls of a set
DEFAULT_FOLDER = Path(__file__).parent.parent.parent / "data" / "simulated"
VISIBLE_CHANGE = 6.0  # grey levels; a pixel that a defect changes by more belongs to its mask

# Of every fabric. The split by number (`aitex.split_records`) makes them 4 training, 2 calibration (4, 14) and 2 test
# rolls (9, 19), each half from the first and half from the last recording, as AITEX's 1-10 and 11-20 are.
NORMAL_NUMBERS = (1, 2, 4, 9, 11, 12, 14, 19)

# (defect, fabric) of the defective rolls, numbered from 1 through the whole set as in AITEX: six on every fabric, each
# defect where AITEX has it first. The last of each line has a number divisible by 4: it is a development roll.
DEFECTIVE_ROLLS = (
    ("002", "00"), ("022", "06"), ("019", "04"), ("002", "01"),
    ("036", "01"), ("006", "04"), ("010", "03"), ("006", "02"),
    ("019", "02"), ("016", "00"), ("030", "04"), ("010", "03"),
    ("023", "01"), ("022", "03"), ("027", "05"), ("019", "06"),
    ("025", "03"), ("002", "02"), ("030", "02"), ("022", "00"),
    ("029", "06"), ("023", "05"), ("019", "01"), ("023", "02"),
    ("006", "06"), ("010", "05"), ("019", "03"), ("016", "03"),
    ("002", "00"), ("006", "04"), ("030", "01"), ("025", "05"),
    ("027", "05"), ("019", "04"), ("023", "01"), ("029", "04"),
    ("022", "06"), ("010", "00"), ("016", "05"), ("030", "00"),
    ("019", "02"), ("025", "06"),
)  # fmt: skip


@dataclass(frozen=True)
class LoomRoll:
    """A simulated roll: uint8 `(H, W)`, bool `(H, W)`, and the first fabric column."""

    image: np.ndarray
    mask: np.ndarray
    start: int


DEFECT_CODES = tuple(MAKERS)


def simulate_roll(fabric, defect=None, *, generator, width=ROLL_WIDTH, height=ROLL_HEIGHT, recording=None):
    """Weave one roll: `(image, mask)`, uint8 and bool `(height, width)`.

    fabric: code in `FABRICS`; defect: code in `DEFECT_CODES`, or None; generator: `numpy.random.Generator`;
    recording: index in the fabric's recordings, drawn where None. The same state gives the same roll, and the same
    cloth with or without a defect. Below 4096 columns, what lies left of the fabric shrinks with the width. Raises
    `InputError` for unknown codes and recordings and for sizes too small.
    """
    roll = simulate_roll_parts(fabric, defect, generator=generator, width=width, height=height, recording=recording)
    return roll.image, roll.mask


def simulate_roll_parts(fabric, defect=None, *, generator, width=ROLL_WIDTH, height=ROLL_HEIGHT, recording=None):
    """As `simulate_roll`, but returns a `LoomRoll`, which also knows where the fabric starts."""
    _check(fabric, defect, width, height, recording)
    # Children of their own for cloth, sensor and defect: a defect changes nothing but itself.
    cloth_draws, sensor_draws, defect_draws = map(np.random.default_rng, generator.integers(2**63, size=3))
    cloth = Cloth(FABRICS[fabric], cloth_draws, width, height, recording)
    threads = np.zeros((height, width), np.float32)
    for left in range(cloth.start - EDGE_WANDER, width, 512):  # in parts that fit the processor's cache
        part = np.s_[0:height, left : min(left + 512, width)]
        threads[part] = cloth.threads(Change(part))
    flawless = cloth.photograph(threads)
    picture, mask = flawless, np.zeros((height, width), bool)
    if defect is not None:
        change = MAKERS[defect](cloth, defect_draws)
        threads[change.window] = cloth.threads(change)
        picture = cloth.photograph(threads)
        mask = _changed(picture, flawless, cloth)
    noise = sensor_draws.standard_normal(picture.shape, np.float32)
    noise *= 1.4 + 0.0125 * picture  # brighter is noisier: photons
    noise += picture
    return LoomRoll(cv2.convertScaleAbs(np.maximum(noise, 0, out=noise)), mask, cloth.start)


def _check(fabric, defect, width, height, recording):
    if fabric not in FABRICS:
        raise InputError(f"fabric {fabric!r}: not on the loom; expected {', '.join(FABRICS)}; use one")
    if defect is not None and defect not in DEFECT_CODES:
        known = ", ".join(DEFECT_CODES)
        raise InputError(f"defect {defect!r}: not on the loom; expected None, {known}; use one of these")
    if width < 512 or height < 64:
        raise InputError(f"roll of {width} x {height} px: expected 512 x 64 or more; use a larger one")
    count = len(FABRICS[fabric].recordings)
    if recording is not None and recording not in range(count):
        raise InputError(f"recording {recording!r}: fabric {fabric} has {count}, from 0 on; use one of these or None")


def _changed(picture, flawless, cloth):
    """The mask: pixels that the defect changed, closed over one weave repeat so that a band is no comb."""
    difference = np.abs(picture - flawless)
    changed = difference > min(VISIBLE_CHANGE, 0.5 * difference.max())
    size = round(cloth.repeat / 2) * 2 + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    padded = cv2.copyMakeBorder(changed.astype(np.uint8), size, size, size, size, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[size:-size, size:-size] > 0
    closed[:, : cloth.start] = False
    return closed


def simulate(out, seed=0, progress=False, overwrite=False):
    """Weave a whole set in AITEX's layout and return its folder.

    Eight normal rolls a fabric (`NORMAL_NUMBERS`), 42 defective rolls with masks (`DEFECTIVE_ROLLS`), and
    `simulated.json`, which says what it is. The same seed gives the same files; the folder appears complete
    or not at all. Raises `InputError` if `out` exists and is not empty; with `overwrite` a simulated set is
    replaced, and anything else is still refused.
    """
    return _simulate(Path(out), seed, progress, overwrite, keep_same=False)


def ensure_simulated(folder=None, seed=0):
    """Return a folder with the simulated set of this seed and loom version; weave it if it is not there yet.

    folder: `data/simulated` if None. A simulated set of another seed or version is replaced, and several
    processes may call at once. Raises `InputError` if the folder holds anything else.
    """
    folder = DEFAULT_FOLDER if folder is None else Path(folder)
    if _mark(folder) == _wanted(seed):
        return folder
    return _simulate(folder, seed, progress=False, overwrite=True, keep_same=True)


def load_simulated(folder: Path | str | None = None, seed: int = 0) -> Collection:
    """The embedded simulated set as a `Collection`; it is woven where it is not there yet, in about ten seconds.

    Args:
        folder: Where it lies; `data/simulated` by default.
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


def _simulate(out, seed, progress, overwrite, keep_same):
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed {seed!r}: expected a whole number, 0 or more; choose another")
    _check_target(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.parent / f".{out.name}-{uuid.uuid4().hex[:8]}"
        unfinished.mkdir()
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; expected a writable place; choose another") from None
    try:
        _write_set(unfinished, seed, progress)
        _publish(unfinished, out, overwrite, keep_same and _wanted(seed))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def _wanted(seed):
    return {"loom": LOOM_VERSION, "seed": seed}


def _mark(folder):
    """Loom version and seed of a simulated set; None where the folder is none."""
    try:
        mark = json.loads((folder / SIMULATED_MARK).read_text(encoding="utf-8"))
        return {"loom": mark["loom"], "seed": mark["seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_target(out, overwrite):
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; expected a folder for the simulated rolls; choose another name")
    if not out.exists() or not any(out.iterdir()):
        return
    if _mark(out) is None:
        raise InputError(f"{out}: not simulated rolls; expected an empty folder; use another")
    if not overwrite:
        raise InputError(f"{out}: not empty; expected an empty folder; use another, or overwrite=True")


def _publish(unfinished, out, overwrite, same):
    """Move the finished set to its place, unless another process has put the `same` there meanwhile."""
    if same and _mark(out) == same:
        return
    _check_target(out, overwrite)
    retired = unfinished.with_name(unfinished.name + "-old")
    try:
        if out.exists():
            os.rename(out, retired)
        os.rename(unfinished, out)
    except OSError as error:
        if not same or _mark(out) != same:
            raise InputError(f"{out}: {error.strerror}; expected to be the only writer; try again") from None
    finally:
        shutil.rmtree(retired, ignore_errors=True)


def _write_set(folder, seed, progress):
    rolls = [(fabric, number, None) for fabric in FABRICS for number in NORMAL_NUMBERS]
    rolls += [(fabric, number, defect) for number, (defect, fabric) in enumerate(DEFECTIVE_ROLLS, 1)]
    normal = [f"NODefect_images/{FABRIC_FOLDERS[fabric]}" for fabric in FABRICS]
    for name in ("Defect_images", "Mask_images", *normal):
        (folder / name).mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        done = pool.map(lambda roll: _write_roll(folder, seed, *roll), rolls)
        if progress:
            from tqdm.auto import tqdm

            done = tqdm(done, total=len(rolls), desc="weaving", unit="roll")
        for _ in done:
            pass
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
    recording = _recording(fabric, number, defect)
    image, mask = simulate_roll(fabric, defect, generator=generator, width=SET_WIDTH, recording=recording)
    name = f"{number:04d}_{defect or '000'}_{fabric}"
    if defect is None:
        return _write_png(folder / "NODefect_images" / FABRIC_FOLDERS[fabric] / f"{name}.png", image)
    _write_png(folder / "Defect_images" / f"{name}.png", image)
    _write_png(folder / "Mask_images" / f"{name}_mask.png", mask.astype(np.uint8) * 255)


def _write_png(path, picture):
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
