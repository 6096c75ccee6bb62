"""The loom's twelve defects: each is a change of threads, with the sizes and contrasts of the real ones.

A maker takes a cloth and a `numpy.random.Generator` and returns the `Change`; the mask is what that changes in the
noise-free image. Sizes scatter log-normally about the medians of AITEX's masks, contrasts within what
`realism.defect_contrast` gives on the real rolls.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from draem_aitex.simulation.cloth import Change, noise
from draem_aitex.simulation.realism import REAL_CONTRASTS, REAL_SIZES

ZOOM = 4  # fibres are drawn this much larger
CRACKED_CLOTH = 3600 * 256  # px; the cloth of the one real roll with a weft crack, whose mask REAL_SIZES has


def _area(draws, code):
    """Mask pixels to aim at: log-normal about the real median, without its far tails."""
    median, scatter = REAL_SIZES[code]
    return median * float(np.exp(scatter * np.clip(draws.standard_normal(), -1.8, 1.8)))


def _depth(cloth, draws, code, share):
    """Grey levels, signed, that give a contrast within the real range where a mask is changed in `share` of it."""
    low, high = REAL_CONTRASTS[code]
    margin = 0.15 * (high - low)
    return draws.uniform(low + margin, high - margin) * cloth.fabric.std / share


def _grey(cloth, draws, code, share):
    """The grey level of fibres that give such a contrast."""
    return float(np.clip(cloth.fabric.mean + _depth(cloth, draws, code, share), 10, 250))


def _bump(distance):
    """1 at 0, smoothly 0 from 1 on: what a defect does ends somewhere, so its mask is exact."""
    return np.clip(1 - np.float32(distance) ** 2, 0, 1) ** 2


def _plateau(distance):
    """1 to about 0.6, 0 from 1 on."""
    return _bump(np.float32(distance) ** 3)


def _somewhere(cloth, draws, height, width):
    """A window of that size anywhere on the cloth behind the selvedge."""
    height, width = min(int(height), cloth.height), min(int(width), cloth.width - cloth.cloth_start)
    top = int(draws.integers(0, cloth.height - height + 1))
    left = int(draws.integers(cloth.cloth_start, cloth.width - width + 1))
    return slice(top, top + height), slice(left, left + width)


def _grid(window):
    """Distances from the window's centre, px: down `(h, 1)` and across `(1, w)`."""
    height, width = (part.stop - part.start for part in window)
    down = np.arange(height, dtype=np.float32) - (height - 1) / 2
    return down[:, None], np.arange(width, dtype=np.float32)[None] - (width - 1) / 2


def _upright(cloth, draws, length, half, wander):
    """A path down the cloth: its window, every pixel's distance along x (px), every row's place in -1…1."""
    length = min(round(length), cloth.height)
    window = _somewhere(cloth, draws, length, 2 * (int(half + 2.5 * wander) + 4))
    path = np.clip(noise(draws, (length, 1), (48, 1)), -2, 2) * wander
    path = path + draws.uniform(-0.5, 0.5) * wander * np.linspace(-1, 1, length)[:, None]
    _, across = _grid(window)
    return window, across - path.astype(np.float32), np.linspace(-1, 1, length, dtype=np.float32)[:, None]


