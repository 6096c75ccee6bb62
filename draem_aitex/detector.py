"""What every detector has in common: anomaly maps from 0 to 1, and levels that make the scores of fabrics comparable.

`DraemDetector`, the variational autoencoder and the memory bank derive from `Detector`; evaluation, reports and
`inspect` ask for nothing else.
"""

import math
import warnings
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from draem_aitex.card import headline
from draem_aitex.checkpoint import load_checkpoint
from draem_aitex.patcher import patch_maxima

LEVEL_SHARE = 0.1  # of a fabric's flawless patches lie above its level
FLOOR = 1e-6  # smallest score on fabric; 0 is kept for "no fabric here"


class Detector:
    """A detector gives every pixel of a roll's fabric a score.

    A subclass has a `name`; `kind`, the word by which a checkpoint says which detector it holds; `size_bytes`, the
    memory of its weights or its banks; `raw_map(image, edges, fabric)`, float32 `(H, W)`, exactly 0 beside the fabric,
    from 1e-6 to 1 on it, the higher the likelier a defect; and `from_content(content, path, device)`.
    """

    name, kind = "detector", None
    levels = {}  # of calibrated fabrics: code to logit, see `levels_from`
    fabrics = ()  # that it can judge; none named: any
    least = 1  # px of fabric that it needs, either way
    levelled = True  # False: scores of all fabrics are compared as they are, and every level is 0

    @classmethod
    def load(cls, path, device="cpu", quiet=False, **options):
        """The detector of a checkpoint file, and the file's content: `(detector, content)`; prints what it is.

        options: of the subclass. Raises `InputError` for a file that holds another detector.
        """
        content = opened(path, quiet, cls.kind)
        return cls.from_content(content, path, device, **options), content

    def judges(self, fabric):
        """Whether it can judge rolls of this fabric at all; a bank for each fabric cannot judge others."""
        return not self.fabrics or fabric in self.fabrics

    def raw_maps(self, rolls):
        """`raw_map` of many rolls, a generator in their order."""
        for roll in rolls:
            yield self.raw_map(roll.image, roll.edges, roll.fabric)

    def predict(self, image, edges, fabric=None):
        """Anomaly map of a roll: float32 `(H, W)`, exactly 0 beside the fabric, from 1e-6 to 1 on it.

        image: uint8 `(H, W)`; edges: `(start, end)` in columns. fabric: the roll's fabric code. Its logits are moved so
        that flawless cloth of every fabric reaches the same level, the median of all fabrics'. For None they stay as
        they are, and so they do, with a warning, for a fabric that was not calibrated.
        """
        return self._levelled(self.raw_map(image, edges, fabric), edges, fabric)

    def predict_rolls(self, rolls, quiet=True):
        """`predict` for many rolls, a bar besides unless `quiet`: a generator of maps, in the rolls' order.

        rolls: list of `fabric.Roll`; several may be worked on together, see the subclass.
        """
        bar = tqdm(self.raw_maps(rolls), desc="predicting", unit="roll", total=len(rolls), disable=quiet)
        for roll, scores in zip(rolls, bar, strict=True):
            yield self._levelled(scores, roll.edges, roll.fabric)

    def is_calibrated(self, fabric):
        """Whether scores of this fabric are comparable with the threshold; others are given as they are."""
        return fabric in self.levels

    def raw_patch_scores(self, rolls):
        """The patch scores of each roll, not levelled: a list of float32 `(N,)`."""
        return [patch_maxima(found, roll.edges) for found, roll in zip(self.raw_maps(rolls), rolls, strict=True)]

    def levels_from(self, rolls, share=LEVEL_SHARE):
        """How high flawless cloth of each fabric scores: the logit that `share` of its patches exceed.

        Some cloths are livelier than others, and a detector says so in every score. Taken from calibration rolls, which
        were not trained on, the levels make the scores of different fabrics comparable (`predict`).

        rolls: list of `fabric.Roll`, defect-free. Returns a dict of fabric code to logit.
        """
        if not self.levelled:
            return dict.fromkeys(sorted({roll.fabric for roll in rolls}), 0.0)
        return levels_of(self.raw_patch_scores(rolls), [roll.fabric for roll in rolls], share)

    def held_out_patch_scores(self, rolls):
        """Patch scores of calibration rolls, each levelled by what the *others* say of its fabric.

        Levelled by itself a roll would look quieter than a new one does, and a threshold from such scores would promise
        too much. Where a fabric has no other roll, its own must do. rolls: list of `fabric.Roll`, those that the levels
        were taken from. Returns a list of float32 `(N,)`.
        """
        scores = self.raw_patch_scores(rolls)
        return held_out_scores(scores, [roll.fabric for roll in rolls], self.levels) if self.levelled else scores

    def _levelled(self, scores, edges, fabric):
        if not self.is_calibrated(fabric):
            if self.levels and fabric is not None:
                known = ", ".join(self.levels)
                warnings.warn(
                    f"fabric {fabric}: not calibrated (known: {known}); scored as is, and the threshold's false-alarm "
                    "rate does not hold for it",
                    stacklevel=3,
                )
            return scores
        cloth = scores[:, slice(*edges)]
        cloth[...] = levelled_scores(cloth, self.levels, fabric)
        return scores


def opened(path, quiet=False, kind=None):
    """The content of a checkpoint file, see `load_checkpoint`; prints what it is, unless `quiet`."""
    content = load_checkpoint(path, kind)
    if not quiet:
        print("\n".join([f"{Path(path).name}:", *headline(content)]))
    return content


def levels_of(scores, fabrics, share=LEVEL_SHARE):
    """`Detector.levels_from`, from the patch scores and the fabric code of each roll."""
    together = {}
    for part, fabric in zip(scores, fabrics, strict=True):
        together.setdefault(fabric, []).append(logit(part))
    together = {fabric: np.concatenate(parts) for fabric, parts in sorted(together.items())}
    return {fabric: float(np.quantile(part, 1 - share)) for fabric, part in together.items() if len(part)}


def held_out_scores(scores, fabrics, levels):
    """The patch scores of each roll, levelled by what the *other* rolls say of its fabric; by its own if it is alone.

    scores, fabrics: as in `levels_of`; levels: what that gives for all of them. Returns a list of `(N,)`.
    """
    held_out = []
    for index, fabric in enumerate(fabrics):
        others = [part for place, part in enumerate(scores) if place != index and fabrics[place] == fabric]
        level = levels_of(others, [fabric] * len(others)).get(fabric)
        held_out.append(levelled_scores(scores[index], levels, fabric, level))
    return held_out


def levelled_scores(scores, levels, fabric, level=None):
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
