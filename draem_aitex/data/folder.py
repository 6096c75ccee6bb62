"""Images of one's own: a folder is recognised by how it is laid out, its masks are paired, its images are split."""

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from draem_aitex.data.aitex import FOLDERS, load_aitex
from draem_aitex.data.images import SUFFIXES, bits_in_use, files_in, image_size
from draem_aitex.data.rolls import AITEX_NAME, NORMAL, OWN, SYNTHETIC, Collection, Reading, Record, read_mask
from draem_aitex.errors import InputError, check_type, printable
from draem_aitex.files import check_file, sha256

SOURCE, DEFECT = "own pictures", "bad"  # what a collection and a defect of it are called
NAMED = 6  # files that a quirk names before it says "…"
LAYOUTS = "train/good, test/KIND and ground_truth/KIND; or good, bad and masks; or normal images alone"
# Folders that say what is in them: what lies in the first ones is not normal, whatever folder these are in; where a
# layout is not whole, nothing in any of them is.
NOT_NORMAL = {"bad", "masks", "ground_truth", *FOLDERS["defective"], *FOLDERS["mask"]}
TELLING = {"good", "train", "test", "validation", *NOT_NORMAL}
ENDING = rf"(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)})?"
MASK_NAME = re.compile(rf"(.+?)({ENDING})(?:[_-](?:mask|gt|label|ground_truth)\d*)?{ENDING}")
RULE = "in the order of names, of five normal images the fourth is calibration"
RULES = {  # by layout
    "MVTec": f"{RULE}, the others train (validation/good is calibration where it is there); test stays as it is",
    "good and bad": f"{RULE}, the fifth test; of four defective ones the last is development, the others test",
    "normal images": f"{RULE}, the fifth test, as it is and with synthetic anomalies",
}


@dataclass
class _Found:
    """What lies in a folder, by role; each path is relative to it."""

    layout: str
    normal: dict[str, list[Path]]  # by part; "": to be split
    defective: list[Path]
    masks: list[Path]
    unused: list[Path]

    @property
    def images(self) -> list[Path]:
        """All images to read."""
        return [*(path for part in self.normal.values() for path in part), *self.defective]


def load_folder(
    root: Path | str, *, channels: int = 1, bit_depth: int | None = None, find_edges: bool = False
) -> Collection:
    """Find the images in a folder, pair the masks, and split by image; subfolders are read, letter case does not count.

    Four layouts are known. AITEX's is handed on to `load_aitex`. That of MVTec: `train/good`, `test/good`,
    `test/KIND`, masks in `ground_truth/KIND`. A short one: `good`, `bad` (or `bad/KIND`) and `masks`. And normal images
    alone, which are judged on synthetic anomalies. A mask has its image's name, with or without `_mask`, `_gt` or
    `_label` and a number behind it, and its size; see `masks.read_mask_file` for what counts as defect. A defective
    image without one counts at roll level only. What is not used is counted and named in `quirks`.

    Args:
        root: The folder.
        channels: 3 keeps colours; 1 computes grey levels.
        bit_depth: Of 16-bit files, 10 or 12 say; None takes what they use, all together.
        find_edges: Look for the fabric's edges, as in AITEX's rolls; else an image is all fabric.

    Returns:
        A `Collection` whose source is "own pictures: FOLDER" and whose `rule` says how it was split; its records have
        the fabric "own" and the defect "000", that of the folder KIND, or "bad".

    Raises:
        InputError: There is no normal image, the layout is not whole, an image is filed as normal and as defective, a
            mask cannot be true, or a folder cannot be read. An image that cannot be used is found when it is read.

    Example:
        >>> import shutil, tempfile; from draem_aitex import load_folder, load_simulated; root = tempfile.mkdtemp()
        >>> good = shutil.copytree(load_simulated().train[0].path.parent, root + "/good"); len(load_folder(root).train)
        6
    """
    check_type("root", root, str, os.PathLike)
    if not os.path.isdir(root):  # which answers for every name; `Path.is_dir` raises for one that is too long
        raise InputError(f"{root}: no such folder; expected one with images; give another (see data/README.md)")
    root, reading = Path(root), Reading(channels, bit_depth, find_edges, cover=True)
    if _is_aitex(root):
        if (channels, bit_depth) != (1, None):
            raise InputError(f"{root}: an AITEX folder, in grey of 8 bits; expected no other; leave the option out")
        return load_aitex(root)
    files = [path.relative_to(root) for path in files_in(root)]
    found = _sorted_out([path for path in files if path.suffix.lower() in SUFFIXES], root)
    _check_apart(root, found)
    masks, lost = _paired(found)
    bits = _bit_depth(root, found.images) if bit_depth is None else bit_depth
    reading = replace(reading, bit_depth=bits)
    normal = {part: _records(root, paths, masks, reading, NORMAL) for part, paths in found.normal.items()}
    defective = _records(root, found.defective, masks, reading)
    parts = _split(found.layout, normal, defective)
    records = [*(record for part in normal.values() for record in part), *defective]
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(read_mask, records):  # one that can't be true is found here
            continue
    quirks = [
        *_named("no images", [path for path in files if path.suffix.lower() not in SUFFIXES]),
        *_named("images in no folder of this layout", found.unused),
        *_named("masks of no image, or of several", lost),
        *_named("defective images without a mask", [p for p in found.defective if p not in masks], "image level only"),
        *_colours(root, found.images, channels),
    ]
    if bits is not None:
        quirks.append(f"16-bit images are taken to use {bits} bits, and stretched by these (--bit-depth says others)")
    source, rule = f"{SOURCE}: {printable(root.resolve().name)}", RULES[found.layout]
    judged = dict.fromkeys([*records, *parts["test"]])  # of normal images alone, those with synthetic anomalies too
    return Collection(
        root, source, tuple(judged), parts["train"], parts["calibration"], parts["development"], parts["test"],
        tuple(quirks), rule=rule,
    )  # fmt: skip


