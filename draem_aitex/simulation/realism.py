"""How like the real cloth the simulated cloth is: one measurement for both, and what it gave on real rolls.

`weave_figures` reads the weave off the spectrum, `defect_contrast` a defect off its mask. `REAL_WEAVES`,
`REAL_CONTRASTS` and `REAL_SIZES` hold only figures; `tests/test_loom.py` holds the loom to them, and the figures
themselves to the rolls where those are at hand.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from draem_aitex.data.fabric_edges import fabric_edges
from draem_aitex.errors import InputError

CROP = 256  # px, side of the crops whose spectra are averaged
BEHIND_EDGE = 200  # px; selvedge and the ends it pulls along are no sample of the cloth
LOWEST = 0.03  # cycles/px; below it is lighting, not weave
APART = 0.035  # cycles/px between two peaks of one roll
SAME = 0.08  # relative distance within which peaks of two rolls are one peak
PEAKS_A_ROLL = 8


@dataclass(frozen=True)
class WeaveFigures:
    """Of a fabric: grey level and spread (standard deviation), and the peaks of its spectrum, strongest first.

    A peak is (cycles/px downwards, cycles/px to the right, dB above the mean power). One sign convention: to the
    right is positive, or 0 with downwards positive.
    """

    mean: float
    spread: float
    peaks: tuple[tuple[float, float, float], ...]


# Measured on the part of AITEX's defect-free rolls at hand (113 of 141), 2026-11-24, with `weave_figures`; a row for
# each recording of `loom_fabrics.FABRICS`: the same fabric scanned faster, or lying the other way round.
REAL_WEAVES = {
    "00": (
        WeaveFigures(76.6, 17.2, (
            (0.1387, 0.1055, 34.9), (-0.1387, 0.1094, 32.4), (-0.2773, 0.002, 26.7), (0.0, 0.2129, 25.6),
        )),
    ),
    "01": (
        WeaveFigures(109.9, 14.8, (
            (0.1797, 0.0781, 31.7), (-0.1797, 0.0781, 31.0), (0.3594, 0.0, 28.4), (0.1094, 0.0, 27.7),
        )),
    ),
    "02": (
        WeaveFigures(119.7, 21.5, (
            (-0.1406, 0.1914, 37.6), (0.1406, 0.0, 17.1), (0.4219, 0.1875, 16.6), (0.0, 0.1895, 16.5),
        )),
    ),
    "03": (
        WeaveFigures(83.7, 28.0, (
            (0.1367, 0.1016, 35.6), (-0.1367, 0.1094, 33.1), (-0.2734, 0.0039, 23.6), (0.0, 0.2109, 22.2),
        )),
    ),
    "04": (
        WeaveFigures(125.3, 19.3, (
            (-0.0508, 0.1562, 38.3), (0.1504, 0.1562, 23.6), (0.0977, 0.0, 23.3), (0.0996, 0.3086, 22.8),
        )),
        WeaveFigures(125.0, 19.0, (
            (-0.0742, 0.1562, 38.4), (0.0918, 0.0, 25.0), (0.1484, 0.3086, 23.4), (0.2227, 0.1562, 23.1),
        )),
        WeaveFigures(126.2, 19.0, (
            (-0.1016, 0.1562, 37.8), (0.0898, 0.0, 24.2), (0.1992, 0.3125, 22.8), (0.3008, 0.1562, 20.2),
        )),
    ),
    "05": (
        WeaveFigures(107.7, 13.5, (
            (-0.1426, 0.1914, 35.7), (0.2852, 0.3711, 20.1), (-0.1426, 0.002, 16.3), (0.4336, 0.1836, 13.7),
        )),
        WeaveFigures(105.3, 13.1, (
            (0.1445, 0.1875, 35.8), (0.1055, 0.0, 28.4), (-0.2852, 0.375, 21.3), (0.1445, 0.0, 17.2),
        )),
    ),
    "06": (
        WeaveFigures(136.1, 16.8, (
            (-0.0586, 0.1602, 37.8), (0.0664, 0.0, 27.0), (0.1113, 0.3125, 21.9), (0.0547, 0.1562, 16.9),
        )),
        WeaveFigures(136.3, 16.4, (
            (-0.0859, 0.1562, 37.4), (0.0664, 0.0, 27.1), (0.1719, 0.3125, 20.7), (0.0859, 0.1562, 17.7),
        )),
    ),
}  # fmt: skip

# Mask pixels of a roll: median over the complete set, and the standard deviation of the logarithm over the part of it
# at hand (55 rolls, 2026-11-24); where fewer than three rolls are, the latter is assumed to be as in the others.
REAL_SIZES = {
    "002": (708, 0.66), "006": (1570, 0.46), "010": (5488, 0.60), "016": (662, 0.53), "019": (22, 0.62),
    "022": (260, 0.60), "023": (583, 0.44), "025": (20, 0.30), "027": (265, 0.40), "029": (301, 0.40),
    "030": (98, 1.00), "036": (233253, 0.10),
}  # fmt: skip

# `defect_contrast` on the same rolls: lowest and highest. Where only one roll is (027, 029, 036), 15 % around it.
REAL_CONTRASTS = {
    "002": (-0.75, -0.24), "006": (0.07, 5.66), "010": (-0.04, 0.19), "016": (0.82, 1.22), "019": (-3.27, -1.02),
    "022": (-1.10, -0.11), "023": (-0.35, 0.14), "025": (-1.02, -0.65), "027": (-0.87, -0.65), "029": (1.41, 1.91),
    "030": (-2.85, -0.61), "036": (-2.47, -1.83),
}  # fmt: skip


def cloth_of(image):
    """The part of a roll that is measured: behind the edge, its selvedge left out. Raises as `fabric_edges`."""
    start, end = fabric_edges(image)
    return image[:, start + BEHIND_EDGE : end]


def weave_figures(cloths, peaks=4):
    """Measure a fabric on one picture a roll.

    cloths: pictures `(256 or more, 256 or more)` of cloth alone, see `cloth_of`. The spectrum of a roll is the mean
    over its 256 x 256 crops under a Hann window. A peak counts where at least half of the rolls have it (what is
    somewhere else on every roll is neither weave nor lamp), with its median place and height. Returns `WeaveFigures`
    with up to `peaks` of them. Raises `InputError` where a picture is smaller than a crop.
    """
    found = [peak + (roll,) for roll, cloth in enumerate(cloths) for peak in _peaks(_spectrum(cloth))]
    groups = []
    for peak in sorted(found, key=lambda peak: -peak[2]):
        for group in groups:
            aligned = _aligned(peak, group[0])
            if aligned is not None and peak[3] not in {other[3] for other in group}:
                group.append(aligned)
                break
        else:
            groups.append([peak])
    common = [np.median(group, axis=0)[:3] for group in groups if 2 * len(group) >= len(cloths)]
    common = sorted((_signed(peak) for peak in common), key=lambda peak: -peak[2])[:peaks]
    means, spreads = zip(*((cloth.mean(), cloth.std()) for cloth in cloths), strict=True)
    return WeaveFigures(round(float(np.median(means)), 1), round(float(np.median(spreads)), 1), tuple(common))


def _spectrum(cloth):
    """Power over the mean of all frequencies that count: float64 `(256, 129)`, 0 where they don't."""
    height, width = cloth.shape
    if min(height, width) < CROP:
        raise InputError(f"cloth of {width} x {height} px: expected {CROP} x {CROP} or more; use a larger one")
    window = np.outer(np.hanning(CROP), np.hanning(CROP)).astype(np.float32)
    crops = (cloth[:CROP, left : left + CROP].astype(np.float32) for left in range(0, width - CROP + 1, CROP))
    power = np.mean([np.abs(np.fft.rfft2((crop - crop.mean()) * window)) ** 2 for crop in crops], axis=0)
    down, across = _frequencies()
    power[np.hypot(down, across) < LOWEST] = 0
    return power / power[power > 0].mean()


