"""From scores of normal patches to a threshold, and to offsets that make the scores of different fabrics comparable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from draem_aitex.errors import ABOVE_0, BELOW_1, InputError, check_number
from draem_aitex.training.schema import Threshold

OFFSET_SHARE = 0.1  # of a fabric's normal patches lie above its offset
FLOOR = 1e-6  # smallest score on fabric; 0 is kept for "no fabric here"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of normal patches that were not trained on: whatever FPR is wanted, its threshold is among them.

    scores: float64 `(n,)`, highest first, of all fabrics together; rolls: how many they are of.
    """

    scores: np.ndarray
    rolls: int

    @property
    def finest_rate(self) -> float:
        """The smallest false-positive rate that so many patches can promise: 1 / (n + 1)."""
        return 1 / (len(self.scores) + 1)

    def threshold(self, rate: float = 0.01) -> Threshold:
        """Threshold for a wanted false-positive rate, a share of patches.

        A new normal patch, exchangeable with the n given ones, scores above the k-th largest of them with a chance of
        k / (n + 1) (split conformal prediction, Vovk et al. 2005). The rate wanted lies between two such steps: with
        n = 183 the largest score means 0.54 % and the second largest 1.09 %. The threshold stands between the two
        scores, by linear interpolation of their logits (quantile definition 6 of Hyndman and Fan, 1996): on average
        the rate comes out as wanted, and `bound`, the lower score's chance, is never passed. That is on average over
        calibrations and for patches drawn alike. Patches of one roll share its fabric and its recording, so a new roll
        may be another draw altogether: take the rate as an aim, the more so the fewer rolls there are.

        Raises `InputError` for a rate under 1 / (n + 1), which no threshold could promise.
        """
        check_number("fpr", rate, ABOVE_0, BELOW_1, "a share of patches between 0 and 1, such as 0.01")
        patches = len(self.scores)
        rank = min(rate * (patches + 1) + 1e-9, patches)  # 0.29 * 100 is 28.999... in binary
        if rank < 1:
            finest = math.ceil(self.finest_rate * 1e5) / 1e5
            rolls = math.ceil((math.ceil(1 / rate) - 1) * self.rolls / patches)
            most = f"{finest:g} or more, all that {patches} patches of {self.rolls} calibration rolls can promise"
            raise InputError(f"fpr: {rate:g}; expected {most}; ask for that, or calibrate on about {rolls} rolls")
        above, part = divmod(rank, 1)
        part = part if part > 1e-6 else 0  # a rank that is whole but for rounding
        higher, lower = self.scores[int(above) - 1], self.scores[min(int(above), patches - 1)]
        odds = (1 - part) * logit(higher) + part * logit(lower)
        value = float(1 / (1 + np.exp(-odds))) if part else float(higher)
        return Threshold(value, rate, (above + (part > 0)) / (patches + 1), patches, self.rolls)


def offsets_of(scores: Sequence[np.ndarray], fabrics: Sequence[str], share: float = OFFSET_SHARE) -> dict[str, float]:
    """How high normal patches of each fabric score: fabric code to the logit that `share` of its patches exceed.

    scores: the patch scores of each roll, `(N,)` each; fabrics: the fabric code of each roll.
    """
    together: dict[str, list[np.ndarray]] = {}
    for part, fabric in zip(scores, fabrics, strict=True):
        together.setdefault(fabric, []).append(logit(part))
    logits = {fabric: np.concatenate(parts) for fabric, parts in sorted(together.items())}
    return {fabric: float(np.quantile(part, 1 - share)) for fabric, part in logits.items() if len(part)}


def held_out_scores(
    scores: Sequence[np.ndarray], fabrics: Sequence[str], offsets: dict[str, float]
) -> list[np.ndarray]:
    """The patch scores of each roll, normalised by the *other* rolls of its fabric; by its own where it is alone.

    Normalised by itself, a calibration roll would look quieter than a new one does, and a threshold from such scores
    would promise too much. scores, fabrics: as in `offsets_of`; offsets: what that gives for all of them.
    """
    held_out = []
    for index, fabric in enumerate(fabrics):
        others = [part for number, part in enumerate(scores) if number != index and fabrics[number] == fabric]
        offset = offsets_of(others, [fabric] * len(others)).get(fabric)
        held_out.append(normalised_scores(scores[index], offsets, fabric, offset))
    return held_out


def normalised_scores(
    scores: np.ndarray, offsets: dict[str, float], fabric: str, offset: float | None = None
) -> np.ndarray:
    """Score normalisation: logits are moved so that the fabric's offset becomes the median of all fabrics' offsets.

    In probabilities, p -> p e^s / (1 + p (e^s - 1)) is the same as adding s to the logit, without its logarithms.
    offset: takes the place of the fabric's own. Scores of a fabric without an offset stay as they are.
    """
    if fabric not in offsets:
        return scores
    offset = offsets[fabric] if offset is None else offset
    factor = np.float32(math.exp(np.median(list(offsets.values())) - offset))
    return np.clip(scores * factor / (1 + scores * (factor - 1)), FLOOR, 1)


def logit(scores: np.ndarray) -> np.ndarray:
    """Log odds of scores in [0, 1], float64; scores below 1e-6 and above 1 - 1e-6 count as these."""
    scores = np.clip(scores.astype(np.float64), FLOOR, 1 - FLOOR)
    return np.log(scores / (1 - scores))
