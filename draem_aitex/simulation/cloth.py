"""Weaving and photographing one roll of simulated cloth.

Threads, not paint. Every pixel asks which end (warp thread, vertical) and which pick (weft, horizontal) it lies
on and where across; the weave says which is on top, its rounded height how much light returns. A defect is a
`Change` of thread coordinates, of threads present or of fibres on top, inside a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from draem_aitex.simulation.fabrics import LoomFabric

ROLL_WIDTH, ROLL_HEIGHT = 4096, 256  # px, as in AITEX
YARN_STEP = 4  # px between the samples along a yarn
TILE_SAMPLES = 16  # samples a thread in the pattern of one weave repeat
EDGE_WANDER = 12  # px; the edge never wanders further to the left
BACKLIGHT = 300.0  # grey levels; saturated, so it is 255 whatever the noise
SPEED_VARIATION = 0.012  # relative; how much the scan's speed differs from roll to roll


@dataclass
class Change:
    """What a defect does inside `window`: arrays of the window's size, or 0."""

    window: tuple[slice, slice]
    ends: np.ndarray | float = 0.0  # shift across ends, threads
    picks: np.ndarray | float = 0.0  # shift across picks, threads
    missing: np.ndarray | float = 0.0  # 0–1, how much of the warp is gone
    bare: np.ndarray | float = 0.0  # 0–1, how much of the weft is gone
    light: np.ndarray | float = 0.0  # relative change of the light that comes back
    fibres: np.ndarray | float = 0.0  # 0–1, how much is covered by loose fibres
    fibre_grey: np.ndarray | float = 0.0  # grey level of those fibres