def _stroke(shape, points, thickness):
    """Cover of a thread drawn through `points` (x, y in px): float32 `shape`, 0–1."""
    canvas = np.zeros((shape[0] * ZOOM, shape[1] * ZOOM), np.uint8)
    cv2.polylines(canvas, [np.int32(np.asarray(points) * ZOOM)], False, 255, max(1, round(thickness * ZOOM)))
    return cv2.resize(canvas, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _tangle(draws, size, diameter):
    """Cover of a ball of short curled fibres: float32 `(size, size)`, 0–1."""
    steps, count = 24, int(8 + 1.2 * diameter)
    turn = draws.uniform(-0.5, 0.5, (count, 1)) + 0.25 * draws.standard_normal((count, steps))
    angle = draws.uniform(0, 2 * np.pi, (count, 1)) + np.cumsum(turn, axis=1)
    step = diameter / steps * draws.uniform(0.5, 1.4, (count, 1))
    curl = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1) * step[..., None], axis=1)
    scatter = draws.normal(0, 0.2 * diameter, (count, 1, 2)) * draws.uniform(0.5, 1.2, 2)
    curl += scatter + size / 2 - curl.mean(axis=1, keepdims=True)
    cover = np.zeros((size, size), np.float32)
    for fibre in curl:  # drawn one by one: where fibres cross, the ball is denser
        cover += _stroke((size, size), fibre, 0.5)
    cover = 1 - np.exp(-(2.5 if diameter < 8 else 1.4) * cv2.GaussianBlur(cover, (0, 0), 0.5 + 0.02 * diameter))
    grid = np.arange(size, dtype=np.float32) - size / 2 + 0.5
    return cover * _plateau(np.hypot(grid[:, None], grid[None]) / (size / 2))


def _ball(cloth, draws, code, *, share, spots=(1,), push=0.25, rim=2.8):
    """Fibres caught on the cloth in one or two balls, which push the threads beneath aside.

    Scattered fibres and the lens make the mask about `rim` px wider than the ball.
    """
    count = int(draws.choice(spots))
    grey = _grey(cloth, draws, code, share)
    diameter = max(1.4, 1.05 * np.sqrt(_area(draws, code) / count) - rim)
    size = int(1.5 * diameter) + 9
    window = _somewhere(cloth, draws, size * count, size + 6)
    fibres = np.zeros([part.stop - part.start for part in window], np.float32)
    for spot in range(count):
        left = int(draws.integers(0, fibres.shape[1] - size + 1))
        part = fibres[spot * size : spot * size + size, left : left + size]
        part[:] = _tangle(draws, size, diameter)[: len(part)]
    return Change(window, picks=push * fibres, fibres=0.9 * fibres, fibre_grey=grey)


def _broken_end(cloth, draws):
    """002: an end is gone for a length and its neighbours close in; a loose one has wandered over others."""
    area = _area(draws, "002")
    length = np.clip(area / draws.uniform(4, 9), 24, cloth.height)
    half = max(area / length / 2, 1.5)
    window, distance, down = _upright(cloth, draws, length, 2.5 * half, draws.choice((1.5, 8)))
    uneven = 0.75 + 0.25 * noise(draws, (len(down), 1), (14, 1))
    missing = np.clip(uneven * _plateau(down**4), 0, 1) * _plateau(distance / half)
    pull = draws.uniform(0.1, 0.35) * distance / half * _bump(distance / (2 * half)) * _plateau(down**4)
    share, tone = draws.uniform(0.25, 0.5), draws.uniform(-0.1, 0.04)
    return Change(window, ends=pull, missing=share * missing, light=tone * missing)


def _broken_yarn(cloth, draws):
    """006: a yarn has parted and lies on the cloth, bright, thick and thin, its end bent aside."""
    area = _area(draws, "006")
    length = np.clip(area / draws.uniform(5, 9), 40, cloth.height)
    half = max(area / length / 2, 1.6)
    bend = draws.uniform(4, 14) * draws.choice((-1, 1))
    window, distance, down = _upright(cloth, draws, length, 2 * half + abs(bend), 1.5)
    distance = distance - bend * np.clip(down - 0.5, 0, 1) ** 2 * 4 + bend / 3
    thick = half * (1 + 0.35 * np.clip(noise(draws, (len(down), 1), (16, 1)), -2, 2))
    fibres = 0.9 * _plateau(distance / thick) * _plateau(down**6)
    grey = _grey(cloth, draws, "006", 0.6) * (1 + 0.12 * noise(draws, fibres.shape, (9, 2)))  # in strands
    return Change(window, fibres=fibres, fibre_grey=grey)


