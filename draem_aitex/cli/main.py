"""The command line: `python -m draem_aitex COMMAND`, one of simulate, verify, download, train, fit, evaluate,
inspect, export and info.

Bad input gives one line on standard error and status 2. What the commands do is in `commands`, `train_command` and
`fit_command`.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

import cv2

from draem_aitex.cli import commands
from draem_aitex.errors import InputError

FIT_OPTIONS = {  # of `fit vae` and `fit patchcore`, each named as the detector's own argument
    "vae": {
        "steps": {"type": int, "default": 600, "help": "of 32 crops (default: 600)"},
        "error": {"default": "l1", "help": "l1 (default) or mse"},
        "beta": {"type": float, "default": 0.01, "help": "weight of the Kullback-Leibler term (default: 0.01)"},
        "smoothing": {"type": float, "default": 3.0, "metavar": "PIXELS", "help": "of the map (default: 3)"},
    },
    "patchcore": {
        "backbone": {"default": "fft", "help": "what it sees of a picture (default: fft)"},
        "per_fabric": {"action": "store_true", "help": "a bank for each fabric instead of one for all"},
        "bank_size": {"type": int, "default": 2000, "help": "vectors kept, of each bank (default: 2000)"},
        "pool_size": {"type": int, "default": 20_000, "help": "random cells that they are of (default: 20000)"},
        "neighbourhood": {"type": int, "default": 1, "metavar": "CELLS", "help": "features averaged over (default: 1)"},
        "smoothing": {"type": float, "default": 0.0, "metavar": "PIXELS", "help": "of the map (default: none)"},
    },
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def build_parser():
    """All commands and their arguments."""
    parser = _Parser(prog="python -m draem_aitex", description="DRAEM, a detector of fabric defects, on AITEX.")
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    sixteen_bits = {"action": "store_true", "help": "sixteen bits: faster where the device computes in them, rounder"}
    no_augmentation = {"action": "store_true", "help": "crops as they are, without other speeds and other light"}
    data = {"type": Path, "metavar": "DIR", "help": "an AITEX folder; without it, simulated fabric is used"}

    simulate = subparsers.add_parser("simulate", help="write a folder of simulated fabric in AITEX's layout")
    simulate.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.set_defaults(run=commands.simulate)

    verify = subparsers.add_parser("verify", help="compare an AITEX folder with the data set's manifest")
    verify.add_argument("--data", type=Path, required=True, metavar="DIR")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    verify.set_defaults(run=commands.verify)

    download = subparsers.add_parser("download", help="fetch the AITEX data set, check and unpack it")
    download.add_argument("--data", type=Path, required=True, metavar="DIR", help="where it goes, such as data/aitex")
    download.add_argument("--url", default=None, metavar="BASE", help="another place that holds the three archives")
    download.set_defaults(run=commands.download)

    train = subparsers.add_parser(
        "train", help="train a detector; run again, it resumes; under torchrun, on several devices"
    )
    train.add_argument("--data", **data)
    train.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="training time (default: 8)")
    budget.add_argument("--steps", type=int)
    train.add_argument(
        "--preset", default="compact", help="compact (default), or paper: the published networks, batch and schedule"
    )
    train.add_argument("--batch", type=int, help="crops a step, on each device (compact: 32, paper: 8)")
    train.add_argument("--crop", type=int, metavar="PIXELS", help="side of the crops (compact: 128, paper: 256)")
    train.add_argument("--learning-rate", type=float, help="at its highest (compact: 0.002, paper: 0.0001)")
    train.add_argument("--no-augmentation", **no_augmentation)
    train.add_argument(
        "--mix",
        nargs="+",
        default=[],
        metavar="KIND=WEIGHT",
        help="how often a kind of made-up defect comes, against the others' weights (default: slip=0.28 and so on)",
    )
    train.add_argument("--compile", action="store_true", help="compile the networks first; pays on CUDA")
    train.add_argument("--save-seconds", type=float, default=30, help="between checkpoints (default: 30)")
    train.add_argument("--fabric", nargs="+", default=[], metavar="FF", help="fabric codes; all without it")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.set_defaults(run=_train)

    fit = subparsers.add_parser("fit", help="fit one of the earlier approaches, to compare: vae or patchcore")
    baselines = fit.add_subparsers(dest="detector", required=True, parser_class=_Parser)
    for name, what in (("vae", "a variational autoencoder"), ("patchcore", "a memory bank")):
        baseline = baselines.add_parser(name, help=what)
        baseline.add_argument("--data", **data)
        baseline.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT")
        for option in FIT_OPTIONS[name]:
            baseline.add_argument(f"--{option.replace('_', '-')}", **FIT_OPTIONS[name][option])
        baseline.add_argument("--no-augmentation", **no_augmentation)
        baseline.add_argument(
            "--no-normalisation", action="store_true", help="compare scores of all fabrics as they are"
        )
        baseline.add_argument("--fabric", nargs="+", default=[], metavar="FF", help="fabric codes; all without it")
        baseline.add_argument("--seed", type=int, default=0)
        baseline.add_argument("--device", default="auto", help="auto, cpu or cuda")
        baseline.set_defaults(run=_fit)

    evaluate = subparsers.add_parser("evaluate", help="judge a checkpoint on rolls it has not seen")
    evaluate.add_argument("--data", **data)
    evaluate.add_argument("--checkpoint", type=Path, required=True)
    evaluate.add_argument("--part", choices=("test", "development"), default="test", help="which rolls (default: test)")
    evaluate.add_argument(
        "--fpr", type=float, metavar="RATE", help="another threshold, for this share of flawless patches"
    )
    evaluate.add_argument("--mm-per-px", type=float, metavar="MM", help="resolution, for figures in mm and a metre")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    evaluate.add_argument("--keep", action="store_true", help="keep the figures in the checkpoint, for info")
    evaluate.add_argument("--report", type=Path, metavar="FILE.html", help="write one HTML page with pictures")
    evaluate.add_argument("--bfloat16", **sixteen_bits)
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate.set_defaults(run=commands.evaluate)

    inspect = subparsers.add_parser("inspect", help="anomaly maps of pictures of your own")
    inspect.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="a picture, or a folder of pictures")
    inspect.add_argument("--checkpoint", type=Path, required=True)
    inspect.add_argument("--out", type=Path, required=True, metavar="DIR", help="where maps and overlays go")
    inspect.add_argument("--fabric", metavar="FF", help="the pictures' fabric, where their names do not say it")
    inspect.add_argument("--json", type=Path, metavar="FILE", help="write score, verdict and regions of each picture")
    inspect.add_argument("--fail-on-defect", action="store_true", help="exit status 3 where a picture is defective")
    inspect.add_argument("--bfloat16", **sixteen_bits)
    inspect.add_argument("--device", default="auto", help="auto, cpu or cuda")
    inspect.set_defaults(run=commands.inspect)

    export = subparsers.add_parser("export", help="write a checkpoint as ONNX, to run without PyTorch")
    export.add_argument("checkpoint", type=Path)
    export.add_argument("file", type=Path, metavar="FILE.onnx")
    export.set_defaults(run=commands.export, device="cpu")

    info = subparsers.add_parser("info", help="say what a checkpoint is: data, steps, seed, split, figures")
    info.add_argument("checkpoint", type=Path)
    info.set_defaults(run=commands.info)
    return parser


def _fit(options):
    from draem_aitex.cli import fit  # with torch as well

    return fit.fit(options)


def _train(options):
    from draem_aitex.cli import train  # torch, which it takes, would make every other command start late

    return train.train(options)


def main(arguments=None):
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # `pictures` says it in one line
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
        return _run(options)


def _run(options):
    try:
        return options.run(options) or 0
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")
        return 0
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}; check the path and the free space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return commands.INTERRUPTED
