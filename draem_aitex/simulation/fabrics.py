"""What the loom weaves: weave matrices and the seven fabrics, as data (`fabrics.json`).

Pitches come from the peaks of the real rolls' spectra, greys and strengths from fitting `realism.weave_figures` of
the simulated rolls to `realism.REAL_WEAVES`. No image of AITEX is used, only those figures.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Weave = Sequence[Sequence[int]]  # rows are picks, columns are ends; 1 where the end is on top


def read_data(name: str) -> Any:
    """The content of one of this package's JSON files."""
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Recording:
    """One way in which a fabric went through the machine. The scan's speed sets how far apart its picks appear."""

    pick_pitch: float  # px between picks, vertically
    mirrored: bool = False  # the twill runs the other way: the cloth lay with its other end first
    flicker: Sequence[float] = (0.105, 0.15)  # of the lamp: cycles/px downwards, its relative variation over rolls


@dataclass(frozen=True)
class LoomFabric:
    """What one fabric is made of. Lengths in px, tones and strengths relative to the cloth's mean."""

    weave: Weave
    recordings: Sequence[Recording]
    end_pitch: float  # px between ends, horizontally
    mean: float  # grey level of the cloth
    std: float  # grey levels, standard deviation of the finished cloth
    # Amplitude of the weave's strongest waves; (1, 2) is one per repeat down, two to the right.
    strengths: dict[tuple[int, int], float]
    turns: dict[tuple[int, int], float]  # degrees by which such a wave is shifted against the threads
    shading: float  # share of what the threads' own shading adds beside these waves
    warp_tone: float  # brightness of the warp
    weft_tone: float  # brightness of the weft
    irregularity: Sequence[float]  # standard deviation of thickness and tone, warp and weft
    mottle: float  # standard deviation of tone over the cloth
    wander: float  # px; how far threads wander from their straight places over some hundred px
    pick_slope: float  # px down a px to the right: picks are rarely horizontal
    end_skew: float  # px to the right a px down
    flicker: float  # amplitude of the lamp's flicker, which shows as horizontal bars
    start: Sequence[int]  # first fabric column of a roll 4096 wide, from–to
    machine_bed: bool  # left of the fabric: machine bed, dark gap and bright edge; otherwise backlight
    selvedge: int  # px
    selvedge_weave: Weave
    selvedge_density: float  # ends in the selvedge for one in the cloth
    selvedge_bands: Sequence[float]  # tone of the selvedge's bands of threads, from the edge on
    falloff: Sequence[float]  # share of light gained from left to right, and at both ends over the middle


def _fabric(row):
    """A fabric from its row in the file, where a wave is [down, across, value] and a weave a name."""
    waves = {name: {(down, across): value for down, across, value in row[name]} for name in ("strengths", "turns")}
    weaves = {name: WEAVES[row[name]] for name in ("weave", "selvedge_weave")}
    return LoomFabric(**{**row, **waves, **weaves, "recordings": [Recording(**made) for made in row["recordings"]]})


_DATA = read_data("fabrics.json")
WEAVES: dict[str, Weave] = _DATA["weaves"]
FABRICS: dict[str, LoomFabric] = {code: _fabric(row) for code, row in _DATA["fabrics"].items()}
