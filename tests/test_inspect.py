import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_cli import fails_with_one_line

from draem_aitex.cli import inspection
from draem_aitex.cli.main import main
from draem_aitex.data import fabric_edges
from draem_aitex.data.images import images_in, read_image, read_noted
from draem_aitex.detectors import regions
from draem_aitex.errors import InputError
from draem_aitex.simulation import loom

MODEL = ROOT / "checkpoints/compact_loom.pt"


def inspect(*arguments):
    return main(["inspect", *map(str, arguments), "--checkpoint", str(MODEL)])


@pytest.fixture(scope="module")
def grey():
    """A smooth picture, which JPEG keeps within a few grey levels."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).round().astype(np.uint8)


@pytest.fixture(scope="module")
def cloth():
    """Simulated fabric without a defect, 128 x 256 pixels."""
    parts = loom.simulate_roll_parts("01", generator=np.random.default_rng(0))
    return np.ascontiguousarray(parts.image[:128, 1000:1256])


def save(path, image):
    assert cv2.imwrite(str(path), image)
    return path


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def kinds_of_files(grey):
    one = Image.fromarray(grey)
    rgb = one.convert("RGB")
    return {
        "grey.png": encoded(one, "PNG"),
        "grey.jpg": encoded(one, "JPEG", quality=95),
        "progressive.jpeg": encoded(one, "JPEG", quality=95, progressive=True),
        "colour.jpg": encoded(rgb, "JPEG", quality=95),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG", quality=95),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "lzw.tiff": encoded(one, "TIFF", compression="tiff_lzw"),
        "palette.png": encoded(rgb.quantize(256), "PNG"),
        "palette.bmp": encoded(rgb.quantize(256), "BMP"),
        "transparent.png": encoded(rgb.quantize(256), "PNG", transparency=0),
        "alpha.png": encoded(one.convert("LA"), "PNG"),
        "rgba.tif": encoded(rgb.convert("RGBA"), "TIFF"),
        "deep.png": cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes(),
        "deep_colour.tif": cv2.imencode(".tif", np.dstack([grey] * 3).astype(np.uint16) * 257)[1].tobytes(),
        "pages.tif": encoded(one, "TIFF", save_all=True, append_images=[Image.fromarray(255 - grey)] * 2),
    }


def test_every_kind_of_file_becomes_its_grey_levels(grey, tmp_path):
    for name, data in kinds_of_files(grey).items():
        (tmp_path / name).write_bytes(data)
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8 and image.shape == grey.shape, name
        assert np.abs(image.astype(int) - grey).max() <= (6 if b"\xff\xd8\xff" in data[:3] else 1), name


def test_what_a_file_loses_is_said(grey, tmp_path):
    (tmp_path / "pages.tif").write_bytes(kinds_of_files(grey)["pages.tif"])
    assert read_noted(tmp_path / "pages.tif")[1] == ["3 pages; the first is used"]
    dark = save(tmp_path / "dark.png", grey.astype(np.uint16) * 16)  # twelve bits of a camera, stored in sixteen
    assert read_noted(dark)[1] == ["16 bits, divided by 257: grey levels 0 to 15 of 255"]
    assert read_noted(save(tmp_path / "plain.png", grey))[1] == []


def test_a_truncated_jpeg_is_named_even_with_a_preview_in_its_header(grey, tmp_path):
    whole = encoded(Image.fromarray(grey), "JPEG", quality=95)
    preview = b"\xff\xe1" + struct.pack(">H", 2 + len(whole)) + whole  # with an end mark of its own
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[:2] + preview + whole[2:])
    assert read_image(path).shape == grey.shape
    for size in (3, 40, len(whole), len(whole) + len(preview) - 2):
        path.write_bytes((whole[:2] + preview + whole[2:])[:size])
        with pytest.raises(InputError, match=rf"cut.jpg: truncated JPEG \({size} bytes, no end mark\)"):
            read_image(path)
    path.write_bytes(whole + b"\0" * 100)  # some cameras write more behind the end
    assert read_image(path).shape == grey.shape


def test_files_that_are_no_pictures_get_one_line_each(grey, cloth, tmp_path, capfd):
    good = save(tmp_path / "good.png", cloth)
    size = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    png = encoded(Image.fromarray(grey), "PNG")
    bad = {
        "empty.png": (b"", "0 bytes"),
        "text.png": (b"this is no picture\n" * 20, "not a readable picture (380 bytes)"),
        "cut.tif": (encoded(Image.fromarray(grey), "TIFF")[:3000], "not a readable picture"),
        "cut.bmp": (encoded(Image.fromarray(grey), "BMP")[:3000], "not a readable picture"),
        "cut.jpg": (encoded(Image.fromarray(grey), "JPEG")[:700], "truncated JPEG"),
        "cut.png": (png[:700], "truncated PNG"),
        "huge.png": (png[:16] + size + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + png[33:], "OpenCV cannot"),
        "float.tif": (cv2.imencode(".tif", grey.astype(np.float32))[1].tobytes(), "pixels of type float32"),
    }
    for name, (data, words) in bad.items():
        (tmp_path / name).write_bytes(data)
        arguments = ["inspect", good, tmp_path / name, "--checkpoint", MODEL, "--out", tmp_path / "out"]
        fails_with_one_line(capfd, arguments, tmp_path / name, words)
    assert not (tmp_path / "out").exists()


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
    assert "4 of 4 pictures name no calibrated fabric (00, 01, 02, 03, 04, 05, 06): scored as is" in printed.err
    assert len(list(out.iterdir())) == 9 and len(json.loads((out / "found.json").read_text())["pictures"]) == 4


def test_folders_and_files_that_cannot_be_told_apart_or_would_be_lost(cloth, tmp_path, capsys):
    picture = save(tmp_path / "a.png", cloth)
    before = picture.read_bytes()
    (tmp_path / "none").mkdir()
    common = ["--checkpoint", MODEL, "--out", tmp_path / "out"]
    fails_with_one_line(capsys, ["inspect", tmp_path / "none", *common], "none: a folder without pictures", ".png")
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
    assert json.loads((tmp_path / "f.json").read_text())["pictures"][0]["edges"] == [0, shape[1]]


def test_edges_that_cross_are_no_edges(tmp_path, monkeypatch):
    monkeypatch.setattr(fabric_edges, "_weave_onset", lambda weave: 40)
    monkeypatch.setattr(fabric_edges, "_selvedge_start", lambda image, start: start)
    monkeypatch.setattr(fabric_edges, "_weave", lambda image, dark: np.zeros(image.shape[1]))
    path = save(tmp_path / "a.png", np.full((64, 64), 90, np.uint8))
    edges, notes = inspection.part_to_judge(path)
    assert edges == (0, 64) and notes == ["no fabric: its edges cross, at columns 40 and 24; judged as a whole"]


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
        outcomes.append(json.loads((tmp_path / "f.json").read_text())["pictures"][0])
        assert ("1 of 1 pictures name no calibrated fabric" in capsys.readouterr().err) == (not more)
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
    for path, line, record, verdict in zip(pictures, lines, content["pictures"], ("defect", "ok"), strict=True):
        scores = np.load(tmp_path / "out" / f"{path.stem}.npy")
        assert record["path"] == str(path) and record["verdict"] == verdict == line.split()[-1]
        assert record["score"] == scores.max() and record["fabric"] is None and len(record["edges"]) == 2
        assert (record["score"] > record["threshold"]) == bool(record["regions"])
        count = len(record["regions"])
        assert f"  {count} region{'' if count == 1 else 's'}  {verdict}" in line
        assert sum(region["pixels"] for region in record["regions"]) == (scores > record["threshold"]).sum()
    place = content["pictures"][0]["regions"][0]
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
