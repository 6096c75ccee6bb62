"""`export`: write the networks of a checkpoint as ONNX, with preprocessing and calibration inside."""

import argparse
import sys
from pathlib import Path

from draem_aitex.cli import shared
from draem_aitex.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint")
    parser.add_argument("file", type=Path, metavar="FILE.onnx")
    parser.set_defaults(device="cpu")


def run(options: argparse.Namespace) -> None:
    from draem_aitex.detectors import onnx
    from draem_aitex.detectors.draem import DraemDetector

    shared.check_ending(options.file, ".onnx")
    shared.claim(options, [options.file], [options.checkpoint])
    detector = shared.open_detector(options)
    if not isinstance(detector, DraemDetector):
        raise InputError(f"{options.checkpoint}: holds {detector.name}; expected DRAEM, which alone has an ONNX form")
    print("\n".join(shared.lines_about(options, detector)), file=sys.stderr)
    size = onnx.export(detector, options.file)
    fabrics = ", ".join(detector.offsets) or "none"
    line = shared.threshold_line(detector)
    print(f"{options.file}: ONNX, {size / 1e6:.1f} MB, calibrated fabrics {fabrics}, {line}")