class Cloth:
    """One roll's threads, light and surroundings: everything drawn but the defect and the sensor's noise."""

    def __init__(self, fabric: LoomFabric, draws: np.random.Generator, width: int, height: int, recording: int | None):
        """width, height: px; recording: index in the fabric's recordings, drawn where None."""
        self.fabric, self.width, self.height = fabric, width, height
        drawn = int(draws.integers(len(fabric.recordings)))  # drawn in any case: the rest stays the same
        self.recording = fabric.recordings[drawn if recording is None else recording]
        self.start = round(int(draws.integers(fabric.start[0], fabric.start[1])) * min(1.0, width / ROLL_WIDTH))
        self.cloth_start = self.start + fabric.selvedge
        self.pick_pitch = self.recording.pick_pitch * draws.uniform(1 - SPEED_VARIATION, 1 + SPEED_VARIATION)
        self.end_pitch = fabric.end_pitch * draws.uniform(0.997, 1.003)
        # A slightly wandering edge; the cloth follows it and forgets it over some two hundred columns.
        down = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        self.edge = np.minimum(1.2 * noise(draws, (height, 1), (60, 1)) + draws.uniform(-3, 3) * down - 1, 0)
        self.edge = np.maximum(self.edge, 2 - EDGE_WANDER)
        self._lay_threads(draws)
        self.tile = _weave_tile(self, fabric.weave, self.end_pitch, fabric.strengths)
        strengths = fabric.strengths if fabric.selvedge_weave == fabric.weave else {}
        pitch = self.end_pitch / fabric.selvedge_density
        self.selvedge_tile = _weave_tile(self, fabric.selvedge_weave, pitch, strengths)
        self._light(draws, down)
        self.surroundings = self._surroundings(draws)

    def _lay_threads(self, draws):
        """Number of end and pick at every pixel; what follows the decimal point is the place across it."""
        fabric, height, width = self.fabric, self.height, self.width
        x = np.arange(width, dtype=np.float32)[None] - self.start
        y = np.arange(height, dtype=np.float32)[:, None]
        bow = (fabric.pick_slope + draws.uniform(-0.004, 0.004)) * x + 1.5 * noise(draws, (1, width), (1, 700))
        self.ends = 0.05 * noise(draws, (height, width), (50, 9))
        self.ends += fabric.wander / self.end_pitch * noise(draws, (height, width), (150, 200))
        self.ends += (x + (fabric.selvedge_density - 1) * np.minimum(x, fabric.selvedge)) / self.end_pitch
        self.ends -= self.edge * np.exp(-np.maximum(x, 0) / 200) / self.end_pitch
        self.ends += (fabric.end_skew + draws.uniform(-0.004, 0.004)) / self.end_pitch * y
        self.picks = 0.05 * noise(draws, (height, width), (7, 90))
        # The scan's speed is not quite even either: that moves whole rows.
        uneven = noise(draws, (height, 1), (60, 1)) + 0.25 * noise(draws, (height, 1), (16, 1))
        self.picks += fabric.wander / self.pick_pitch * uneven
        self.picks += bow / self.pick_pitch
        self.picks += y / self.pick_pitch + draws.uniform(0, 8)
        self.first = [float(np.floor(threads.min())) - 2 for threads in (self.ends, self.picks)]
        last = [float(np.ceil(threads.max())) + 2 for threads in (self.ends, self.picks)]
        self.warp_yarn = _yarn(draws, int(last[0] - self.first[0]), height, fabric.irregularity[0]).T.copy()
        self.weft_yarn = _yarn(draws, int(last[1] - self.first[1]), width, fabric.irregularity[1])

    def _light(self, draws, down):
        """Fall-off, mottle and the lamp's flicker: relative light at every pixel."""
        fabric, height, width = self.fabric, self.height, self.width
        across = np.linspace(-1, 1, width, dtype=np.float32)
        slope, bowl = fabric.falloff
        light = 1 + slope / 2 * across + bowl * (across**2 - 1 / 3) + draws.uniform(-0.02, 0.02) * down
        frequency, variation = self.recording.flicker
        frequency *= 1 + variation * draws.uniform(-1, 1)
        phase = 2 * np.pi * (frequency * np.arange(height)[:, None] + draws.random())
        bars = np.sin(phase + 0.5 * noise(draws, (height, 1), (100, 1))) + 0.35 * noise(draws, (height, 1), (3, 1))
        light = light * (1 + fabric.flicker * bars.astype(np.float32))
        mottle = noise(draws, (height, width), (2, 2)) + 0.4 * noise(draws, (height, width), (9, 12))
        self.light = (1 + fabric.mottle * mottle) * light

    def threads(self, change: Change) -> np.ndarray:
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
        place = end, _squeeze(ends - end, warp), pick, _squeeze(picks - pick, weft)
        warp, weft = warp + 1, weft + 1
        seen = self._seen(0, place, columns)
        grey = seen[..., 0] * warp + seen[..., 1] * weft
        if np.any(change.missing) or np.any(change.bare):
            left = self._seen(1, place, columns)
            grey += change.missing * (left[..., 0] * weft - grey)
            grey += change.bare * (left[..., 1] * warp - grey)
        grey *= self.light[rows, columns] * self._bands(columns)
        grey *= 1 + change.light
        grey += change.fibres * (change.fibre_grey - grey)
        return grey

    def _seen(self, which, place, columns):
        """Light of both threads (`which` 0), or of the one that is left where the other is gone (1)."""
        seen = _look_up(self.tile[which], *place)
        if (inside := self.cloth_start - columns.start) > 0:
            seen[:, :inside] = _look_up(self.selvedge_tile[which], *(array[:, :inside] for array in place))
        return seen

    def _bands(self, columns):
        """Tone of each column: the selvedge's bands, then 1."""
        bands = np.float32([*self.fabric.selvedge_bands, 1])
        place = (np.arange(columns.start, columns.stop) - self.start) / self.fabric.selvedge * (len(bands) - 1)
        return bands[np.clip(place, 0, len(bands) - 1).astype(int)]

    def _surroundings(self, draws):
        """What is left of the fabric: grey levels `(height, start)`."""
        shape = (self.height, self.start)
        if not self.fabric.machine_bed:
            return np.full(shape, BACKLIGHT, np.float32)
        bed = 90 + 7 * noise(draws, shape, (3, 120)) + 6 * noise(draws, shape, (40, 30))
        bed += 3 * noise(draws, shape, (2, 2))
        bed[:, -14:-6] = 42 + 4 * noise(draws, (self.height, 8), (12, 8))
        bed[:, -6:] = BACKLIGHT
        return bed

    def photograph(self, threads: np.ndarray) -> np.ndarray:
        """Put the threads before their background and soften both with the lens: float32 `(H, W)`."""
        x = np.arange(self.width, dtype=np.float32) - self.start
        covered = np.clip(x - self.edge + 0.5, 0, 1)[:, : self.start]
        left = self.surroundings + covered * (threads[:, : self.start] - self.surroundings)
        return cv2.GaussianBlur(np.hstack([left, threads[:, self.start :]]), (0, 0), 0.65)


def _squeeze(place, thickness):
    return np.clip((place - 0.5) * (1 - thickness) + 0.5, 0, 1)


