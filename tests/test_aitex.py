import json
import shutil

import cv2
import numpy as np
import pytest

from draem_aitex.cli.main import main
from draem_aitex.data import aitex, images, rolls
from draem_aitex.errors import InputError


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)
    return path


@pytest.fixture
def folder(tmp_path):
    """An AITEX folder with one quirk of each kind."""
    picture = np.full((256, 4096), 90, np.uint8)
    mask = np.zeros_like(picture)
    mask[100:110, 2000:2010] = 255
    write(tmp_path / "NODefect_images/2608691-202020u/0001_000_01.png", picture)
    write(tmp_path / "NODefect_images/2608691-202020u/0018_00_01.png", picture)
    write(tmp_path / "Defect_images/0003_019_01.png", cv2.cvtColor(picture, cv2.COLOR_GRAY2BGRA))
    write(tmp_path / "Defect_images/0044_019_04.png", picture)
    write(tmp_path / "Defect_images/0094_027_05.png", picture[:, :3796])
    write(tmp_path / "Defect_images/0100_025_08.png", picture)
    write(tmp_path / "Defect_images/0106_010_03.png", picture)
    write(tmp_path / "Mask_images/0003_019_01_mask.png", mask)
    write(tmp_path / "Mask_images/0044_019_04_mask1.png", mask)
    write(tmp_path / "Mask_images/0044_019_04_mask2.png", np.roll(mask, 500, axis=1))
    write(tmp_path / "Mask_images/0094_027_05_mask.png", mask[:, :3796])
    write(tmp_path / "Mask_images/0106_010_03_mask.png", np.zeros_like(mask))
    write(tmp_path / "Mask_images/0107_010_03_mask.png", mask)
    return tmp_path


@pytest.fixture
def odd_folder(folder):
    """The same with what copies and careless hands add."""
    grey = np.full((256, 4096), 90, np.uint8)
    (folder / "Defect_images/unused").mkdir()
    shutil.move(folder / "Defect_images/0094_027_05.png", folder / "Defect_images/unused")
    (folder / "Mask_images/notes.txt").write_text("masks")
    write(folder / "NODefect_images/2608691-202020u/copy/0001_000_01.png", grey)
    write(folder / "NODefect_images/2311694-2040n7u/0002_000_01.png", grey)
    write(folder / "Defect_images/0005_077_01.png", grey)
    write(folder / "Defect_images/0007_000_01.png", grey)
    mask = np.zeros_like(grey)
    mask[100:110, 2000:2010] = 255
    mask[110, 2000:2010] = 100
    write(folder / "Mask_images/0003_019_01_mask.png", mask)
    return folder


def by_name(collection):
    return {record.name: record for record in collection.records}


def test_names_become_records(folder):
    records = by_name(aitex.load_aitex(folder))
    assert len(records) == 7
    assert records["0018_00_01"].is_normal and records["0018_00_01"].fabric == "01"
    assert (records["0003_019_01"].number, records["0003_019_01"].defect) == (3, "019")


def test_two_masks_of_a_roll_are_joined(folder):
    mask = rolls.read_mask(by_name(aitex.load_aitex(folder))["0044_019_04"])
    assert mask.dtype == bool and mask.sum() == 2 * 100


@pytest.mark.parametrize(
    "quirk",
    [
        "0018_00_01.png: malformed",
        "0044_019_04.png: 2 masks",
        "0094_027_05.png: 3796 x 256",
        "0100_025_08.png: no mask",
        "0106_010_03.png: its mask is empty",
        "0107_010_03: has a mask but no image",
        "1 files carry an alpha channel; ignored: 0003_019_01.png",
        "1 of 5 masks have grey edges",
        "Mask_images/notes.txt: not a PNG",
        "Defect_images/unused/0094_027_05.png: in a folder called unused",
        "NODefect_images/2608691-202020u/copy/0001_000_01.png: the same name",
        "0002_000_01.png: lies in another fabric's folder (2311694-2040n7u)",
        "0005_077_01.png: unknown defect code 077",
        "0007_000_01.png: lies among the defective",
    ],
)
def test_every_quirk_is_reported(odd_folder, quirk):
    assert sum(found.startswith(quirk) for found in aitex.find_quirks(aitex.load_aitex(odd_folder))) == 1


def test_a_grey_mask_edge_is_cut_at_the_stated_level(odd_folder):
    assert rolls.read_mask(by_name(aitex.load_aitex(odd_folder))["0003_019_01"]).sum() == 100


def test_records_name_their_defect(odd_folder):
    assert aitex.defect_name("019") == "fuzzyball" and aitex.defect_name("000") == "no defect"
    assert aitex.defect_name("077") == "unknown defect"


def test_the_real_quirks_are_found(real):
    """Those of the complete set whose rolls are here (the set's documentation lists none of them)."""
    present = {record.name for record in real.records}
    known = {
        "0018_00_01": "malformed name", "0100_025_08": "no mask", "0106_010_03": "its mask is empty",
        "0044_019_04": "2 masks", "0097_030_03": "2 masks", "0094_027_05": "3796 x 256",
    }  # fmt: skip
    found = aitex.find_quirks(real)
    for name, words in known.items():
        if name in present:
            assert any(quirk.startswith(f"{name}.png") and words in quirk for quirk in found), name
    assert any("masks have grey edges" in quirk for quirk in found)


