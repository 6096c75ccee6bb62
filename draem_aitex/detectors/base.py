"""What every detector has in common: anomaly maps from 0 to 1, and levels that make the scores of fabrics comparable.

`DraemDetector`, the variational autoencoder and the memory bank derive from `Detector`; evaluation, reports and
`inspect` ask for nothing else.
"""

import warnings
from pathlib import Path

from tqdm.auto import tqdm

from draem_aitex.data.patcher import patch_maxima
from draem_aitex.detectors.calibration import OFFSET_SHARE, held_out_scores, normalised_scores, offsets_of
from draem_aitex.training.checkpoint import load_checkpoint
from draem_aitex.training.model_card import headline


class Detector:
    """A detector gives every pixel of a roll's fabric a score.

    A subclass has a `name`; `kind`, the word by which a checkpoint says which detector it holds; `size_bytes`, the
    memory of its weights or its banks; `raw_map(image, edges, fabric)`, float32 `(H, W)`, exactly 0 beside the fabric,
    from 1e-6 to 1 on it, the higher the likelier a defect; and `from_content(content, path, device)`.
    """

    name, kind = "detector", None
    levels = {}  # of calibrated fabrics: code to logit, see `offsets_from`
    fabrics = ()  # that it can judge; none named: any
    least = 1  # px of fabric that it needs, either way
    normalised = True  # False: scores of all fabrics are compared as they are, and every level is 0

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
        return self._normalised(self.raw_map(image, edges, fabric), edges, fabric)

    def predict_rolls(self, rolls, quiet=True):
        """`predict` for many rolls, a bar besides unless `quiet`: a generator of maps, in the rolls' order.

        rolls: list of `fabric.Roll`; several may be worked on together, see the subclass.
        """
        bar = tqdm(self.raw_maps(rolls), desc="predicting", unit="roll", total=len(rolls), disable=quiet)
        for roll, scores in zip(rolls, bar, strict=True):
            yield self._normalised(scores, roll.edges, roll.fabric)

    def is_calibrated(self, fabric):
        """Whether scores of this fabric are comparable with the threshold; others are given as they are."""
        return fabric in self.offsets

    def raw_patch_scores(self, rolls):
        """The patch scores of each roll, not normalised: a list of float32 `(N,)`."""
        return [patch_maxima(found, roll.edges) for found, roll in zip(self.raw_maps(rolls), rolls, strict=True)]

    def offsets_from(self, rolls, share=OFFSET_SHARE):
        """How high flawless cloth of each fabric scores: the logit that `share` of its patches exceed.

        Some cloths are livelier than others, and a detector says so in every score. Taken from calibration rolls, which
        were not trained on, the levels make the scores of different fabrics comparable (`predict`).

        rolls: list of `fabric.Roll`, defect-free. Returns a dict of fabric code to logit.
        """
        if not self.normalised:
            return dict.fromkeys(sorted({roll.fabric for roll in rolls}), 0.0)
        return offsets_of(self.raw_patch_scores(rolls), [roll.fabric for roll in rolls], share)

    def held_out_patch_scores(self, rolls):
        """Patch scores of calibration rolls, each normalised by what the *others* say of its fabric.

        Levelled by itself a roll would look quieter than a new one does, and a threshold from such scores would promise
        too much. Where a fabric has no other roll, its own must do. rolls: list of `fabric.Roll`, those that the levels
        were taken from. Returns a list of float32 `(N,)`.
        """
        scores = self.raw_patch_scores(rolls)
        return held_out_scores(scores, [roll.fabric for roll in rolls], self.offsets) if self.normalised else scores

    def _normalised(self, scores, edges, fabric):
        if not self.is_calibrated(fabric):
            if self.offsets and fabric is not None:
                known = ", ".join(self.offsets)
                warnings.warn(
                    f"fabric {fabric}: not calibrated (known: {known}); scored as is, and the threshold's false-alarm "
                    "rate does not hold for it",
                    stacklevel=3,
                )
            return scores
        cloth = scores[:, slice(*edges)]
        cloth[...] = normalised_scores(cloth, self.offsets, fabric)
        return scores


def opened(path, quiet=False, kind=None):
    """The content of a checkpoint file, see `load_checkpoint`; prints what it is, unless `quiet`."""
    content = load_checkpoint(path, kind)
    if not quiet:
        print("\n".join([f"{Path(path).name}:", *headline(content)]))
    return content
