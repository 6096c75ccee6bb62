"""How like the real cloth the simulated cloth is: one measurement for both, and what it gave on real rolls.

`weave_figures` measures a weave by its spectrum, `defect_contrast` a defect under its mask. `REAL_WEAVES`,
`REAL_CONTRASTS` and `REAL_SIZES` (`realism.json`) hold only figures; `tests/test_loom.py` compares the loom with them,
and them with the rolls where those are at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from draem_aitex.data.fabric_edges import fabric_edges
from draem_aitex.errors import InputError
from draem_aitex.simulation.fabrics import read_data

CROP = 256  # px, side of the crops whose spectra are averaged
BEHIND_EDGE = 200  # px; selvedge and the ends it pulls along are no sample of the cloth
LOWEST = 0.03  # cycles/px; below it is lighting, not weave
APART = 0.035  # cycles/px between two peaks of one roll
SAME = 0.08  # relative distance within which peaks of two rolls are one peak
PEAKS_A_ROLL = 8
_DOWN, _ACROSS = np.fft.fftfreq(CROP)[:, None], np.fft.rfftfreq(CROP)[None]  # cycles/px of a crop's spectrum


@dataclass(frozen=True)
class WeaveFigures:
    """Of a fabric: mean and standard deviation of its grey levels, and the peaks of its spectrum, strongest first.

    A peak is (cycles/px downwards, cycles/px to the right, dB above the mean power). One sign convention: to the
    right is positive, or 0 with downwards positive.
    """

    mean: float
    std: float
    peaks: tuple[tuple[float, float, float], ...]


# Measured on the part of AITEX's defect-free rolls at hand (113 of 141), 2026-11-24, with `weave_figures`; one for
# each recording of `fabrics.FABRICS`: the same fabric scanned faster, or lying the other way round.
_REAL = read_data("realism.json")
REAL_WEAVES: dict[str, tuple[WeaveFigures, ...]] = {
    code: tuple(WeaveFigures(mean, std, tuple(map(tuple, peaks))) for mean, std, peaks in recordings)
    for code, recordings in _REAL["weaves"].items()
}

# Mask pixels of a roll: median over the complete set, and the standard deviation of the logarithm over the part of it
# at hand (55 rolls, 2026-11-24); where fewer than three rolls are, the latter is assumed to be as in the others.
REAL_SIZES: dict[str, tuple[float, float]] = {code: tuple(pair) for code, pair in _REAL["sizes"].items()}

# `defect_contrast` on the same rolls: lowest and highest. Where only one roll is (027, 029, 036), 15 % around it.
REAL_CONTRASTS: dict[str, tuple[float, float]] = {code: tuple(pair) for code, pair in _REAL["contrasts"].items()}


def cloth_of(image: np.ndarray) -> np.ndarray:
    """The part of a roll that is measured: behind the edge, its selvedge left out. Raises as `fabric_edges`."""
    start, end = fabric_edges(image)
    return image[:, start + BEHIND_EDGE : end]


def weave_figures(cloths: Sequence[np.ndarray], peaks: int = 4) -> WeaveFigures:
    """Measure a fabric on one image a roll.

    cloths: images `(256 or more, 256 or more)` of cloth alone, see `cloth_of`. The spectrum of a roll is the mean
    over its 256 x 256 crops under a Hann window. A peak counts where at least half of the rolls have it (what is
    somewhere else on every roll is neither weave nor lamp), with its median frequency and height. Returns
    `WeaveFigures` with up to `peaks` of them. Raises `InputError` where an image is smaller than a crop.
    """
    found = [peak + (roll,) for roll, cloth in enumerate(cloths) for peak in _peaks(_spectrum(cloth))]
    groups: list[list[tuple]] = []
    for peak in sorted(found, key=lambda peak: -peak[2]):
        for group in groups:
            distance, aligned = _nearest([peak], group[0])
            if distance < SAME and peak[3] not in {other[3] for other in group}:
                group.append(aligned)
                break
        else:
            groups.append([peak])
    common = [_signed(*np.median(group, axis=0)[:3].tolist()) for group in groups if 2 * len(group) >= len(cloths)]
    common = sorted(common, key=lambda peak: -peak[2])[:peaks]
    mean, std = np.median([(cloth.mean(), cloth.std()) for cloth in cloths], axis=0)
    return WeaveFigures(round(float(mean), 1), round(float(std), 1), tuple(common))


def _spectrum(cloth):
    """Power over the mean of all frequencies that count: float64 `(256, 129)`, 0 where they don't."""
    height, width = cloth.shape
    if min(height, width) < CROP:
        raise InputError(f"cloth of {width} x {height} px: expected {CROP} x {CROP} or more; use a larger one")
    window = np.outer(np.hanning(CROP), np.hanning(CROP)).astype(np.float32)
    crops = (cloth[:CROP, left : left + CROP].astype(np.float32) for left in range(0, width - CROP + 1, CROP))
    power = np.mean([np.abs(np.fft.rfft2((crop - crop.mean()) * window)) ** 2 for crop in crops], axis=0)
    power[np.hypot(_DOWN, _ACROSS) < LOWEST] = 0
    return power / power[power > 0].mean()


def _peaks(power):
    """The strongest peaks of one roll: `[(down, across, dB), …]`."""
    found = []
    for _ in range(PEAKS_A_ROLL):
        row, column = np.unravel_index(power.argmax(), power.shape)
        y, x = float(_DOWN[row, 0]), float(_ACROSS[0, column])
        found.append((y, x, float(10 * np.log10(power[row, column]))))
        distance = np.minimum(np.hypot(_DOWN - y, _ACROSS - x), np.hypot(_DOWN + y, _ACROSS + x))
        power = np.where(distance < APART, 0, power)
    return found


def _nearest(peaks, other):
    """How far from `other`, relative to it, the nearest of some peaks is, and that peak with the sign it has there."""
    turned = [(sign * y, sign * x, *rest) for y, x, *rest in peaks for sign in (1, -1)]  # a frequency is its negative
    return min((float(np.hypot(p[0] - other[0], p[1] - other[1]) / np.hypot(*other[:2])), p) for p in turned)


def _signed(y, x, height):
    sign = -1 if (x, y) < (0, 0) else 1
    return round(sign * y, 4) + 0.0, round(sign * x, 4) + 0.0, round(height, 1)


def counterpart(peak: tuple[float, float, float], peaks: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The peak of `peaks` nearest in frequency: (relative distance, difference in dB)."""
    distance, nearest = _nearest(peaks, peak)
    return distance, nearest[2] - peak[2]


def defect_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean grey under the mask against a ring around it, in standard deviations of that ring.

    image: uint8 `(H, W)`; mask: bool `(H, W)`. The ring is 3 to 14 px away, without saturated pixels (backlight).
    Raises `InputError` for an empty mask.
    """
    if not mask.any():
        raise InputError("mask: empty; expected a defect; use a roll that has one")
    ellipses = (cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)) for size in (7, 29))
    near, far = (cv2.dilate(mask.astype(np.uint8), ellipse) > 0 for ellipse in ellipses)
    ring = image[far & ~near & (image < 250)].astype(np.float32)
    return float((image[mask].mean() - ring.mean()) / ring.std())
