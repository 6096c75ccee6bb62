"""What the loom weaves: weave matrices and the seven fabrics, as data.

Pitches come from the peaks of the real rolls' spectra, greys and strengths from fitting `likeness.weave_figures` of
the simulated rolls to `likeness.REAL_WEAVES`. No picture of AITEX is used, only those figures.
"""

from dataclasses import dataclass

import numpy as np


def _matrix(*rows):
    return tuple(tuple(int(mark) for mark in row) for row in rows)


def _twill(over, under):
    """Warp-over/under twill whose line runs down to the right."""
    first = [1] * over + [0] * under
    return tuple(tuple(np.roll(first, pick)) for pick in range(over + under))


def _satin(ends, step):
    return tuple(tuple(int((end - step * pick) % ends != 0) for end in range(ends)) for pick in range(ends))


# Rows are picks, columns are ends; 1 where the end is on top.
WEAVES = {
    "plain": _matrix("10", "01"),
    "rib": _matrix("110", "001"),
    "basket": _matrix("1100", "1100", "0011", "0011"),
    "twill 2/1": _twill(2, 1),
    "twill 2/2": _twill(2, 2),
    "twill 3/1": _twill(3, 1),
    "satin 5": _satin(5, 2),
    "herringbone": tuple(row + row[::-1] for row in _twill(2, 2)),
}


@dataclass(frozen=True)
class Recording:
    """One way in which a fabric went through the machine. The scan's speed sets how far apart its picks appear."""

    pick_pitch: float  # px between picks, vertically
    mirrored: bool = False  # the twill runs the other way: the cloth lay with its other end first
    flicker: tuple[float, float] = (0.105, 0.15)  # of the lamp: cycles/px downwards, its relative spread over rolls


@dataclass(frozen=True)
class LoomFabric:
    """What one fabric is made of. Lengths in px, tones and strengths relative to the cloth's mean."""

    weave: tuple
    recordings: tuple[Recording, ...]
    end_pitch: float  # px between ends, horizontally
    mean: float  # grey level of the cloth
    spread: float  # grey levels, standard deviation of the finished cloth
    strengths: dict  # amplitude of the weave's strongest waves; (1, 2) is one per repeat down, two to the right
    turns: dict  # degrees by which such a wave is shifted against the threads
    shading: float  # share of what the threads' own shading adds beside these waves
    warp_tone: float  # brightness of the warp
    weft_tone: float  # brightness of the weft
    irregularity: tuple[float, float]  # spread of thickness and tone, warp and weft
    mottle: float  # spread of tone from place to place
    wander: float  # px; how far threads wander from their straight places over some hundred px
    pick_slope: float  # px down a px to the right: picks are rarely level
    end_skew: float  # px to the right a px down
    flicker: float  # amplitude of the lamp's flicker, which shows as level bars
    start: tuple[int, int]  # first fabric column of a roll 4096 wide, from–to
    machine_bed: bool  # left of the fabric: machine bed, dark gap and bright edge; otherwise backlight
    selvedge: int  # px
    selvedge_weave: tuple
    selvedge_density: float  # ends in the selvedge for one in the cloth
    selvedge_bands: tuple[float, ...]  # tone of the selvedge's bands of threads, from the edge on
    falloff: tuple[float, float]  # share of light gained from left to right, and at both ends over the middle


