"""The loom: same seed same roll, exact masks, as like the real cloth as stated, AITEX's layout, nothing overwritten."""

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest

from draem_aitex.data.aitex import FABRIC_FOLDERS, SIMULATED_MARK, load_aitex, split_records
from draem_aitex.data.images import read_image
from draem_aitex.data.rolls import Record, read_mask
from draem_aitex.errors import InputError
from draem_aitex.simulation import loom, realism
from draem_aitex.simulation.cloth import EDGE_WANDER, Cloth
from draem_aitex.simulation.fabrics import WEAVES

WIDTH = 1024
PAIRS = sorted(set(loom.DEFECTIVE_ROLLS))
RECORDINGS = [(fabric, index) for fabric, made in loom.FABRICS.items() for index in range(len(made.recordings))]


def weave(fabric, defect=None, seed=0, width=WIDTH, height=256, recording=None):
    """A roll: `image`, `mask`, and `start`, its first fabric column, which only the loom knows."""
    made = []
    with mock.patch.object(loom, "Cloth", lambda *drawn: made.append(Cloth(*drawn)) or made[-1]):
        image, mask = loom.simulate_roll(
            fabric, defect, generator=np.random.default_rng(seed), width=width, height=height, recording=recording
        )
    return SimpleNamespace(image=image, mask=mask, start=made[0].start)


@pytest.fixture
def small_set(monkeypatch):
    monkeypatch.setattr(loom, "SET_WIDTH", 600)
    monkeypatch.setattr(loom, "NORMAL_NUMBERS", (1, 2))
    monkeypatch.setattr(loom, "DEFECTIVE_ROLLS", loom.DEFECTIVE_ROLLS[:4])


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


