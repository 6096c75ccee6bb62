"""DRAEM's shipped checkpoint beside the earlier approaches: same rolls, same split, same metrics, same machine.

    python benchmarks/baselines.py --data data/aitex [--only NAME ...]

Each baseline gets a fair chance: it is fitted to all training rolls in each of a few ways (VAE: 8, a memory bank: 4),
each fit is read in eight (four smoothings of the map; scores normalised by fabric or not), and the reading with the
highest patch AUROC on the *development* rolls is the one that is judged on the test rolls, once. The threshold comes
from the calibration rolls, for a false-positive rate of 1 % of normal patches. DRAEM is the shipped checkpoint, with
the threshold that it came with. Backbones whose weights are neither on this machine nor to be fetched are recorded as
not measured. All of it runs on the CPU. A time a roll is the median of several, DRAEM's taken in turn with it. Every
finished row is written to the record; called again, the script goes on where it stopped. The last line is one JSON
object.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from record import ROOT, add_data, circumstances, medians, need_data, write

from draem_aitex.baselines.backbones import BACKBONES
from draem_aitex.baselines.baseline import odds_to_scores, on_roll, smoothed
from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.data import aitex
from draem_aitex.data.patcher import patch_maxima
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.calibration import normalised_scores, offsets_of
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.evaluation import metrics, text_table
from draem_aitex.evaluation.evaluator import evaluate
from draem_aitex.files import check_outputs
from draem_aitex.training.sampler import NormalAugmentation

CHECKPOINT = ROOT / "checkpoints" / "compact_aitex.pt"
RECORD = Path(__file__).parent / "results" / "baselines.json"
RATE, SEED = 0.01, 0
VAE_STEPS = 2000
SMOOTHINGS = (0, 2, 4, 8)  # standard deviations, px
POOLED = {"bank_size": 10_000, "pool_size": 100_000}
PER_FABRIC = {"per_fabric": True, "bank_size": 2000, "pool_size": 20_000}  # each
FIGURES = (
    "patch_auroc", "patch_auroc_mean_of_fabrics", "patch_ap", "patch_recall", "patch_precision", "patch_true_positives",
    "positive_patches", "patch_false_positives", "patches", "hits", "defects", "pixel_auroc", "pixel_ap",
    "n_test_rolls",
)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"some of: {'; '.join(rows())}")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE")
    options = parser.parse_args()
    try:
        need_data(options)
        check_outputs([options.record])
        for name in options.only:
            if name not in rows():
                raise InputError(f"--only {name}: no such row; expected some of {'; '.join(rows())}")
        record = run_all(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(record)
    print(json.dumps(record["rows"]))
    return 0


def rows():
    """Name of each row to its ways: a list of (detector's arguments, fit's arguments)."""
    ways = {"VAE": [
        ({"error": error, "beta": beta}, {"steps": VAE_STEPS, "augmented": augmented})
        for error, beta, augmented in itertools.product(("l1", "mse"), (0.01, 0.001), (False, True))
    ]}  # fmt: skip
    for backbone in BACKBONES:
        for kind, bank in (("one bank", POOLED), ("one a fabric", PER_FABRIC)):
            ways[f"PatchCore, {backbone}, {kind}"] = [
                ({"backbone": backbone, "neighbourhood": size, **bank}, {"augmented": augmented})
                for size, augmented in itertools.product((1, 3), (False, True))
            ]
    return ways


def run_all(options):
    """Measure the rows that the record lacks; returns the record."""
    collection = aitex.load_aitex(options.data)
    record = open_record(options.record, collection.source)
    parts = {part: load_rolls(getattr(collection, part)) for part in ("train", "calibration", "development")}
    parts["development"] = [roll for roll in parts["development"] if roll.mask is not None and roll.mask.any()]
    draem = DraemDetector.load(CHECKPOINT, "cpu", quiet=True)
    roll = parts["calibration"][0]
    if "DRAEM" not in record["rows"]:
        row = {"fit_seconds": draem.about["seconds"], **judged(draem, collection.test, draem, roll)}
        keep(record, "DRAEM", row, options.record)
    for name, ways in rows().items():
        if (options.only and name not in options.only) or "patch_auroc" in record["rows"].get(name, {}):
            continue
        try:
            detector, row = tuned(name, ways, parts)
        except InputError as error:
            if "not to be fetched" not in str(error):
                raise
            keep(record, name, {"not_measured": str(error).split(" not in ")[0]}, options.record)
            continue
        records = [item for item in collection.test if detector.judges(item.fabric)]
        keep(record, name, {**row, **judged(detector, records, draem, roll)}, options.record)
    return record


def tuned(name, ways, parts):
    """The fitted and calibrated detector whose reading is the best on development rolls, and what was tried."""
    best, tried = None, []
    for arguments, how in ways:
        detector, began = make(name, arguments), time.perf_counter()
        fit = dict(how)
        fit["normal_augmentation"] = NormalAugmentation() if fit.pop("augmented") else None
        detector.fit(parts["train"], torch.Generator().manual_seed(SEED), **fit)
        seconds = time.perf_counter() - began
        for reading, auroc in readings(detector, parts):
            tried.append({**arguments, **how, **reading, "development_auroc": auroc})
            if best is None or auroc > best[0]:
                best = auroc, detector, seconds, len(tried) - 1
        print(f"{name}: {tried[-1]} … best so far {best[0]:.3f}", file=sys.stderr, flush=True)
    _, detector, seconds, index = best
    detector.smoothing, detector.normalised = tried[index]["smoothing"], tried[index]["normalised"]
    detector.calibrate(parts["calibration"], RATE)
    return detector, {"fit_seconds": seconds, "chosen": tried[index], "tried": tried}


def make(name, arguments):
    return (VAE if name == "VAE" else PatchCore)(smoothing=0, device="cpu", **arguments)


def readings(detector, parts):
    """Development patch AUROC of a fitted detector's maps, read in each of the eight ways: (reading, AUROC) pairs."""
    calibration, development = parts["calibration"], parts["development"]
    rolls = [*calibration, *development]
    maps = list(detector.raw_maps(rolls))
    labels = np.concatenate([patch_maxima(roll.mask, roll.edges) for roll in development]).astype(bool)
    for smoothing in SMOOTHINGS:
        scores = [
            patch_maxima(blurred(found, roll, smoothing), roll.edges) for found, roll in zip(maps, rolls, strict=True)
        ]
        for normalised in (True, False):
            fabrics = [roll.fabric for roll in calibration]
            offsets = offsets_of(scores[: len(calibration)], fabrics) if normalised else {}
            rest = zip(scores[len(calibration) :], development, strict=True)
            found = np.concatenate([normalised_scores(part, offsets, roll.fabric) for part, roll in rest])
            yield {"smoothing": smoothing, "normalised": normalised}, metrics.auroc(labels, found)


