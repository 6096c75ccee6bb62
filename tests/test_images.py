"""Image files: every usual kind becomes the same grey levels, a file that cannot be used is named in one line."""

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from conftest import ROOT
from PIL import ExifTags, Image, ImageFile
from test_cli import fails_with_one_line

from draem_aitex.data.images import image_size, images_in, read_image, read_noted
from draem_aitex.errors import InputError

MODEL = ROOT / "checkpoints/compact_loom.pt"


@pytest.fixture(scope="module")
def grey():
    """A smooth image, which JPEG keeps within a few grey levels."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).round().astype(np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def kinds_of_files(grey):
    one = Image.fromarray(grey)
    rgb = one.convert("RGB")
    deep = grey.astype(np.uint16) * 257
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(255 - grey))
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
        "palette.tif": encoded(rgb.quantize(256), "TIFF"),
        "transparent.png": encoded(rgb.quantize(256), "PNG", transparency=0),
        "half_transparent.png": encoded(rgb.quantize(256), "PNG", transparency=bytes(range(256))),
        "alpha.png": encoded(one.convert("LA"), "PNG"),
        "rgba.png": encoded(rgba, "PNG"),
        "rgba.tif": encoded(rgba, "TIFF"),
        "deep.png": cv2.imencode(".png", deep)[1].tobytes(),
        "deep.tif": encoded(Image.fromarray(deep), "TIFF"),
        "deep_lzw.tif": cv2.imencode(".tif", deep)[1].tobytes(),
        "deep_colour.tif": cv2.imencode(".tif", np.dstack([deep] * 3))[1].tobytes(),
        "deep_colour.png": cv2.imencode(".png", np.dstack([deep] * 3))[1].tobytes(),
        "deep_alpha.png": cv2.imencode(".png", np.dstack([deep] * 4))[1].tobytes(),
        "pages.tif": encoded(one, "TIFF", save_all=True, append_images=[Image.fromarray(255 - grey)] * 2),
    }


def test_every_kind_of_file_becomes_its_grey_levels(grey, tmp_path):
    for name, data in kinds_of_files(grey).items():
        (tmp_path / name).write_bytes(data)
        image, notes = read_noted(tmp_path / name)
        assert image.dtype == np.uint8 and image.shape == grey.shape, name
        assert np.abs(image.astype(int) - grey).max() <= (6 if b"\xff\xd8\xff" in data[:3] else 1), name
        assert image_size(tmp_path / name)[:2] == grey.shape, name
        assert any(note.startswith("16 bits, 16 of them in use, divided by 257") for note in notes) == name.startswith(
            "deep"
        ), name
    channels = {"grey.png": 1, "deep.png": 1, "alpha.png": 2, "palette.png": 3, "colour.jpg": 3, "rgba.tif": 4}
    assert {name: image_size(tmp_path / name)[2] for name in channels} == channels


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_becomes_black_and_white(grey, kind, tmp_path):
    path = tmp_path / "bits"
    path.write_bytes(encoded(Image.fromarray(grey > 127), kind))
    assert np.array_equal(read_image(path), np.uint8(grey > 127) * 255)


def test_colour_becomes_grey_by_the_usual_weights(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    expected = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
    for kind in ("PNG", "TIFF", "BMP"):
        (tmp_path / "c").write_bytes(encoded(Image.fromarray(colours), kind))
        assert np.array_equal(read_image(tmp_path / "c"), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_colour_is_divided_too(suffix, tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (64, 96, 3)).astype(np.uint16)
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), deep)
    image, notes = read_noted(path)
    expected = cv2.cvtColor(deep, cv2.COLOR_BGR2GRAY) // 257
    assert np.abs(image.astype(int) - expected).max() <= 1
    levels = f"grey levels {image.min()} to {image.max()} of 255"
    assert notes == ["in colour; its grey levels are used", f"16 bits, 16 of them in use, divided by 257: {levels}"]
    colour = read_image(path, channels=3)
    assert np.array_equal(colour, deep[..., ::-1] // 257)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), *[("JPEG", {"subsampling": s, "progressive": p}) for s, p in ((0, False), (1, True), (2, False))]],
)
def test_a_good_file_is_decoded_once_to_the_pixels_that_pillow_gives(kind, options, channels, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3)).astype(np.uint8)
    path = tmp_path / "noise"
    path.write_bytes(encoded(Image.fromarray(noise if channels == 3 else noise[..., 0]), kind, **options))
    expected = np.asarray(Image.open(path))
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert np.array_equal(read_image(path, channels), expected)


def test_what_a_file_loses_is_said(grey, tmp_path):
    (tmp_path / "pages.tif").write_bytes(kinds_of_files(grey)["pages.tif"])
    assert read_noted(tmp_path / "pages.tif")[1] == ["3 pages; the first is used"]
    assert cv2.imwrite(str(tmp_path / "dark.png"), grey.astype(np.uint16) * 16)  # a camera's twelve bits in sixteen
    stretched, notes = read_noted(tmp_path / "dark.png")
    assert notes == ["16 bits, 12 of them in use, divided by 16.059: grey levels 0 to 254 of 255"]
    assert np.abs(stretched.astype(int) - grey).max() <= 1
    assert read_noted(tmp_path / "dark.png", bit_depth=16)[1] == [
        "16 bits, 16 of them given, divided by 257: grey levels 0 to 15 of 255"
    ]
    with pytest.raises(InputError, match="dark.png: values up to 4080; expected less than 1024 for a bit depth of 10"):
        read_image(tmp_path / "dark.png", bit_depth=10)
    (tmp_path / "plain.png").write_bytes(kinds_of_files(grey)["grey.png"])
    assert read_noted(tmp_path / "plain.png")[1] == []


TURNS = {3: lambda x: x[::-1, ::-1], 5: np.transpose, 6: lambda x: np.rot90(x, -1), 8: np.rot90}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})]
)
def test_an_image_is_turned_as_the_camera_was_held(grey, kind, options, orientation, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    expected = TURNS[orientation](grey)
    for image in (grey, grey.astype(np.uint16) * 257) if kind != "JPEG" else (grey,):
        path = tmp_path / "turned"
        path.write_bytes(encoded(Image.fromarray(image), kind, exif=exif, **options))
        found, notes = read_noted(path)
        assert np.abs(found.astype(int) - expected).max() <= (6 if kind == "JPEG" else 0)
        assert image_size(path) == (*expected.shape, 1)
        assert notes[0] == f"turned upright, as its EXIF orientation ({orientation}) says"


@pytest.mark.parametrize("orientation", [0, 9, 99])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_an_orientation_that_exif_does_not_have_turns_nothing(grey, kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation  # 0 is what some programs write for none
    path = tmp_path / "upright"
    path.write_bytes(encoded(Image.fromarray(grey), kind, exif=exif))
    image, notes = read_noted(path)
    assert notes == [] and image.shape == image_size(path)[:2] == grey.shape


def test_a_truncated_jpeg_is_named_even_with_a_preview_in_its_header(grey, tmp_path):
    whole = encoded(Image.fromarray(grey), "JPEG", quality=95)
    preview = b"\xff\xe1" + struct.pack(">H", 2 + len(whole)) + whole  # with an end mark of its own
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[:2] + preview + whole[2:])
    assert read_image(path).shape == grey.shape
    for size in (3, 40, len(whole), len(whole) + len(preview) - 2):
        path.write_bytes((whole[:2] + preview + whole[2:])[:size])
        with pytest.raises(InputError, match=rf"cut.jpg: not a readable image \({size} bytes; .*whole PNG, JPEG"):
            read_image(path)
    path.write_bytes(whole + b"\0" * 100)  # some cameras write more behind the end
    assert read_image(path).shape == grey.shape


@pytest.mark.parametrize("name", ["grey.png", "progressive.jpeg", "lzw.tiff", "deep.tif", "palette.bmp", "pages.tif"])
def test_a_file_of_any_kind_that_was_cut_is_named(grey, name, tmp_path, capfd):
    whole = kinds_of_files(grey)[name]
    for size in (1, 10, 60, len(whole) // 4, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(InputError, match=rf"{name}: not a readable image \({size} bytes; .*get the file anew$"):
            read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_damage_that_libtiff_finds_does_not_reach_the_terminal(grey, tmp_path, capfd):
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        data = bytearray(encoded(Image.fromarray(grey), "TIFF", compression=compression))
        data[200:220] = b"\xff" * 20
        (tmp_path / "damaged.tif").write_bytes(data)
        with pytest.raises(InputError, match="damaged.tif: not a readable image .*decoder error"):
            read_image(tmp_path / "damaged.tif")
    assert capfd.readouterr() == ("", "")


def test_what_pillow_logs_does_not_reach_the_terminal(grey, tmp_path):
    """Pillow logs an error where a TIFF states too many samples; in its own process, for pytest logs too."""
    data = bytearray(encoded(Image.fromarray(grey).convert("RGB"), "TIFF"))
    tag = data.index(struct.pack("<HHI", ExifTags.Base.SamplesPerPixel, 3, 1))
    data[tag + 8 : tag + 10] = struct.pack("<H", 3843)
    (tmp_path / "samples.tif").write_bytes(data)
    code = f"from draem_aitex.data.images import read_image; read_image({str(tmp_path / 'samples.tif')!r})"
    error = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert "samples.tif: not a readable image" in error and "More samples" not in error


def test_truncated_and_damaged_pngs_are_named(grey, tmp_path):
    path, data = tmp_path / "roll.png", encoded(Image.fromarray(grey), "PNG")
    for size in (len(data) // 2, len(data) - 12):  # the latter lacks nothing but the end mark
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"roll.png: not a readable image .*truncated"):
            read_image(path)
    path.write_bytes(data[:60] + bytes([data[60] ^ 255]) + data[61:])
    with pytest.raises(InputError, match=r"roll.png: not a readable image .*checksum"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"roll.png: not a readable image \(0 bytes; no known format\)"):
        read_image(path)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="gone.png: cannot be read .No such file or directory.; give an existing"):
            read(tmp_path / "gone.png")
        with pytest.raises(InputError, match="cannot be read .Is a directory"):
            read(tmp_path)


def test_files_that_are_no_images_get_one_line_each(grey, tmp_path, capfd):
    png = encoded(Image.fromarray(grey), "PNG")
    size = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bad = {
        "empty.png": (b"", "0 bytes"),
        "text.png": (b"this is no image\n" * 20, "not a readable image (340 bytes; no known format)"),
        "vector.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no known format"),
        "cut.tif": (encoded(Image.fromarray(grey), "TIFF")[:3000], "not a readable image"),
        "cut.bmp": (encoded(Image.fromarray(grey), "BMP")[:3000], "truncated"),
        "cut.jpg": (encoded(Image.fromarray(grey), "JPEG")[:700], "truncated"),
        "cut.png": (png[:700], "truncated"),
        "huge.png": (png[:16] + size + struct.pack(">I", zlib.crc32(b"IHDR" + size)) + png[33:], "cut it up"),
        "float.tif": (cv2.imencode(".tif", grey.astype(np.float32))[1].tobytes(), "pixels of type float32"),
        "long.tif": (encoded(Image.fromarray(grey.astype(np.int32)), "TIFF"), "pixels of type int32"),
    }
    for name, (data, words) in bad.items():
        (tmp_path / name).write_bytes(data)
        arguments = ["inspect", tmp_path / name, "--checkpoint", MODEL, "--out", tmp_path / "out"]
        fails_with_one_line(capfd, arguments, tmp_path / name, words)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_large_image_is_read_without_a_word(grey, tmp_path):
    """Pillow warns above its limit, 89 million pixels, and refuses twice as many."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(grey), "PNG"))
    code = (
        "from PIL import Image; from draem_aitex.data.images import read_image; "
        f"Image.MAX_IMAGE_PIXELS = {grey.size - 1}; print(read_image({str(path)!r}).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{grey.shape}\n", "")


def test_the_images_in_a_folder(grey, tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name in ("b.png", "a.TIF", "c.bmp", ".hidden.png", "folder.png/d.png", "notes.txt"):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(grey), "PNG"))
    assert [path.name for path in images_in(tmp_path)] == ["a.TIF", "b.png", "c.bmp", "d.png"]
