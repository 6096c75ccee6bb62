import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from conftest import ROOT
from test_cli import fails_with_one_line

from draem_aitex import files, workflow
from draem_aitex.cli.inspect import find_images
from draem_aitex.cli.main import main
from draem_aitex.data.images import images_in
from draem_aitex.detectors import regions
from draem_aitex.detectors.inspection import ahead
from draem_aitex.errors import InputError
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
    (folder / "folder.png/below").mkdir(parents=True)
    for name in ("b.png", "a.TIF", "c.bmp", ".hidden.png", "folder.png/below/a.png"):
        save(folder / name, cloth)
    (folder / "notes.txt").write_text("not a picture")
    found = images_in(folder)
    assert [str(path.relative_to(folder)) for path in found] == ["a.TIF", "b.png", "c.bmp", "folder.png/below/a.png"]
    other = save(tmp_path / "other.png", cloth)
    out = tmp_path / "out"
    assert inspect(other, folder, "--out", out, "--json", out / "found.json") == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [str(other), *map(str, found)]
    assert "5 of 5 images name no calibrated fabric (00, 01, 02, 03, 04, 05, 06): scored as is" in printed.err
    names = ["other", "a", "b", "c", "folder.png/below/a"]
    results = {out / f"{name}.{ending}" for name in names for ending in ("png", "npy")} | {out / "found.json"}
    assert {path for path in out.rglob("*") if path.is_file()} == results
    assert len(json.loads((out / "found.json").read_text())["images"]) == 5


def test_folders_and_files_that_cannot_be_told_apart_or_would_be_lost(cloth, tmp_path, capsys):
    picture = save(tmp_path / "a.png", cloth)
    before = picture.read_bytes()
    (tmp_path / "none").mkdir()
    common = ["--checkpoint", MODEL, "--out", tmp_path / "out"]
    fails_with_one_line(capsys, ["inspect", tmp_path / "none", *common], "none: a folder without images", ".png")
    fails_with_one_line(capsys, ["inspect", picture, tmp_path, *common], "given twice")
    beside = ["inspect", picture, "--checkpoint", MODEL, "--out", tmp_path]
    fails_with_one_line(capsys, beside, picture, "an input as well")
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


def test_a_file_beside_the_images_is_never_replaced(cloth, tmp_path, capsys):
    """`inspect a.jpg --out .` would write its overlay over the mask a.png."""
    picture, mask = save(tmp_path / "a.jpg", cloth), save(tmp_path / "a.png", cloth)
    before = mask.read_bytes()
    refused = ["inspect", picture, "--checkpoint", MODEL, "--out", tmp_path]
    fails_with_one_line(capsys, refused, mask, "not written by this program")
    assert mask.read_bytes() == before and sorted(tmp_path.iterdir()) == [picture, mask]
    mask.rename(tmp_path / "a.npy")
    fails_with_one_line(capsys, refused, "a.npy", "not written by this program")
    mine = tmp_path / "found.json"
    mine.write_text('{"mine": 1}')
    common = ["--checkpoint", MODEL, "--out", tmp_path / "out"]
    fails_with_one_line(capsys, ["inspect", picture, *common, "--json", mine], mine, "not written by this program")
    assert mine.read_text() == '{"mine": 1}' and not (tmp_path / "out").exists()


def test_again_the_same_results_are_replaced_and_overlays_are_no_images(cloth, tmp_path):
    save(tmp_path / "a.jpg", cloth)
    (tmp_path / "empty.tif").touch()
    for _ in range(2):
        assert inspect(tmp_path, "--out", tmp_path, "--json", tmp_path / "found.json") == 2
        found = json.loads((tmp_path / "found.json").read_text())
        assert [record["path"] for record in found["images"]] == [str(tmp_path / "a.jpg")]
        assert [record["path"] for record in found["failed"]] == [str(tmp_path / "empty.tif")]
    (tmp_path / "empty.tif").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.npy", "a.png", "found.json"]


