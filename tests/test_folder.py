"""A folder of one's own images: what is found in it, how it is split, what its patches are."""

import cv2
import numpy as np
import pytest

from draem_aitex import load_folder
from draem_aitex.data.patcher import PatchDataset
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError
from draem_aitex.simulation import loom


@pytest.fixture
def folder(tmp_path):
    """Two normal images and two defective ones, one with a mask."""
    weave = loom.simulate_roll("01", "019", generator=np.random.default_rng(3), width=1024)
    for place in ("good", "bad", "masks"):
        (tmp_path / place).mkdir()
    image, mask = weave[0][:, 500:], weave[1][:, 500:]
    for name in ("good/a.png", "good/b.bmp", "bad/c.png", "bad/d.jpg"):
        cv2.imwrite(str(tmp_path / name), image if name.startswith("bad") else image[::-1])
    cv2.imwrite(str(tmp_path / "masks/c_mask.png"), mask.astype(np.uint8) * 255)
    return tmp_path


def test_images_masks_and_patches(folder):
    rolls = load_rolls(load_folder(folder).records)
    assert [(roll.name, roll.fabric, roll.defect, roll.mask is not None) for roll in rolls] == [
        ("good/a.png", "own", "000", False), ("good/b.bmp", "own", "000", False),
        ("bad/c.png", "own", "bad", True), ("bad/d.jpg", "own", "bad", False),
    ]  # fmt: skip
    labels = {}
    for item in PatchDataset(rolls, remainder="cover"):
        labels.setdefault(item["name"], set()).add(item["label"])
    assert labels["good/a.png"] == {0} and 1 in labels["bad/c.png"] and labels["bad/d.jpg"] == {-1}


@pytest.mark.parametrize(
    ("normal", "parts"),
    [
        (1, ("0", "", "")),
        (2, ("0", "1", "")),
        (4, ("012", "3", "")),
        (5, ("012", "3", "4")),
        (9, ("012567", "38", "4")),
    ],
)
def test_the_split_goes_by_the_order_of_names(tmp_path, normal, parts):
    for place, count in (("good", normal), ("bad", 5)):
        (tmp_path / place).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / place / f"{number}.png"), np.full((8, 8), 9 if place == "bad" else 99, np.uint8))
    data = load_folder(tmp_path)
    named = {
        part: "".join(r.path.stem for r in getattr(data, part) if r.is_normal)
        for part in ("train", "calibration", "test")
    }
    assert tuple(named.values()) == parts
    assert [r.path.stem for r in data.development] == ["3"]
    assert [r.path.stem for r in data.test if not r.is_normal] == ["0", "1", "2", "4"]


def test_a_mask_without_an_image_is_said(folder):
    cv2.imwrite(str(folder / "masks/x_mask.png"), np.zeros((8, 8), np.uint8))
    assert load_folder(folder).quirks == (
        "1 masks of no image, or of several; not used: masks/x_mask.png",
        "1 defective images without a mask; image level only: bad/d.jpg",
    )


def test_a_folder_that_cannot_be_used_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load_folder(tmp_path / "nowhere")
    cv2.imwrite(str(folder / "masks/c_mask.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match="c_mask.png: mask of 8 x 8 pixels"):
        load_rolls(load_folder(folder).records)
    (folder / "masks/c_mask.png").unlink()
    cv2.imwrite(str(folder / "good/a.png"), np.full((256, 300), 255, np.uint8))
    assert load_rolls(load_folder(folder).records)[0].edges == (0, 300)
    with pytest.raises(InputError, match="a.png: no fabric"):
        load_rolls(load_folder(folder, find_edges=True).records)