def _records(root, paths, masks, reading, defect=None):
    """A record for each path. defect: None calls it by its folder."""
    return [
        Record(
            root / path, number, defect or _kind(path), OWN, tuple(root / mask for mask in masks.get(path, ())),
            label=printable(path.as_posix()), reading=reading,
        )
        for number, path in enumerate(paths)
    ]  # fmt: skip


def _is_aitex(root):
    roles = [path for path in root.iterdir() if path.name.lower() in FOLDERS["normal"] + FOLDERS["defective"]]
    return any(AITEX_NAME.fullmatch(path.stem) for role in roles for path in files_in(role))


def _sorted_out(images: list[Path], root: Path) -> _Found:
    """The images of a folder by their roles. Raises `InputError` where none is known to be normal."""
    places = {path: tuple(part.lower() for part in path.parts[:-1]) for path in images}

    def within(*above: str) -> list[Path]:
        return [path for path in images if places[path][: len(above)] == above]

    good, trained = within("good"), within("train", "good") or [p for p in images if places[p] == ("train",)]
    if trained:
        normal = {"": trained, "calibration": within("validation", "good"), "test": within("test", "good")}
        defective = [p for p in images if len(places[p]) > 1 and places[p][0] == "test" and places[p][1] != "good"]
        found = _Found("MVTec", normal, defective, within("ground_truth"), [])
    elif good:
        found = _Found("good and bad", {"": good}, within("bad"), within("masks"), [])
    else:
        told = [path for path in images if TELLING & set(places[path])]
        stems, named = set(map(_stem, images)), [path for path in images if _bare(path) != _stem(path)]
        told += [path for path in named if _bare(path) in stems or len(named) == len(images)]
        if told or not images:
            what = (f"{told[0].as_posix()}, but " if told else "") + "no images known to be normal"
            raise InputError(f"{root}: {what}; expected {LAYOUTS}; put them so (see data/README.md)")
        return _Found("normal images", {"": images}, [], [], [])
    beside = {(places[path], _stem(path)) for path in found.images}  # masks that lie beside their images
    own = {path for path in found.images if _bare(path) != _stem(path) and (places[path], _bare(path)) in beside}
    found.normal = {part: [path for path in paths if path not in own] for part, paths in found.normal.items()}
    found.defective = [path for path in found.defective if path not in own]
    found.masks += sorted(own)
    for path in (path for part in found.normal.values() for path in part):
        if strange := NOT_NORMAL & set(places[path]):
            said = f"filed as normal, and in a folder {min(strange)}"
            raise InputError(f"{root / path}: {said}; expected one or the other; move it (see data/README.md)")
    used = {*found.images, *found.masks}
    found.unused = [path for path in images if path not in used]
    return found


