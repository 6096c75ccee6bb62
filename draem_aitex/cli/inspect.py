"""`inspect`: a map, an overlay and a line for each image, and JSON where asked for.

All images are read before anything is written. Status 3 with --fail-on-defect, where an image is defective.
"""

import argparse
import sys
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from draem_aitex.cli import shared
from draem_aitex.errors import InputError
from draem_aitex.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of images")
    shared.add_checkpoint(parser)
    shared.add_bound(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where maps and overlays go")
    parser.add_argument("--fabric", metavar="FF", help="the images' fabric, where their names do not say it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write score, verdict and regions of each image")
    parser.add_argument("--fail-on-defect", action="store_true", help="exit status 3 where an image is defective")


def run(options: argparse.Namespace) -> int:
    import numpy as np
    from PIL import Image

    from draem_aitex.data.rolls import roll_of_file

    paths = find_images(options.images, options.out)
    if options.json is not None and options.json.parent != options.out:  # that folder may be new
        shared.check_writable(options.json, ".json", paths)
    rolls = [roll_of_file(path, options.fabric) for path in paths]
    detector = shared.open_detector(options)
    known = ", ".join(detector.offsets) or "none"
    if options.fabric is not None and not detector.is_calibrated(options.fabric):
        raise InputError(f"--fabric {options.fabric}: not calibrated; expected one of {known}, or leave it out")
    for path, (roll, _) in zip(paths, rolls, strict=True):
        detector.check(roll, str(path))
    print("\n".join(shared.lines_about(options, detector)), file=sys.stderr)
    strangers = sum(not detector.is_calibrated(roll.fabric) for roll, _ in rolls)
    if strangers:
        found = f"{strangers} of {len(paths)} images name no calibrated fabric ({known}): scored as is"
        warnings.warn(f"{found}, and the threshold's FPR does not hold; --fabric names it", stacklevel=1)
    options.out.mkdir(parents=True, exist_ok=True)
    records = []
    for path, (roll, notes) in zip(paths, rolls, strict=True):
        fabric = roll.fabric if detector.is_calibrated(roll.fabric) or detector.fabrics else ""
        result = detector.predict(roll, fabric=fabric)
        write_whole(options.out / f"{path.stem}.npy", partial(np.save, arr=result.map))
        overlay = Image.fromarray(result.overlay)
        write_whole(options.out / f"{path.stem}.png", partial(overlay.save, format="PNG"))
        records.append(record(path, result, roll.fabric, notes))
    shared.write_json(options.json, {"checkpoint": Path(options.checkpoint).name, "images": records})
    return shared.DEFECTIVE if options.fail_on_defect and any(r["verdict"] == "defective" for r in records) else 0


def find_images(paths: list[Path], out: Path) -> list[Path]:
    """The image files that `paths`, files and folders in any mixture, stand for; folders by file name.

    out: the folder of the results NAME.npy and NAME.png. Raises `InputError` for a folder without images, for two
    images of one name, and for an image that its own result would replace.
    """
    from draem_aitex.data.images import SUFFIXES, images_in

    found: list[Path] = []
    for path in paths:
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: a folder without images; expected {', '.join(SUFFIXES)}; give another one")
        found += inside
    stems = Counter(path.stem for path in found)
    twice = [path for path in found if stems[path.stem] > 1]
    if len(set(twice)) == 1:
        raise InputError(f"{twice[0]}: given twice; expected every image once; leave one out")
    if twice:
        first, second = twice[0], next(path for path in twice[1:] if path.stem == twice[0].stem)
        raise InputError(f"{first} and {second}: one name for two results; expected different names; rename one")
    for path in found:
        if path.resolve() == (out / f"{path.stem}.png").resolve():
            raise InputError(f"{path}: its own result would replace it; expected another folder; choose another --out")
    return found


def record(path: Path, result: Any, fabric: str, notes: list[str]) -> dict[str, Any]:
    """What was found in one image: a line, notes on standard error, and a dict of plain values for JSON."""
    for note in notes:
        print(f"note: {path}: {note}", file=sys.stderr)
    verdict, count = "defective" if result.is_defective else "normal", len(result.regions)
    regions = f"{count} region{'' if count == 1 else 's'}"
    print(f"{path}  score {result.score:.4f}  threshold {result.threshold:.4f}  {regions}  {verdict}")
    return {
        "path": str(path), "score": result.score, "threshold": result.threshold, "verdict": verdict,
        "fabric": fabric or None, "normalised": result.normalised, "edges": list(result.edges),
        "regions": result.regions, "notes": notes,
    }  # fmt: skip