def _frequencies():
    return np.fft.fftfreq(CROP)[:, None], np.fft.rfftfreq(CROP)[None]


def _peaks(power):
    """The strongest peaks of one roll: `[(down, across, dB), …]`."""
    down, across = _frequencies()
    found = []
    for _ in range(PEAKS_A_ROLL):
        row, column = np.unravel_index(power.argmax(), power.shape)
        y, x = float(down[row, 0]), float(across[0, column])
        found.append((y, x, float(10 * np.log10(power[row, column]))))
        distance = np.minimum(np.hypot(down - y, across - x), np.hypot(down + y, across + x))
        power = np.where(distance < APART, 0, power)
    return found


def _aligned(peak, other):
    """`peak` with the sign of `other` if the two are one peak, else None. A frequency and its negative are one."""
    for sign in (1, -1):
        if distance((sign * peak[0], sign * peak[1]), other) < SAME:
            return (sign * peak[0], sign * peak[1], *peak[2:])
    return None


def distance(peak, other):
    """How far apart two frequencies are, relative to `other`."""
    return float(np.hypot(peak[0] - other[0], peak[1] - other[1]) / np.hypot(other[0], other[1]))


def _signed(peak):
    y, x, height = (float(value) for value in peak)
    if x < 0 or (x == 0 and y < 0):
        y, x = -y, -x
    return round(y, 4) + 0.0, round(x, 4) + 0.0, round(height, 1)


def counterpart(peak, peaks):
    """The peak of `peaks` nearest in frequency: (relative distance, difference in dB)."""
    options = [((s * other[0], s * other[1]), other[2]) for other in peaks for s in (1, -1)]
    nearest, height = min(options, key=lambda option: distance(option[0], peak))
    return distance(nearest, peak), height - peak[2]


def defect_contrast(image, mask):
    """Mean grey under the mask against a ring around it, in standard deviations of that ring.

    image: uint8 `(H, W)`; mask: bool `(H, W)`. The ring is 3 to 14 px away, without saturated pixels (backlight).
    Raises `InputError` for an empty mask.
    """
    if not mask.any():
        raise InputError("mask: empty; expected a defect; use a roll that has one")
    around = [cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))) > 0
              for size in (7, 29)]  # fmt: skip
    ring = image[around[1] & ~around[0] & (image < 250)].astype(np.float32)
    return float((image[mask].mean() - ring.mean()) / ring.std())