def test_copies_with_other_folder_names(folder):
    shutil.move(folder / "NODefect_images/2608691-202020u", folder / "NoDefect")
    shutil.move(folder / "Defect_images", folder / "Defect")
    shutil.move(folder / "Mask_images", folder / "Mask")
    assert len(aitex.load_aitex(folder).records) == 7


def test_split_is_by_number_and_has_no_overlap(simulated):
    split = aitex.load_aitex(simulated)
    assert all(record.number % 10 == 4 for record in split.calibration)
    assert all(record.number % 10 == 9 or not record.is_normal for record in split.test)
    assert all(record.number % 4 == 0 and not record.is_normal for record in split.development)
    parts = [split.train, split.calibration, split.development, split.test]
    names = [record.path for part in parts for record in part]
    assert len(names) == len(set(names)) == len(aitex.load_aitex(simulated).records)
    assert all(record.is_normal for record in split.train + split.calibration)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_no_aitex_folder(tmp_path, make, capsys):
    make(tmp_path / "data")
    for command in (["verify"], ["train", "--out", str(tmp_path / "x.pt")]):
        assert main([*command, "--data", str(tmp_path / "data")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(tmp_path / "data") in error
    assert not (tmp_path / "x.pt").exists()


def test_mask_of_another_size(folder):
    write(folder / "Mask_images/0003_019_01_mask.png", np.zeros((256, 4000), np.uint8))
    with pytest.raises(InputError, match="0003_019_01_mask.png: mask of 4000 x 256 pixels for an image of 4096 x 256"):
        rolls.read_mask(by_name(aitex.load_aitex(folder))["0003_019_01"])


def test_pictures_of_every_depth_become_the_same_grey(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    paths = [
        write(tmp_path / "a.png", grey),
        write(tmp_path / "b.tiff", grey.astype(np.uint16) * 257),
        write(tmp_path / "c.png", cv2.cvtColor(grey, cv2.COLOR_GRAY2BGRA)),
        write(tmp_path / "d.bmp", cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)),
    ]
    for path in paths:
        assert np.array_equal(images.read_image(path), grey), path


def test_verify_tells_altered_unknown_and_missing(folder, tmp_path, capsys):
    assert main(["verify", "--data", str(folder), "--json", str(tmp_path / "v.json")]) == 1
    printed = capsys.readouterr().out
    assert "altered  Defect_images/0044_019_04.png" in printed
    assert "unknown  Defect_images/0003_019_01.png" in printed
    table = json.loads((tmp_path / "v.json").read_text())
    assert table["missing"] + table["altered"] + table["ok"] == 354 and table["unknown"] == 3


def test_manifest_is_the_complete_set():
    rows = aitex.read_manifest()
    assert len(rows) == 354 and len({row["path"] for row in rows}) == 354
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_real_part_is_clean(real, tmp_path, capsys):
    assert main(["verify", "--data", str(real.root), "--json", str(tmp_path / "v.json")]) == 0
    table = json.loads((tmp_path / "v.json").read_text())
    assert table["ok"] + table["missing"] == 354 and not table["altered"] and not table["unknown"]


def test_a_changed_byte_is_found(real, tmp_path, capsys):
    name = "Defect_images/0001_002_00.png"
    target = tmp_path / name
    target.parent.mkdir()
    data = bytearray((real.root / name).read_bytes())
    data[-20] ^= 1
    target.write_bytes(data)
    assert main(["verify", "--data", str(tmp_path)]) == 1
    assert f"altered  {name}" in capsys.readouterr().out


def test_disputed_rolls_are_trained_on_and_calibrated_with_by_nobody(tmp_path):
    """Filed as normal, with a bar that a person sees; on the loom's rolls the same names mean nothing."""
    folder = tmp_path / "NODefect_images" / aitex.FABRIC_FOLDERS["02"]
    for number in (11, 12):
        write(folder / f"{number:04}_000_02.png", np.full((256, 4096), 90, np.uint8))
    collection = aitex.load_aitex(tmp_path)
    assert [record.name for record in collection.train] == ["0011_000_02"] and len(collection.records) == 2
    assert by_name(collection)["0012_000_02"].disputed == ((245, 205, 4096, 252),)
    assert any(
        quirk == "0012_000_02.png: filed as normal, but holds a defect; in no part" for quirk in collection.quirks
    )
    (tmp_path / aitex.SIMULATED_MARK).write_text("{}")
    assert len(aitex.load_aitex(tmp_path).train) == 2


def test_disputed_boxes_lie_on_rolls_and_on_no_mask(real):
    present = {record.name: record for record in real.records}
    assert aitex.read_disputed() and all(name in present for name in aitex.read_disputed() if len(present) > 150)
    for name in set(aitex.read_disputed()) & set(present):
        roll = rolls.load_roll(present[name])
        for left, top, right, bottom in roll.disputed:
            assert 0 <= left < right <= roll.image.shape[1] and 0 <= top < bottom <= roll.image.shape[0]
            assert roll.mask is None or not roll.mask[top:bottom, left:right].any()
