import numpy as np
import pytest
from test_loom import weave

from draem_aitex.data.fabric_edges import fabric_edges, find_selvedges
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError
from draem_aitex.simulation import loom


@pytest.mark.parametrize("code", sorted(loom.FABRICS))
def test_start_of_simulated_fabric(code):
    for seed in range(3):
        roll = weave(code, seed=seed, width=loom.ROLL_WIDTH)
        start, end = fabric_edges(roll.image)
        assert abs(start - roll.start) <= 12 and end == roll.image.shape[1], (code, seed, start, roll.start)


def test_backlight_at_the_right_is_found_too():
    roll = weave("01", width=loom.ROLL_WIDTH)
    start, end = fabric_edges(roll.image[:, ::-1])
    assert start == 0 and abs(end - (4096 - roll.start)) <= 32


@pytest.mark.parametrize("picture", ["black", "white", "ramp", "noise", "tiny"])
def test_pictures_without_fabric(picture):
    noise = np.random.default_rng(0).integers(0, 256, (256, 1024), dtype=np.uint8)
    pictures = {
        "black": np.zeros((256, 1024), np.uint8),
        "white": np.full((256, 1024), 255, np.uint8),
        "ramp": np.tile(np.linspace(0, 230, 1024).astype(np.uint8), (256, 1)),
        "noise": noise,
        "tiny": noise[:20, :20],
    }
    with pytest.raises(InputError, match="no fabric"):
        fabric_edges(pictures[picture])


def test_real_rolls_keep_every_defect_and_start_behind_the_backlight(real):
    rolls = load_rolls(real.records)
    for roll in rolls:
        start, end = roll.edges
        lit = np.median(roll.image, axis=0) >= 250
        assert not lit[start + 1 : end].any(), f"{roll.name}: backlight inside {roll.edges}"
        if lit[0]:  # backlit rolls: the fabric starts where the white ends, selvedge included
            assert start - np.argmin(lit) <= 32, f"{roll.name}: starts at {start}, white ends at {np.argmin(lit)}"
        if roll.mask is not None:
            columns = np.flatnonzero(roll.mask.any(axis=0))
            assert not len(columns) or (start <= columns[0] and columns[-1] < end), roll.name
    normal = [roll for roll in rolls if roll.defect == "000"]
    starts = {fabric: [roll.edges[0] for roll in normal if roll.fabric == fabric] for fabric in ("04", "06")}
    assert all(500 <= start <= 545 for start in starts["04"]) and all(730 <= start <= 790 for start in starts["06"])


def first_woven_column(image):
    """Another way to the first column with the fabric's weave: strips of 32 columns, every 8, in two dimensions.

    A strip counts where no column of it is lit, where the cosine of its amplitude spectrum and the ground's is above
    0.65, and where it has a quarter of the ground's strength; the first strip followed by seven others that count.
    """
    strips = np.lib.stride_tricks.sliding_window_view(image[:, :2200].astype(np.float32), 32, axis=1)[:, ::8]
    strips = strips.transpose(1, 0, 2) - strips.mean((0, 2))[:, None, None]
    window = np.outer(np.hanning(len(image)), np.hanning(32)).astype(np.float32)
    spectra = np.abs(np.fft.rfft2(strips * window))[:, 6:-5].reshape(len(strips), -1)  # without slow tone
    at = 8 * np.arange(len(spectra))
    ground = np.median(spectra[at > 1200], axis=0)
    strength = spectra @ ground
    cosine = strength / (np.linalg.norm(spectra, axis=1) * np.linalg.norm(ground) + 1e-9)
    lit = np.median(image, axis=0) >= 240
    lit = np.array([lit[x : x + 32].any() for x in at])
    woven = (cosine > 0.65) & (strength > 0.25 * np.median(strength[at > 1200])) & ~lit
    return int(at[np.argmax(np.convolve(woven, np.ones(8), "valid") > 7.5)])


def test_real_rolls_start_within_24_columns_of_the_weave(real):
    """The ground's weave sets in at the found start, or on or right behind the selvedge, which is woven otherwise."""
    for roll in load_rolls(real.records):
        first, (start, ground) = first_woven_column(roll.image), roll.selvedges[0]
        assert start - 24 <= first <= ground + 24, (roll.name, first, start, ground)


def test_real_selvedges(real):
    """Widths in columns as read off the pictures by eye; two in three rolls of a fabric at least."""
    expected = {"00": (44, 68), "02": (64, 96), "03": (80, 100), "04": (52, 60), "05": (56, 96), "06": (52, 64)}
    widths = {fabric: [] for fabric in (*expected, "01")}
    for roll in load_rolls([record for record in real.records if record.fabric in widths]):
        left, right = roll.selvedges
        assert left[0] == roll.edges[0] and right == (roll.edges[1], roll.edges[1]), roll.name
        widths[roll.fabric].append(left[1] - left[0])
    for fabric, (least, most) in expected.items():
        assert np.mean([least <= width <= most for width in widths[fabric]]) >= 2 / 3, (fabric, widths[fabric])
    assert np.median(widths["01"]) == 0  # woven like the ground


@pytest.mark.parametrize("code", sorted(loom.FABRICS))
def test_simulated_selvedges_are_found_as_wide_as_woven(code):
    for seed in range(3):
        roll = weave(code, "019", seed, loom.ROLL_WIDTH)
        (start, end), right = find_selvedges(roll.image, fabric_edges(roll.image))
        assert abs(end - roll.start - loom.FABRICS[code].selvedge) <= 8, (start, end, roll.start)
        assert right == (4096, 4096)


@pytest.mark.parametrize("side", ["left", "right"])
def test_selvedge_of_another_weave(side):
    """Ground and border of two gratings: the border's end is found within a strip, mirrored too."""
    y, x = np.mgrid[:256, :2048]
    grey = np.random.default_rng(0).normal(110, 8, (256, 2048))
    grey += np.where(x < 300 + 64, 30 * np.sin(2 * np.pi * y / 5), 30 * np.sin(2 * np.pi * (x + y) / 7))
    image = np.where(x < 300, 255, grey.clip(0, 230)).astype(np.uint8)
    if side == "left":
        (start, end), right = find_selvedges(image, (300, 2048))
        assert start == 300 and abs(end - 364) <= 8 and right == (2048, 2048)
    else:
        left, (start, end) = find_selvedges(image[:, ::-1], (0, 1748))
        assert end == 1748 and abs(start - 1684) <= 8 and left == (0, 0)
    assert find_selvedges(image[:, 400:], (0, 1648)) == ((0, 0), (1648, 1648))  # its edge is not in the picture
    assert find_selvedges(image[:, :600], (300, 600))[0] == (300, 300)  # too little ground to compare with


def test_real_split_is_the_stated_one(real):
    split = real
    assert {record.number for record in split.calibration} <= {4, 14}
    assert {record.number for record in split.test if record.is_normal} <= {9, 19}
