import numpy as np
import pytest

from draem_aitex import aitex, loom
from draem_aitex.errors import InputError
from draem_aitex.fabric import fabric_edges, load_rolls


@pytest.mark.parametrize("code", sorted(loom.FABRICS))
def test_start_of_simulated_fabric(code):
    for seed in range(3):
        roll = loom.simulate_roll_parts(code, generator=np.random.default_rng(seed))
        start, end = fabric_edges(roll.image)
        assert abs(start - roll.start) <= 12 and end == roll.image.shape[1], (code, seed, start, roll.start)


def test_backlight_at_the_right_is_found_too():
    roll = loom.simulate_roll_parts("01", generator=np.random.default_rng(0))
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


def test_real_split_is_the_stated_one(real):
    split = aitex.split_records(real.records)
    assert {record.number for record in split.calibration} <= {4, 14}
    assert {record.number for record in split.test if record.is_normal} <= {9, 19}
