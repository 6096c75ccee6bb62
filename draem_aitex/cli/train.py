"""The `train` command: a run from the command line, on one device or, under `torchrun`, on several."""

import datetime
import os
import platform
import sys
from dataclasses import asdict

import torch

from draem_aitex import devices
from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.cli.commands import INTERRUPTED, check_writable, open_data
from draem_aitex.data import rolls
from draem_aitex.data.patcher import PATCH, patch_corners
from draem_aitex.detectors import draem
from draem_aitex.detectors.calibration import Threshold, calibration_scores
from draem_aitex.errors import InputError
from draem_aitex.evaluation import evaluator
from draem_aitex.training import checkpoint, distributed, loop, model_card
from draem_aitex.training.config import TrainConfig

RATE = 0.01  # false-alarm rate that the threshold is set for: a share of flawless patches


def train(options):
    """Train; then levels, threshold and the development rolls' figures go into the checkpoint with the weights."""
    check_writable(options.out)
    config = train_config(options)
    with distributed.joined(options.device) as device:
        if distributed.rank() > 0:
            sys.stdout = open(os.devnull, "w")
        return _train(options, config, device)


def train_config(options):
    """The `TrainConfig` that the options describe."""
    minutes = 8.0 if options.minutes is None and options.steps is None else options.minutes
    given = {name: getattr(options, name) for name in ("batch", "crop", "learning_rate")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.no_augmentation:
        given["normal_augmentation"] = None
    if options.mix:
        given["augmenter"] = AugmenterConfig(weights={**AugmenterConfig().weights, **_weights(options.mix)})
    return TrainConfig.of_preset(options.preset, minutes=minutes, steps=options.steps, seed=options.seed, **given)


def _weights(words):
    """KIND=WEIGHT, as often as given, as a dict."""
    weights = {}
    for word in words:
        kind, _, weight = word.partition("=")
        try:
            weights[kind] = float(weight)
        except ValueError:
            raise InputError(f"--mix {word}: expected KIND=WEIGHT, such as slip=0.5") from None
    return weights


def open_split(options):
    """The rolls that the options name: `(collection, fabrics, split, calibration)`, the last one loaded.

    Raises `InputError` for an unknown fabric, and where there is nothing to train on or to take a threshold from.
    """
    fabrics = sorted(set(options.fabric))
    split = collection = open_data(options.data).of_fabrics(fabrics)
    if not split.train or not split.calibration:
        raise InputError(
            f"{collection.root}: {len(split.train)} training and {len(split.calibration)} calibration rolls; expected "
            "one or more of each; defect-free rolls whose number ends in 4 are kept for calibration, add some"
        )
    calibration = rolls.load_rolls(split.calibration)
    if not any(patch_corners(roll.image.shape, roll.edges) for roll in calibration):
        raise InputError(
            f"{collection.root}: no calibration roll holds a patch of {PATCH} x {PATCH} pixels of fabric; expected one "
            "or more, for the threshold; give larger pictures"
        )
    print(
        f"split by roll: {len(split.train)} train, {len(split.calibration)} calibration, "
        f"{len(split.development)} development, {len(split.test)} test"
    )
    return collection, fabrics, split, calibration


def _train(options, config, device):
    # Process by process: the first one makes the simulated fabric, if need be.
    collection, fabrics, split, calibration = distributed.in_turn(lambda: open_split(options))
    extra = {"source": collection.source, "fabrics": fabrics, "split": checkpoint.describe_split(split)}
    result = loop.train_networks(
        rolls.load_rolls(split.train),
        config,
        options.out,
        device,
        extra,
        save_seconds=options.save_seconds,
        compiled=options.compile,
    )
    if not result.finished:
        kept = f"{options.out} holds step {result.saved}" if result.saved else "nothing is saved yet"
        print(f"interrupted at step {result.steps}; {kept}; the same command goes on from there")
        return INTERRUPTED
    if distributed.rank() == 0:
        _finish(options, device, result, split, calibration)
    return 0


def _finish(options, device, result, split, calibration):
    """Calibrate and judge a trained model, and write down how it was made; done once."""
    content = checkpoint.load_checkpoint(options.out)
    if "made" not in content:
        detector = draem.DraemDetector(result.model)
        content |= {**calibrated(detector, calibration, split.development), "made": _made(options, device)}
        checkpoint.save_checkpoint(options.out, content)
    print(f"trained {result.steps} steps on {device.type}: {options.out}")
    print_threshold(content)


def calibrated(detector, calibration, development):
    """Give a detector its levels; what a checkpoint keeps of them, of its threshold and its development figures.

    calibration: rolls; development: records.
    """
    detector.offsets = detector.offsets_from(calibration)
    scores = calibration_scores(detector, calibration)
    threshold = scores.threshold(max(RATE, scores.finest_rate))
    content = {"fabric_offsets": detector.offsets, "threshold": asdict(threshold)}
    content["calibration"] = {"scores": scores.scores.tolist(), "rolls": scores.rolls}
    if development:
        judged = evaluator.evaluate(detector, development, threshold, quiet=not sys.stderr.isatty())
        content["figures"] = {"development": model_card.kept_figures(judged.figures())}
    return content


def print_threshold(content):
    """Say which threshold a checkpoint's content holds, and where it promises less than was wanted."""
    threshold = Threshold(**content["threshold"])
    print(
        f"threshold {threshold.value:.4g} for {threshold.wanted:.1%} false-alarm patches, from {threshold.patches} "
        f"patches of {threshold.rolls} calibration rolls"
    )
    if threshold.wanted > RATE:
        print(f"note: {threshold.patches} patches are too few to promise {RATE:.0%}; that is the best they can promise")


def _made(options, device):
    start = "python" if distributed.count() == 1 else f"torchrun --nproc-per-node={distributed.count()}"
    given = {
        "data": options.data and "DIR",
        **{name: getattr(options, name) for name in ("minutes", "steps", "batch", "crop", "learning_rate")},
        "fabric": " ".join(options.fabric) or None,
        "preset": None if options.preset == "compact" else options.preset,
        "seed": options.seed or None,
        "mix": " ".join(options.mix) or None,
    }
    words = [f"--{name.replace('_', '-')} {value:g}" if isinstance(value, float) else f"--{name} {value}"
             for name, value in given.items() if value is not None]  # fmt: skip
    words += ["--no-augmentation"] if options.no_augmentation else []
    return made([f"{start} -m draem_aitex train", *words], options.out, device)


def made(words, out, device):
    """When, where, with what and by which command a checkpoint was made. words: the command's, but for `--out`."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": devices.describe(device),
        "command": " ".join([*words, f"--out {out.name}"]),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
