"""TODO."""

import math
from dataclasses import dataclass

import numpy as np

from draem_aitex.data.patcher import patch_maxima
from draem_aitex.errors import InputError


@dataclass(frozen=True)
class Threshold:
    """A decision level, from the patches of defect-free rolls that were not trained on.

    value: a patch with a higher score is called defective. wanted: false-alarm rate asked for, a share of patches.
    bound: the rate that the calibration patches promise, see `Calibration.threshold`. patches, rolls: how many of them.
    """

    value: float
    wanted: float
    bound: float
    patches: int
    rolls: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of flawless patches that were not trained on: whatever rate is wanted, its threshold is among them.

    scores: float64 `(n,)`, highest first, of all fabrics together; rolls: how many they are of.
    """

    scores: np.ndarray
    rolls: int

    @property
    def finest_rate(self):
        """The smallest false-alarm rate that so many patches can promise: 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    def threshold(self, rate=0.01):
        """Threshold for a wanted false-alarm rate, a share of patches.

        The value is the k-th largest score with k = floor(rate * (n + 1)): a new flawless patch, exchangeable with the
        n given ones, scores higher with a chance of k / (n + 1) at most, which is `bound` (split conformal prediction,
        Vovk et al. 2005). That holds on average over calibrations and for patches drawn alike. Patches of one roll
        share its cloth and its recording, so that a new roll may be another draw altogether: take the rate as an aim,
        the more so the fewer rolls there are.

        Raises `InputError` for a rate under 1 / (n + 1), which no threshold could promise.
        """
        if not 0 < rate < 1:
            raise InputError(f"rate: {rate}; expected a share of patches between 0 and 1, such as 0.01")
        patches = len(self.scores)
        k = min(math.floor(rate * (patches + 1) + 1e-9), patches)  # 0.29 * 100 is 28.999... in binary
        if k < 1:
            finest = math.ceil(self.finest_rate * 1e5) / 1e5
            rolls = math.ceil((math.ceil(1 / rate) - 1) * self.rolls / patches)
            raise InputError(
                f"rate: {rate:g}; expected {finest:g} or more, which is all that {patches} patches of {self.rolls} "
                f"calibration rolls can promise; ask for that, or calibrate on about {rolls} rolls"
            )
        return Threshold(float(self.scores[k - 1]), rate, k / (patches + 1), patches, self.rolls)


def calibration_scores(detector, rolls):
    """The patch scores of flawless rolls as a `Calibration`, as the detector gives them.

    A detector that standardises its scores by these very rolls has a `held_out_patch_scores(rolls)`, which is asked
    instead: each roll standardised by the others. rolls: list of `fabric.Roll` that were not trained on. Raises
    `InputError` for a roll with a defect, and where there is no patch.
    """
    for roll in rolls:
        if roll.defect != "000" or (roll.mask is not None and roll.mask.any()):
            raise InputError(
                f"{roll.name}: a roll with a defect, {roll.defect}; expected flawless calibration rolls; leave it out"
            )
    if hasattr(detector, "held_out_patch_scores"):
        scores = detector.held_out_patch_scores(rolls)
    else:
        scores = [patch_maxima(detector.predict(roll.image, roll.edges, roll.fabric), roll.edges) for roll in rolls]
    scores = np.concatenate(scores).astype(np.float64) if scores else np.empty(0)
    if not len(scores):
        raise InputError(f"calibration: no patch in {len(rolls)} rolls; expected defect-free rolls kept back for it")
    return Calibration(np.sort(scores)[::-1], len(rolls))


def calibrate(detector, rolls, rate=0.01):
    """`calibration_scores` and then `Calibration.threshold`, which say what is promised and what is refused."""
    return calibration_scores(detector, rolls).threshold(rate)


OFFSET_SHARE = 0.1  # of a fabric's flawless patches lie above its level
FLOOR = 1e-6  # smallest score on fabric; 0 is kept for "no fabric here"


def offsets_of(scores, fabrics, share=OFFSET_SHARE):
    """`Detector.offsets_from`, from the patch scores and the fabric code of each roll."""
    together = {}
    for part, fabric in zip(scores, fabrics, strict=True):
        together.setdefault(fabric, []).append(logit(part))
    together = {fabric: np.concatenate(parts) for fabric, parts in sorted(together.items())}
    return {fabric: float(np.quantile(part, 1 - share)) for fabric, part in together.items() if len(part)}


def held_out_scores(scores, fabrics, levels):
    """The patch scores of each roll, normalised by what the *other* rolls say of its fabric; by its own if it is alone.

    scores, fabrics: as in `levels_of`; levels: what that gives for all of them. Returns a list of `(N,)`.
    """
    held_out = []
    for index, fabric in enumerate(fabrics):
        others = [part for place, part in enumerate(scores) if place != index and fabrics[place] == fabric]
        level = offsets_of(others, [fabric] * len(others)).get(fabric)
        held_out.append(normalised_scores(scores[index], levels, fabric, level))
    return held_out


def normalised_scores(scores, levels, fabric, level=None):
    """Scores whose logits are moved so that the fabric's level, or the one given, becomes the median of all fabrics'.

    In probabilities, p -> p e^s / (1 + p (e^s - 1)) is the same as adding s to the logit, without its logarithms.
    """
    if fabric not in levels:
        return scores
    level = levels[fabric] if level is None else level
    factor = np.float32(math.exp(np.median(list(levels.values())) - level))
    return np.clip(scores * factor / (1 + scores * (factor - 1)), FLOOR, 1)


def logit(scores):
    """Log odds of scores in [0, 1], float64; scores below 1e-6 and above 1 - 1e-6 count as these."""
    scores = np.clip(scores.astype(np.float64), FLOOR, 1 - FLOOR)
    return np.log(scores / (1 - scores))
