"""Where the fabric is: the columns between backlight and machine bed, and in them the selvedges.

A model that sees the white or the machine bed can learn the border instead of the defect (defective rolls often have
less white at the left than normal ones), so every stage works on the fabric alone. The selvedge is fabric: "cut
selvage" is a defect of it.
"""

import operator

import cv2
import numpy as np
from scipy import fft

from draem_aitex.errors import InputError

REPEAT = 4  # times the mean power: what a frequency has at which something repeats
PITCH_SIDE = 1024  # pixels of an image in which the pitch is looked for
WINDOW = 25  # columns over which the weave is looked for
STEP_COLUMNS = 96  # columns compared before and behind an edge
MINIMUM_STEP = 0.7  # log10: the weave is five times stronger behind an edge
SELVEDGE = 112  # columns; the widest selvedge in AITEX is about 105
STRIP, STRIDE = 24, 4  # columns of a strip whose weave is looked at, and from one strip to the next
SELVEDGE_STEP = 0.4  # of log distance to the ground weave; AITEX's selvedges have 0.49 to 1.1, fabric without one 0.25
SELVEDGE_SEARCH = 128  # columns from the weave back to its edge, over the selvedge
BACKLIGHT = 240  # grey level; the backlight saturates at 255
BRIGHT_SHARE = 0.08  # of a column's pixels; the bright line slants a little, so no column holds all of it
Edges = tuple[int, int]  # first column, and the one behind the last


def check_image(image: np.ndarray, name: str = "image", channels: tuple[int, ...] = (1,)) -> None:
    """Raise `InputError` for what is no image of so many channels: uint8 `(H, W)`, or `(H, W, 3)`, a pixel or more."""
    fits = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3) and image.size
    if not fits or (image.shape[2] if image.ndim == 3 else 1) not in channels or image.shape[2:] == (1,):
        found = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        wanted = " or ".join({1: "(H, W)"}.get(count, f"(H, W, {count})") for count in dict.fromkeys(channels))
        hint = "convert it to grey" if channels == (1,) else "convert it"
        raise InputError(f"{name}: {found}; expected uint8 {wanted}; {hint}")


def check_edges(edges: Edges, width: int) -> None:
    """Raise `InputError` for edges that are no two columns of an image of that width, or have none between them."""
    try:
        start, end = (operator.index(column) for column in edges)
    except (TypeError, ValueError):
        start = end = 0
    if not 0 <= start < end <= width:
        raise InputError(f"edges: {edges}; expected 0 <= start < end <= {width} columns; leave them out to be found")


def fabric_edges(image: np.ndarray) -> Edges:
    """First and last column of the fabric in a roll.

    The fabric is known by its picks: they repeat down every column, so a column's spectrum has its power at the pick
    frequencies. The typical column of the image's right two thirds says which those are. Backlight and machine bed
    lack them, so the fabric starts (and ends) where the weave's strength makes its largest step.

    image: uint8 `(H, W)`. Returns `(start, end)` in columns, half open. Raises `InputError` where no fabric is found.
    """
    check_image(image)
    height, width = image.shape
    if min(height, width) < 32:
        raise InputError(f"no fabric: image of {width} x {height} pixels; expected 32 x 32 or more; use a larger one")
    dark = (image < BACKLIGHT).sum(axis=0) > height / 2  # its median, without sorting
    weave = _weave(image, dark)
    start = _selvedge_start(image, _weave_onset(weave))
    end = len(weave) - _selvedge_start(image[:, ::-1], _weave_onset(weave[::-1]))
    if start >= end:  # in images of few columns
        raise InputError(f"no fabric: its edges cross, at columns {start} and {end}; expected fabric; use a larger one")
    return start, end


