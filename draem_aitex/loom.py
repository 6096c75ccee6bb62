"""The loom: simulated woven fabric in AITEX's layout, so that everything runs without a download.

Threads, not paint. Every pixel asks which end (warp thread, vertical) and which pick (weft, horizontal) it lies
on and where across; the weave says which is on top, its rounded height how much light returns. A defect shifts
thread coordinates, removes a thread or lays fibres on the cloth; its mask is what that changed in the noise-free
picture. Pitches, greys and sizes were set by eye and spectrum; no picture of AITEX is used.
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

from draem_aitex.aitex import FABRIC_FOLDERS, SIMULATED_MARK
from draem_aitex.errors import InputError

LOOM_VERSION = 3  # raise it with every change of the pictures: an older folder is then made anew
ROLL_WIDTH, ROLL_HEIGHT = 4096, 256  # px, as in AITEX
NORMAL_ROLLS, DEFECTIVE_ROLLS, SET_WIDTH = 24, 24, ROLL_WIDTH  # of a set: per fabric; of all fabrics; px
DEFAULT_FOLDER = Path(__file__).parent.parent / "data" / "simulated"

YARN_STEP = 4  # px between the samples along a yarn
TILE_SAMPLES = 16  # samples a thread in the pattern of one weave repeat
MASK_LEVEL = 6.0  # grey levels; a pixel that a defect changes by more belongs to its mask
EDGE_REACH = 12  # px; the edge never wanders further to the left
BACKLIGHT_LEVEL = 300.0  # grey levels; saturated, so it is 255 whatever the noise

PLAIN = ((1, 0), (0, 1))
TWILL = ((1, 1, 1, 0), (1, 1, 0, 1), (1, 0, 1, 1), (0, 1, 1, 1))  # 3/1
SATEEN = ((1, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 0, 1), (0, 1, 0, 0, 0), (0, 0, 0, 1, 0))
RIB = ((1, 1, 0), (0, 0, 1))


@dataclass(frozen=True)
class LoomFabric:
    """What one fabric is made of. Lengths in px, tones relative to the cloth's mean."""

    weave: tuple  # rows = picks, columns = ends; 1 where the end is on top
    pick_pitch: float  # px between picks, vertically
    end_pitch: float  # px between ends, horizontally
    mean: float  # grey level of the cloth
    contrast: float  # grey levels, standard deviation of the regular weave before lens and sensor
    warp_tone: float  # brightness of the warp
    weft_tone: float  # brightness of the weft
    irregularity: tuple[float, float]  # spread of thickness and tone, warp and weft
    pick_slope: float  # px down a px to the right: picks are rarely level
    start: tuple[int, int]  # first fabric column of a roll 4096 wide, from–to
    machine_bed: bool  # left of the fabric: machine bed, dark gap and bright edge; otherwise backlight
    selvedge: int  # px
    selvedge_weave: tuple
    selvedge_bands: tuple[float, ...]  # tone of the selvedge's bands of threads, from the edge on
    falloff: float  # share of light gained from the left to the right end

    @property
    def pick_repeat(self):
        """Height of one weave repeat, px: the spectrum's peaks are at multiples of height / pick_repeat."""
        return self.pick_pitch * len(self.weave)