@pytest.mark.parametrize(("defect", "fabric"), PAIRS)
def test_mask_is_what_the_defect_changed(defect, fabric):
    for seed in range(2):
        normal, roll = weave(fabric, seed=seed), weave(fabric, defect, seed=seed)
        assert roll.start == normal.start
        assert 0 < roll.mask.sum() < 0.5 * roll.mask.size
        assert not roll.mask[:, : roll.start].any()
        difference = np.abs(roll.image.astype(int) - normal.image)
        near = cv2.dilate(roll.mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert difference[~near].max() <= loom.VISIBLE_CHANGE + 3  # noise grows with light
        assert difference[roll.mask].max() > 1.5 * loom.VISIBLE_CHANGE


@pytest.mark.parametrize("defect", loom.MAKERS)
def test_every_defect_fits_on_every_fabric_and_size(defect):
    for seed, fabric in enumerate(loom.FABRICS):
        for width, height in ((512, 64), (700, 256)):
            roll = weave(fabric, defect, seed, width, height)
            assert roll.mask.any() and roll.mask.shape == (height, width), (fabric, width)


def test_cut_selvage_touches_the_selvedge_and_a_weft_crack_the_edge():
    for seed in range(4):
        cut = weave("06", "022", seed)
        inner = cut.start + loom.FABRICS["06"].selvedge
        assert np.flatnonzero(cut.mask.any(axis=0))[0] < inner + 6
        crack = weave("01", "036", seed)
        columns = crack.mask.any(axis=0)
        assert columns[crack.start + 4 :].all() and np.ptp(np.flatnonzero(crack.mask.any(axis=1))) < 130


@pytest.fixture(scope="module")
def defective():
    """Ten whole rolls of each defect, on the fabrics that have it in the set: (mask pixels, contrast) of each."""
    made = {}
    for code in loom.MAKERS:
        fabrics = [fabric for defect, fabric in loom.DEFECTIVE_ROLLS if defect == code]
        rolls = [weave(fabrics[seed % len(fabrics)], code, 100 + seed, loom.ROLL_WIDTH) for seed in range(10)]
        made[code] = [(roll.mask.sum(), realism.defect_contrast(roll.image, roll.mask)) for roll in rolls]
    return made


@pytest.mark.parametrize("defect", loom.MAKERS)
def test_defects_have_the_real_sizes(defective, defect):
    median, scatter = realism.REAL_SIZES[defect]
    sizes = np.log([pixels for pixels, _ in defective[defect]])
    assert abs(np.median(sizes) - np.log(median)) < 0.5, np.exp(np.median(sizes))  # ten draws: a factor of 1.6
    assert np.std(sizes) < 1.6 * scatter + 0.15


@pytest.mark.parametrize("defect", loom.MAKERS)
def test_defects_have_the_real_contrasts(defective, defect):
    low, high = realism.REAL_CONTRASTS[defect]
    contrasts = [contrast for _, contrast in defective[defect]]
    slack = 0.15
    assert low - slack <= np.median(contrasts) <= high + slack, np.round(contrasts, 2)
    inside = [low - 0.5 <= contrast <= high + 0.5 for contrast in contrasts]
    assert np.mean(inside) >= 0.75, np.round(contrasts, 2)


def test_real_defects_have_the_stated_contrasts(real):
    for record in real.records:
        mask = read_mask(record)
        if record.is_normal or mask is None or not mask.any():
            continue
        low, high = realism.REAL_CONTRASTS[record.defect]
        contrast = realism.defect_contrast(read_image(record.path), mask)
        # The figures are from a part of the set: other rolls of it may lie somewhat outside.
        assert low - 0.6 <= contrast <= high + 0.6, (record.name, contrast)


def test_a_defect_moves_threads_and_not_only_tone():
    normal, slipped = weave("00", seed=4), weave("00", "010", seed=4)
    changed = slipped.mask
    means = [roll.image[changed].mean() for roll in (normal, slipped)]
    assert abs(means[0] - means[1]) < 6  # the mean grey level stays
    assert np.corrcoef(normal.image[changed], slipped.image[changed])[0, 1] < 0.8


def assert_alike(found, stated):
    """The promised likeness: mean and standard deviation within 10 %, the two strongest peaks within 5 % and 3 dB."""
    assert abs(found.mean / stated.mean - 1) < 0.10 and abs(found.std / stated.std - 1) < 0.10, found
    for peak in stated.peaks[:2]:
        off, decibels = realism.counterpart(peak, found.peaks)
        assert off < 0.05 and abs(decibels) < 3, (peak, found.peaks)


@pytest.mark.parametrize(("fabric", "recording"), RECORDINGS)
def test_simulated_cloth_is_like_the_real_one(fabric, recording):
    rolls = [weave(fabric, seed=seed, width=loom.ROLL_WIDTH, recording=recording) for seed in range(5)]
    cloths = [roll.image[:, roll.start + realism.BEHIND_EDGE :] for roll in rolls]
    found, stated = realism.weave_figures(cloths), realism.REAL_WEAVES[fabric][recording]
    assert_alike(found, stated)
    # And the other way round: no strong wave that the real weave lacks. (Horizontal bars are the lamp's.)
    for peak in [peak for peak in found.peaks if peak[1] > 0.006][:2]:
        off, decibels = realism.counterpart(peak, stated.peaks)
        assert off < 0.05 and abs(decibels) < 3, (peak, stated.peaks)


def test_real_cloth_has_the_stated_figures(real):
    cloths = {}
    for record in real.records:
        if record.is_normal:
            cloth = realism.cloth_of(read_image(record.path))
            cloths.setdefault((record.fabric, recording_of(record.fabric, cloth)), []).append(cloth)
    assert set(cloths) <= set(RECORDINGS)
    for (fabric, recording), found in cloths.items():
        assert_alike(realism.weave_figures(found), realism.REAL_WEAVES[fabric][recording])


def recording_of(fabric, cloth):
    """The recording whose strongest peak is nearest to the cloth's."""
    strongest = realism.weave_figures([cloth]).peaks[0]
    stated = [figures.peaks[:1] for figures in realism.REAL_WEAVES[fabric]]
    return int(np.argmin([realism.counterpart(strongest, peaks)[0] for peaks in stated]))


def test_weave_figures_of_known_waves():
    y, x = np.mgrid[:256, :1024]
    cloth = 100 + 30 * np.cos(2 * np.pi * (0.125 * y - 0.25 * x)) + 10 * np.cos(2 * np.pi * 0.1875 * x)
    found = realism.weave_figures([cloth.astype(np.float32)] * 3, peaks=2)
    assert found.peaks[0][:2] == (-0.125, 0.25) and found.peaks[1][:2] == (0.0, 0.1875)
    assert abs(found.peaks[0][2] - found.peaks[1][2] - 20 * np.log10(3)) < 0.2
    assert abs(found.mean - 100) < 0.2 and abs(found.std - np.sqrt((30**2 + 10**2) / 2)) < 0.2
    with pytest.raises(InputError):
        realism.weave_figures([cloth[:100]])


def test_defect_contrast_of_a_known_spot():
    image = np.random.default_rng(0).normal(100, 10, (128, 128)).round().astype(np.uint8)
    mask = np.zeros(image.shape, bool)
    mask[60:68, 60:68] = True
    image[mask] = 70
    assert abs(realism.defect_contrast(image, mask) + 3) < 0.3
    with pytest.raises(InputError):
        realism.defect_contrast(image, np.zeros_like(mask))


def test_recordings_differ_and_unknown_ones_are_refused():
    slow, fast = (weave("04", recording=index) for index in (0, 2))
    assert not np.array_equal(slow.image, fast.image)
    with pytest.raises(InputError):
        weave("04", recording=3)


def test_every_thread_of_every_weave_is_bound():
    """A thread that is always on top, or never, would fall off."""
    for name, weave_matrix in WEAVES.items():
        marks = np.array(weave_matrix)
        for axis in (0, 1):
            share = marks.mean(axis=axis)
            assert ((0 < share) & (share < 1)).all(), name
    assert np.array_equal(WEAVES["twill 3/1"][1], np.roll(WEAVES["twill 3/1"][0], 1))


@pytest.mark.parametrize("fabric", loom.FABRICS)
def test_fabric_starts_where_stated(fabric):
    roll = weave(fabric)
    made = loom.FABRICS[fabric]
    low, high = (round(column * WIDTH / loom.ROLL_WIDTH) for column in made.start)
    assert low <= roll.start <= high
    cloth = roll.image[:, roll.start + made.selvedge :]
    assert abs(cloth.mean() - made.mean) < 0.12 * made.mean
    assert 0.8 < cloth.std() / made.std < 1.2
    assert (np.median(roll.image[:, roll.start + 3 :], axis=0) < 240).all()
    left = roll.image[:, : roll.start - EDGE_WANDER]
    assert 70 < left.mean() < 110 if made.machine_bed else (left == 255).all()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(("07",), {}), (("00", "007"), {}), (("00", "000"), {}), (("00",), {"width": 100}), (("00",), {"height": 9})],
)
def test_unknown_codes_and_sizes(arguments, options):
    with pytest.raises(InputError) as error:
        loom.simulate_roll(*arguments, generator=np.random.default_rng(0), **options)
    assert "\n" not in str(error.value)


