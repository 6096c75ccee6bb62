"""What the HTML page shows of single rolls: crops of misses and false positives, and whole rolls."""

from typing import NamedTuple

import cv2
import numpy as np

from draem_aitex.data.aitex import defect_name
from draem_aitex.data.rolls import NORMAL, Roll
from draem_aitex.detectors.regions import OUTLINE_COLOUR, dilate, in_colour, outline, overlay
from draem_aitex.evaluation import metrics

MARGIN = 64  # pixels shown to each side of a miss or a false positive
STRIP_WIDTH = 1400  # pixels
JPEG_QUALITY = 85  # of 100
GREEN = (0, 200, 83)  # ground truth; as in `plots`


class Case(NamedTuple):
    """A miss or a false positive: crops of image (uint8), map (float32) and mask (bool), `(128, 128)`; its score."""

    title: str
    image: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    score: float

    def jpeg(self, threshold: float) -> bytes:
        """The crop with the defect outlined in green, beside the crop with the map laid over it."""
        plain = in_colour(self.image)
        outline(plain, dilate(self.mask, 4), GREEN, 1)
        gap = np.full((len(plain), 4, 3), 255, np.uint8)
        return jpeg(np.hstack([plain, gap, overlay(self.image, self.scores, threshold)]))


def case(roll: Roll, scores: np.ndarray, row: float, column: float, what: str, score: float) -> Case:
    """The case at a row and a column of a roll and its map `(H, W)`; what: its title, besides roll and score."""
    top = min(max(int(row) - MARGIN, 0), max(0, scores.shape[0] - 2 * MARGIN))
    left = min(max(int(column) - MARGIN, roll.edges[0]), max(0, scores.shape[1] - 2 * MARGIN))
    near = np.s_[top : top + 2 * MARGIN, left : left + 2 * MARGIN]
    mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
    title = f"{roll.name}: {what}, score {score:.3f}"
    return Case(title, roll.image[near].copy(), scores[near].copy(), mask[near].copy(), score)


def strip(roll: Roll, scores: np.ndarray, threshold: float, outcome: metrics.RollOutcome) -> tuple[str, bytes]:
    """A whole roll as a small image, and in words what became of it: `(title, JPEG)`.

    At most 1400 columns wide, its map laid over it in red; prediction outlined in blue, ground truth in green.
    """
    image = overlay(roll.image, scores, threshold)
    scale = min(1, STRIP_WIDTH / image.shape[1])
    width = round(1 / scale)  # of a line: a thinner one would vanish
    outline(image, scores > threshold, OUTLINE_COLOUR, width)
    if roll.mask is not None:
        outline(image, dilate(roll.mask), GREEN, width)
    count, hits = len(outcome.false_positives), [defect.hit for defect in outcome.defects]
    found = f"{count} false positive{'' if count == 1 else 's'}"
    if roll.defect != NORMAL:
        found = f"{sum(hits)} of {len(hits)} hit, {found}" if hits else "no mask: counts as a roll only"
    what = "normal" if roll.defect == NORMAL else defect_name(roll.defect)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return f"{roll.name}: {what}, {found}, score {scores.max():.3f}", jpeg(small)


def jpeg(rgb: np.ndarray) -> bytes:
    """An image, uint8 `(H, W, 3)`, RGB, as a JPEG."""
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()