FABRICS = {
    "00": LoomFabric(
        weave=PLAIN, pick_pitch=3.66, end_pitch=4.65, mean=75, contrast=19, warp_tone=0.80, weft_tone=1.15,
        irregularity=(0.050, 0.065), pick_slope=0.045, start=(1131, 1238), machine_bed=False, selvedge=44,
        selvedge_weave=RIB, selvedge_bands=(0.98, 0.94, 1.06, 0.86), falloff=0.16,
    ),
    "01": LoomFabric(
        weave=SATEEN, pick_pitch=2.2, end_pitch=2.6, mean=105, contrast=21, warp_tone=0.78, weft_tone=1.08,
        irregularity=(0.050, 0.065), pick_slope=0.006, start=(415, 441), machine_bed=False, selvedge=56,
        selvedge_weave=PLAIN, selvedge_bands=(0.90, 0.97, 0.93), falloff=0.05,
    ),
    "02": LoomFabric(
        weave=TWILL, pick_pitch=1.78, end_pitch=1.31, mean=115, contrast=30, warp_tone=1.10, weft_tone=0.78,
        irregularity=(0.035, 0.090), pick_slope=0.020, start=(512, 537), machine_bed=True, selvedge=68,
        selvedge_weave=RIB, selvedge_bands=(1.00, 1.08, 0.94), falloff=0.10,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LoomRoll:
    """A simulated roll: uint8 `(H, W)`, bool `(H, W)`, and the first fabric column."""

    image: np.ndarray
    mask: np.ndarray
    start: int


@dataclass
class _Change:
    """What a defect does inside `window`: arrays of the window's size, or 0."""

    window: tuple[slice, slice]
    ends: object = 0.0  # shift across ends, threads
    picks: object = 0.0  # shift across picks, threads
    missing: object = 0.0  # 0–1, how much of the warp is gone
    light: object = 0.0  # relative change of the light that comes back
    fibres: object = 0.0  # 0–1, how much is covered by loose fibres
    fibre_level: float = 0.0  # grey level of those fibres


def simulate_roll(fabric, defect=None, *, generator, width=ROLL_WIDTH, height=ROLL_HEIGHT):
    """Weave one roll: `(image, mask)`, uint8 and bool `(height, width)`.

    fabric: code in `FABRICS`; defect: code in `DEFECT_CODES`, or None; generator: `numpy.random.Generator`.
    The same state gives the same roll, and the same cloth with or without a defect. Below 4096 columns, what lies
    left of the fabric shrinks with the width. Raises `InputError` for unknown codes and sizes too small.
    """
    roll = simulate_roll_parts(fabric, defect, generator=generator, width=width, height=height)
    return roll.image, roll.mask


def simulate_roll_parts(fabric, defect=None, *, generator, width=ROLL_WIDTH, height=ROLL_HEIGHT):
    """As `simulate_roll`, but returns a `LoomRoll`, which also knows where the fabric starts."""
    _check(fabric, defect, width, height)
    # Children of their own for cloth, sensor and defect: a defect changes nothing but itself.
    cloth_draws, sensor_draws, defect_draws = map(np.random.default_rng, generator.integers(2**63, size=3))
    cloth = _Cloth(FABRICS[fabric], cloth_draws, width, height)
    threads = np.zeros((height, width), np.float32)
    for left in range(cloth.start - EDGE_REACH, width, 512):  # in parts that fit the processor's cache
        part = np.s_[0:height, left : min(left + 512, width)]
        threads[part] = cloth.threads(_Change(part))
    flawless = cloth.photograph(threads)
    picture, mask = flawless, np.zeros((height, width), bool)
    if defect is not None:
        change = DEFECTS_MADE[defect](cloth, defect_draws)
        threads[change.window] = cloth.threads(change)
        picture = cloth.photograph(threads)
        mask = _changed(picture, flawless, cloth)
    noise = sensor_draws.standard_normal(picture.shape, np.float32)
    noise *= 1 + 0.008 * picture  # brighter is noisier: photons
    noise += picture
    return LoomRoll(cv2.convertScaleAbs(np.maximum(noise, 0, out=noise)), mask, cloth.start)


def _check(fabric, defect, width, height):
    if fabric not in FABRICS:
        raise InputError(f"fabric {fabric!r}: not on the loom; expected {', '.join(FABRICS)}; use one")
    if defect is not None and defect not in DEFECT_CODES:
        known = ", ".join(DEFECT_CODES)
        raise InputError(f"defect {defect!r}: not on the loom; expected None, {known}; use one of these")
    if width < 512 or height < 64:
        raise InputError(f"roll of {width} x {height} px: expected 512 x 64 or more; use a larger one")


class _Cloth:
    """One roll's threads, light and surroundings: everything drawn but the defect and the sensor's noise."""

    def __init__(self, fabric, draws, width, height):
        self.fabric, self.width, self.height = fabric, width, height
        scale = min(1.0, width / ROLL_WIDTH)
        self.start = round(int(draws.integers(*fabric.start)) * scale)
        self.cloth_start = self.start + fabric.selvedge
        self.pick_pitch = fabric.pick_pitch * draws.uniform(0.988, 1.012)
        self.end_pitch = fabric.end_pitch * draws.uniform(0.988, 1.012)
        # A slightly wandering edge; the cloth follows it and forgets it over some two hundred columns.
        down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        self.edge = np.minimum(1.2 * _noise(draws, (height, 1), (60, 1)) + draws.uniform(-3, 3) * down - 1, 0)
        self.edge = np.maximum(self.edge, 2 - EDGE_REACH)
        self._lay_threads(draws)
        self.tile = _weave_tile(fabric, fabric.weave, self.pick_pitch, self.end_pitch)
        self.selvedge_tile = _weave_tile(fabric, fabric.selvedge_weave, self.pick_pitch, self.end_pitch / 1.4)
        across = np.linspace(-0.5, 0.5, width, dtype=np.float32)
        falloff = fabric.falloff * draws.uniform(0.5, 1.5)
        self.light = 1 + falloff * (across + 1.2 * across**2 - 0.1) + draws.uniform(-0.05, 0.05) * down
        self.light = self.light * (1 + 0.012 * _noise(draws, (height, width), (180, 500)))
        self.surroundings = self._surroundings(draws, scale)

    def _lay_threads(self, draws):
        """Number of end and pick at every pixel; what follows the decimal point is the place across it."""
        fabric, height, width = self.fabric, self.height, self.width
        x = np.arange(width, dtype=np.float32)[None] - self.start
        y = np.arange(height, dtype=np.float32)[:, None]
        bow = fabric.pick_slope * draws.uniform(0.6, 1.4) * x + 1.5 * _noise(draws, (1, width), (1, 700))
        self.ends = _noise(draws, (height, width), (50, 9))
        self.ends *= 0.08
        self.ends += (x + 0.4 * np.minimum(x, fabric.selvedge)) / self.end_pitch
        self.ends -= self.edge * np.exp(-np.maximum(x, 0) / 200) / self.end_pitch
        self.ends += draws.uniform(-0.004, 0.004) * y
        self.picks = _noise(draws, (height, width), (7, 90))
        self.picks *= 0.09
        self.picks += bow / self.pick_pitch
        self.picks += y / self.pick_pitch + draws.uniform(0, 8)
        self.first = [float(np.floor(threads.min())) - 2 for threads in (self.ends, self.picks)]
        last = [float(np.ceil(threads.max())) + 2 for threads in (self.ends, self.picks)]
        self.warp_yarn = _yarn(draws, int(last[0] - self.first[0]), height, fabric.irregularity[0]).T.copy()
        self.weft_yarn = _yarn(draws, int(last[1] - self.first[1]), width, fabric.irregularity[1])

    def threads(self, change):
        """Grey levels of the threads in the change's window, change applied, before the lens: float32."""
        rows, columns = change.window
        ends = self.ends[rows, columns] + np.float32(change.ends)
        picks = self.picks[rows, columns] + np.float32(change.picks)
        end, pick = np.floor(ends), np.floor(picks)
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] / YARN_STEP + 0 * ends
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] / YARN_STEP + 0 * ends
        warp = cv2.remap(self.warp_yarn, end - self.first[0], y, cv2.INTER_LINEAR)
        weft = cv2.remap(self.weft_yarn, x, pick - self.first[1], cv2.INTER_LINEAR)
        # A thick yarn fills its place, a thin one leaves a gap: the place across the thread is scaled.
        across = _squeeze(ends - end, warp)
        along = _squeeze(picks - pick, weft)
        seen = _look_up(self.tile, end, across, pick, along)
        inside = max(0, self.cloth_start - columns.start)
        if inside:
            part = np.s_[:, :inside]
            seen[part] = _look_up(self.selvedge_tile, end[part], across[part], pick[part], along[part])
        missing = change.missing
        warp, weft = warp + 1, weft + 1
        grey = (1 - missing) * (seen[..., 0] * warp + seen[..., 1] * weft)
        if np.any(missing):
            grey += missing * seen[..., 2] * weft
        grey *= self.light[rows, columns] * self._bands(columns)
        grey *= 1 + change.light
        if np.any(change.fibres):
            grey += change.fibres * (change.fibre_level - grey)
        return grey

    def _bands(self, columns):
        """Tone of each column: the selvedge's bands, then 1."""
        bands = np.float32(self.fabric.selvedge_bands)
        place = (np.arange(columns.start, columns.stop) - self.start) / self.fabric.selvedge * len(bands)
        band = bands[np.clip(place, 0, len(bands) - 1).astype(int)]
        return np.where(place < len(bands), band, np.float32(1))

    def _surroundings(self, draws, scale):
        """What is left of the fabric: grey levels `(height, start)`."""
        shape = (self.height, self.start)
        if not self.fabric.machine_bed:
            return np.full(shape, BACKLIGHT_LEVEL, np.float32)
        bed = 90 + 7 * _noise(draws, shape, (3, 120)) + 6 * _noise(draws, shape, (40, 30))
        bed += 3 * _noise(draws, shape, (2, 2))
        bed[:, -14:-6] = 42 + 4 * _noise(draws, (self.height, 8), (12, 8))
        bed[:, -6:] = BACKLIGHT_LEVEL
        return bed

    def photograph(self, threads):
        """Put the threads before their background and soften both with the lens: float32 `(H, W)`."""
        x = np.arange(self.width, dtype=np.float32) - self.start
        left = slice(0, self.start)
        covered = np.clip(x[left] - self.edge + 0.5, 0, 1)
        scene = threads.copy()
        scene[:, left] = self.surroundings + covered * (threads[:, left] - self.surroundings)
        return cv2.GaussianBlur(scene, (0, 0), 0.65)