def test_the_set_is_spread_over_the_parts():
    """Six defective rolls a fabric, every defect where a student meets it, every part of the split with something."""
    assert Counter(fabric for _, fabric in loom.DEFECTIVE_ROLLS) == dict.fromkeys(FABRIC_FOLDERS, 6)
    counts = Counter(defect for defect, _ in loom.DEFECTIVE_ROLLS)
    assert set(counts) == set(loom.MAKERS) and counts.pop("036") == 1 and min(counts.values()) >= 2
    rolls = [
        Record(None, number, defect, fabric, ()) for number, (defect, fabric) in enumerate(loom.DEFECTIVE_ROLLS, 1)
    ]
    rolls += [Record(None, number, "000", "00", ()) for number in loom.NORMAL_NUMBERS]
    split = SimpleNamespace(**split_records(rolls))
    assert {roll.defect for roll in split.test} == {"000", *loom.MAKERS}
    assert {roll.defect for roll in split.development} == set(loom.MAKERS) - {"027", "036"}
    assert (len(split.train), len(split.calibration), sum(roll.is_normal for roll in split.test)) == (4, 2, 2)
    for fabric, index in RECORDINGS:
        train = {loom._recording(fabric, roll.number, None) for roll in split.train}
        assert index in train, "a recording that is never trained on"


def test_layout(tmp_path, small_set):
    folder = loom.simulate(tmp_path / "set")
    names = set(files(folder))
    assert "NODefect_images/2306894-210033u/0002_000_02.png" in names
    assert {"Defect_images/0004_002_01.png", "Mask_images/0004_002_01_mask.png", SIMULATED_MARK} <= names
    assert len(names) == 7 * 2 + 2 * 4 + 1
    collection = load_aitex(folder)
    assert collection.source == "simulated fabric" and not collection.quirks and len(collection.records) == 18
    mask = cv2.imread(str(folder / "Mask_images/0004_002_01_mask.png"), cv2.IMREAD_UNCHANGED)
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


def test_what_took_the_sets_place_while_it_was_woven_stays(tmp_path, small_set, monkeypatch):
    folder = loom.simulate(tmp_path / "set")
    write_set = loom._write_set

    def meanwhile(*arguments):
        write_set(*arguments)
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "precious.txt").write_text("mine")

    monkeypatch.setattr(loom, "_write_set", meanwhile)
    with pytest.raises(InputError, match="not empty"):
        loom.simulate(folder, seed=1, overwrite=True)
    assert files(tmp_path) == {"set/precious.txt": b"mine"}


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
    assert folders == [tmp_path / "set"] * 2 and len(files(folders[0])) == 23
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
