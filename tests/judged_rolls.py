"""An evaluation from maps made by hand, for the tests of its figures and of its page."""

import numpy as np

from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.calibration import Threshold
from draem_aitex.evaluation.evaluator import Evaluation

THRESHOLD = Threshold(0.5, 0.01, 0.01, 199, 14)


def roll(name, mask=None, width=1024):
    """A roll of noise; its name says defect and fabric."""
    _, defect, fabric = name.split("_")
    image = np.random.default_rng(0).integers(60, 200, (256, width), dtype=np.uint8)
    return Roll(name, fabric, defect, image, (0, width), mask)


def blank(width=1024):
    """A map without a prediction."""
    return np.full((256, width), 0.1, np.float32)


def judged_rolls():
    """Four rolls, two fabrics, four patches each: a hit speck and a missed one, a hit stain, two false positives.

    fabric 00: 0001_019_00, speck of 16 px in patch 0 (found, 3/4 covered), one of 4 px in patch 2 (missed);
               0009_000_00, normal, false positives in patches 1 and 3.
    fabric 03: 0002_010_03, stain of 400 px over patches 0 and 1 (both found); 0106_010_03, no mask, predicted.
    """
    result = Evaluation(THRESHOLD, mm_per_px=0.5, images=True, source="simulated fabric", part="test", n_train_rolls=5)
    result.trained_on, result.headline = "simulated fabric", "model.pt: DRAEM, <small>\nby hand"
    specks, scores = np.zeros((256, 1024), bool), blank()
    specks[100:104, 100:104] = specks[50:52, 600:602] = True
    scores[100:104, 100:103] = 0.9
    scores[50, 600] = 0.4
    result.add(roll("0001_019_00", specks), scores)
    scores = blank()
    scores[10, 300], scores[20, 900] = 0.7, 0.6
    result.add(roll("0009_000_00"), scores)
    stain, scores = np.zeros((256, 1024), bool), blank()
    stain[100:110, 236:276] = True
    scores[stain] = 0.8
    result.add(roll("0002_010_03", stain), scores)
    scores = blank()
    scores[0, 0] = 0.95
    result.add(roll("0106_010_03", np.zeros((256, 1024), bool)), scores)
    return result
