"""`inspect`: a map, an overlay and a line for each image, and JSON where asked for.

An image that cannot be judged is named, the others are judged, and the status is 2. Otherwise it is 3 with
--fail-on-defect, where an image is defective.
"""

import argparse
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from draem_aitex import files
from draem_aitex.cli import shared
from draem_aitex.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="an image, or a folder of images")
    shared.add_checkpoint(parser, bfloat16=None)
    shared.add_bound(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where maps and overlays go")
    parser.add_argument("--fabric", metavar="FF", help="the images' fabric, where their names do not say it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write score, verdict and regions of each image")
    parser.add_argument("--fail-on-defect", action="store_true", help="exit status 3 where an image is defective")


def run(options: argparse.Namespace) -> int:
    from draem_aitex.detectors.inspection import inspected
    from draem_aitex.training import distributed

    def told(images: Iterable[tuple[Path, Path]]) -> list[dict[str, Any]]:
        with closing(inspected(detector, images, options.out, options.fabric)) as outcomes:
            return tell(outcomes, about)

    with shared.joined(options):
        names = distributed.on_first(lambda: claim(options))
        detector = distributed.in_turn(lambda: open_detector(options))
        about = lines_about(options, detector, names)
        everyone = distributed.on_all(lambda: told(distributed.share(list(names.items()))))
        outcomes = [outcome for one in everyone for outcome in one]
        tell(outcomes[len(everyone[0]) :], about)  # those of the other processes
        seen, failed = ([one for one in outcomes if ("error" in one) is bad] for bad in (False, True))
        if seen:
            content = {"checkpoint": Path(options.checkpoint).name, "images": seen, "failed": failed}
            distributed.on_first(lambda: shared.write_results({options.json: shared.as_json(content)}))
    if failed:
        return shared.BAD_INPUT
    return shared.DEFECTIVE if options.fail_on_defect and any(one["verdict"] == "defective" for one in seen) else 0


def claim(options: argparse.Namespace) -> dict[Path, Path]:
    """The images, see `find_images`; the folder of their results is made, and other runs are kept from it."""
    from draem_aitex.detectors.inspection import results_of

    shared.check_ending(options.json, ".json")
    names = find_images(options.images, options.out)
    results = [path for name in names.values() for path in results_of(options.out, name)]
    read = [*names, options.checkpoint]
    files.check_outputs(results, read, new_folders=True)
    options.held.enter_context(files.folder(options.out))
    options.held.enter_context(files.locked(options.out / "inspect"))
    shared.claim(options, [options.json], [*read, *results])
    files.remove_leftovers(results)
    return names


def open_detector(options: argparse.Namespace) -> Any:
    """`shared.open_detector`. Raises `InputError` also for a fabric that it is not calibrated for."""
    detector = shared.open_detector(options)
    if options.fabric is not None and not detector.is_calibrated(options.fabric):
        known = ", ".join(detector.offsets) or "none"
        raise InputError(f"--fabric {options.fabric}: not calibrated; expected one of {known}, or leave it out")
    return detector


def lines_about(options: argparse.Namespace, detector: Any, images: Collection[Path]) -> list[str]:
    """What the images are judged by."""
    from draem_aitex.data.rolls import fabric_code

    lines = shared.lines_about(options, detector)
    strangers = sum(not detector.is_calibrated(options.fabric or fabric_code(path)) for path in images)
    if strangers:
        known = ", ".join(detector.offsets) or "none"
        found = f"{strangers} of {len(images)} images name no calibrated fabric ({known}): scored as is"
        lines.append(f"note: {found}, and the threshold's FPR does not hold; --fabric names it")
    return lines


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


def tell(outcomes: Iterable[dict[str, Any]], about: list[str]) -> list[dict[str, Any]]:
    """Print the outcomes of images as they come, see `inspection.keep`; returns them all.

    about: lines on standard error, said and taken from the list before the first image that was judged: where none can
    be, the errors alone are said.
    """
    told = []
    for outcome in outcomes:
        told.append(outcome)
        if "error" in outcome:
            shared.say(f"error: {outcome['error']}")
            continue
        while about:
            shared.say(about.pop(0))
        for note in outcome["notes"]:
            shared.say(f"note: {outcome['path']}: {note}")
        count = len(outcome["regions"])
        regions = f"{count} region{'' if count == 1 else 's'}"
        scores = f"score {outcome['score']:.4f}  threshold {outcome['threshold']:.4f}"
        print(f"{outcome['path']}  {scores}  {regions}  {outcome['verdict']}")
    return told