def thread_pitch(image: np.ndarray) -> float | None:
    """Pixels from thread to thread, down the columns or along the rows, whichever shows it better; None for no weave.

    image: uint8 `(H, W)`; of a large one the middle is looked at. A weave is what repeats: a frequency that holds four
    times the mean power of all, lighting and slow tone left out.
    """
    top, left = (max(0, (side - PITCH_SIDE) // 2) for side in image.shape)
    middle = image[top : top + PITCH_SIDE, left : left + PITCH_SIDE].astype(np.float32)
    middle -= middle.mean()
    found: dict[float, float] = {}  # how strong a repeat is: its pitch
    for turned in (middle, middle.T):
        if min(turned.shape) >= 32:
            _, reference = _spectra(turned, np.ones(turned.shape[1], bool))
            strength = reference.max() / max(reference[reference > 0].mean(), 1e-9) if reference.max() >= 1 else 0.0
            found[float(strength)] = len(turned) / max(int(reference.argmax()), 1)
    strongest = max(found, default=0.0)
    return found[strongest] if strongest >= REPEAT else None


def find_selvedges(image: np.ndarray, edges: Edges) -> tuple[Edges, Edges]:
    """The fabric's woven borders: columns `((start, end), (start, end))` at the left and the right, half open.

    A selvedge is woven otherwise than the ground, so the two-dimensional spectrum of a strip of it is far from that of
    the ground. It ends where that distance makes its largest step. Empty (start equal to end) where the image does
    not show the fabric's edge, or where the border is woven like the ground, as on AITEX's fabric 01.

    image: uint8 `(H, W)`; edges: columns from `fabric_edges`.
    """
    check_image(image)
    check_edges(edges, image.shape[1])
    start, end = edges
    fabric = image[:, start:end].astype(np.float32)
    left = _selvedge_width(fabric) if start > 0 else 0
    right = _selvedge_width(fabric[:, ::-1]) if end < image.shape[1] else 0
    return (start, start + left), (end - right, end)


def _selvedge_width(fabric):
    least = 4 * SELVEDGE  # the ground is measured behind the widest selvedge
    if fabric.shape[1] < least or fabric.shape[0] < 32:
        return 0
    strips = np.lib.stride_tricks.sliding_window_view(fabric[:, : 3 * least], STRIP, axis=1)[:, ::STRIDE]
    strips = strips.transpose(1, 0, 2) - strips.mean((0, 2))[:, None, None]
    window = np.outer(np.hanning(fabric.shape[0]), np.hanning(STRIP)).astype(np.float32)
    power = np.abs(np.fft.rfft2(strips * window)) ** 2
    power = np.stack([cv2.blur(one.astype(np.float32), (1, 5)) for one in power])[:, 4:-4]  # without slow tone
    spectra = np.log(power + power.mean())  # the mean: frequencies without power must not count
    middles = STRIDE * np.arange(len(spectra)) + STRIP // 2
    ground = middles > 2 * SELVEDGE
    distance = np.log(np.sqrt(((spectra - np.median(spectra[ground], axis=0)) ** 2).mean((1, 2))) + 1e-6)
    steps = {}
    for width in middles[(middles >= STRIP) & (middles <= SELVEDGE)]:
        behind = distance[(middles > width) & (middles < width + 96)]
        trust = np.sqrt(width / (width + STRIP))  # few strips are more often far by chance
        steps[int(width)] = (distance[middles < width].mean() - behind.mean()) * trust
    width = max(steps, key=steps.get)
    return width if steps[width] > SELVEDGE_STEP else 0


def _weave(image, dark):
    """How much weave each column has: float32 `(W,)`, log10, 0 for the fabric's typical column, -3 for none.

    It is the power at the fabric's pick frequencies times its share of the column's whole power: streaks of a machine
    bed have some power everywhere, but not gathered at the picks. Raises
    `InputError` where the image has no fabric to compare with.
    """
    width = image.shape[1]
    fabric = dark & (np.arange(width) >= width // 3)
    enough = fabric.sum() >= min(64, width // 2)
    power, reference = _spectra(image, fabric if enough else np.ones(width, bool))
    flat = reference.max() < 1 or reference.max() < REPEAT * reference[reference > 0].mean()  # or noise
    if flat or not enough:
        raise InputError("no fabric: blank, saturated or without a weave; expected woven fabric; use another image")
    peaks = np.argsort(reference)[-6:]
    at_peaks = _smooth(power[peaks].sum(axis=0))
    share = at_peaks / (_smooth(power.sum(axis=0)) + 1e-6)
    relative = at_peaks * share * reference.sum() / reference[peaks].sum() ** 2
    return np.log10(np.where(dark, relative, 0) + 1e-3).astype(np.float32)


def _spectra(image, columns):
    """Power of each frequency down each column, and what is typical of some columns (a large defect is not)."""
    height = len(image)
    power = np.abs(fft.rfft(image * np.hanning(height)[:, None].astype(np.float32), axis=0)) ** 2
    power[: max(2, height // 21)] = 0  # lighting and slow tone, not weave
    return power, np.median(power[:, columns], axis=1)


def _smooth(profile):
    return cv2.blur(profile[None].astype(np.float32), (WINDOW, 1))[0]


def _selvedge_start(image, start):
    """Go back from the weave over the selvedge: it begins behind the backlight or the bright line of the edge."""
    left = max(0, start - SELVEDGE_SEARCH)
    columns = image[:, left : start + WINDOW]
    bright = (columns >= BACKLIGHT).mean(axis=0) > BRIGHT_SHARE
    return int(left + np.flatnonzero(bright)[-1] + 1) if bright.any() else start


def _weave_onset(weave):
    """Where the weave sets in: the column of the largest step up in the first half; 0 where there is none."""
    span = min(STEP_COLUMNS, len(weave) // 4)
    total = np.concatenate([[0], np.cumsum(weave, dtype=np.float64)])
    at = np.arange(span // 4, len(weave) // 2)
    behind = np.maximum(at - span, 0)
    step = (total[at + span] - total[at]) / span - (total[at] - total[behind]) / (at - behind)
    return int(at[step.argmax()]) if step.max() > MINIMUM_STEP else 0