def _squeeze(place, thickness):
    place -= 0.5
    place *= 1 - thickness
    place += 0.5
    return np.clip(place, 0, 1, out=place)


def _look_up(tile, end, across, pick, along):
    """Read the weave's pattern (its border repeats one sample) at thread number + place within the thread."""
    picks, ends = (size // TILE_SAMPLES for size in tile.shape[:2])
    x = (end - ends * np.floor(end / ends) + across) * TILE_SAMPLES + 0.5
    y = (pick - picks * np.floor(pick / picks) + along) * TILE_SAMPLES + 0.5
    return cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _weave_tile(fabric, weave, pick_pitch, end_pitch):
    """One weave repeat: light from the warp, from the weft, and from the weft where the warp is gone.

    float32 `(picks * TILE_SAMPLES + 2, ends * TILE_SAMPLES + 2, 3)`, grey levels; softened by one pixel's
    footprint, because a pixel of the camera covers much of a thread.
    """
    on_top = np.kron(np.array(weave, np.float32), np.ones((TILE_SAMPLES, TILE_SAMPLES), np.float32))
    place = (np.arange(TILE_SAMPLES) + 0.5) / TILE_SAMPLES - 0.5
    rounded = np.sqrt(1 - (1.9 * place) ** 2).astype(np.float32)  # a thread's cross-section
    across = np.tile(rounded, len(weave[0]))[None]
    along = np.tile(rounded, len(weave))[:, None]
    bend = 0.45 * TILE_SAMPLES  # a thread needs about half a thread's width to dive under the next
    warp_crown = _wrapped_blur(on_top, 0.01, bend)
    weft_crown = _wrapped_blur(1 - on_top, bend, 0.01)
    warp_height, weft_height = warp_crown + 0.5 * across, weft_crown + 0.5 * along
    share = 1 / (1 + np.exp(-(warp_height - weft_height) * 12))
    warp = share * fabric.warp_tone * (0.25 + 0.75 * across * warp_crown)
    weft = (1 - share) * fabric.weft_tone * (0.25 + 0.75 * along * weft_crown)
    hole = fabric.weft_tone * (0.05 + 0.32 * along) * np.ones_like(across)
    tile = np.dstack([warp, weft, hole]).astype(np.float32)
    tile = _wrapped_blur(tile, 0.45 / end_pitch * TILE_SAMPLES, 0.45 / pick_pitch * TILE_SAMPLES)
    # Mean and contrast are the fabric's own; the gain keeps the two threads' shares of the light.
    cloth = tile[..., 0] + tile[..., 1]
    gain = fabric.contrast / fabric.mean * cloth.mean() / cloth.std()
    wanted = fabric.mean * (1 + gain * (cloth / cloth.mean() - 1))
    tile[..., :2] *= (wanted / cloth)[..., None]
    tile[..., 2] *= fabric.mean / cloth.mean()
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), mode="wrap")


