"""Images of one's own: a folder with `good`, a few in `bad`, their masks in `masks`."""

from pathlib import Path

from draem_aitex.data.images import images_in
from draem_aitex.data.rolls import NORMAL, Collection, Record
from draem_aitex.errors import InputError

SOURCE, FABRIC, DEFECT = "own pictures", "own", "bad"  # what a collection, a record and a defect of it are called


def load_folder(root: Path | str) -> Collection:
    """Find the images in a folder of your own, pair the masks, and split by image.

    Normal images lie in `root/good`, defective ones in `root/bad`, masks in `root/masks`: PNG, JPEG, TIFF or BMP. A
    mask has its image's name (with or without `_mask` behind it) and size, and is defect above grey level 127; a
    defective image without one counts at roll level only. The split goes by the order of the names: of five normal
    images the fourth is calibration and the fifth test, and of four defective ones the last is development and the
    others test. Of fewer than four normal images the last is calibration.

    Args:
        root: The folder.

    Returns:
        A `Collection` whose source is "own pictures"; its records have the fabric "own" and the defect "000" or "bad".

    Raises:
        InputError: There is no normal image. A file that cannot be used is found when it is read.

    Example:
        >>> import shutil, tempfile; from draem_aitex import load_folder, load_simulated; root = tempfile.mkdtemp()
        >>> good = shutil.copytree(load_simulated().train[0].path.parent, root + "/good"); len(load_folder(root).train)
        6
    """
    root = Path(root)
    good, bad = images_in(root / "good"), images_in(root / "bad")
    if not good:
        raise InputError(f"{root}: no images in {root / 'good'}; expected PNG, JPEG, TIFF or BMP; put some there")
    masks = {path.stem.removesuffix("_mask"): path for path in images_in(root / "masks")}
    normal = [Record(path, number, NORMAL, FABRIC) for number, path in enumerate(good)]
    defective = []
    for number, path in enumerate(bad):
        own_masks = (masks.pop(path.stem),) if path.stem in masks else ()
        defective.append(Record(path, number, DEFECT, FABRIC, own_masks))
    calibration, test = normal[3::5] or normal[1:][-1:], normal[4::5]
    held_out = {record.number for record in calibration + test}
    train = [record for record in normal if record.number not in held_out]
    test += [record for record in defective if record.number % 4 != 3]
    quirks = tuple(f"{path.name}: a mask of no image; unused" for path in masks.values())
    records, development = (*normal, *defective), tuple(defective[3::4])
    return Collection(root, SOURCE, records, tuple(train), tuple(calibration), development, tuple(test), quirks)
