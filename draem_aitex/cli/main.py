"""The parser of all commands, and how each one ends: bad input is one line on standard error and status 2."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NoReturn

from draem_aitex.cli import shared
from draem_aitex.errors import InputError
from draem_aitex.files import CACHE

COMMANDS = {
    "simulate": "write a folder of simulated fabric in AITEX's layout",
    "verify": "compare an AITEX folder with the data set's manifest",
    "download": "fetch the AITEX data set, check and unpack it",
    "train": "train a detector; run again, it resumes; under torchrun, on several devices",
    "fit": "fit one of the earlier approaches, to compare: vae or patchcore",
    "evaluate": "judge a checkpoint on rolls it has not seen",
    "inspect": "anomaly maps of images of your own",
    "export": "write a checkpoint as ONNX, to run without PyTorch",
    "info": "say what a checkpoint is: data, steps, seed, split, figures",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {InputError(message)} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their arguments; each module of a command has `add_arguments` and `run`."""
    parser = _Parser(prog="python -m draem_aitex", description="DRAEM, a detector of fabric defects, on AITEX.")
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for name, what in COMMANDS.items():
        module = import_module(f"draem_aitex.cli.{name}")
        command = subparsers.add_parser(name, help=what)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. arguments: words, those of the command line without them."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: shared.say(f"note: {message}")  # type: ignore
        if hasattr(sys.stdout, "reconfigure"):  # a name of a file can hold what no terminal can print
            sys.stdout.reconfigure(errors="backslashreplace")
        options = build_parser().parse_args(words)
        options.arguments = words
        return _run(options)


def _run(options: Any) -> int:
    if cache := getattr(options, "cache", None):
        os.environ[CACHE] = str(cache)
    try:
        if getattr(options, "max_pixels", None) is not None:
            from draem_aitex.data.images import bound_pixels

            bound_pixels(options.max_pixels)
        with ExitStack() as options.held:  # of the command's outputs
            status = options.run(options) or 0
            sys.stdout.flush()  # or a full disk behind it would be found when nobody can say so any more
            return status
    except InputError as error:
        rank = os.environ.get("RANK", "0")
        if rank == "0":
            print(f"error: {error}", file=sys.stderr)
        elif not getattr(error, "shared", False):  # what all ranks have in common the first one says
            print(f"error: rank {rank}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w")
        return 0
    except OSError as error:
        name = error.filename or "standard output"  # what is written to files names its file itself
        print(f"error: {name}: {error.strerror}; check the path and the free space", file=sys.stderr)
        return 2
    except MemoryError:
        print("error: memory: too little for this; give less at once, or smaller images", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return shared.INTERRUPTED
