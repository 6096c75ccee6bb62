"""`fit`: one of the earlier approaches, calibrated and judged as a training of DRAEM is.

A fit takes seconds to minutes and is not resumed: after an interruption the same command starts anew.
"""

import argparse
from typing import Any

from draem_aitex.cli import shared

BASELINES: dict[str, dict[str, dict[str, Any]]] = {  # options, each named as the detector's own argument
    "vae": {
        "steps": {"type": int, "default": 600, "help": "of 32 crops (default: 600)"},
        "error": {"default": "l1", "help": "l1 (default) or mse"},
        "beta": {"type": float, "default": 0.01, "help": "weight of the Kullback-Leibler term (default: 0.01)"},
        "smoothing": {"type": float, "default": 3.0, "metavar": "PIXELS", "help": "of the map (default: 3)"},
    },
    "patchcore": {
        "backbone": {"default": "fft", "help": "what it sees of an image (default: fft)"},
        "per_fabric": {"action": "store_true", "help": "a bank for each fabric instead of one for all"},
        "bank_size": {"type": int, "default": 2000, "help": "vectors kept, of each bank (default: 2000)"},
        "pool_size": {"type": int, "default": 20_000, "help": "random positions that they are of (default: 20000)"},
        "neighbourhood": {"type": int, "default": 1, "metavar": "N", "help": "features averaged over (default: 1)"},
        "smoothing": {"type": float, "default": 0.0, "metavar": "PIXELS", "help": "of the map (default: none)"},
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    baselines = parser.add_subparsers(dest="detector", required=True, parser_class=type(parser))
    for name, what in (("vae", "a variational autoencoder"), ("patchcore", "a memory bank")):
        baseline = baselines.add_parser(name, help=what)
        shared.add_training(baseline)
        for option, settings in BASELINES[name].items():
            baseline.add_argument(f"--{option.replace('_', '-')}", **settings)
        raw = "compare scores of all fabrics as they are"
        baseline.add_argument("--no-normalisation", action="store_true", help=raw)


def run(options: argparse.Namespace) -> None:
    from draem_aitex import workflow
    from draem_aitex.training import checkpoint

    shared.claim(options, [options.out])
    if options.out.exists():  # what took long to make is not replaced by another kind of detector
        checkpoint.load_checkpoint(options.out, options.detector)
    detector, arguments = build_detector(options)
    data = shared.open_data(options)
    workflow.fit(detector, data, options.seed, shared.recorded(options), **arguments)
    detector.save(options.out)
    print(f"{options.out}:\n{detector}\n{shared.threshold_line(detector)}")


def build_detector(options: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The detector that the options describe, and what its `fit` is given besides."""
    from draem_aitex.training.sampler import NormalAugmentation
    from draem_aitex.workflow import DETECTORS

    own = {name: getattr(options, name) for name in BASELINES[options.detector] if name != "steps"}
    detector = DETECTORS[options.detector](**own, device=options.device, normalised=not options.no_normalisation)
    arguments = {"steps": options.steps} if options.detector == "vae" else {}
    return detector, {**arguments, "normal_augmentation": None if options.no_augmentation else NormalAugmentation()}
