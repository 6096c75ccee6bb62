"""What several commands share: options, the data and the detector that they name, results that reach the disk whole."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from draem_aitex.errors import InputError
from draem_aitex.files import CACHE, MARK, FilePath, Writer, claimed, write_together

BAD_INPUT, DEFECTIVE, INTERRUPTED = 2, 3, 130  # exit statuses


def add_data(parser: argparse.ArgumentParser) -> None:
    """Where the rolls come from."""
    which = "an AITEX folder, or one with images of your own; without it, simulated fabric"
    parser.add_argument("--data", type=Path, metavar="DIR", help=which)
    parser.add_argument("--bit-depth", type=int, metavar="BITS", help="of 16-bit images of your own, such as 12")
    parser.add_argument("--find-edges", action="store_true", help="look for the fabric's edges in images of your own")
    what = f"where simulated fabric and weights fetched once are kept (default: {CACHE}, or docs/installing.md)"
    parser.add_argument("--cache", type=Path, metavar="DIR", help=what)
    add_bound(parser)


def add_bound(parser: argparse.ArgumentParser) -> None:
    """How large an image may be; `main` sees to it."""
    what = "refuse larger images before they are decoded (default: 178956970)"
    parser.add_argument("--max-pixels", type=int, metavar="N", help=what)


def add_training(parser: argparse.ArgumentParser) -> None:
    """What `train` and `fit` have in common."""
    add_data(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT")
    parser.add_argument("--fabric", nargs="+", default=[], metavar="FF", help="fabric codes; all without it")
    plain = "normal crops as they are, without other scanning speeds, wandering threads and other light"
    parser.add_argument("--no-augmentation", action="store_true", help=plain)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--channels", type=int, default=1, help="3 keeps the colours of images of your own")
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where it computes."""
    parser.add_argument("--device", default="auto", help="auto (default: CUDA where there is one), cpu or cuda")


def add_checkpoint(parser: argparse.ArgumentParser, bfloat16: bool | None = False) -> None:
    """Which detector, and how it computes. bfloat16: the default; None is where the device has instructions for it."""
    parser.add_argument("--checkpoint", required=True, help="a file, or a shipped one: compact_aitex, compact_loom")
    when = "where the device has them" if bfloat16 is None else "no"
    what = f"compute in sixteen bits: rounder, faster where the device has them (default: {when})"
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=bfloat16, help=what)
    add_device(parser)


def open_data(options: argparse.Namespace, reading: Any = None) -> Any:
    """The rolls to work on, announced: of the folder that is given, else simulated; of some fabrics where asked for.

    reading: of a detector that judges them; images are read as its own were.
    """
    from draem_aitex.data.folder import load_folder
    from draem_aitex.data.rolls import PARTS
    from draem_aitex.simulation.loom import load_simulated

    if options.data is None:
        data = load_simulated()
    else:
        channels = reading.channels if reading else getattr(options, "channels", 1)
        bit_depth = reading.bit_depth if reading and options.bit_depth is None else options.bit_depth
        data = load_folder(options.data, channels=channels, bit_depth=bit_depth, find_edges=options.find_edges)
    print(f"data: {data.source}, {len(data.records)} {'images' if data.rule else 'rolls'} in {data.root}")
    data = data.of_fabrics(sorted(set(getattr(options, "fabric", []))))
    parts = ", ".join(f"{len(getattr(data, part))} {part}" for part in PARTS)
    print(f"split by image ({data.rule}): {parts}" if data.rule else f"split by roll: {parts}")
    for quirk in data.quirks if data.rule else ():
        print(f"note: {quirk}")
    return data


def open_detector(options: argparse.Namespace) -> Any:
    """The detector that a checkpoint holds. Raises `InputError` where it has no threshold yet."""
    from draem_aitex.workflow import load_detector

    detector = load_detector(options.checkpoint, options.device, True, getattr(options, "bfloat16", False))
    if detector.threshold is None:
        what = "expected a calibrated detector; in Python, load_detector(…).calibrate(data).save(…) makes it one"
        if not detector.about.get("finished", True):
            what = "its training was not finished; run the same train command again"
        raise InputError(f"{options.checkpoint}: no threshold yet; {what}")
    return detector


def lines_about(options: argparse.Namespace, detector: Any) -> list[str]:
    """What a checkpoint is, each line with its name."""
    return [f"{Path(options.checkpoint).name}: {line}" for line in str(detector).splitlines()]


def threshold_line(detector: Any) -> str:
    """Which threshold a detector has."""
    threshold = detector.threshold
    return (
        f"threshold {threshold.value:.4g} for a false-positive rate of {threshold.wanted:.1%}, from "
        f"{threshold.patches} patches of {threshold.rolls} calibration rolls"
    )


@contextmanager
def joined(options: argparse.Namespace) -> Iterator[None]:
    """Take part in the job that `torchrun` started, if it did, on a device of one's own; the first process speaks."""
    from draem_aitex.training import distributed

    with distributed.joined(options.device) as options.device, ExitStack() as silent:
        if distributed.rank() > 0:
            nowhere = silent.enter_context(open(os.devnull, "w"))
            silent.enter_context(redirect_stdout(nowhere))
            silent.enter_context(redirect_stderr(nowhere))
        yield


def say(line: str) -> None:
    """Print a line on standard error, but not while a thread keeps from it what decoders write."""
    from draem_aitex.data.damage import TERMINAL

    with TERMINAL:
        print(line, file=sys.stderr)


def recorded(options: argparse.Namespace, processes: int = 1) -> str:
    """The command that was given, without the paths of this machine, for the model card."""
    start = ["python"] if processes == 1 else ["torchrun", f"--nproc-per-node={processes}"]
    words = [*start, "-m", "draem_aitex", *options.arguments]
    hidden = {str(getattr(options, name, "")): "DIR" for name in ("data", "textures")}
    hidden[str(options.out)] = options.out.name
    return shlex.join(hidden.get(word, word) for word in words)


def check_ending(path: Path | None, ending: str) -> None:
    """Raise `InputError` for a file to write whose name has another ending, such as an image given to --json."""
    if path is not None and path.suffix != ending:
        raise InputError(f"{path}: the file to write; expected a name that ends in {ending}; choose another name")


def claim(options: argparse.Namespace, outputs: Sequence[FilePath | None], inputs: Sequence[FilePath] = ()) -> None:
    """`files.claimed` until the command ends."""
    options.held.enter_context(claimed(outputs, inputs))


def as_json(content: dict[str, Any]) -> Writer:
    """What writes JSON, marked as this program's."""
    data = (json.dumps({"about": MARK, **content}, indent=2) + "\n").encode()
    return lambda file: file.write(data)


def write_results(results: dict[Path | None, Writer]) -> None:
    """Write the results for which a file is named, all of them or none."""
    write_together({path: write for path, write in results.items() if path is not None})
