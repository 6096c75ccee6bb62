"""Reading image files with Pillow: any of the usual formats becomes grey levels, and a broken file is named."""

import logging
import warnings
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from draem_aitex.data.damage import check_whole, native_lines
from draem_aitex.errors import InputError, check_number, one_line
from draem_aitex.files import check_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
UPRIGHT = 1  # the EXIF orientation of an image that is not turned

# What Pillow warns of is an error here or of no consequence. `catch_warnings` would not be safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # or Python would print what nobody listens to


def read_image(path: Path | str) -> np.ndarray:
    """Read an image as grey levels: uint8 `(H, W)`.

    PNG, JPEG, TIFF or BMP. Colour becomes grey (0.299 R + 0.587 G + 0.114 B), an alpha channel is ignored, 16 bits
    become 8, the EXIF orientation is applied, and of several pages the first is taken.

    Raises `InputError` for a file that is missing, broken or truncated, and for other pixels than 1 to 16 bit.
    """
    return read_noted(path)[0]


def read_noted(path: Path | str) -> tuple[np.ndarray, list[str]]:
    """`read_image`, and what its user should know of the file: `(image, notes)`, the notes a list of sentences."""
    notes: list[str] = []
    with _named(path):
        data = Path(path).read_bytes()
        Image.open(BytesIO(data), formats=FORMATS).verify()  # the checksums of a PNG, which decoding does not look at
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            deep = image.mode.startswith("I;16") or any(f";16{order}" in str(image.tile) for order in "BLN")
            orientation = _orientation(image)
            if (pages := getattr(image, "n_frames", 1)) > 1:
                notes.append(f"{pages} pages; the first is used")
            with native_lines() if image.format == "TIFF" else nullcontext():
                image.load()
            check_whole(data, Image.open(BytesIO(data), formats=FORMATS))
            if orientation != UPRIGHT:
                ImageOps.exif_transpose(image, in_place=True)
                notes.append(f"turned upright, as its EXIF orientation ({orientation}) says")
            grey = _grey(path, image, deep)
    if deep:
        notes.append(f"16 bits, divided by 257: grey levels {grey.min()} to {grey.max()} of 255")
    return grey, notes


def bound_pixels(most: int) -> None:
    """Refuse images of more pixels than `most` from now on, before they are decoded; 178 million unless this is called.

    A file of a few kilobytes can claim to be an image of gigabytes. Raises `InputError` for another number than a whole
    one from 1 up.
    """
    check_number("max_pixels", most, 1, whole=True)
    Image.MAX_IMAGE_PIXELS = most / 2  # type: ignore[assignment]  # Pillow warns there, and refuses twice as many


def images_in(folder: Path | str) -> list[Path]:
    """The image files in a folder, known by their endings, in the order of their names; folders in it are not read.

    Hidden files are left out: some file systems keep a "._roll.png" beside a "roll.png".
    """
    found = (path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


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


def _grey(path, image, deep):
    """The grey levels of a loaded image: uint8 `(H, W)`. Of 16-bit colour Pillow has kept the upper 8 bits."""
    if image.mode.startswith("I;16"):
        return (np.asarray(image) // 257).astype(np.uint8)
    if image.mode in ("1", "L", "LA"):
        grey = np.array(image.convert("L"))
    elif image.mode in ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        grey = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2GRAY)
    else:
        kind = f"{np.asarray(image).dtype} (mode {image.mode})"
        raise InputError(f"{path}: pixels of type {kind}; expected 8 or 16 bit; convert the image")
    return ((grey * 256.0 + 128) // 257).astype(np.uint8) if deep else grey  # 128: the middle of the lower 8 bits


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
