"""What the commands of the command line do, each with the parsed options; `train` is in `train_command`."""

import io
import json
import os
import sys
from collections import Counter

import cv2
import numpy as np

from draem_aitex import aitex, fabric, loom
from draem_aitex.errors import InputError
from draem_aitex.files import write_whole

INTERRUPTED = 130  # exit status


def simulate(options):
    """Write a simulated set; refuses a folder that is not empty."""
    folder = loom.simulate(options.out, seed=options.seed, progress=True)
    print(f"simulated fabric (not AITEX), seed {options.seed}: {folder}")


def verify(options):
    """Status 0 for a complete set or a clean part of it, 1 where a file is altered or unknown."""
    check_writable(options.json)
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


def download(options):
    """Licence position first, then the archives; ends with the same check as `verify`."""
    from draem_aitex import download

    print(download.LICENCE)
    for warning in download.download(options.data, options.url or download.BASE):
        print(f"note: {warning}")
    counts = Counter(row["status"] for row in aitex.verify(options.data))
    print(f"{options.data}: {counts['ok']} of 354 files of AITEX, {counts['altered']} altered")


def open_data(folder):
    """The collection to work on, announced: AITEX where a folder is given, else the embedded simulated fabric."""
    if folder is None:
        collection = aitex.scan(loom.ensure_simulated())
    else:
        collection = aitex.scan(folder)
    print(f"data: {collection.source}, {len(collection.records)} rolls in {collection.root}")
    return collection


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


def evaluate(options):
    """Test on unseen rolls: a table, and JSON and HTML where asked for."""
    from draem_aitex import card, checkpoint, report

    check_writable(options.json)
    check_writable(options.report)
    detector, content, threshold = _load_detector(options, sys.stdout)
    collection = open_data(options.data)
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


def inspect(options):
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


def info(options):
    """The card of a checkpoint, as Markdown."""
    from draem_aitex import card, checkpoint

    print(card.card(options.checkpoint.name, checkpoint.load_checkpoint(options.checkpoint)), end="")


def _edges(path):
    try:
        return fabric.fabric_edges(aitex.read_image(path))
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def check_writable(path):
    """Before any work: a result that cannot be written is bad input."""
    if path is not None and (path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK)):
        raise InputError(f"{path}: cannot be written; expected a file in a folder that exists and can be written to")


def _write_json(path, content):
    if path is not None:
        _write(path, (json.dumps(content, indent=2) + "\n").encode())


def _write(path, data):
    write_whole(path, lambda file: file.write(data))


def _write_array(path, array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    _write(path, buffer.getvalue())


def _write_picture(path, rgb):
    _, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    _write(path, data.tobytes())
