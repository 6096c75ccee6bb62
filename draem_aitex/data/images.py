"""Reading picture files: any of the usual formats becomes grey levels, and a damaged file is named."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from draem_aitex.errors import InputError, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_image(path):
    """Read a picture as grey levels.

    PNG, JPEG, TIFF or BMP; colour becomes grey, an alpha channel is ignored, 16 bits become 8 (divided by 257), of
    several pages the first is taken.

    Returns uint8 `(H, W)`. Raises `InputError` for a file that is missing, unreadable or truncated.
    """
    return read_noted(path)[0]


def read_noted(path):
    """`read_image`, and what its user should know of the file: `(image, notes)`, the notes a list of sentences."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing picture file") from None
    if data.startswith(_PNG_SIGNATURE):
        _check_png(path, data)
    elif data.startswith(_JPEG_SIGNATURE):
        _check_jpeg(path, data)
    image, notes = _decode(path, data), []
    if data.startswith(_TIFF_SIGNATURES) and (pages := cv2.imcount(str(path))) > 1:
        notes.append(f"{pages} pages; the first is used")
    deep = image.dtype == np.uint16
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: pixels of type {image.dtype}; expected 8 or 16 bit; convert the picture")
    if image.ndim == 3:
        to_grey = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
        image = cv2.cvtColor(image, to_grey[image.shape[2]]) if image.shape[2] in to_grey else image[..., 0]
    if deep:
        image = (image // 257).astype(np.uint8)
        notes.append(f"16 bits, divided by 257: grey levels {image.min()} to {image.max()} of 255")
    return np.ascontiguousarray(image), notes


def images_in(folder):
    """The picture files in a folder, known by their endings, in the order of their names; folders in it are not read.

    Hidden files are none: some file systems keep a "._roll.png" beside a "roll.png".
    """
    found = (path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _decode(path, data):
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:  # a header that promises more pixels than OpenCV takes
        reason = one_line(error).split("error: ")[-1]
        raise InputError(f"{path}: OpenCV cannot read it ({reason}); expected a smaller picture; cut it up") from None
    if image is None:
        raise InputError(
            f"{path}: not a readable picture ({len(data)} bytes); expected PNG, JPEG, TIFF or BMP; get the file anew"
        )
    return image


def _check_jpeg(path, data):
    """Some versions of OpenCV fill the rest of a truncated JPEG and say nothing, so the end mark is looked for here.

    Behind the start of the scan: a preview in the header has an end mark of its own.
    """
    position = 2
    while data[position : position + 1] == b"\xff" and data[position + 1 : position + 2] != b"\xda":
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if data.find(b"\xff\xd9", position) < 0:
        raise InputError(f"{path}: truncated JPEG ({len(data)} bytes, no end mark); get the file anew")


def _check_png(path, data):
    """OpenCV fills the rest of a truncated PNG with grey and says nothing, so the chunks are checked here."""
    position = len(_PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise InputError(f"{path}: truncated PNG ({len(data)} bytes, no end mark); get the file anew")
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            raise InputError(f"{path}: truncated PNG ({len(data)} bytes, no end mark); get the file anew")
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack(">I", data[end - 4 : end])[0]:
            raise InputError(f"{path}: damaged PNG (checksum differs at byte {position}); get the file anew")
        position = end


def image_size(path):
    """Size and channels of a PNG, read from its first 26 bytes: `(height, width, channels)`."""
    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) < 26 or not head.startswith(_PNG_SIGNATURE):
        raise InputError(f"{path}: not a PNG; expected AITEX's PNG files; get the file anew")
    width, height, _, colour = struct.unpack(">IIBB", head[16:26])
    return height, width, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 1)
