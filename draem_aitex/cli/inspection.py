"""Pictures of one's own under inspection: which files, which part of each is judged, and where something is found."""

from collections import Counter

from draem_aitex.data import fabric_edges
from draem_aitex.data.images import SUFFIXES, pictures_in, read_picture
from draem_aitex.detectors.regions import find_regions
from draem_aitex.errors import InputError


def find_pictures(paths, out):
    """The picture files that `paths`, files and folders in any mixture, stand for: a list, folders by file name.

    out: the folder of the results NAME.npy and NAME.png. Raises `InputError` for a folder without pictures, for two
    pictures of one name, and for a picture that its own result would replace.
    """
    found = []
    for path in paths:
        inside = pictures_in(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: a folder without pictures; expected {', '.join(SUFFIXES)}; give another one")
        found += inside
    stems = Counter(path.stem for path in found)
    twice = [path for path in found if stems[path.stem] > 1]
    if len(set(twice)) == 1:
        raise InputError(f"{twice[0]}: given twice; expected every picture once; leave one out")
    if twice:
        first = twice[0]
        second = next(path for path in twice[1:] if path.stem == first.stem)
        raise InputError(f"{first} and {second}: one name for two results; expected different names; rename one")
    for path in found:
        if path.resolve() == (out / f"{path.stem}.png").resolve():
            raise InputError(f"{path}: its own result would replace it; expected another folder; choose another --out")
    return found


def part_to_judge(path):
    """The columns of a picture to judge, and what its user should know of the file: `(edges, notes)`.

    The fabric's columns; all of them where no fabric is found, as in a close-up or a cloth without a repeat. Raises
    `InputError` for a file that is no readable picture.
    """
    image, notes = read_picture(path)
    try:
        return fabric_edges.fabric_edges(image), notes
    except InputError as error:
        reason = str(error).split(";")[0]
        return (0, image.shape[1]), [*notes, f"{reason}; judged as a whole"]


def record(path, fabric_code, normalised, scores, threshold, edges, notes):
    """What was found in one picture: a dict of plain values, for JSON.

    normalised: whether the scores were moved by the fabric's level; of others the threshold's rate is unknown.
    """
    score = float(scores.max())
    return {
        "path": str(path),
        "score": score,
        "threshold": threshold,
        "verdict": "defect" if score > threshold else "ok",
        "fabric": fabric_code,
        "normalised": normalised,
        "edges": list(edges),
        "regions": find_regions(scores, threshold),
        "notes": notes,
    }
