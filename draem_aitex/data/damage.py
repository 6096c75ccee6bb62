"""Damage that image decoders accept: they fill in what is missing and warn on the terminal, or say nothing at all."""

import os
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import cv2
import numpy as np

CORRUPT = re.compile("Corrupt JPEG data.*|[a-zA-Z]{4}: CRC error")  # in the warnings of libjpeg and libpng
DEFLATED = (8, 32946)  # TIFF's numbers for zlib
TERMINAL = Lock()  # of who keeps standard error from the terminal, and of who prints there meanwhile


@contextmanager
def native_lines() -> Iterator[list[str]]:
    """Keep from the terminal what native libraries write to standard error, past Python: a list, filled at the end."""
    lines: list[str] = []
    with TERMINAL, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(caught.fileno(), 2)
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            lines += caught.read().decode(errors="replace").splitlines()


def flawless(data: bytes, image: Any) -> np.ndarray | None:
    """The pixels of a PNG or a JPEG, decoded by OpenCV, where that has nothing to say of them; None of all other files.

    data: the file; image: the same, opened by Pillow and not loaded. Returns uint8 or uint16 `(H, W)` or `(H, W, 3)`,
    RGB, as they are stored, not turned.
    """
    if image.format not in ("PNG", "JPEG") or image.mode not in ("L", "RGB", "I;16"):
        return None
    with native_lines() as lines:
        pixels = by_opencv(data)
    return None if lines else pixels


def by_opencv(data: bytes) -> np.ndarray | None:
    """The pixels of a file as OpenCV decodes it, not turned: `(H, W)` or `(H, W, 3)`, RGB; None where it cannot."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim == 2:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def check_whole(data: bytes, image: Any) -> None:
    """Raise `ValueError` with the reason where a file's pixels are not all there, or not as they were stored.

    data: the file; image: the same, opened by Pillow and not loaded yet. PNG and JPEG are decoded once more, by OpenCV,
    whose decoder of PNG is strict and whose decoder of JPEG says what it met; the checksums of deflated TIFFs are
    looked at, which libtiff does not do.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    size, packing = (tags.get(256, image.width), tags.get(257, image.height)), tags.get(259)
    if image.tile and any(max(tile[1][axis + 2] for tile in image.tile) < size[axis] for axis in (0, 1)):
        raise ValueError("fewer rows than its header says")
    if packing in DEFLATED:
        _check_deflated(data, image)
    if image.format in ("PNG", "JPEG") or packing == 7:  # JPEG in TIFF
        with native_lines() as lines:
            decoded = by_opencv(data)
        if found := CORRUPT.search(" ".join(lines)):
            raise ValueError(found[0])
        if decoded is None and packing is None:
            raise ValueError("decoders disagree about its pixels")


def _check_deflated(data: bytes, image: Any) -> None:
    tags, most = image.tag_v2, 16 * (image.width + 1024) * (image.height + 1024)
    places, sizes = tags.get(273, tags.get(324, ())), tags.get(279, tags.get(325, ()))
    for place, size in zip(places, sizes, strict=True):
        inflate = zlib.decompressobj()
        inflate.decompress(data[place : place + size], most)
        if not inflate.eof:
            raise ValueError("a part of its pixels is cut off")
