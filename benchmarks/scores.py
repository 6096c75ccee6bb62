"""How a map becomes scores: smoothing widths, and scores normalised by fabric or not, on development rolls.

    python benchmarks/scores.py --data data/aitex

The shipped checkpoint's maps, smoothed by a Gaussian of each width and by the mean over 21 x 21 pixels of the authors'
test script. Every variant has its own offsets of fabrics and its own threshold, both from the calibration rolls (a
false-positive rate of 1 % of normal patches); judged are the development rolls alone, so that a choice made from this
table leaves the test rolls untouched. The last line is one JSON object; a record is written with --record FILE.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from record import ROOT, add_data, circumstances, need_data, write

from draem_aitex.data import aitex
from draem_aitex.data.patcher import patch_maxima
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.calibration import Calibration, held_out_scores, normalised_scores, offsets_of
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.evaluation import metrics
from draem_aitex.files import check_outputs

CHECKPOINT = ROOT / "checkpoints" / "compact_aitex.pt"
WIDTHS = (0, 0.7, 1, 1.5, 2, 4)  # standard deviations, px; 0 is the map as it is
MEAN = 21  # px
RATE = 0.01


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result there as well")
    options = parser.parse_args()
    try:
        need_data(options)
        check_outputs([options.record])
        result = measure(options)
        if options.record is not None:
            command = f"python benchmarks/scores.py --data DIR --checkpoint {options.checkpoint.name}"
            write(options.record, {**circumstances(command), **result})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


def measure(options):
    collection = aitex.load_aitex(options.data)
    detector = DraemDetector.load(options.checkpoint, quiet=True)
    calibration = load_rolls(collection.calibration)
    development = [roll for roll in load_rolls(collection.development) if roll.mask is not None and roll.mask.any()]
    rolls = [*calibration, *development]
    maps = list(detector.raw_maps(rolls))
    smoothings = {f"sigma {width:g}": lambda scores, width=width: gaussian(scores, width) for width in WIDTHS}
    smoothings[f"mean {MEAN} x {MEAN}"] = lambda scores: cv2.blur(scores, (MEAN, MEAN))
    variants = {}
    print(f"{collection.source}, {len(development)} development rolls")
    for name, smooth in smoothings.items():
        scores = [patch_maxima(smooth(found), roll.edges) for found, roll in zip(maps, rolls, strict=True)]
        for normalised in (True, False):
            row = judge(scores, calibration, development, normalised)
            variants[name + ("" if normalised else ", not normalised")] = row
            print(
                f"{name:13} {'normalised' if normalised else 'not':10}",
                {key: round(value, 3) for key, value in row.items()},
            )
    return {"source": collection.source, "part": "development", "rate": RATE, "variants": variants}


def gaussian(scores, width):
    return cv2.GaussianBlur(scores, (0, 0), width) if width else scores


def judge(scores, calibration, development, normalised):
    """Figures of the development rolls' patches, from all rolls' patch scores; offsets as `calibrate` takes them."""
    fabrics = [roll.fabric for roll in calibration]
    normal, rest = scores[: len(calibration)], scores[len(calibration) :]
    offsets = offsets_of(normal, fabrics) if normalised else {}
    held_out = held_out_scores(normal, fabrics, offsets)
    calibrated = Calibration(np.sort(np.concatenate(held_out))[::-1], len(calibration))
    threshold = calibrated.threshold(max(RATE, calibrated.finest_rate)).value
    judged = [normalised_scores(part, offsets, roll.fabric) for part, roll in zip(rest, development, strict=True)]
    judged = np.concatenate(judged)
    labels = np.concatenate([patch_maxima(roll.mask, roll.edges) for roll in development]).astype(bool)
    return {
        "patch_auroc": metrics.auroc(labels, judged),
        "patch_ap": metrics.average_precision(labels, judged),
        "patches": len(labels),
        "positive_patches": int(labels.sum()),
        "patches_found": int((judged[labels] > threshold).sum()),
        "false_positive_regions": int((judged[~labels] > threshold).sum()),
    }


if __name__ == "__main__":
    sys.exit(main())