def _broken_pick(cloth, draws):
    """010: picks below a wandering line slip by 0.2–0.6 of a weave repeat; further down the shift fades."""
    room = cloth.width - cloth.cloth_start
    weave = cloth.fabric.weave
    slip = draws.uniform(0.2, 0.6) * len(weave) * float(draws.choice((-1, 1)))
    fade = max(draws.uniform(0.4, 0.9) * cloth.pick_pitch * len(weave), 2.5 * abs(slip) * cloth.pick_pitch)
    length = int(np.clip(_area(draws, "010") / (0.55 * fade + 1), 40, 0.9 * room))
    wander = draws.uniform(2, 7)
    # Most begin at the selvedge: there the pick was not caught.
    left = cloth.cloth_start + (0 if draws.random() < 0.7 else int(draws.integers(0, room - length + 1)))
    margin = min(int(2 * wander + fade) + 6, cloth.height // 2 - 1)
    centre = int(draws.integers(margin, cloth.height - margin))
    rows = slice(centre - margin, centre + margin)
    path = np.clip(noise(draws, (1, length), (1, 300)), -2, 2) * wander
    below = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - centre - path
    onset = np.clip(below / 0.8 + 0.5, 0, 1)
    along = _bump(np.linspace(-1, 1, length) ** 8) * (1 + 0.15 * noise(draws, (1, length), (1, 120)))
    moved = onset * np.clip(1 - below / fade, 0, 1) ** 2 * along
    gap = _bump(below / (0.6 * cloth.pick_pitch)) * along
    return Change((rows, slice(left, left + length)), picks=-slip * moved, light=draws.uniform(-0.02, 0.08) * gap)


def _weft_curling(cloth, draws):
    """016: a slack pick has sprung out and lies in a curl across the cloth."""
    thickness = draws.uniform(2.2, 3.2)
    length = float(np.clip(_area(draws, "016") / (thickness + 2), 30, 280))
    slant = np.deg2rad(draws.uniform(15, 75)) * draws.choice((-1, 1))
    angle = slant + draws.uniform(-0.9, 0.9) * np.linspace(-0.5, 0.5, 60)
    points = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1) * length / 60, axis=0)
    points += 6 - points.min(axis=0)
    width, height = np.ceil(points.max(axis=0) + 6)
    window = _somewhere(cloth, draws, height, width)
    cover = _stroke([part.stop - part.start for part in window], points, thickness)
    cover = 0.85 * cv2.GaussianBlur(cover, (0, 0), 0.5)
    return Change(window, fibres=cover, fibre_grey=_grey(cloth, draws, "016", 0.55))


def _cut_selvage(cloth, draws):
    """022: where selvedge and cloth meet, a cut runs in between two picks and ends in a knot of cut threads."""
    half = draws.uniform(1.8, 3)
    length = int(np.clip(_area(draws, "022") / (2 * half), 16, min(160, cloth.width - cloth.cloth_start)))
    knot = draws.uniform(2.5, 4.5)
    margin = int(half + 2 * knot) + 8
    centre = int(draws.integers(margin, cloth.height - margin))
    left = cloth.start + int(cloth.fabric.selvedge * draws.uniform(0.6, 1.0))
    window = (slice(centre - margin, centre + margin), slice(left, left + length))
    down, _ = _grid(window)
    fall = draws.uniform(-0.06, 0.06) * np.arange(length)[None] + noise(draws, (1, length), (1, 40))
    below = down - np.clip(fall, -knot, knot).astype(np.float32)
    along = _plateau(np.linspace(-1, 1, length)[None] ** 6)
    cut = _plateau(below / half) * along
    ball = _plateau(np.hypot(below, np.arange(length)[None] - (length - knot - 2)) / knot)
    slip = draws.uniform(0.3, 0.5) * draws.choice((-1, 1))
    dark = _depth(cloth, draws, "022", 1.0) / cloth.fabric.mean
    light = np.maximum(dark * cut - 0.15 * ball, -0.7)
    return Change(window, picks=slip * _bump(below / (1.5 * half)) * along, light=light)