def _check_apart(root: Path, found: _Found) -> None:
    """Raise `InputError` for a file that is two of normal, defective and mask: linked, or copied bit by bit."""
    roles = dict.fromkeys(found.images, "normal") | dict.fromkeys(found.defective, "defective")
    roles |= dict.fromkeys(found.masks, "a mask")
    sizes: dict[int, list[Path]] = {}
    for path in roles:
        check_file(root / path)
        sizes.setdefault((root / path).stat().st_size, []).append(path)
    for paths in sizes.values():  # none but files of one size are read for this
        owners: dict[str, Path] = {}
        for path in paths if len({roles[path] for path in paths}) > 1 else ():
            first = owners.setdefault(sha256(root / path), path)
            if roles[first] != roles[path]:
                said = f"the same image as {first}, one filed as {roles[first]}, the other as {roles[path]}"
                raise InputError(f"{root / path}: {said}; expected one or the other; remove the wrong one")


def _stem(path):
    return path.stem.lower()


def _bare(path):
    """A mask's name without what says that it is a mask, and without its image's ending: x_mask1, x.jpg and x are x."""
    match = MASK_NAME.fullmatch(_stem(path))
    return match[1] if match else _stem(path)


def _paired(found: _Found) -> tuple[dict[Path, list[Path]], list[Path]]:
    """The masks of each image, and those without one. Folders must agree, or else the name must be the only one.

    A mask whose name a defective image has is that one's, whatever normal ones are called.
    """
    roles = _by_name(found.defective), _by_name(found.images)
    masks: dict[Path, list[Path]] = {}
    lost = []
    for mask in found.masks:
        match = MASK_NAME.fullmatch(_stem(mask))
        names = (_stem(mask), match[1] + match[2], match[1]) if match else (_stem(mask),)
        fits = [own.get((folder, name), []) for own in roles for folder in (_below(mask), None) for name in names]
        owner = next((one[0] for one in fits if len(one) == 1), None)
        if owner is None:
            lost.append(mask)
        else:
            masks.setdefault(owner, []).append(mask)
    return masks, lost


def _by_name(images: Iterable[Path]) -> dict[tuple[object, str], list[Path]]:
    """Images by their name, with and without its ending: within the folders below that of their role, and in any."""
    owners: dict[tuple[object, str], list[Path]] = {}
    for path in images:
        for folder in (_below(path), None):
            for name in (_stem(path), path.name.lower()):
                owners.setdefault((folder, name), []).append(path)
    return owners


def _below(path):
    """The folders below the one that says the role, in lower case."""
    return tuple(part.lower() for part in path.parts[1:-1])


def _kind(path):
    """What a defect is called: the folder's name below bad or test."""
    kind = path.parts[1] if len(path.parts) > 2 else DEFECT
    return kind if kind not in (NORMAL, SYNTHETIC) else f"kind {kind}"


def _split(layout: str, normal: dict[str, list[Record]], defective: list[Record]) -> dict[str, tuple[Record, ...]]:
    """The parts of a collection, by `RULES`."""
    images, given = normal[""], normal.get("calibration", [])
    calibration = given or images[3::5] or images[1:][-1:]
    test = normal["test"] if layout == "MVTec" else images[4::5]
    train = [record for record in images if record not in calibration and record not in test]
    development = [] if layout == "MVTec" else defective[3::4]
    unseen = [record for record in defective if record not in development]
    if layout == "normal images":
        unseen = [replace(record, defect=SYNTHETIC) for record in test]
    parts = {"train": train, "calibration": calibration, "development": development, "test": test + unseen}
    return {part: tuple(records) for part, records in parts.items()}


def _bit_depth(root: Path, images: Iterable[Path]) -> int | None:
    """The bits that the 16-bit files among the images use, all together; None where there are none."""
    with ThreadPoolExecutor(2) as pool:
        return max((bits for bits in pool.map(bits_in_use, [root / path for path in images]) if bits > 8), default=None)


def _colours(root, images, channels):
    colour = sum(image_size(root / path)[2] > 2 for path in images)
    kept = "grey levels are computed (--channels 3 keeps colours)" if channels == 1 else "colours are kept"
    return [f"{colour} of {len(images)} images are stored in colour; {kept}"] if colour else []


def _named(what: str, paths: list[Path], used: str = "not used") -> list[str]:
    """A quirk that counts and names some paths; no quirk for none."""
    names = ", ".join(printable(path.as_posix()) for path in paths[:NAMED]) + (", …" if len(paths) > NAMED else "")
    return [f"{len(paths)} {what}; {used}: {names}"] if paths else []
