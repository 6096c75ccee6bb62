"""Reading picture files: any of the usual formats becomes grey levels, and a damaged file is named."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from draem_aitex.errors import InputError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(path):
    """Read a picture as grey levels.

    PNG, JPEG, TIFF or BMP; colour becomes grey, an alpha channel is ignored, 16 bits become 8.

    Returns uint8 `(H, W)`. Raises `InputError` for a file that is missing, unreadable or truncated.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing picture file") from None
    if data.startswith(_PNG_SIGNATURE):
        _check_png(path, data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise InputError(f"{path}: not a readable picture; expected PNG, JPEG, TIFF or BMP; get the file anew")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{path}: pixels of type {image.dtype}; expected 8 or 16 bit; convert the picture")
    if image.ndim == 3:
        to_grey = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
        image = cv2.cvtColor(image, to_grey[image.shape[2]]) if image.shape[2] in to_grey else image[..., 0]
    return np.ascontiguousarray(image)


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


def png_header(path):
    """Size and channels of a PNG, read from its first 26 bytes: `(height, width, channels)`."""
    with open(path, "rb") as file:
        head = file.read(26)
    if len(head) < 26 or not head.startswith(_PNG_SIGNATURE):
        raise InputError(f"{path}: not a PNG; expected AITEX's PNG files; get the file anew")
    width, height, _, colour = struct.unpack(">IIBB", head[16:26])
    return height, width, {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 1)