def _crease(cloth, draws):
    """023: a fold along a nearly upright line: one flank turns to the light, one away, and the ends crowd."""
    area = 0.75 * _area(draws, "023")
    length = np.clip(area / draws.uniform(2.2, 4.5), 60, cloth.height)
    half = max(0.62 * area / length, 1.4)
    window, distance, down = _upright(cloth, draws, length, 2.2 * half, draws.uniform(1, 8))
    strength = draws.uniform(0.16, 0.34) * _plateau(down**4)
    flank = np.sin(np.pi * np.clip(distance / (1.2 * half), -1, 1)) * float(draws.choice((-1, 1)))
    flank -= 0.15 * _bump(distance / (0.6 * half))
    crowd = draws.uniform(0.06, 0.16) * distance / cloth.end_pitch * _bump(distance / (1.6 * half)) * _plateau(down**4)
    return Change(window, ends=crowd, light=strength * flank)


def _knots(cloth, draws):
    """027: an end was tied again: knots in a row down one end, the first raised to the light, threads bent around."""
    radius = np.sqrt(1.25 * _area(draws, "027") / np.pi / 3.2)
    window = _somewhere(cloth, draws, 8 * radius + 10, 4 * radius + 10)
    down, across = _grid(window)
    raised = _plateau(np.hypot(down + 2.6 * radius, across) / radius)
    sunk = _plateau(np.hypot((down - 1.2 * radius) / 2.2, across) / radius)
    dark = min(_depth(cloth, draws, "027", 0.75) * 2.1 / cloth.fabric.mean, -0.12)
    push = 0.4 * across / cloth.end_pitch / radius * (raised + sunk)
    return Change(window, ends=push, light=draws.uniform(0.12, 0.25) * raised + max(dark, -0.6) * sunk)


def _weft_crack(cloth, draws):
    """036: for a band across the whole roll the picks are gone and only ends are left."""
    width = cloth.width - cloth.start
    # A fifth of the mask is the wandering and the curled picks at the borders.
    band = min(0.8 * _area(draws, "036") / CRACKED_CLOTH, 0.6) * cloth.height
    centre = draws.uniform(0.5 * band + 8, cloth.height - 0.5 * band - 8)
    path = centre + 4 * np.clip(noise(draws, (1, width), (1, 500)), -1.5, 1.5)
    # At its borders the picks end unevenly from end to end, like a comb, and curl up to the light.
    comb = 2 * noise(draws, (2, width), (1, 5)) + 1.5 * noise(draws, (2, width), (1, 40))
    y = np.arange(cloth.height, dtype=np.float32)[:, None]
    inside = np.minimum(y - (path - band / 2 + comb[:1]), path + band / 2 + comb[1:] - y)
    bare = np.clip(inside, 0, 1)
    curled = 0.3 * _bump((inside + 3) / 5)
    streaks = 0.12 * noise(draws, (cloth.height, width), (30, 5))
    return Change(np.s_[0 : cloth.height, cloth.start : cloth.width], bare=bare, light=bare * streaks + curled)


MAKERS: dict[str, Callable[..., Change]] = {
    "002": _broken_end, "006": _broken_yarn, "010": _broken_pick, "016": _weft_curling,
    "019": partial(_ball, code="019", share=0.5),  # fuzzyball: a small ball of dark loose fibres
    "022": _cut_selvage, "023": _crease,
    "025": partial(_ball, code="025", share=0.45, push=0.1, rim=2.0),  # warp ball: tiny, dark, rubbed off an end
    "027": _knots,
    "029": partial(_ball, code="029", share=0.55, push=0.2),  # contamination: bright foreign fibres
    "030": partial(_ball, code="030", share=0.6, spots=(1, 1, 2)),  # nep: one or two knots of entangled fibres
    "036": _weft_crack,
}  # fmt: skip
