"""Reading image files: any usual format becomes grey levels, or colour, and a broken file is named."""

import logging
import os
import warnings
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from draem_aitex.data.damage import by_opencv, check_whole, flawless, native_lines
from draem_aitex.errors import InputError, check_number, one_line
from draem_aitex.files import check_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
DEPTHS = (8, 10, 12, 14, 16)  # bits a pixel that cameras give
JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # what Windows and macOS leave in folders, besides hidden files
UPRIGHT = 1  # the EXIF orientation of an image that is not turned

# What Pillow warns of is an error here or of no consequence. `catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python would print what nobody listens to


def read_image(path: Path | str, channels: int = 1, bit_depth: int | None = None) -> np.ndarray:
    """Read an image as grey levels, uint8 `(H, W)`, or in colour, uint8 `(H, W, 3)`, RGB, for 3 channels.

    PNG, JPEG, TIFF or BMP. Colour becomes grey (0.299 R + 0.587 G + 0.114 B) where one channel is asked for, and grey
    is repeated where three are; an alpha channel is ignored, the EXIF orientation is applied, and of several pages the
    first is taken. Of 16 bits those in use become 8: `bit_depth`, or the fewest of `DEPTHS` that hold the image.

    Raises `InputError` for a file that is missing, broken or truncated, for other pixels than 1 to 16 bit, and for
    values that `bit_depth` does not hold.
    """
    return read_noted(path, channels, bit_depth)[0]


