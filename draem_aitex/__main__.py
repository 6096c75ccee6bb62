"""The command line: `python -m draem_aitex simulate | verify | download | train | evaluate | inspect`.

Bad input gives one line on standard error and status 2.
"""

import argparse
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from draem_aitex import aitex, fabric, loom
from draem_aitex.errors import InputError

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

    train = commands.add_parser("train", help="train a detector; run again, it resumes")
    train.add_argument("--data", **data)
    train.add_argument("--out", type=Path, required=True, metavar="CHECKPOINT")
    budget = train.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="training time (default: 8)")
    budget.add_argument("--steps", type=int)
    train.add_argument("--preset", default="compact", help="compact (default), or paper: the published networks")
    train.add_argument("--fabric", nargs="+", default=[], metavar="FF", help="fabric codes; all without it")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.set_defaults(run=run_train)

    evaluate = commands.add_parser("evaluate", help="judge a checkpoint on rolls it has not seen")
    evaluate.add_argument("--data", **data)
    evaluate.add_argument("--checkpoint", type=Path, required=True)
    evaluate.add_argument("--part", choices=("test", "development"), default="test", help="which rolls (default: test)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    evaluate.add_argument("--report", type=Path, metavar="FILE.html", help="write one HTML page with pictures")
    evaluate.add_argument("--device", default="auto", help="auto, cpu or cuda")
    evaluate.set_defaults(run=run_evaluate)

    inspect = commands.add_parser("inspect", help="anomaly maps of pictures of your own")
    inspect.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    inspect.add_argument("--checkpoint", type=Path, required=True)
    inspect.add_argument("--out", type=Path, required=True, metavar="DIR")
    inspect.add_argument("--device", default="auto", help="auto, cpu or cuda")
    inspect.set_defaults(run=run_inspect)
    return parser


def main(arguments=None):
    """Run one command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except InputError as error:
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
    """Train, then take the threshold from the calibration rolls and store it in the checkpoint."""
    from draem_aitex import checkpoint, inference, metrics, training

    minutes = 8.0 if options.minutes is None and options.steps is None else options.minutes
    config = training.TrainConfig(preset=options.preset, minutes=minutes, steps=options.steps, seed=options.seed)
    device = training.pick_device(options.device)
    collection = _open_data(options.data)
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
        fabric.load_rolls(split.train), config, options.out, device, extra, quiet=not sys.stderr.isatty()
    )
    if not result.finished:
        print(f"interrupted at step {result.steps}; {options.out} is saved: the same command resumes it")
        return INTERRUPTED
    calibration = fabric.load_rolls(split.calibration)
    levels = inference.fabric_levels(result.model, calibration)
    threshold = metrics.calibrate(inference.DraemDetector(result.model, levels), calibration)
    content = checkpoint.load_checkpoint(options.out)
    calibrated = {"fabric_levels": levels, "threshold": asdict(threshold)}
    checkpoint.save_checkpoint(options.out, {**content, **calibrated})
    print(f"trained {result.steps} steps on {device.type}: {options.out}")
    print(
        f"threshold {threshold.value:.4g} for {threshold.wanted:.1%} false-alarm patches, from {threshold.patches} "
        f"patches of {threshold.rolls} calibration rolls"
    )
    if threshold.bound > threshold.wanted:
        print(f"note: {threshold.patches} patches are too few to promise that; they promise {threshold.bound:.1%}")


def _load_detector(options):
    from draem_aitex import inference, metrics, training

    detector, content = inference.DraemDetector.load(options.checkpoint, training.pick_device(options.device))
    if "threshold" not in content:
        raise InputError(
            f"{options.checkpoint}: no threshold yet, its training was not finished; run the same train command again"
        )
    return detector, content, metrics.Threshold(**content["threshold"])


def run_evaluate(options):
    """Test on unseen rolls: a table, and JSON and HTML where asked for."""
    from draem_aitex import report

    _check_writable(options.json)
    _check_writable(options.report)
    detector, content, threshold = _load_detector(options)
    collection = _open_data(options.data)
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
    detector, _, threshold = _load_detector(options)
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


def _edges(path):
    try:
        return fabric.fabric_edges(aitex.read_image(path))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _check_writable(path):
    """Before any work: a result that cannot be written is bad input."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f"{path}: cannot be written; expected a file in an existing folder; make the folder first")


def _write_json(path, content):
    if path is not None:
        _write(path, (json.dumps(content, indent=2) + "\n").encode())


def _write(path, data):
    """Write bytes atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