def test_equal_names_in_folders_do_not_meet(cloth, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    for path in (first / "a.png", first / "a.jpg", first / "b.jpg", second / "b.jpg"):
        save(path, cloth)
    names = find_images([first], tmp_path)
    assert {path.name: str(name) for path, name in names.items()} == {"a.jpg": "a.jpg", "a.png": "a.png", "b.jpg": "b"}
    names = find_images([first, second], tmp_path)
    assert [str(name) for name in names.values()] == ["first/a.jpg", "first/a.png", "first/b", "second/b"]
    assert inspect(first, second, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/first/a.jpg.npy").exists() and (tmp_path / "out/second/b.png").exists()
    capsys.readouterr()
    common = ["--checkpoint", MODEL, "--out", tmp_path / "out"]
    fails_with_one_line(capsys, ["inspect", first / "a.png", first / "a.jpg", *common], "one name for two results")
    (tmp_path / "third/b.png").mkdir(parents=True)  # a folder whose name is that of an overlay
    for path in (tmp_path / "third/b.jpg", tmp_path / "third/b.png/c.jpg"):
        save(path, cloth)
    fails_with_one_line(capsys, ["inspect", tmp_path / "third", *common], "out/b.png: named for a file and for a")


def test_one_bad_file_among_good_ones_stops_nothing(cloth, tmp_path, capsys):
    """And is worse than a defect: nobody knows what is in it."""
    good = cloth.copy()
    good[50:74, 100:130] = 255
    save(tmp_path / "a.png", good)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    save(tmp_path / "c.png", cloth)
    options = ["--out", tmp_path / "out", "--json", tmp_path / "found.json", "--fail-on-defect"]
    assert inspect(tmp_path, *options) == 2
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == [str(tmp_path / "a.png"), str(tmp_path / "c.png")]
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(tmp_path / "b.png") in errors[0]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [f"error: {failed['error']}" for failed in found["failed"]] == errors
    assert [record["verdict"] for record in found["images"]] == ["defective", "normal"]
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_two_runs_into_one_folder(cloth, tmp_path, capsys):
    picture, out = save(tmp_path / "a.png", cloth), tmp_path / "out"
    out.mkdir()
    with files.locked(out / "inspect"):
        assert inspect(picture, "--out", out) == 2
    assert "another run is writing it" in capsys.readouterr().err and not list(out.iterdir())


def test_images_are_read_ahead_and_written_behind_in_order_and_no_more_than_two_at_once():
    begun, used = [], []

    def work(number):
        begun.append(number)
        if number == 3:
            raise InputError("three")
        return number * number

    with ThreadPoolExecutor(2) as threads:
        for (number,), future in ahead(threads, work, ((number,) for number in range(6))):
            used.append(number)
            assert len(begun) <= len(used) + 1
            if number == 3:
                with pytest.raises(InputError, match="three"):
                    future.result()
            else:
                assert future.result() == number * number
    assert used == sorted(begun) == list(range(6))


def test_what_is_said_while_an_image_is_decoded_reaches_the_terminal():
    """A decoder's own words are kept from it by taking standard error away, from all threads."""
    code = """
import threading, time
from draem_aitex.cli.shared import say
from draem_aitex.data.damage import native_lines
with native_lines():
    thread = threading.Thread(target=say, args=("heard",))
    thread.start()
    time.sleep(0.2)
thread.join()
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "heard\n"


def test_sixteen_bits_are_taken_where_the_device_has_them_unless_refused(cloth, tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "computes_in_bfloat16", lambda device: True)
    path, scores = save(tmp_path / "cloth.png", cloth), {}
    for option in ("", "--bfloat16", "--no-bfloat16"):
        assert inspect(path, "--out", tmp_path / "out", *filter(None, [option])) == 0
        scores[option] = np.load(tmp_path / "out/cloth.npy")
    assert np.array_equal(scores[""], scores["--bfloat16"])
    assert 0 < np.abs(scores[""] - scores["--no-bfloat16"]).max() < 0.05
    monkeypatch.setattr(workflow, "computes_in_bfloat16", lambda device: False)
    assert inspect(path, "--out", tmp_path / "out") == 0
    assert np.array_equal(np.load(tmp_path / "out/cloth.npy"), scores["--no-bfloat16"])