def _wrapped_blur(tile, sigma_x, sigma_y):
    """Gaussian blur of a periodic pattern; sigmas in samples."""
    height, width = tile.shape[:2]
    tiled = np.pad(tile, ((height, height), (width, width)) + ((0, 0),) * (tile.ndim - 2), mode="wrap")
    return cv2.GaussianBlur(tiled, (0, 0), sigma_x, sigmaY=sigma_y)[height : 2 * height, width : 2 * width]


def _yarn(draws, count, length, irregularity):
    """Thickness of yarns about 0, relative, one sample every 4 px: float32 `(count, length / 4 + 2)`."""
    shape = (count, length // YARN_STEP + 2)
    slow = _noise(draws, shape, (1, 28))
    yarn = _noise(draws, shape, (1, 2)) + 0.5 * slow + 2 * np.maximum(slow - 2.4, 0)  # the last are slubs
    yarn += 0.4 * draws.standard_normal((count, 1), np.float32)
    return np.clip(irregularity * yarn, -0.4, 0.6)


def _noise(draws, shape, cell):
    """Smooth noise of about unit spread, one draw for about `cell` px (rows, columns): float32 `shape`."""
    grid = [-(-size // step) + (step > 1) for size, step in zip(shape, cell, strict=True)]
    return cv2.resize(draws.standard_normal(grid, np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)


def _changed(picture, flawless, cloth):
    """The mask: pixels that the defect changed, closed over one weave repeat so that a band is no comb."""
    difference = np.abs(picture - flawless)
    changed = difference > min(MASK_LEVEL, 0.5 * difference.max())
    repeat = max(cloth.fabric.pick_repeat, cloth.fabric.end_pitch * len(cloth.fabric.weave[0]))
    size = round(repeat / 2) * 2 + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    padded = cv2.copyMakeBorder(changed.astype(np.uint8), size, size, size, size, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[size:-size, size:-size] > 0
    closed[:, : cloth.start] = False
    return closed


def _log_uniform(draws, low, high):
    return float(np.exp(draws.uniform(np.log(low), np.log(high))))


def _bump(distance):
    """1 at 0, smoothly 0 from 1 on: what a defect does ends somewhere, so its mask is exact."""
    return np.clip(1 - np.float32(distance) ** 2, 0, 1) ** 2


def _upright(cloth, draws, length, reach, wander):
    """A path down the cloth: its window, every pixel's distance along x (px), every row's place in -1…1."""
    length = min(round(length), cloth.height)
    top = int(draws.integers(0, cloth.height - length + 1))
    margin = int(reach + 2.5 * wander) + 4
    centre = draws.uniform(cloth.cloth_start + margin, cloth.width - margin)
    left, right = int(centre) - margin, int(centre) + margin
    window = (slice(top, top + length), slice(left, right))
    path = np.clip(_noise(draws, (length, 1), (48, 1)), -2, 2) * wander
    path = path + draws.uniform(-0.5, 0.5) * wander * np.linspace(-1, 1, length)[:, None]
    distance = np.arange(left, right, dtype=np.float32)[None] - np.float32(centre) - path.astype(np.float32)
    down = np.linspace(-1, 1, length, dtype=np.float32)[:, None]
    return window, distance, down


def _broken_end(cloth, draws):
    """002: an end is gone for a length and its neighbours close in; a loose one has wandered over others."""
    length = _log_uniform(draws, 35, 256)
    loose = draws.random() < 0.5
    wander = draws.uniform(3, 9) if loose else 0.4
    half = max(cloth.end_pitch * draws.uniform(0.55, 0.9), 1.6)
    reach = 5 * half
    window, distance, down = _upright(cloth, draws, length, reach, wander)
    uneven = 0.75 + 0.25 * _noise(draws, (len(down), 1), (14, 1))
    strength = draws.uniform(0.6, 1.1) * uneven * _bump(down**6)
    missing = np.clip(strength * _bump(distance / (1.7 * half)), 0, 1)
    pull = draws.uniform(0.2, 0.6) * strength * distance / half * _bump(distance / reach)
    return _Change(window, ends=pull * 0.6, missing=missing, light=-0.15 * missing)


def _broken_pick(cloth, draws):
    """010: picks below a wandering line slip by 0.2–0.6 of a weave repeat; further down the shift fades."""
    room = cloth.width - cloth.cloth_start
    length = int(min(_log_uniform(draws, 250, 1800), 0.9 * room))
    slip = draws.uniform(0.2, 0.6) * len(cloth.fabric.weave) * float(draws.choice((-1, 1)))
    fade = max(draws.uniform(0.8, 2) * cloth.fabric.pick_repeat, 2.5 * abs(slip) * cloth.pick_pitch)
    wander = draws.uniform(2, 7)
    left = int(draws.integers(cloth.cloth_start, cloth.width - length + 1))
    reach = int(2 * wander + fade) + 6
    reach = min(reach, cloth.height // 2 - 1)
    centre = int(draws.integers(reach, cloth.height - reach))
    rows = slice(centre - reach, centre + reach)
    path = np.clip(_noise(draws, (1, length), (1, 300)), -2, 2) * wander
    below = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - centre - path
    onset = np.clip(below / 0.8 + 0.5, 0, 1)
    along = _bump(np.linspace(-1, 1, length) ** 8) * (1 + 0.15 * _noise(draws, (1, length), (1, 120)))
    moved = onset * np.clip(1 - below / fade, 0, 1) ** 2 * along
    gap = _bump(below / (0.6 * cloth.pick_pitch)) * along
    window = (rows, slice(left, left + length))
    return _Change(window, picks=-slip * moved, light=-draws.uniform(0, 0.12) * gap)


def _fuzzyball(cloth, draws):
    """019: a ball of loose fibres on the cloth, a few to some forty px across, dark or bright."""
    diameter = _log_uniform(draws, 2.5, 34)
    size = int(1.3 * diameter) + 9
    left = int(draws.integers(cloth.cloth_start, cloth.width - size))
    top = int(draws.integers(0, max(1, cloth.height - size)))
    fibres = _fibre_ball(draws, size, diameter)
    bright = draws.random() < 0.3
    level = cloth.fabric.mean * (draws.uniform(1.4, 1.75) if bright else draws.uniform(0.3, 0.6))
    grid = np.arange(size, dtype=np.float32) - size / 2
    radius = np.hypot(grid[:, None], grid[None]) / (0.6 * diameter + 2)
    push = 0.25 * np.sign(draws.uniform(-1, 1)) * _bump(radius)
    window = (slice(top, top + size), slice(left, left + size))
    return _Change(window, picks=push, fibres=fibres * draws.uniform(0.5, 0.95), fibre_level=level)


def _fibre_ball(draws, size, diameter):
    """Cover of a tangle of short curled fibres: float32 `(size, size)`, 0–1."""
    zoom, steps = 4, 24
    count = int(8 + 1.2 * diameter)
    turn = draws.uniform(-0.5, 0.5, (count, 1)) + 0.25 * draws.standard_normal((count, steps))
    angle = draws.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(turn, axis=1)
    step = diameter / steps * draws.uniform(0.5, 1.4, (count, 1))
    curl = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1) * step[..., None], axis=1)
    scatter = draws.normal(0, 0.2 * diameter, (count, 1, 2)) * draws.uniform(0.5, 1.2, 2)
    curl += scatter + size / 2 - curl.mean(axis=1, keepdims=True)
    canvas = np.zeros((size * zoom, size * zoom), np.float32)
    for fibre in curl:  # drawn one by one: where fibres cross, the ball is denser
        layer = np.zeros(canvas.shape, np.uint8)
        cv2.polylines(layer, [np.int32(fibre * zoom)], False, 1, 2)
        canvas += layer
    cover = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    cover = 1 - np.exp(-1.3 * cv2.GaussianBlur(cover, (0, 0), 0.5 + 0.02 * diameter))
    grid = np.arange(size, dtype=np.float32) - size / 2 + 0.5
    return cover * _bump(np.hypot(grid[:, None], grid[None]) / (size / 2))


def _crease(cloth, draws):
    """023: a fold along a nearly upright line: one flank turns to the light, one away, and the ends crowd."""
    length = _log_uniform(draws, 60, 256)
    half = draws.uniform(2, 4.5)
    window, distance, down = _upright(cloth, draws, length, 2.2 * half, draws.uniform(1, 5))
    side = float(draws.choice((-1, 1)))
    strength = draws.uniform(0.14, 0.36) * _bump(down**6)
    flank = side * np.sin(np.pi * np.clip(distance / (1.3 * half), -1, 1))
    flank -= 0.6 * _bump(distance / (0.6 * half))
    crowd = draws.uniform(0.06, 0.2) * distance / cloth.end_pitch
    crowd *= _bump(distance / (2.2 * half)) * _bump(down**6)
    return _Change(window, ends=crowd, light=strength * flank)


DEFECTS_MADE = {"002": _broken_end, "010": _broken_pick, "019": _fuzzyball, "023": _crease}
DEFECT_CODES = tuple(DEFECTS_MADE)


def simulate(out, seed=0, progress=False, overwrite=False):
    """Weave a whole set in AITEX's layout and return its folder.

    24 normal rolls a fabric, 24 defective rolls with masks (each defect twice on each fabric), and
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
    rolls = [(fabric, number, None) for fabric in FABRICS for number in range(1, NORMAL_ROLLS + 1)]
    rolls += [_defective(number) for number in range(1, DEFECTIVE_ROLLS + 1)]
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


def _defective(number):
    """Fabric, number, defect: each pair twice in 24; development rolls (number mod 4 = 0) have all four."""
    index = number - 1
    return tuple(FABRICS)[index % 3], number, DEFECT_CODES[(index // 3 + index // 12) % 4]


def _write_roll(folder, seed, fabric, number, defect):
    """One roll from a generator of its own, so that neither order nor the number of workers matters."""
    generator = np.random.default_rng(np.random.SeedSequence((seed, int(fabric), number, int(defect or 0))))
    image, mask = simulate_roll(fabric, defect, generator=generator, width=SET_WIDTH)
    name = f"{number:04d}_{defect or '000'}_{fabric}"
    if defect is None:
        return _write_png(folder / "NODefect_images" / FABRIC_FOLDERS[fabric] / f"{name}.png", image)
    _write_png(folder / "Defect_images" / f"{name}.png", image)
    _write_png(folder / "Mask_images" / f"{name}_mask.png", mask.astype(np.uint8) * 255)


def _write_png(path, picture):
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
