"""What the commands of the command line do, with the parsed options; `train` and `fit` have modules of their own."""

import io
import json
import math
import os
import sys
from collections import Counter

import cv2
import numpy as np

from draem_aitex import devices, workflow
from draem_aitex.cli import inspection
from draem_aitex.data import aitex, images
from draem_aitex.detectors import onnx, regions
from draem_aitex.detectors.calibration import Calibration, Threshold
from draem_aitex.errors import InputError
from draem_aitex.evaluation import evaluator, html_report, text_table
from draem_aitex.files import write_whole
from draem_aitex.simulation import loom
from draem_aitex.training import checkpoint, model_card

DEFECTIVE, INTERRUPTED = 3, 130  # exit statuses


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
    from draem_aitex.data import download

    print(download.LICENCE)
    for warning in download.download(options.data, options.url or download.BASE):
        print(f"note: {warning}")
    counts = Counter(row["status"] for row in aitex.verify(options.data))
    print(f"{options.data}: {counts['ok']} of 354 files of AITEX, {counts['altered']} altered")


def open_data(folder):
    """The collection to work on, announced: AITEX where a folder is given, else the embedded simulated fabric."""
    if folder is None:
        collection = aitex.load_aitex(loom.ensure_simulated())
    else:
        collection = aitex.load_aitex(folder)
    print(f"data: {collection.source}, {len(collection.records)} rolls in {collection.root}")
    return collection


def _load_detector(options):
    """Detector, whichever it is, content and threshold of a checkpoint."""

    device, sixteen_bits = devices.pick_device(options.device), getattr(options, "bfloat16", False)
    detector, content = workflow.load_detector(options.checkpoint, device, quiet=True, bfloat16=sixteen_bits)
    if "threshold" not in content:
        raise InputError(
            f"{options.checkpoint}: no threshold yet, its training was not finished; run the same train command again"
        )
    return detector, content, Threshold(**content["threshold"])


def _lines_about(options, content):
    """What a checkpoint is, each line with its name."""

    return [f"{options.checkpoint.name}: {line}" for line in model_card.headline(content)]


def evaluate(options):
    """Test on unseen rolls: a table, and JSON and HTML where asked for."""

    check_writable(options.json, ".json")
    check_writable(options.report, ".html")
    if options.mm_per_px is not None and not 0 < options.mm_per_px < math.inf:
        raise InputError(f"--mm-per-px {options.mm_per_px:g}: expected millimetres above 0; leave it out if unknown")
    if options.keep and (options.bfloat16 or options.fpr is not None):
        raise InputError("--keep: with another threshold or sixteen bits; expected the checkpoint's own; leave one out")
    detector, content, threshold = _load_detector(options)
    if options.fpr is not None:
        threshold = _threshold_for(options, content)
    print("\n".join(_lines_about(options, content)))
    collection = open_data(options.data)
    if options.keep and collection.source != content["source"]:
        raise InputError(
            f"--keep: {options.checkpoint} was trained on {content['source']}, the rolls are {collection.source}; "
            "expected the same; leave --keep out"
        )
    if collection.source != content["source"]:
        print(f"note: trained on {content['source']}, tested on {collection.source}")
    records = evaluator.unseen_records(content, getattr(collection, options.part))
    quiet, pictures = not sys.stderr.isatty(), options.report is not None
    evaluation = evaluator.evaluate(detector, records, threshold, quiet, options.mm_per_px, pictures)
    figures = {
        "source": collection.source,
        "trained_on": content["source"],
        "part": options.part,
        "n_train_rolls": len(content["split"]["train"]),
        "n_calibration_rolls": len(content["split"]["calibration"]),
        **evaluation.figures(),
    }
    print(text_table.table(figures))
    if options.keep:
        content["figures"] = {**content.get("figures", {}), options.part: model_card.kept_figures(figures)}
        checkpoint.save_checkpoint(options.checkpoint, content)
    _write_json(options.json, text_table.without_nan(figures))
    if options.report is not None:
        _write(options.report, html_report.html_page(evaluation, figures, _lines_about(options, content)).encode())


def _threshold_for(options, content):
    """The threshold for another false-alarm rate, from the calibration scores that the checkpoint keeps."""

    if "calibration" not in content:
        raise InputError(
            f"{options.checkpoint}: no calibration scores, it was trained by an older version; expected some for "
            "--fpr; leave the option out, or train anew"
        )
    kept = content["calibration"]
    calibration = Calibration(np.array(kept["scores"]), kept["rolls"])
    try:
        return calibration.threshold(options.fpr)
    except InputError as error:
        raise InputError(f"--false-alarm-{error}") from None