def read_noted(path: Path | str, channels: int = 1, bit_depth: int | None = None) -> tuple[np.ndarray, list[str]]:
    """`read_image`, and what its user should know of the file: `(image, notes)`, the notes a list of sentences."""
    pixels, notes = decoded(path)
    if pixels.ndim == 3 and channels == 1:
        if (pixels != pixels[..., :1]).any():
            notes.append("in colour; its grey levels are used")
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if pixels.dtype == np.uint16:
        brightest = int(pixels.max())
        bits, given = bit_depth or _depth(brightest), "given" if bit_depth else "in use"
        if brightest >= 2**bits:
            found = f"values up to {brightest}; expected less than {2**bits} for a bit depth of {bits}"
            raise InputError(f"{path}: {found}; give the camera's, one of {', '.join(map(str, DEPTHS))}")
        top = 2**bits - 1
        pixels = (pixels.astype(np.uint32) * 255 // top).astype(np.uint8)
        levels = f"grey levels {pixels.min()} to {pixels.max()} of 255"
        notes.append(f"16 bits, {bits} of them {given}, divided by {top / 255:.5g}: {levels}")
    if channels == 3 and pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return pixels, notes


def bits_in_use(path: Path | str) -> int:
    """How many bits a pixel of a file needs: 8, or of a 16-bit file the fewest of `DEPTHS` that hold its values."""
    with _named(path), Image.open(path, formats=FORMATS) as image:
        if not _is_deep(image):
            return 8
    pixels, _ = decoded(path)
    return _depth(int(pixels.max())) if pixels.dtype == np.uint16 else 8


def _depth(brightest):
    return next(bits for bits in DEPTHS if brightest < 2**bits)


def _is_deep(image):
    return image.mode.startswith("I;16") or any(f";16{order}" in str(image.tile) for order in "BLN")


def decoded(path: Path | str) -> tuple[np.ndarray, list[str]]:
    """A file's pixels, uint8 or uint16, `(H, W)` or `(H, W, 3)`, RGB, turned upright, and notes on it."""
    notes: list[str] = []
    with _named(path):
        data = Path(path).read_bytes()
        Image.open(BytesIO(data), formats=FORMATS).verify()  # the checksums of a PNG, which decoding does not look at
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            deep, orientation = _is_deep(image), _orientation(image)
            if (pages := getattr(image, "n_frames", 1)) > 1:
                notes.append(f"{pages} pages; the first is used")
            if orientation != UPRIGHT:
                notes.append(f"turned upright, as its EXIF orientation ({orientation}) says")
            if (stored := flawless(data, image)) is not None:
                return _upright(stored, orientation), notes
            with native_lines() if image.format == "TIFF" else nullcontext():
                image.load()
            check_whole(data, Image.open(BytesIO(data), formats=FORMATS))
            if orientation != UPRIGHT:
                ImageOps.exif_transpose(image, in_place=True)
            pixels = _pixels(path, image)
        if deep and pixels.ndim == 3:  # of 16-bit colour Pillow keeps the upper 8 bits
            pixels = _upright(by_opencv(data), orientation)
    return pixels, notes


def files_in(folder: Path | str) -> list[Path]:
    """All that is no folder in a folder and in those below it, in the order of paths; links are followed.

    What systems leave behind is passed over: hidden files and folders (some file systems keep a "._roll.png" beside a
    "roll.png"), Thumbs.db, desktop.ini, __MACOSX. What cannot be read, such as a link that leads nowhere, is in the
    list: whoever reads it says so.

    Raises `InputError` for a folder that cannot be read, and for a link to a folder that it lies in.
    """
    found: list[Path] = []
    waiting: list[tuple[Path, tuple[str, ...]]] = [(Path(folder), ())]  # with the folders that each lies in
    while waiting:
        place, above = waiting.pop()
        try:
            here = os.path.realpath(place)
            inside = {path: path.is_dir() for path in place.iterdir() if not _is_junk(path.name)}
        except OSError as error:
            raise InputError(f"{place}: cannot be read ({error.strerror}); give a folder that can be") from None
        if here in above:
            raise InputError(f"{place}: a link to a folder that it lies in; expected none; remove the link")
        waiting += [(path, (*above, here)) for path, is_folder in inside.items() if is_folder]
        found += [path for path, is_folder in inside.items() if not is_folder]
    return sorted(found)


def images_in(folder: Path | str) -> list[Path]:
    """Those among `files_in` whose endings are those of images."""
    return [path for path in files_in(folder) if path.suffix.lower() in SUFFIXES]


def _is_junk(name):
    return name.startswith(".") or name.lower() in JUNK


def bound_pixels(most: int) -> None:
    """Refuse images of more pixels than `most` from now on, before they are decoded; 178 million unless this is called.

    A file of a few kilobytes can claim to be an image of gigabytes. Raises `InputError` for another number than a whole
    one from 1 up.
    """
    check_number("max_pixels", most, 1, whole=True)
    Image.MAX_IMAGE_PIXELS = most / 2  # type: ignore[assignment]  # Pillow warns there, and refuses twice as many


def image_size(path: Path | str) -> tuple[int, int, int]:
    """Size and channels `(height, width, channels)` of the image that `read_image` gives, from the file's header alone.

    channels: those of the file: 1 grey, 2 grey with alpha, 3 colour (a palette too), 4 colour with alpha or CMYK.
    """
    with _named(path), Image.open(path, formats=FORMATS) as image:
        on_its_side = image.format != "TIFF" and _orientation(image) > 4  # TIFF: Pillow has swapped them
        width, height = image.size[::-1] if on_its_side else image.size
        return height, width, 3 if image.mode == "P" else len(image.getbands())


def _orientation(image):
    """The EXIF orientation: 1 upright or unknown, 5 to 8 turned. Of a PNG only where it stands before its pixels."""
    if image.format == "PNG" and "exif" not in image.info:  # to look further would decode it
        return UPRIGHT
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if found in range(2, 9) else UPRIGHT


def _pixels(path, image):
    """The pixels of a loaded image: uint8 or uint16 `(H, W)`, or uint8 `(H, W, 3)`, RGB."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)  # in this machine's byte order
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        return np.array(image.convert("RGB"))
    kind = f"{np.asarray(image).dtype} (mode {image.mode})"
    raise InputError(f"{path}: pixels of type {kind}; expected 8 or 16 bit; convert the image")


def _upright(pixels, orientation):
    """Pixels `(H, W)` or `(H, W, 3)` as they are stored, turned as an EXIF orientation says."""
    pixels = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    down, across = ((1, 1), (1, -1), (-1, -1), (-1, 1))[(orientation - 1) % 4]
    return np.ascontiguousarray(pixels[::down, ::across])


@contextmanager
def _named(path):
    """Whatever a file makes Pillow raise becomes an `InputError` that names the file."""
    check_file(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a dozen kinds, from SyntaxError to struct.error
        if isinstance(error, Image.DecompressionBombError):
            most = f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0):.0f} pixels"
            found = f"too large to decode; expected {most}; cut it up, or raise the bound (--max-pixels)"
        elif isinstance(error, OSError) and error.strerror:
            found = f"cannot be read ({error.strerror}); give an existing image file"
        else:
            reason = "no known format" if isinstance(error, UnidentifiedImageError) else one_line(error).lower()
            found = f"not a readable image ({Path(path).stat().st_size} bytes; {reason}); expected a whole PNG, JPEG, "
            found += "TIFF or BMP; get the file anew"
        raise InputError(f"{path}: {found}") from None
