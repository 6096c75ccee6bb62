"""`evaluate`: judge a detector on unseen rolls: a table, and JSON and HTML where asked for."""

import argparse
import sys
from pathlib import Path
from typing import Any

from draem_aitex.cli import shared
from draem_aitex.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_data(parser)
    shared.add_checkpoint(parser)
    parser.add_argument("--part", choices=("test", "development"), default="test", help="which rolls (default: test)")
    parser.add_argument("--fpr", type=float, metavar="RATE", help="another threshold, for this false-positive rate")
    parser.add_argument("--mm-per-px", type=float, metavar="MM", help="resolution, for figures in mm and a metre")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--keep", action="store_true", help="keep the figures in the checkpoint, for info")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write one HTML page with images")


def run(options: argparse.Namespace) -> None:
    from draem_aitex.evaluation.evaluator import evaluate
    from draem_aitex.training import distributed

    with shared.joined(options):
        distributed.on_first(lambda: claim(options))
        detector, data = distributed.in_turn(lambda: opened(options))
        how = {"fpr": options.fpr, "mm_per_px": options.mm_per_px, "images": options.report is not None}
        rolls = getattr(data, options.part)
        evaluation = evaluate(detector, rolls, quiet=not sys.stderr.isatty(), shared=True, **how)
        evaluation.source, evaluation.part = data.source, options.part
        evaluation.headline = "\n".join(shared.lines_about(options, detector))
        distributed.on_first(lambda: keep(options, detector, evaluation))


def claim(options: argparse.Namespace) -> None:
    """Check what is to be written, and keep other runs from it."""
    shared.check_ending(options.json, ".json")
    shared.check_ending(options.report, ".html")
    if options.keep and (options.bfloat16 or options.fpr is not None):
        raise InputError("--keep: with another threshold or sixteen bits; expected the checkpoint's own; leave one out")
    if options.keep and not Path(options.checkpoint).is_file():
        raise InputError(f"--keep: {options.checkpoint} is not a file; expected a checkpoint of yours; give its path")
    results = [options.json, options.report]
    if options.keep:
        shared.claim(options, [*results, options.checkpoint])
    else:
        shared.claim(options, results, [options.checkpoint])


def opened(options: argparse.Namespace) -> tuple[Any, Any]:
    """Detector and rolls, announced. Raises `InputError` for figures to keep that are of other rolls than its own."""
    detector = shared.open_detector(options)
    print("\n".join(shared.lines_about(options, detector)))
    data = shared.open_data(options, detector.reading)
    trained_on = detector.about.get("source")
    if data.source != trained_on:
        if options.keep:
            found = f"{options.checkpoint} was trained on {trained_on}, the rolls are {data.source}"
            raise InputError(f"--keep: {found}; expected the same; leave --keep out")
        print(f"note: trained on {trained_on}, tested on {data.source}")
    return detector, data


def keep(options: argparse.Namespace, detector: Any, evaluation: Any) -> None:
    """Print the table and write what was asked for: figures into the checkpoint, JSON, an HTML page."""
    from draem_aitex.evaluation.text_table import without_nan
    from draem_aitex.training.model_card import kept_figures

    print(evaluation)
    figures = evaluation.figures()
    if options.keep:
        detector.about.setdefault("figures", {})[options.part] = kept_figures(figures)
        detector.save(options.checkpoint)
    written = {options.json: shared.as_json(without_nan(figures))}
    if options.report is not None:
        written[options.report] = evaluation.page()
    shared.write_results(written)
