"""From data to a detector, and from a file to a detector: what stands above training, detectors and baselines."""

import datetime
import math
import platform
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.data.patcher import PATCH, patch_corners
from draem_aitex.data.rolls import Collection, Roll, check_readable, grey_levels, load_rolls
from draem_aitex.detectors.base import RATE, Detector
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.devices import Device, computes_in_bfloat16, describe, pick_device
from draem_aitex.errors import InputError, check_choice, check_seed, check_type
from draem_aitex.evaluation.evaluator import evaluate
from draem_aitex.files import FilePath, claimed
from draem_aitex.model.draem import PRESETS
from draem_aitex.training import distributed, loop
from draem_aitex.training.checkpoint import checkpoint_file, describe_split, load_checkpoint
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.model_card import kept_figures

DETECTORS: dict[str, Any] = {known.kind: known for known in (DraemDetector, VAE, PatchCore)}  # add one here
HERE = Path(__file__).parent
RECORDS = HERE / "records" if (HERE / "records").is_dir() else HERE.parent / "benchmarks" / "results"  # of measurements
START, FINE_TUNING = "compact_aitex", 7e-4  # of trainings on images of one's own: first weights, learning rate
MINUTES = 8.0  # of training, where nothing else is asked for


def train(
    data: Collection, config: TrainConfig | None = None, *, minutes: float | None = None, steps: int | None = None,
    checkpoint: FilePath | None = None, device: Device = "auto", quiet: bool = False, **options: Any,
) -> DraemDetector:  # fmt: skip
    """Train DRAEM on the normal rolls of a collection and calibrate it.

    In a notebook a figure shows losses and one sample while it lasts. Stop the cell whenever you like: the detector
    is that of the steps so far, and with a `checkpoint` the same call goes on from there later.

    Args:
        data: From `load_aitex`, `load_folder` or `load_simulated`.
        config: What defines the run; `TrainConfig()`'s defaults without it.
        minutes: Training time, in place of the configuration's; 8 where nothing says how long.
        steps: Number of steps, in place of a time.
        checkpoint: File that the run is kept in, resumed from if it is there, and complete at the end.
        device: "auto" takes CUDA where there is one, else the CPU.
        quiet: No figure, no progress bar.
        options: Of `training.loop.train_networks`: `save_seconds`, `log_every`, `on_log`, `compiled`.

    Returns:
        A calibrated `Detector`, ready to predict, to be judged and to be saved.

    Raises:
        InputError: There is nothing to train on or to calibrate with, the checkpoint is of another run, the device is
            not there or too small, or a loss is not finite.

    Example:
        >>> from draem_aitex import TrainConfig, load_simulated, train
        >>> detector = train(load_simulated().of_fabrics(["01"]), TrainConfig(steps=2, batch=2, crop=64), quiet=True)
    """
    budget = {} if minutes is None and steps is None else {"minutes": minutes, "steps": steps}
    config = suited(replace(config or TrainConfig(minutes=MINUTES), **budget), data, quiet)  # type: ignore[arg-type]
    figure = None
    if "on_log" not in options and "ipykernel" in sys.modules and not quiet:
        from draem_aitex.training import live  # with matplotlib

        check_counts(data)
        figure = live.LiveFigure(live.fixed_sample(load_rolls(data.train[:2]), config, device))
        options = {"log_every": 10, **options, "on_log": figure.follow}
    result = run(data, config, checkpoint, device, quiet=quiet, **options)
    if figure is not None:
        figure.draw(result.log, result.model)
    return finish(data, config, result, checkpoint, device)


def run(
    data: Collection, config: TrainConfig, checkpoint: FilePath | None = None, device: Device = "auto", **options: Any
) -> loop.TrainResult:
    """The first half of `train`: networks, not yet a detector. The arguments are those of `train`."""
    rolls = distributed.in_turn(lambda: check_parts(data))
    return loop.train_networks(rolls, config, checkpoint, device, extra=_origin(data), **options)


def finish(
    data: Collection, config: TrainConfig, result: loop.TrainResult, checkpoint: FilePath | None = None,
    device: Device = "auto", command: str = "draem_aitex.train(data, …) in Python",
) -> DraemDetector:  # fmt: skip
    """The second half of `train`: offsets, threshold and the development rolls' figures, once for a run.

    command: the one that was given, for the model card. A finished checkpoint becomes that of the whole detector.
    """
    detector = DraemDetector(result.model, device)
    if distributed.rank() > 0:
        return detector
    kept = checkpoint if result.finished else None
    with claimed([kept]):
        return _finished(detector, data, config, result, kept, device, command)


def _finished(detector, data, config, result, checkpoint, device, command):
    """`finish` on the first rank. checkpoint: None for a run that is not finished."""
    origin = _origin(data)
    if checkpoint is not None:
        content = load_checkpoint(checkpoint, DraemDetector.kind)
        if "threshold" in content:
            if content["split"] != origin["split"]:
                found = "holds a detector that was calibrated and judged with other rolls"
                raise InputError(f"{checkpoint}: {found}; expected the same data; give another file (--out)")
            return DraemDetector.restored(content, checkpoint, device, quiet=True)
    detector.about |= {"config": asdict(config), "steps": result.steps, "seconds": result.seconds, "log": result.log}
    detector.about |= {"finished": result.finished, **origin}
    _judged(detector, data, command)
    if checkpoint is not None:
        detector.save(checkpoint)
    return detector