def _look_up(tile, end, across, pick, along):
    """Read the weave's pattern (its border repeats one sample) at thread number + place within the thread."""
    picks, ends = (size // TILE_SAMPLES for size in tile.shape[:2])
    x = (end - ends * np.floor(end / ends) + across) * TILE_SAMPLES + 0.5
    y = (pick - picks * np.floor(pick / picks) + along) * TILE_SAMPLES + 0.5
    return cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _weave_tile(cloth, weave, end_pitch, strengths):
    """One weave repeat, as two patterns: light from warp and weft; and from the weft or warp where the other is gone.

    Each float32 `(picks * TILE_SAMPLES + 2, ends * TILE_SAMPLES + 2, 2)`, grey levels; softened by one pixel's
    footprint, because a pixel of the camera covers much of a thread.
    """
    fabric = cloth.fabric
    on_top = np.kron(np.array(weave, np.float32), np.ones((TILE_SAMPLES, TILE_SAMPLES), np.float32))
    place = (np.arange(TILE_SAMPLES) + 0.5) / TILE_SAMPLES - 0.5
    rounded = np.sqrt(1 - (1.9 * place) ** 2).astype(np.float32)  # a thread's cross-section
    across = np.tile(rounded, len(weave[0]))[None]
    along = np.tile(rounded, len(weave))[:, None]
    bend = 0.45 * TILE_SAMPLES  # a thread needs about half a thread's width to dive under the next
    warp_crown = _wrapped_blur(on_top, 0.01, bend)
    weft_crown = _wrapped_blur(1 - on_top, bend, 0.01)
    share = 1 / (1 + np.exp(-(warp_crown + 0.5 * across - (weft_crown + 0.5 * along)) * 12))  # the higher is seen
    warp = share * fabric.warp_tone * (0.25 + 0.75 * across * warp_crown)
    weft = (1 - share) * fabric.weft_tone * (0.25 + 0.75 * along * weft_crown)
    no_warp = fabric.weft_tone * (0.05 + 0.32 * along) * np.ones_like(across)
    no_weft = fabric.warp_tone * (0.21 + 0.34 * across) * np.ones_like(along)
    tile = np.dstack([warp, weft, no_warp, no_weft]).astype(np.float32)
    tile = _wrapped_blur(tile, 0.45 / end_pitch * TILE_SAMPLES, 0.45 / cloth.pick_pitch * TILE_SAMPLES)
    light = tile[..., 0] + tile[..., 1]
    wanted = fabric.mean * _with_strengths(light / light.mean(), fabric, strengths)
    tile[..., :2] *= (wanted / light)[..., None]  # the two threads keep their shares of the light
    tile[..., 2:] *= fabric.mean / light.mean()
    if cloth.recording.mirrored:
        tile = tile[:, ::-1]
    tile = np.pad(tile, ((1, 1), (1, 1), (0, 0)), mode="wrap")
    return tile[..., :2].copy(), tile[..., 2:].copy()


def _with_strengths(pattern, fabric, strengths):
    """The pattern with mean 1, its waves times the fabric's shading, but the stated waves at their stated strength.

    How strong a weave's waves are depends on the yarn's twist and the lamp's direction, which are not modelled; the
    phases stay the threads' own but for the stated turns.
    """
    waves = np.fft.fft2(pattern)
    mean = waves[0, 0]
    wanted = (fabric.shading if strengths else 1.0) * waves
    wanted[0, 0] = mean
    for (down, across), amplitude in strengths.items():
        phase = np.angle(waves[down, across]) if abs(waves[down, across]) > 1e-3 * abs(mean) else 0.0
        phase += np.deg2rad(fabric.turns.get((down, across), 0))
        wave = 0.5 * amplitude * abs(mean) * np.exp(1j * phase)
        wanted[down, across] = wave
        wanted[-down, -across] = np.conj(wave)
    return np.maximum(np.fft.ifft2(wanted).real, 0.08).astype(np.float32)


def _wrapped_blur(tile, sigma_x, sigma_y):
    """Gaussian blur of a periodic pattern; sigmas in samples."""
    height, width = tile.shape[:2]
    tiled = np.pad(tile, ((height, height), (width, width)) + ((0, 0),) * (tile.ndim - 2), mode="wrap")
    return cv2.GaussianBlur(tiled, (0, 0), sigma_x, sigmaY=sigma_y)[height : 2 * height, width : 2 * width]


def _yarn(draws, count, length, irregularity):
    """Thickness of yarns about 0, relative, one sample every 4 px: float32 `(count, length / 4 + 2)`."""
    shape = (count, length // YARN_STEP + 2)
    slow = noise(draws, shape, (1, 28))
    yarn = noise(draws, shape, (1, 2)) + 0.5 * slow + np.maximum(slow - 2.4, 0)  # the last are slubs
    yarn += 0.4 * draws.standard_normal((count, 1), np.float32)
    return np.clip(irregularity * yarn, -0.4, 0.6)


def noise(draws: np.random.Generator, shape: Sequence[int], cell: tuple[int, int]) -> np.ndarray:
    """Smooth noise of about unit standard deviation, one draw for about `cell` px (rows, columns): float32 `shape`."""
    grid = [-(-size // step) + (step > 1) for size, step in zip(shape, cell, strict=True)]
    return cv2.resize(draws.standard_normal(grid, np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
