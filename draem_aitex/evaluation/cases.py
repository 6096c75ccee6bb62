"""Small pictures of what a detector did: crops around misses and false alarms, and whole rolls as strips."""

from dataclasses import dataclass

import cv2
import numpy as np

from draem_aitex.data.aitex import defect_name
from draem_aitex.detectors import regions
from draem_aitex.detectors.regions import dilate

REACH = 64  # pixels shown to each side of a missed defect or a false alarm
STRIP_WIDTH = 1400  # pixels
JPEG_QUALITY = 85  # of 100
GREEN, BLUE = (0, 200, 83), (41, 182, 246)  # what the mask says, what the map says; as in `plots`


@dataclass(frozen=True)
class Case:
    """A missed defect or a false alarm: a crop of the picture, the map and the mask around it, and its score."""

    title: str
    image: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    score: float


def missed_case(roll, scores, defect):
    """The `Case` of a defect that was not hit. roll: `fabric.Roll`; scores: its map; defect: a `DefectOutcome`."""
    title = f"{roll.name}: {defect_name(defect.defect)}, {defect.pixels} px, score {defect.score:.3f}"
    return Case(title, *_crops(roll, scores, *defect.centroid), defect.score)


def false_positive_case(roll, scores, row, column, score):
    """The `Case` of a false alarm, whose highest score lies at a row and a column."""
    return Case(
        f"{roll.name}: row {row}, column {column}, score {score:.3f}", *_crops(roll, scores, row, column), score
    )


def _crops(roll, scores, row, column):
    top = min(max(int(row) - REACH, 0), max(0, scores.shape[0] - 2 * REACH))
    left = min(max(int(column) - REACH, roll.edges[0]), max(0, scores.shape[1] - 2 * REACH))
    place = np.s_[top : top + 2 * REACH, left : left + 2 * REACH]
    mask = roll.mask if roll.mask is not None else np.zeros(scores.shape, bool)
    return roll.image[place].copy(), scores[place].copy(), mask[place].copy()


def case_picture(case, threshold):
    """The crop with the defect outlined in green beside the crop with the map laid over it, as a JPEG: bytes."""

    plain = cv2.cvtColor(case.image, cv2.COLOR_GRAY2RGB)
    _outline(plain, dilate(case.mask, 4), GREEN, 1)
    gap = np.full((len(plain), 4, 3), 255, np.uint8)
    return encoded(np.hstack([plain, gap, regions.overlay(case.image, case.scores, threshold)]))


def roll_strip(roll, scores, threshold, outcome):
    """A whole roll in a small picture and, in words, what became of it: `(title, JPEG)`.

    1400 columns wide, its map laid over it in red; what passes the threshold is outlined in blue, defects in green.
    outcome: of `metrics.match_defects`.
    """

    picture = regions.overlay(roll.image, scores, threshold)
    scale = min(1, STRIP_WIDTH / picture.shape[1])
    line = round(1 / scale)  # a thinner one would vanish
    _outline(picture, scores > threshold, BLUE, line)
    if roll.mask is not None:
        _outline(picture, dilate(roll.mask), GREEN, line)
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _strip_title(roll, scores, outcome), encoded(small)


def _strip_title(roll, scores, outcome):
    score = f"score {scores.max():.3f}"
    count = len(outcome.false_positive_regions)
    alarms = f"{count} false alarm{'' if count == 1 else 's'}"
    if roll.defect == "000":
        return f"{roll.name}: flawless, {alarms}, {score}"
    name = defect_name(roll.defect)
    if not outcome.defects:
        return f"{roll.name}: {name}, no mask: counts at roll level only, {score}"
    hits = sum(defect.hit for defect in outcome.defects)
    return f"{roll.name}: {name}, {hits} of {len(outcome.defects)} hit, {alarms}, {score}"


def _outline(picture, mask, colour, width):
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, width)


def encoded(rgb):
    """A uint8 picture `(H, W, 3)`, RGB, as a JPEG: bytes."""
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok, "OpenCV could not encode a uint8 picture"
    return data.tobytes()