FABRICS = {
    "00": LoomFabric(
        weave=WEAVES["plain"], recordings=(Recording(3.605),),
        end_pitch=4.69, pick_slope=-0.014, end_skew=0.0, mean=75.5, spread=17.2, turns={(2, 0): 145},
        strengths={(1, 1): 0.269, (-1, 1): 0.214, (2, 0): 0.185, (0, 2): 0.106},
        shading=0.6, warp_tone=0.8, weft_tone=1.15, irregularity=(0.069, 0.084), mottle=0.061, wander=1.12,
        flicker=0.012,
        start=(1131, 1238), machine_bed=False, selvedge=54, selvedge_weave=WEAVES["plain"], selvedge_density=1.4,
        selvedge_bands=(1.1, 1.06, 1.02, 0.92), falloff=(0.1, 0.03),
    ),
    "01": LoomFabric(
        weave=WEAVES["plain"], recordings=(Recording(2.782, flicker=(0.108, 0.02)),),
        end_pitch=6.4, pick_slope=0.0, end_skew=0.0, mean=109.3, spread=14.8, turns={(2, 0): 93, (0, 2): 180},
        strengths={(1, 1): 0.115, (-1, 1): 0.103, (2, 0): 0.203, (1, 3): 0.098, (-1, 3): 0.085, (0, 2): 0.01},
        shading=0.6, warp_tone=0.78, weft_tone=1.08, irregularity=(0.053, 0.065), mottle=0.047, wander=0.92,
        flicker=0.046,
        start=(415, 441), machine_bed=False, selvedge=50, selvedge_weave=WEAVES["plain"], selvedge_density=1.3,
        selvedge_bands=(0.92, 0.95, 0.97), falloff=(0.02, -0.03),
    ),
    "02": LoomFabric(
        weave=WEAVES["twill 3/1"], recordings=(Recording(1.778, flicker=(0.27, 0.3)),),
        end_pitch=1.313, pick_slope=-0.007, end_skew=0.0, mean=119.9, spread=21.5, turns={},
        strengths={(-1, 1): 0.364, (1, 0): 0.026, (3, 1): 0.164, (0, 1): 0.023, (2, 2): 0.165},
        shading=0.6, warp_tone=1.1, weft_tone=0.78, irregularity=(0.043, 0.096), mottle=0.063, wander=1.01,
        flicker=0.029,
        start=(239, 252), machine_bed=False, selvedge=78, selvedge_weave=WEAVES["rib"], selvedge_density=1.0,
        selvedge_bands=(1.3, 0.8, 0.74, 1.22, 0.84, 0.83, 0.86), falloff=(0.02, 0.05),
    ),
    "03": LoomFabric(
        weave=WEAVES["plain"], recordings=(Recording(3.658, flicker=(0.154, 0.02)),),
        end_pitch=4.74, pick_slope=-0.0285, end_skew=0.0, mean=84.7, spread=28.0, turns={(2, 0): -75},
        strengths={(1, 1): 0.443, (-1, 1): 0.32, (2, 0): 0.195, (0, 2): 0.108},
        shading=0.6, warp_tone=0.8, weft_tone=1.15, irregularity=(0.045, 0.055), mottle=0.04, wander=1.44,
        flicker=0.034,
        start=(1025, 1069), machine_bed=False, selvedge=90, selvedge_weave=WEAVES["plain"], selvedge_density=1.35,
        selvedge_bands=(1.22, 1.45, 1.15, 1.1, 1.08), falloff=(-0.06, 0.04),
    ),
    "04": LoomFabric(
        weave=WEAVES["twill 3/1"], recordings=(
            Recording(4.97, flicker=(0.098, 0.03)), Recording(3.37, flicker=(0.0918, 0.02)),
            Recording(2.48, flicker=(0.0898, 0.02)),
        ),
        end_pitch=1.6, pick_slope=0.0, end_skew=0.0, mean=125.0, spread=19.0, turns={},
        strengths={(-1, 1): 0.217, (3, 1): 0.06, (2, 2): 0.1, (4, 0): 0.036},
        shading=0.6, warp_tone=1.1, weft_tone=0.78, irregularity=(0.048, 0.107), mottle=0.071, wander=0.84,
        flicker=0.032,
        start=(530, 538), machine_bed=True, selvedge=55, selvedge_weave=WEAVES["basket"], selvedge_density=1.0,
        selvedge_bands=(1.03, 1.05, 1.02), falloff=(0.1, 0.06),
    ),
    "05": LoomFabric(
        weave=WEAVES["twill 3/1"],
        recordings=(Recording(1.742, flicker=(0.17, 0.4)), Recording(1.735, mirrored=True, flicker=(0.1065, 0.01))),
        end_pitch=1.313, pick_slope=-0.007, end_skew=0.0, mean=106.5, spread=13.3, turns={},
        strengths={(-1, 1): 0.206, (2, 2): 0.2, (1, 0): 0.012, (3, 1): 0.07},
        shading=0.6, warp_tone=1.1, weft_tone=0.78, irregularity=(0.049, 0.109), mottle=0.072, wander=0.86,
        flicker=0.047,
        start=(200, 223), machine_bed=False, selvedge=62, selvedge_weave=WEAVES["rib"], selvedge_density=1.0,
        selvedge_bands=(1.11, 1.09, 1.15, 1.1), falloff=(-0.02, 0.0),
    ),
    "06": LoomFabric(
        weave=WEAVES["twill 3/1"],
        recordings=(Recording(4.41, flicker=(0.0664, 0.02)), Recording(2.91, flicker=(0.0664, 0.02))),
        end_pitch=1.59, pick_slope=-0.014, end_skew=-0.006, mean=134.6, spread=16.6, turns={},
        strengths={(-1, 1): 0.167, (2, 2): 0.058, (1, 1): 0.015},
        shading=0.6, warp_tone=1.1, weft_tone=0.78, irregularity=(0.034, 0.076), mottle=0.05, wander=0.65,
        flicker=0.034,
        start=(742, 783), machine_bed=True, selvedge=55, selvedge_weave=WEAVES["basket"], selvedge_density=1.0,
        selvedge_bands=(1.02, 1.04, 1.0), falloff=(0.15, 0.07),
    ),
}  # fmt: skip