def fit(
    detector: VAE | PatchCore, data: Collection, seed: int = 0, command: str = "fit in Python", **arguments: Any
) -> Detector:
    """Fit one of the baselines to the normal rolls of a collection, calibrate it, and judge it on development rolls.

    seed: of weights, crops and vectors; arguments: of the detector's own `fit`. Returns the detector.
    """
    check_seed(seed)
    detector.fit(check_parts(data), torch.Generator().manual_seed(seed), **arguments)
    detector.about |= {"seed": seed, **_origin(data)}
    detector.about["fabrics"] = list(detector.fabrics) or detector.about["fabrics"]
    _judged(detector, data, command)
    return detector


def load_detector(
    path: FilePath, device: Device = "auto", quiet: bool = False, bfloat16: bool | None = False
) -> Detector:
    """The detector of a checkpoint file, whichever it holds, or a shipped one by its name.

    Args:
        path: A file, "compact_aitex" (trained on real rolls) or "compact_loom" (trained on simulated fabric).
        device: "auto" takes CUDA where there is one, else the CPU.
        quiet: Do not print what it is.
        bfloat16: Compute in sixteen bits, which DRAEM alone does; None: where the device has instructions for it.
            `DraemDetector` says how far scores then are from those in 32 bits.

    Returns:
        A `Detector`, with the threshold that it was saved with.

    Raises:
        InputError: The file is missing, no checkpoint, or not whole; the device is not there.

    Example:
        >>> from draem_aitex import load_detector
        >>> load_detector("compact_loom", quiet=True).name
        'DRAEM'
    """
    check_choice("bfloat16", bfloat16, (False, True, None))
    found = checkpoint_file(path)
    content = load_checkpoint(found)
    kind = DETECTORS[content["detector"]]
    if bfloat16 and kind is not DraemDetector:
        raise InputError(f"bfloat16: {path} holds {kind.name}; expected DRAEM for it; leave the option out")
    if bfloat16 is None:
        bfloat16 = kind is DraemDetector and computes_in_bfloat16(pick_device(device))
    return kind.restored(content, found, device, quiet, **({"bfloat16": True} if bfloat16 else {}))


def suited(config: TrainConfig, data: Collection, quiet: bool = False) -> TrainConfig:
    """The configuration for a collection: of images of one's own, what was left at its default becomes what suits them.

    Networks have as many channels as the images. Those of `compact` in grey start from the shipped detector of real
    fabric (`START`), with the learning rate of a fine-tuning. Anomalies are those of `AugmenterConfig.for_images`. What
    is chosen is said, a line each, unless `quiet`.
    """
    check_type("data", data, Collection)
    if not data.train or not data.reading.cover:
        return config
    said = []
    if config.network.channels < data.reading.channels:
        config = replace(config, preset=replace(config.network, channels=data.reading.channels))
    if config.start is None and config.network == PRESETS["compact"]:
        rate = FINE_TUNING if config.learning_rate == TrainConfig.learning_rate else config.learning_rate
        config = replace(config, start=START, learning_rate=rate)
        said.append(f"first weights: those of {START}, learning rate {rate:g} (--start nothing draws them)")
    if config.augmenter == AugmenterConfig():
        augmenter, which = AugmenterConfig.for_images([grey_levels(roll.image) for roll in load_rolls(data.train)])
        config = replace(config, augmenter=augmenter)
        said.append(which)
    if said and not quiet:
        print("\n".join(said))
    return config


def check_counts(data: Collection) -> None:
    """Raise `InputError` where there is nothing to train on or to take a threshold from."""
    check_type("data", data, Collection)
    if not data.train or not data.calibration:
        found = f"{len(data.train)} training and {len(data.calibration)} calibration rolls"
        raise InputError(f"{data.root}: {found}; expected one or more of each; add normal rolls (see data/README.md)")


def check_parts(data: Collection) -> list[Roll]:
    """The training rolls; all others are read too, with their masks: what can't be used is found before a training.

    Raises `InputError` where there is nothing to train on, a file that cannot be read, or no patch to take a threshold
    from. Warns where calibration images of one's own hold too few patches for the usual false-positive rate.
    """
    check_counts(data)
    train = load_rolls(data.train)
    check_readable([*data.development, *data.test])
    rolls = load_rolls(data.calibration)
    patches = sum(len(patch_corners(r.image.shape, r.edges, remainder=r.reading.remainder)) for r in rolls)
    if not patches:
        found = f"no calibration roll holds a patch of {PATCH} x {PATCH} pixels of fabric"
        raise InputError(f"{data.root}: {found}; expected one or more, for the threshold; give larger images")
    needed = math.ceil(1 / RATE) - 1
    if patches < needed and data.reading.cover and distributed.rank() == 0:
        found = f"{len(rolls)} calibration images hold {patches} patches, which promise a false-positive rate of"
        more = math.ceil(needed / patches * len(rolls))
        warnings.warn(
            f"{found} {1 / (patches + 1):.1%}; for {RATE:.0%} it takes {needed}, as of {more} such images", stacklevel=3
        )
    return train


def _origin(data: Collection) -> dict[str, Any]:
    origin = {"source": data.source, "fabrics": list(data.fabrics), "split": describe_split(data)}
    return origin | ({"rule": data.rule, "reading": asdict(data.reading)} if data.reading.cover else {})


def _judged(detector: Detector, data: Collection, command: str) -> None:
    """Calibrate a detector, take the figures of development rolls, and note how it was made."""
    detector.calibrate(data)
    development = [record for record in data.development if detector.judges(record.fabric)]
    if development:
        judged = evaluate(detector, development, quiet=not sys.stderr.isatty())
        detector.about["figures"] = {"development": kept_figures(judged.figures())}
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    made = {"date": datetime.date.today().isoformat(), "machine": describe(detector.device)}
    detector.about["made"] = {**made, "command": command, "versions": versions}
