"""The command line: `python -m draem_aitex simulate | verify | download | train | evaluate | inspect | info`.

Bad input gives one line on standard error and status 2.
"""

import argparse
import datetime
import json
import os
import platform
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from draem_aitex import aitex, fabric, loom
from draem_aitex.errors import InputError
from draem_aitex.files import write_whole

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def build_parser():
    """All commands and their arguments."""
    parser = _Parser(prog="python -m draem_aitex", description="DRAEM, a detector of fabric defects, on AITEX.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    data = {"type": Path, "metavar": "DIR", "help": "an AITEX folder; without it, simulated fabric is used"}

    simulate = commands.add_parser("simulate", help="write a folder of simulated fabric in AITEX's layout")
    simulate.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.set_defaults(run=run_simulate)

    verify = commands.add_parser("verify", help="compare an AITEX folder with the data set's manifest")
    verify.add_argument("--data", type=Path, required=True, metavar="DIR")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    verify.set_defaults(run=run_verify)

    download = commands.add_parser("download", help="fetch the AITEX data set, check and unpack it")
    download.add_argument("--data", type=Path, required=True, metavar="DIR", help="where it goes, such as data/aitex")
    download.add_argument("--url", default=None, metavar="BASE", help="another place that holds the three archives")
    download.set_defaults(run=run_download)

    train = commands.add_parser(
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
    train.add_argument(
        "--as-recorded", action="store_true", help="train on crops as they are, without other speeds and other light"
    )
    train.add_argument("--compile", action="store_true", help="compile the networks first; pays on CUDA")
    train.add_argument("--save-seconds", type=float, default=30, help="between checkpoints (default: 30)")
    train.add_argument("--fabric", nargs="+", default=[], metavar="FF", help="fabric codes; all without it")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="judge a checkpoint on rolls it has not seen")
    evaluate.add_argument("--data", **data)
    evaluate.add_argument("--checkpoint", type=Path, required=True)
    evaluate.add_argument("--part", choices=("test", "development"), default="test", help="which rolls (default: test)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    evaluate.add_argument("--keep", action="store_true", help="keep the figures in the checkpoint, for info")
    evaluate.add_argument("--report", type=Path, metavar="FILE.html", help="write one HTML page with pictures")
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate.set_defaults(run=run_evaluate)

    inspect = commands.add_parser("inspect", help="anomaly maps of pictures of your own")
    inspect.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    inspect.add_argument("--checkpoint", type=Path, required=True)
    inspect.add_argument("--out", type=Path, required=True, metavar="DIR")
    inspect.add_argument("--device", default="auto", help="auto, cpu or cuda")
    inspect.set_defaults(run=run_inspect)

    info = commands.add_parser("info", help="say what a checkpoint is: data, steps, seed, split, figures")
    info.add_argument("checkpoint", type=Path)
    info.set_defaults(run=run_info)
    return parser


def main(arguments=None):
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
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
        return INTERRUPTED


def run_simulate(options):
    """Write a simulated set; refuses a folder that is not empty."""
    folder = loom.simulate(options.out, seed=options.seed, progress=True)
    print(f"simulated fabric (not AITEX), seed {options.seed}: {folder}")


def run_verify(options):
    """Status 0 for a complete set or a clean part of it, 1 where a file is altered or unknown."""
    _check_writable(options.json)
    rows = aitex.verify(options.data)
    for row in rows:
        if row["status"] != "ok":
            print(f"{row['status']:8} {row['file']}")
    counts = Counter(row["status"] for row in rows)
    states = ("ok", "missing", "altered", "unknown")
    print(f"{options.data}: " + ", ".join(f"{counts[state]} {state}" for state in states) + " (of 354 files)")
    if (options.data / aitex.SIMULATED_MARK).is_file():
        print("this folder holds simulated fabric, made by the loom; it is not the AITEX data set")
    _write_json(options.json, {**{state: counts[state] for state in states}, "files": rows})
    return 1 if counts["altered"] or counts["unknown"] else 0


def run_download(options):
    """Licence position first, then the archives; ends with the same check as `verify`."""
    from draem_aitex import download

    print(download.LICENCE)
    for warning in download.download(options.data, options.url or download.BASE):
        print(f"note: {warning}")
    counts = Counter(row["status"] for row in aitex.verify(options.data))
    print(f"{options.data}: {counts['ok']} of 354 files of AITEX, {counts['altered']} altered")


def _open_data(folder):
    """The collection to work on, announced: AITEX where a folder is given, else the embedded simulated fabric."""
    if folder is None:
        collection = aitex.scan(loom.ensure_simulated())
    else:
        collection = aitex.scan(folder)
    print(f"data: {collection.source}, {len(collection.records)} rolls in {collection.root}")
    return collection


def _choose_fabrics(records, fabrics):
    known = sorted({record.fabric for record in records})
    for code in fabrics:
        if code not in known:
            raise InputError(f"--fabric {code}: no such fabric in this folder; expected some of {', '.join(known)}")
    return [record for record in records if not fabrics or record.fabric in fabrics]


def run_train(options):
    """Train; then levels, threshold and the development rolls' figures go into the checkpoint with the weights."""
    from draem_aitex import ranks

    _check_writable(options.out)
    config = _train_config(options)
    with ranks.joined(options.device) as device:
        if ranks.rank() > 0:
            sys.stdout = open(os.devnull, "w")
        return _train(options, config, device)


def _train_config(options):
    from draem_aitex.recipe import TrainConfig

    minutes = 8.0 if options.minutes is None and options.steps is None else options.minutes
    given = {name: getattr(options, name) for name in ("batch", "crop", "learning_rate")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.as_recorded:
        given["variation"] = None
    return TrainConfig.of_preset(options.preset, minutes=minutes, steps=options.steps, seed=options.seed, **given)


def _train(options, config, device):
    from draem_aitex import checkpoint, ranks, training

    collection = ranks.in_turn(lambda: _open_data(options.data))  # the first makes the simulated fabric, if need be
    fabrics = sorted(set(options.fabric))
    split = aitex.split_records(_choose_fabrics(collection.records, fabrics))
    if not split.train or not split.calibration:
        raise InputError(
            f"{collection.root}: {len(split.train)} training and {len(split.calibration)} calibration rolls; expected "
            "one or more of each; defect-free rolls whose number ends in 4 are kept for calibration, add some"
        )
    print(
        f"split by roll: {len(split.train)} train, {len(split.calibration)} calibration, "
        f"{len(split.development)} development, {len(split.test)} test"
    )
    extra = {"source": collection.source, "fabrics": fabrics, "split": checkpoint.describe_split(split)}
    result = training.train(
        fabric.load_rolls(split.train),
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
    if ranks.rank() == 0:
        _finish(options, device, result, split)
    return 0


def _finish(options, device, result, split):
    """Calibrate and judge a trained model, and write down how it was made; done once."""
    from draem_aitex import card, checkpoint, inference, metrics, report

    content = checkpoint.load_checkpoint(options.out)
    if "made" not in content:
        calibration = fabric.load_rolls(split.calibration)
        detector = inference.DraemDetector(result.model, inference.fabric_levels(result.model, calibration))
        threshold = metrics.calibrate(detector, calibration)
        content |= {"fabric_levels": detector.levels, "threshold": asdict(threshold), "made": _made(options, device)}
        if split.development:
            judged = report.evaluate(detector, split.development, threshold, quiet=not sys.stderr.isatty())
            content["figures"] = {"development": card.kept_figures(judged.figures())}
        checkpoint.save_checkpoint(options.out, content)
    threshold = metrics.Threshold(**content["threshold"])
    print(f"trained {result.steps} steps on {device.type}: {options.out}")
    print(
        f"threshold {threshold.value:.4g} for {threshold.wanted:.1%} false-alarm patches, from {threshold.patches} "
        f"patches of {threshold.rolls} calibration rolls"
    )
    if threshold.bound > threshold.wanted:
        print(f"note: {threshold.patches} patches are too few to promise that; they promise {threshold.bound:.1%}")


def _made(options, device):
    """When, where and by which command a checkpoint was made."""
    import torch

    from draem_aitex import machine, ranks

    start = "python" if ranks.count() == 1 else f"torchrun --nproc-per-node={ranks.count()}"
    given = {
        "data": options.data and "DIR",
        **{name: getattr(options, name) for name in ("minutes", "steps", "batch", "crop", "learning_rate")},
        "fabric": " ".join(options.fabric) or None,
        "preset": None if options.preset == "compact" else options.preset,
        "seed": options.seed or None,
    }
    words = [f"--{name.replace('_', '-')} {value:g}" if isinstance(value, float) else f"--{name} {value}"
             for name, value in given.items() if value is not None]  # fmt: skip
    words += ["--as-recorded"] if options.as_recorded else []
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(device),
        "command": " ".join([f"{start} -m draem_aitex train", *words, f"--out {options.out.name}"]),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def _load_detector(options, say_to):
    """Detector, content and threshold of a checkpoint; what it is goes to the stream `say_to`."""
    from draem_aitex import card, inference, machine, metrics

    device = machine.pick_device(options.device)
    detector, content = inference.DraemDetector.load(options.checkpoint, device, quiet=True)
    if "threshold" not in content:
        raise InputError(
            f"{options.checkpoint}: no threshold yet, its training was not finished; run the same train command again"
        )
    for line in card.headline(content, options.checkpoint):
        print(f"{options.checkpoint.name}: {line}", file=say_to)
    return detector, content, metrics.Threshold(**content["threshold"])


def run_evaluate(options):
    """Test on unseen rolls: a table, and JSON and HTML where asked for."""
    from draem_aitex import card, checkpoint, report

    _check_writable(options.json)
    _check_writable(options.report)
    detector, content, threshold = _load_detector(options, sys.stdout)
    collection = _open_data(options.data)
    if options.keep and collection.source != content["source"]:
        raise InputError(
            f"--keep: {options.checkpoint} was trained on {content['source']}, the rolls are {collection.source}; "
            "expected the same; leave --keep out"
        )
    if collection.source != content["source"]:
        print(f"note: trained on {content['source']}, tested on {collection.source}")
    records = report.unseen_records(content, getattr(aitex.split_records(collection.records), options.part))
    evaluation = report.evaluate(detector, records, threshold, quiet=not sys.stderr.isatty())
    figures = {
        "source": collection.source,
        "trained_on": content["source"],
        "part": options.part,
        "n_train_rolls": len(content["split"]["train"]),
        "n_calibration_rolls": len(content["split"]["calibration"]),
        **evaluation.figures(),
    }
    print(report.table(figures))
    if options.keep:
        kept = {**content.get("figures", {}), options.part: card.kept_figures(figures)}
        checkpoint.save_checkpoint(options.checkpoint, {**content, "figures": kept})
    _write_json(options.json, report.without_nan(figures))
    if options.report is not None:
        _write(options.report, report.html_page(evaluation, figures).encode())


def run_inspect(options):
    """A map, an overlay and a verdict for each picture. All pictures are read before anything is written."""
    from draem_aitex import plots

    stems = Counter(path.stem for path in options.images)
    twice = [path for path in options.images if stems[path.stem] > 1]
    if twice:
        raise InputError(f"{twice[0]} and {twice[1]}: one name for two results; expected different names; rename one")
    edges = {path: _edges(path) for path in options.images}
    detector, _, threshold = _load_detector(options, sys.stderr)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.images:
        image = aitex.read_image(path)
        code = aitex.fabric_code(path)
        scores = detector.predict(image, edges[path], code)
        _write_array(options.out / f"{path.stem}.npy", scores)
        _write_picture(options.out / f"{path.stem}.png", plots.overlay(image, scores, threshold.value))
        score = float(scores.max())
        verdict = "defect" if score > threshold.value else "ok"
        print(f"{path}  score {score:.4f}  threshold {threshold.value:.4f}  {verdict}")
        if code not in detector.levels:
            known = ", ".join(detector.levels)
            print(f"note: {path.name} names none of the calibrated fabrics {known}: scored as is", file=sys.stderr)


def run_info(options):
    """The card of a checkpoint, as Markdown."""
    from draem_aitex import card, checkpoint

    print(card.card(options.checkpoint.name, checkpoint.load_checkpoint(options.checkpoint)), end="")


def _edges(path):
    try:
        return fabric.fabric_edges(aitex.read_image(path))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _check_writable(path):
    """Before any work: a result that cannot be written is bad input."""
    if path is not None and (path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK)):
        raise InputError(f"{path}: cannot be written; expected a file in a folder that exists and can be written to")


def _write_json(path, content):
    if path is not None:
        _write(path, (json.dumps(content, indent=2) + "\n").encode())


def _write(path, data):
    write_whole(path, lambda file: file.write(data))


def _write_array(path, array):
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    _write(path, buffer.getvalue())


def _write_picture(path, rgb):
    import cv2

    _, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    _write(path, data.tobytes())


if __name__ == "__main__":
    sys.exit(main())
