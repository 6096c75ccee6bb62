"""`inspect`: a map, an overlay and a line for each image, and JSON where asked for.

An image that cannot be judged is named, the others are judged, and the status is 2. Otherwise it is 3 with
--fail-on-defect, where an image is defective.
"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from draem_aitex import files
from draem_aitex.cli import shared
from draem_aitex.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of images")
    shared.add_checkpoint(parser)
    shared.add_bound(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where maps and overlays go")
    parser.add_argument("--fabric", metavar="FF", help="the images' fabric, where their names do not say it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write score, verdict and regions of each image")
    parser.add_argument("--fail-on-defect", action="store_true", help="exit status 3 where an image is defective")


def run(options: argparse.Namespace) -> int:
    from draem_aitex.devices import give_memory_back

    shared.check_ending(options.json, ".json")
    names = find_images(options.images, options.out)
    results = [path for name in names.values() for path in results_of(options.out, name)]
    read = [*names, options.checkpoint]
    among = [options.json] if options.json is not None and options.json.parent == options.out else []
    files.check_outputs([*results, *among], read, new_folders=True)
    shared.claim(options, [] if among else [options.json], [*read, *results])
    detector = shared.open_detector(options)
    if options.fabric is not None and not detector.is_calibrated(options.fabric):
        known = ", ".join(detector.offsets) or "none"
        raise InputError(f"--fabric {options.fabric}: not calibrated; expected one of {known}, or leave it out")
    records: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for path, name in names.items():
        try:
            judged = judge(detector, path, options.fabric)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            failed.append({"path": str(path), "error": str(error)})
            continue
        if not records:  # where no image can be judged nothing is said, and nothing made
            begin(options, detector, names)
            files.remove_leftovers(results)
        records.append(keep(options.out, name, path, *judged))
        give_memory_back()
    if records:
        content = {"checkpoint": Path(options.checkpoint).name, "images": records, "failed": failed}
        shared.write_results({options.json: shared.as_json(content)})
    if failed:
        return shared.BAD_INPUT
    return shared.DEFECTIVE if options.fail_on_defect and any(r["verdict"] == "defective" for r in records) else 0


def begin(options: argparse.Namespace, detector: Any, images: Iterable[Path]) -> None:
    """Say what the images are judged by, make the folder of the results and keep other runs from it."""
    from draem_aitex.data.rolls import fabric_code

    print("\n".join(shared.lines_about(options, detector)), file=sys.stderr)
    fabrics = [options.fabric or fabric_code(path) for path in images]
    strangers, known = sum(not detector.is_calibrated(fabric) for fabric in fabrics), ", ".join(detector.offsets)
    if strangers:
        found = f"{strangers} of {len(fabrics)} images name no calibrated fabric ({known or 'none'}): scored as is"
        warnings.warn(f"{found}, and the threshold's FPR does not hold; --fabric names it", stacklevel=1)
    options.out.mkdir(parents=True, exist_ok=True)
    options.held.enter_context(files.locked(options.out / "inspect"))


def find_images(paths: list[Path], out: Path) -> dict[Path, Path]:
    """The image files that `paths`, files and folders in any mixture, stand for: each with the name of its results.

    The name of an image that is named itself is that of its file; of one in a folder, or below it, its path in that
    folder, behind the folder's name where several are given; both without their ending, unless two in a folder differ
    in it alone. What this program wrote, such as overlays, is passed over in folders.

    Raises `InputError` for a file that is not there, a folder without images, an image given twice, and two images with
    one name.
    """
    several = sum(path.is_dir() for path in paths) > 1
    names: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            files.check_file(path)  # what is named must be there: whoever mistypes a name hears of it at once
        found = names_below(path) if path.is_dir() else {path: Path(path.stem)}
        for image, name in found.items():
            if image in names:
                raise InputError(f"{image}: given twice; expected every image once; leave one out")
            names[image] = Path(path.resolve().name, name) if several and path.is_dir() else name
    owners: dict[Path, Path] = {}
    for image, name in names.items():
        if (first := owners.setdefault(name, image)) is not image:
            said = f"one name for two results, {out / name}"
            raise InputError(f"{first} and {image}: {said}; expected different names; rename one, or give its folder")
    return names


def names_below(folder: Path) -> dict[Path, Path]:
    """The images in a folder, each with its name: see `find_images`. Raises `InputError` where there is none."""
    from draem_aitex.data.images import SUFFIXES, images_in

    places = {path: path.relative_to(folder) for path in images_in(folder) if not files.is_own(path)}
    if not places:
        raise InputError(f"{folder}: a folder without images; expected {', '.join(SUFFIXES)}; give another one")
    bare = {path: place.with_suffix("") for path, place in places.items()}
    owners = Counter(bare.values())
    return {path: name if owners[name] == 1 else places[path] for path, name in bare.items()}


def results_of(out: Path, name: Path) -> tuple[Path, Path]:
    """Where the overlay and the map of an image go, by the name of its results."""
    return out / f"{name}.png", out / f"{name}.npy"


def judge(detector: Any, path: Path, fabric: str | None) -> tuple[Any, str, list[str]]:
    """Prediction, fabric and notes for an image file. Raises `InputError` where it cannot be judged."""
    from draem_aitex.data.rolls import roll_of_file

    roll, notes = roll_of_file(path, fabric, reading=detector.reading)
    detector.check(roll, str(path))
    named = roll.fabric if detector.is_calibrated(roll.fabric) or detector.fabrics else ""
    return detector.predict(roll, fabric=named), roll.fabric, notes


def keep(out: Path, name: Path, path: Path, result: Any, fabric: str, notes: list[str]) -> dict[str, Any]:
    """Write an image's overlay and map; returns what `record` does."""
    import numpy as np
    from PIL import Image, PngImagePlugin

    mark = PngImagePlugin.PngInfo()
    mark.add_text("Software", files.MARK)
    overlay, scores = results_of(out, name)
    overlay.parent.mkdir(parents=True, exist_ok=True)
    write_overlay = partial(Image.fromarray(result.overlay).save, format="PNG", pnginfo=mark)
    files.write_together({overlay: write_overlay, scores: partial(np.save, arr=result.map)})
    return record(path, result, fabric, notes)


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
