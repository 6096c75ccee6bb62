import json

import cv2
import numpy as np
import pytest
from conftest import ROOT
from test_cli import fails_with_one_line

from draem_aitex.cli.main import main
from draem_aitex.data.images import images_in
from draem_aitex.detectors import regions
from draem_aitex.simulation import loom

MODEL = ROOT / "checkpoints/compact_loom.pt"


def inspect(*arguments):
    return main(["inspect", *map(str, arguments), "--checkpoint", str(MODEL)])


@pytest.fixture(scope="module")
def cloth():
    """Simulated fabric without a defect, 128 x 256 pixels."""
    image, _ = loom.simulate_roll("01", generator=np.random.default_rng(0))
    return np.ascontiguousarray(image[:128, 1000:1256])


def save(path, image):
    assert cv2.imwrite(str(path), image)
    return path


def test_a_folder_and_files_together(cloth, tmp_path, capsys):
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "folder.png").mkdir()
    for name in ("b.png", "a.TIF", "c.bmp", ".hidden.png", "below/d.png"):
        save(folder / name, cloth)
    (folder / "notes.txt").write_text("not a picture")
    assert [path.name for path in images_in(folder)] == ["a.TIF", "b.png", "c.bmp"]
    other = save(tmp_path / "other.png", cloth)
    out = tmp_path / "out"
    assert inspect(other, folder, "--out", out, "--json", out / "found.json") == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [str(other), *map(str, images_in(folder))]
    assert "4 of 4 images name no calibrated fabric (00, 01, 02, 03, 04, 05, 06): scored as is" in printed.err
    assert len(list(out.iterdir())) == 9 and len(json.loads((out / "found.json").read_text())["images"]) == 4


def test_folders_and_files_that_cannot_be_told_apart_or_would_be_lost(cloth, tmp_path, capsys):
    picture = save(tmp_path / "a.png", cloth)
    before = picture.read_bytes()
    (tmp_path / "none").mkdir()
    common = ["--checkpoint", MODEL, "--out", tmp_path / "out"]
    fails_with_one_line(capsys, ["inspect", tmp_path / "none", *common], "none: a folder without images", ".png")
    fails_with_one_line(capsys, ["inspect", picture, tmp_path, *common], "given twice")
    fails_with_one_line(capsys, ["inspect", picture, "--checkpoint", MODEL, "--out", tmp_path], picture, "replace it")
    fails_with_one_line(capsys, ["inspect", picture, *common, "--json", tmp_path / "no/f.json"], "no/f.json")
    assert picture.read_bytes() == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "level", "reason"),
    [((256, 512), 255, "blank"), ((64, 64), 0, "blank"), ((1, 1), 9, "1 x 1"), ((20, 300), None, "300 x 20")],
)
def test_a_readable_picture_without_fabric_is_judged_as_a_whole(shape, level, reason, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = save(tmp_path / "a.png", noise if level is None else np.full(shape, level, np.uint8))
    assert inspect(path, "--out", tmp_path / "out", "--json", tmp_path / "f.json") == 0
    error = capsys.readouterr().err
    assert f"note: {path}: no fabric: " in error and reason in error and "judged as a whole" in error
    scores = np.load(tmp_path / "out/a.npy")
    assert scores.shape == shape and (scores > 0).all()
    assert json.loads((tmp_path / "f.json").read_text())["images"][0]["edges"] == [0, shape[1]]


def test_a_record_never_replaces_a_picture(cloth, tmp_path, capsys):
    """`--json a.png b.png` takes the first picture for the file to write."""
    first, second = save(tmp_path / "a.png", cloth), save(tmp_path / "b.png", cloth)
    before = first.read_bytes()
    common = ["--checkpoint", MODEL, "--out", tmp_path / "out"]
    fails_with_one_line(capsys, ["inspect", "--json", first, second, *common], first, "ends in .json")
    fails_with_one_line(capsys, ["inspect", first, first, *common], first, "given twice")
    assert first.read_bytes() == before and not (tmp_path / "out").exists()


def test_the_fabric_can_be_named(cloth, tmp_path, capsys):
    path = save(tmp_path / "cloth.png", cloth)
    outcomes = []
    for more in ([], ["--fabric", "01"]):
        assert inspect(path, "--out", tmp_path / "out", "--json", tmp_path / "f.json", *more) == 0
        outcomes.append(json.loads((tmp_path / "f.json").read_text())["images"][0])
        assert ("1 of 1 images name no calibrated fabric" in capsys.readouterr().err) == (not more)
    assert [outcome["fabric"] for outcome in outcomes] == [None, "01"]
    assert outcomes[0]["score"] != outcomes[1]["score"]
    refused = ["inspect", path, "--checkpoint", MODEL, "--out", tmp_path / "new", "--fabric", "77"]
    fails_with_one_line(capsys, refused, "--fabric 77", "00, 01")
    assert not (tmp_path / "new").exists()


def test_a_defect_is_found_with_its_place_and_can_fail_the_command(cloth, tmp_path, capsys):
    torn = cloth.copy()
    torn[50:74, 100:130] = 255  # a hole, through which the light shines
    pictures = save(tmp_path / "torn.png", torn), save(tmp_path / "whole.png", cloth)
    common = ["--out", tmp_path / "out", "--json", tmp_path / "f.json"]
    assert inspect(*pictures, *common) == 0
    assert inspect(pictures[1], *common, "--fail-on-defect") == 0
    capsys.readouterr()
    assert inspect(*pictures, *common, "--fail-on-defect") == 3
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((tmp_path / "f.json").read_text())
    assert content["checkpoint"] == MODEL.name
    for path, line, record, verdict in zip(pictures, lines, content["images"], ("defective", "normal"), strict=True):
        scores = np.load(tmp_path / "out" / f"{path.stem}.npy")
        assert record["path"] == str(path) and record["verdict"] == verdict == line.split()[-1]
        assert record["score"] == scores.max() and record["fabric"] is None and len(record["edges"]) == 2
        assert (record["score"] > record["threshold"]) == bool(record["regions"])
        count = len(record["regions"])
        assert f"  {count} region{'' if count == 1 else 's'}  {verdict}" in line
        assert sum(region["pixels"] for region in record["regions"]) == (scores > record["threshold"]).sum()
    place = content["images"][0]["regions"][0]
    assert place["row"] < 74 and place["row"] + place["height"] > 50
    assert place["column"] < 130 and place["column"] + place["width"] > 100


def test_regions_are_connected_once_dilated():
    scores = np.zeros((100, 200), np.float32)
    assert regions.find_regions(scores, 0.5) == []
    scores[10:13, 20:24] = 0.6
    scores[10, 40] = 0.7  # 17 columns on: within twice the reach
    scores[90, 190] = 0.9
    scores[50, 100] = 0.5  # not above
    assert regions.find_regions(scores, 0.5) == [
        {"row": 90, "column": 190, "height": 1, "width": 1, "pixels": 1, "score": pytest.approx(0.9)},
        {"row": 10, "column": 20, "height": 3, "width": 21, "pixels": 13, "score": pytest.approx(0.7)},
    ]