def inspect(options):
    """A map, an overlay and a line for each picture, and JSON where asked for. All are read before anything is written.

    Status 3 with --fail-on-defect, where a picture is called defective.
    """

    paths = inspection.find_pictures(options.images, options.out)
    if options.json is not None and options.json.parent != options.out:  # that folder may be new
        check_writable(options.json, ".json", paths)
    parts = {path: inspection.part_to_judge(path) for path in paths}
    detector, content, threshold = _load_detector(options)
    known = ", ".join(detector.offsets) or "none"
    if options.fabric is not None and not detector.is_calibrated(options.fabric):
        raise InputError(f"--fabric {options.fabric}: not calibrated; expected one of {known}, or leave it out")
    codes = {path: options.fabric or aitex.fabric_code(path) for path in paths}
    for path, (edges, _) in parts.items():
        _check_fits(detector, path, edges, codes[path])
    print("\n".join(_lines_about(options, content)), file=sys.stderr)
    strangers = sum(not detector.is_calibrated(code) for code in codes.values())
    if strangers:
        print(
            f"note: {strangers} of {len(paths)} pictures name no calibrated fabric ({known}): scored as is, and the "
            "threshold's false-alarm rate does not hold for them; --fabric names it",
            file=sys.stderr,
        )
    options.out.mkdir(parents=True, exist_ok=True)
    records = []
    for path, (edges, notes) in parts.items():
        image = images.read_image(path)
        normalised = detector.is_calibrated(codes[path])
        scores = detector.predict(image, edges, codes[path] if normalised or detector.fabrics else None)
        _write_array(options.out / f"{path.stem}.npy", scores)
        _write_picture(options.out / f"{path.stem}.png", regions.overlay(image, scores, threshold.value))
        records.append(inspection.record(path, codes[path], normalised, scores, threshold.value, edges, notes))
        _print_record(records[-1])
    _write_json(options.json, {"checkpoint": options.checkpoint.name, "pictures": records})
    defective = any(record["verdict"] == "defect" for record in records)
    return DEFECTIVE if options.fail_on_defect and defective else 0


def _check_fits(detector, path, edges, code):
    """Raise `InputError` for a picture that the detector cannot judge."""
    if not detector.judges(code):
        raise InputError(
            f"{path}: fabric {code or 'not named'}; expected one of {', '.join(detector.fabrics)}, which alone this "
            "detector can judge; name it with --fabric, or leave the picture out"
        )
    height = len(images.read_image(path)) if detector.least > 1 else 1
    if min(height, edges[1] - edges[0]) < detector.least:
        raise InputError(
            f"{path}: {height} x {edges[1] - edges[0]} pixels of fabric; expected {detector.least} x {detector.least} "
            f"or more for {detector.name}; leave it out"
        )


def _print_record(record):
    for note in record["notes"]:
        print(f"note: {record['path']}: {note}", file=sys.stderr)
    count = len(record["regions"])
    print(
        f"{record['path']}  score {record['score']:.4f}  threshold {record['threshold']:.4f}  "
        f"{count} region{'' if count == 1 else 's'}  {record['verdict']}"
    )


def export(options):
    """Write the networks of a checkpoint as ONNX, with preprocessing and calibration inside."""

    check_writable(options.file, ".onnx")
    detector, content, threshold = _load_detector(options)
    if content["detector"] != "draem":
        raise InputError(f"{options.checkpoint}: holds {detector.name}; expected DRAEM, which alone has an ONNX form")
    print("\n".join(_lines_about(options, content)), file=sys.stderr)
    size = onnx.export(detector, content, options.file)
    fabrics = ", ".join(detector.offsets) or "none"
    print(f"{options.file}: ONNX, {size / 1e6:.1f} MB, threshold {threshold.value:.4f}, calibrated fabrics {fabrics}")


def info(options):
    """The card of a checkpoint, as Markdown."""

    print(model_card.card(options.checkpoint.name, checkpoint.load_checkpoint(options.checkpoint)), end="")


def check_writable(path, ending=None, inputs=()):
    """Before any work: a result that cannot be written, or that would replace an input, is bad input."""
    if path is not None and ending is not None and path.suffix != ending:
        raise InputError(f"{path}: the file to write; expected a name that ends in {ending}; choose another name")
    if path is not None and path.resolve() in {other.resolve() for other in inputs}:
        raise InputError(f"{path}: the file to write is an input as well; expected another name; choose one")
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
