"""Malformed image files, made by hand from good ones: a dict of name to bytes, for `test_bad_input`."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (96, 128)).astype(np.uint8), (0, 0), 2)
GREY, COLOUR = Image.fromarray(PIXELS), Image.fromarray(PIXELS).convert("RGB")


def encoded(image, kind, **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


WHOLE = {
    "grey.png": encoded(GREY, "PNG"),
    "colour.png": encoded(COLOUR, "PNG"),
    "palette.png": encoded(COLOUR.quantize(64), "PNG"),
    "deep.png": cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes(),
    "grey.jpg": encoded(GREY, "JPEG", quality=90),
    "colour.jpg": encoded(COLOUR, "JPEG", quality=90),
    "progressive.jpg": encoded(GREY, "JPEG", quality=90, progressive=True),
    "plain.tif": encoded(GREY, "TIFF"),
    "lzw.tif": encoded(GREY, "TIFF", compression="tiff_lzw"),
    "deflate.tif": encoded(GREY, "TIFF", compression="tiff_adobe_deflate"),
    "inner_jpeg.tif": encoded(GREY, "TIFF", compression="jpeg"),
    "packbits.tif": encoded(GREY, "TIFF", compression="packbits"),
    "grey.bmp": encoded(GREY, "BMP"),
    "colour.bmp": encoded(COLOUR, "BMP"),
}


def with_bytes(data, at, new):
    """A copy of `data` in which `new` stands from `at` on."""
    return data[:at] + new + data[at + len(new) :]


def png_chunk(kind, data):
    """One chunk of a PNG, its checksum right."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with_head(width=128, height=96, depth=8, colour=0, compression=0, how=0, interlace=0):
    """The grey PNG with another header, whose checksum is right."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, compression, how, interlace)
    return WHOLE["grey.png"][:8] + png_chunk(b"IHDR", head) + WHOLE["grey.png"][33:]


def png_with_pixels(packed):
    """A grey PNG of 128 x 96 pixels with other packed pixels, every checksum right."""
    return WHOLE["grey.png"][:33] + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")


def jpeg_frame(data):
    """Where the frame header of a JPEG begins."""
    return data.index(b"\xff\xc0")


def jpeg_with_noise(data, seed):
    """A JPEG whose scan was overwritten in a few places, with no byte that looks like a marker."""
    begin, generator = data.index(b"\xff\xda") + 20, np.random.default_rng(seed)
    for at in generator.integers(begin, len(data) - 40, 6):
        data = with_bytes(data, int(at), bytes(generator.integers(0, 255, 12).astype(np.uint8)))
    return data


def tiff_with_tag(data, tag, value):
    """A TIFF with another value of one of its short or long tags."""
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack_from(order + "H", data, directory)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        found, kind = struct.unpack_from(order + "HH", data, at)
        if found == tag:
            return with_bytes(data, at + 8, struct.pack(order + ("H" if kind == 3 else "I"), value))
    raise KeyError(tag)


def malformed():
    """All of them: name to bytes."""
    files = {}
    for name, data in WHOLE.items():
        for part in (0.02, 0.3, 0.6, 0.9):
            files[f"cut_at_{part}_{name}"] = data[: int(part * len(data))]
    png, jpg, tif, bmp = (WHOLE[name] for name in ("grey.png", "grey.jpg", "plain.tif", "grey.bmp"))
    files |= {"empty.png": b"", "empty.jpg": b"", "empty.tif": b"", "empty.bmp": b""}
    files |= {
        "text.png": b"no image\n" * 40,
        "zeros.jpg": bytes(4000),
        "page.html.png": b"<!DOCTYPE html><html></html>",
    }
    files |= {
        "archive.tif": b"PK\x03\x04" + bytes(100),
        "script.bmp": b"#!/bin/sh\ntrue\n",
        "vector.png": b"%!PS-Adobe-3.0\n",
    }
    files |= {"gif.png": encoded(GREY, "GIF"), "webp.jpg": encoded(GREY, "WEBP"), "icon.bmp": encoded(GREY, "ICO")}
    files |= {"pgm.tif": encoded(GREY, "PPM"), "targa.png": encoded(GREY, "TGA")}
    # PNG: checksums that do not hold, headers that lie, pixels that are fewer or of another kind than the header says.
    for what, at in (
        ("head", 20),
        ("head_sum", 30),
        ("pixels", 60),
        ("middle", len(png) // 2),
        ("end_sum", len(png) - 2),
    ):
        files[f"checksum_of_{what}.png"] = with_bytes(png, at, bytes([png[at] ^ 1]))
    lies = {
        "no_width": {"width": 0}, "no_height": {"height": 0}, "wider": {"width": 1280}, "higher": {"height": 960},
        "depth_3": {"depth": 3}, "depth_16": {"depth": 16}, "colour_7": {"colour": 7}, "colour_2": {"colour": 2},
        "palette_missing": {"colour": 3}, "packed_otherwise": {"compression": 9},
        "huge": {"width": 60000, "height": 60000}, "beyond_31_bits": {"width": 2**31, "height": 2**31},
    }  # fmt: skip
    files |= {f"lies_{what}.png": png_with_head(**head) for what, head in lies.items()}
    files["noise_for_pixels.png"] = png_with_pixels(bytes(range(256)))
    files["too_few_pixels.png"] = png_with_pixels(zlib.compress(bytes(129 * 50)))
    files["unknown_filter.png"] = png_with_pixels(zlib.compress(b"\x09".ljust(129, b"\0") * 96))
    files["no_pixels.png"] = png[:33] + png_chunk(b"IEND", b"")
    files["no_end.png"] = png[:-12]
    files["length_beyond_the_end.png"] = with_bytes(png, 33, struct.pack(">I", 2**30))
    # JPEG: scans overwritten, which decoders accept with a warning; headers that lie; tables that lack.
    for seed in (0, 1, 3, 4):  # a scan has no checksum: noise that happens to be a scan is no damage to a decoder
        for name in ("grey.jpg", "colour.jpg", "progressive.jpg"):
            files[f"noise_{seed}_{name}"] = jpeg_with_noise(WHOLE[name], seed)
    frame = jpeg_frame(jpg)
    files["lies_no_width.jpg"] = with_bytes(jpg, frame + 7, b"\0\0")
    files["lies_higher.jpg"] = with_bytes(jpg, frame + 5, struct.pack(">H", 960))
    files["lies_wider.jpg"] = with_bytes(jpg, frame + 7, struct.pack(">H", 1280))
    files["lies_components.jpg"] = with_bytes(jpg, frame + 9, b"\5")
    files["lies_precision.jpg"] = with_bytes(jpg, frame + 4, b"\x10")
    files["no_quantisation.jpg"] = jpg.replace(b"\xff\xdb", b"\xff\xfe")
    files["arithmetic.jpg"] = jpg.replace(b"\xff\xc0", b"\xff\xcb")
    files["no_scan.jpg"] = jpg[: jpg.index(b"\xff\xda")] + b"\xff\xd9"
    files["only_markers.jpg"] = b"\xff\xd8\xff\xd9"
    # TIFF: tags that lie, places outside of the file.
    tags = {"width": (256, 1280), "height": (257, 960), "bits": (258, 7), "packing": (259, 999), "colours": (262, 99),
            "place": (273, 2**31 - 1)}  # fmt: skip
    files |= {f"lies_{what}.tif": tiff_with_tag(tif, *tag) for what, tag in tags.items()}
    files["directory_beyond_the_end.tif"] = with_bytes(tif, 4, struct.pack("<I", 2**31))
    files["directory_loop.tif"] = with_bytes(tif, 4, struct.pack("<I", 0))
    for name in ("lzw.tif", "deflate.tif", "inner_jpeg.tif"):
        files[f"damaged_{name}"] = with_bytes(WHOLE[name], 300, b"\xff" * 40)
    files["float.tif"] = encoded(Image.fromarray(PIXELS.astype(np.float32)), "TIFF")
    files["long.tif"] = encoded(Image.fromarray(PIXELS.astype(np.int32)), "TIFF")
    # BMP: sizes and places that lie.
    files["lies_no_width.bmp"] = with_bytes(bmp, 18, struct.pack("<i", 0))
    files["lies_no_height.bmp"] = with_bytes(bmp, 22, struct.pack("<i", 0))
    files["lies_wider.bmp"] = with_bytes(bmp, 18, struct.pack("<i", 12800))
    files["lies_negative_width.bmp"] = with_bytes(bmp, 18, struct.pack("<i", -128))
    files["lies_huge.bmp"] = with_bytes(bmp, 18, struct.pack("<ii", 60000, 60000))
    files["lies_bits.bmp"] = with_bytes(bmp, 28, struct.pack("<H", 7))
    files["lies_packing.bmp"] = with_bytes(bmp, 30, struct.pack("<I", 77))
    files["lies_place.bmp"] = with_bytes(bmp, 10, struct.pack("<I", 2**30))
    files["lies_head.bmp"] = with_bytes(bmp, 14, struct.pack("<I", 3))
    return files
