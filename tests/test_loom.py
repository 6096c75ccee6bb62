"""The loom: same seed same roll, exact masks, the stated weave, AITEX's layout, nothing overwritten."""

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from draem_aitex import loom
from draem_aitex.aitex import SIMULATED_MARK, scan
from draem_aitex.errors import InputError

WIDTH = 1024
PAIRS = [(fabric, defect) for fabric in loom.FABRICS for defect in loom.DEFECT_CODES]


def weave(fabric, defect=None, seed=0, width=WIDTH, height=256):
    return loom.simulate_roll_parts(fabric, defect, generator=np.random.default_rng(seed), width=width, height=height)


@pytest.fixture
def small_set(monkeypatch):
    monkeypatch.setattr(loom, "SET_WIDTH", 600)
    monkeypatch.setattr(loom, "NORMAL_ROLLS", 2)
    monkeypatch.setattr(loom, "DEFECTIVE_ROLLS", 4)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fabric", loom.FABRICS)
def test_same_state_same_roll(fabric):
    first, again, other = weave(fabric), weave(fabric), weave(fabric, seed=1)
    assert first.image.dtype == np.uint8 and first.image.shape == (256, WIDTH)
    assert first.mask.dtype == bool and not first.mask.any()
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)
    image, mask = loom.simulate_roll(fabric, generator=np.random.default_rng(0), width=WIDTH)
    assert np.array_equal(image, first.image) and np.array_equal(mask, first.mask)


def test_generator_moves_on_and_the_global_state_does_not():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    generator = np.random.default_rng(0)
    images = [loom.simulate_roll("00", generator=generator, width=WIDTH)[0] for _ in range(2)]
    assert not np.array_equal(*images)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(("fabric", "defect"), PAIRS)
def test_mask_is_what_the_defect_changed(fabric, defect):
    for seed in range(3):
        flawless, roll = weave(fabric, seed=seed), weave(fabric, defect, seed=seed)
        assert roll.start == flawless.start
        assert 0 < roll.mask.sum() < 0.2 * roll.mask.size
        assert not roll.mask[:, : roll.start + loom.FABRICS[fabric].selvedge - 4].any()
        difference = np.abs(roll.image.astype(int) - flawless.image)
        near = cv2.dilate(roll.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert difference[~near].max() <= loom.MASK_LEVEL + 2  # noise grows with light
        assert difference[roll.mask].max() > 2 * loom.MASK_LEVEL


def test_a_defect_moves_threads_and_not_only_tone():
    flawless, slipped = weave("00", seed=4), weave("00", "010", seed=4)
    changed = slipped.mask
    means = [roll.image[changed].mean() for roll in (flawless, slipped)]
    assert abs(means[0] - means[1]) < 6  # the mean grey level stays
    assert np.corrcoef(flawless.image[changed], slipped.image[changed])[0, 1] < 0.8


@pytest.mark.parametrize(("fabric", "harmonic"), [("00", 1), ("01", 2), ("02", 1)])
def test_weave_has_the_stated_pitch(fabric, harmonic):
    roll = weave(fabric, width=2048)
    crop = roll.image[:, -256:].astype(np.float32)
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.abs(np.fft.fft2((crop - crop.mean()) * window))[:129]
    power[:8] = 0
    peak = np.unravel_index(power.argmax(), power.shape)[0]
    expected = harmonic * 256 / loom.FABRICS[fabric].pick_repeat
    assert abs(peak - expected) <= 0.02 * expected + 1.5


@pytest.mark.parametrize("fabric", loom.FABRICS)
def test_fabric_starts_where_stated(fabric):
    roll = weave(fabric)
    made = loom.FABRICS[fabric]
    low, high = (round(column * WIDTH / loom.ROLL_WIDTH) for column in made.start)
    assert low <= roll.start <= high
    cloth = roll.image[:, roll.start + made.selvedge :]
    assert abs(cloth.mean() - made.mean) < 0.12 * made.mean
    assert 10 < cloth.std() < 24
    assert (roll.image[:, roll.start + 3 :] < 240).all()
    left = roll.image[:, : roll.start - loom.EDGE_REACH]
    assert 70 < left.mean() < 110 if made.machine_bed else (left == 255).all()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(("07",), {}), (("00", "006"), {}), (("00", "000"), {}), (("00",), {"width": 100}), (("00",), {"height": 9})],
)
def test_unknown_codes_and_sizes(arguments, options):
    with pytest.raises(InputError) as error:
        loom.simulate_roll(*arguments, generator=np.random.default_rng(0), **options)
    assert "\n" not in str(error.value)


def test_the_set_has_every_defect_twice_on_every_fabric():
    made = [loom._defective(number) for number in range(1, 25)]
    assert sorted((fabric, defect) for fabric, _, defect in made) == sorted(PAIRS * 2)
    assert {defect for _, number, defect in made if number % 4 == 0} == set(loom.DEFECT_CODES)


def test_layout(tmp_path, small_set):
    folder = loom.simulate(tmp_path / "set")
    names = set(files(folder))
    assert "NODefect_images/2306894-210033u/0002_000_02.png" in names
    assert {"Defect_images/0004_010_00.png", "Mask_images/0004_010_00_mask.png", SIMULATED_MARK} <= names
    assert len(names) == 3 * 2 + 2 * 4 + 1
    collection = scan(folder)
    assert collection.simulated and not collection.quirks and len(collection.records) == 10
    mask = cv2.imread(str(folder / "Mask_images/0004_010_00_mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (256, 600) and set(np.unique(mask)) == {0, 255}
    assert "not AITEX" in json.loads((folder / SIMULATED_MARK).read_text())["what"]
    assert files(loom.simulate(tmp_path / "again")) == files(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "set"]  # nothing unfinished left


def test_simulate_refuses_what_it_did_not_make(tmp_path, small_set):
    (tmp_path / "precious.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError):
            loom.simulate(tmp_path, overwrite=overwrite)
    with pytest.raises(InputError):
        loom.ensure_simulated(tmp_path)
    with pytest.raises(InputError):
        loom.simulate(tmp_path / "precious.txt")
    with pytest.raises(InputError):
        loom.simulate(tmp_path / "new", seed=-1)
    assert files(tmp_path) == {"precious.txt": b"mine"}


def test_ensure_simulated_weaves_once(tmp_path, small_set, monkeypatch):
    folder = loom.ensure_simulated(tmp_path / "data" / "simulated")
    first = files(folder)
    (folder / "Defect_images" / "0001_002_00.png").unlink()
    assert loom.ensure_simulated(folder) == folder and len(files(folder)) == len(first) - 1  # not made again
    with pytest.raises(InputError):
        loom.simulate(folder)
    assert files(loom.simulate(folder, overwrite=True)) == first
    assert files(loom.ensure_simulated(folder, seed=1)) != first
    monkeypatch.setattr(loom, "LOOM_VERSION", loom.LOOM_VERSION + 1)
    loom.ensure_simulated(folder, seed=1)
    assert loom._mark(folder) == {"loom": loom.LOOM_VERSION, "seed": 1}


def test_ensure_simulated_twice_at_once(tmp_path, small_set):
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(loom.ensure_simulated, [tmp_path / "set"] * 2))
    assert folders == [tmp_path / "set"] * 2 and len(files(folders[0])) == 15
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
