"""`train`: a run from the command line, on one device or, under `torchrun`, on several."""

import argparse
from pathlib import Path
from typing import Any

from draem_aitex import files
from draem_aitex.cli import shared
from draem_aitex.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_training(parser)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="training time (default: 8)")
    budget.add_argument("--steps", type=int)
    parser.add_argument("--preset", default="compact", help="compact (default), or paper: as published, batch and all")
    parser.add_argument("--batch", type=int, help="crops a step, on each device (compact: 16, paper: 8)")
    parser.add_argument("--crop", type=int, metavar="PIXELS", help="side of the crops (compact: 128, paper: 256)")
    parser.add_argument("--learning-rate", type=float, help="at its highest (compact: 0.002, paper: 0.0001)")
    often = "how often a kind of anomaly comes, against the others (default: spot=0.3, …)"
    first = "a checkpoint to start from, or a shipped one's name; nothing: from random weights"
    parser.add_argument("--start", metavar="CHECKPOINT", help=first)
    parser.add_argument("--mix", nargs="+", default=[], metavar="KIND=WEIGHT", help=often)
    which = "own (default): nine kinds for fabric; paper: the published one, needs --textures"
    parser.add_argument("--augmenter", choices=("own", "paper"), default="own", help=which)
    parser.add_argument("--textures", metavar="DIR", help="a folder of texture images, such as DTD's")
    parser.add_argument("--compile", action="store_true", help="compile the networks first; pays on CUDA")
    parser.add_argument("--save-seconds", type=float, default=30, help="between checkpoints (default: 30)")


def run(options: argparse.Namespace) -> int:
    from draem_aitex import workflow
    from draem_aitex.training import distributed, loop

    with shared.joined(options):
        distributed.on_first(lambda: check_free([options.out, loop.log_of(options.out)]))
        # Process by process: the first one makes the simulated fabric, if need be.
        config, data = distributed.in_turn(lambda: (train_config(options), shared.open_data(options)))
        config = distributed.in_turn(lambda: workflow.suited(config, data))
        how = {"save_seconds": options.save_seconds, "compiled": options.compile}
        result = workflow.run(data, config, options.out, options.device, **how)
        if not result.finished:
            kept = f"{options.out} holds step {result.saved}" if result.saved else "nothing is saved yet"
            print(f"interrupted at step {result.steps}; {kept}; the same command goes on from there")
            return shared.INTERRUPTED
        command = shared.recorded(options, distributed.count())
        detector = workflow.finish(data, config, result, options.out, options.device, command)
        print(f"trained {result.steps} steps on {options.device.type}: {options.out}")
        if distributed.rank() == 0:
            print(shared.threshold_line(detector))
    return 0


def check_free(outputs: list[Path]) -> None:
    """Raise `InputError` where `files.claimed` would; the training claims them itself, once the data are read."""
    with files.claimed(outputs):
        return


def train_config(options: argparse.Namespace) -> Any:
    """The `TrainConfig` that the options describe."""
    from draem_aitex import workflow
    from draem_aitex.anomalies.augmenter import AugmenterConfig
    from draem_aitex.anomalies.paper_augmenter import PaperAugmenterConfig
    from draem_aitex.training.config import TrainConfig

    given = {name: getattr(options, name) for name in ("batch", "crop", "learning_rate", "minutes", "steps")}
    given = {name: value for name, value in given.items() if value is not None}
    if not given.keys() & {"minutes", "steps"}:
        given["minutes"] = workflow.MINUTES
    if options.no_augmentation:
        given["normal_augmentation"] = None
    if options.augmenter == "paper":
        if options.textures is None or options.mix:
            raise InputError("--augmenter paper: needs --textures DIR and takes no --mix; give the one, drop the other")
        given["augmenter"] = PaperAugmenterConfig(options.textures)
    elif options.mix:
        given["augmenter"] = AugmenterConfig(weights={**AugmenterConfig().weights, **_weights(options.mix)})
    return TrainConfig.of_preset(options.preset, seed=options.seed, start=options.start, **given)


def _weights(words: list[str]) -> dict[str, float]:
    """KIND=WEIGHT, as often as given, as a dict."""
    weights = {}
    for word in words:
        kind, _, weight = word.partition("=")
        try:
            weights[kind] = float(weight)
        except ValueError:
            raise InputError(f"--mix {word}: expected KIND=WEIGHT, such as slip=0.5") from None
    return weights