def blurred(scores, roll, smoothing):
    """The map that the detector would give with another smoothing: odds are what it smooths."""
    if not smoothing:
        return scores
    on_fabric = torch.from_numpy(scores[:, slice(*roll.edges)])[None, None]
    odds = smoothed(on_fabric / (1 - on_fabric).clamp_min(1e-6), smoothing)
    return on_roll(roll.image, roll.edges, odds_to_scores(odds))


def judged(detector, records, draem, roll):
    """Figures on test rolls, and times and size."""
    figures = evaluate(detector, records, quiet=not sys.stderr.isatty()).figures()
    both = {"own": detector, "draem": draem}
    tasks = {key: lambda one=one: list(one.maps([roll])) for key, one in both.items()}
    taken = medians(tasks, 7, torch.device("cpu"))
    return {
        **{name: figures[name] for name in FIGURES},
        "interval_patch_auroc": figures["intervals"]["patch_auroc"],
        "by_defect": {code: [row["hits"], row["defects"]] for code, row in figures["by_defect"].items()},
        "threshold": detector.threshold.value,
        "seconds_a_roll": taken["own"],
        "times_draem_a_roll": taken["own"] / taken["draem"],
        "bytes": detector.size_bytes,
    }


def open_record(path, source, command="python benchmarks/baselines.py"):
    """The record so far; refuses to mix rows of other rolls."""
    if not path.exists():
        return {**circumstances(command), "source": source, "rate": RATE, "seed": SEED, "rows": {}}
    record = json.loads(path.read_text())
    if record["source"] != source:
        raise InputError(f"{path}: holds rows of {record['source']}; expected {source}; give another --record")
    return record


def keep(record, name, row, path):
    record["rows"][name] = text_table.without_nan(row)
    write(path, record)


def print_table(record):
    print(f"{record['source']}, {record['date']}, {record['machine']}")
    print(f"{'':36} AUROC  mean    AP  recall  prec.  hits  px AUROC/AP    fit s  s a roll      MB")
    for name, row in record["rows"].items():
        if "not_measured" in row:
            print(f"{name:36} not measured here: {row['not_measured']}")
            continue
        number = {key: float("nan") if value is None else value for key, value in row.items()}
        print(
            "{name:36} {patch_auroc:5.3f} {patch_auroc_mean_of_fabrics:5.3f} {patch_ap:5.3f}  {patch_recall:6.3f} "
            "{patch_precision:6.3f} {hits:3}/{defects} {pixel_auroc:6.3f}/{pixel_ap:5.3f} {fit_seconds:8.0f} "
            "{seconds_a_roll:9.2f} {megabytes:7.2f}".format(**number, name=name, megabytes=row["bytes"] / 1e6)
        )


if __name__ == "__main__":
    sys.exit(main())
