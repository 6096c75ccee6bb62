import subprocess
import sys

import numpy as np
import pytest
import torch

from draem_aitex.data.patcher import patch_maxima
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors import calibration, draem, tiling
from draem_aitex.detectors.calibration import logit
from draem_aitex.errors import InputError
from draem_aitex.model.draem import build_draem


@pytest.fixture(scope="module")
def model():
    return build_draem("compact", seed=3).eval()


def picture(width, height=64):
    return np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 15, 300, 2048, 2049, 2175, 2400, 3000, 3563, 4096, 9999])
@pytest.mark.parametrize(
    ("most", "margin", "multiple"), [(2176, 176, 16), (1, 176, 16), (700, 40, 8), (99999, 420, 32)]
)
def test_windows_cover_every_column_once_and_with_context(width, most, margin, multiple):
    found = tiling.tiles(width, most, margin, multiple)
    assert [own[0] for _, own in found] == [0] + [own[1] for _, own in found[:-1]] and found[-1][1][1] == width
    grid = found[:-1] if width % multiple and len(found) > 1 else found
    assert len({last - first for (first, last), _ in grid}) == 1, "one size"
    for (first, last), (own_first, own_last) in found:
        assert 0 <= first <= own_first < own_last <= last <= width
        assert (last - first) % multiple == 0 or width < multiple, "nothing is padded on"
        assert first % multiple == 0 or last == width
        assert last - first <= max(most, 2 * (margin + multiple) + tiling.TILE_STEP)
        assert own_first - first >= min(margin, (width - 3 * multiple) // 2) or own_first == 0
        assert last - own_last >= min(margin, (width - 3 * multiple) // 2) or own_last == width


def test_reach_is_what_can_matter_to_a_pixel(model):
    """Cloth beyond it may be anything; of cloth nearby the networks do see something."""
    reach = model.config.receptive_field
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.rand(1, 1, 16, 4 * reach, generator=generator) for _ in range(2))
    columns = torch.arange(4 * reach)
    with torch.inference_mode():
        whole = model(image)[1][..., 2 * reach : 2 * reach + 16]
        for place in range(16):  # each lies elsewhere on the poolings' grid
            away = (columns - 2 * reach - place).abs()
            same = model(torch.where(away > reach, other, image))[1][..., 2 * reach + place]
            assert torch.allclose(same, whole[..., place], atol=1e-6)
        nearer = model(torch.where(away > 16, other, image))[1][..., 2 * reach + 15]
        assert not torch.allclose(nearer, whole[..., 15], atol=1e-6)


def test_the_map_is_that_of_one_pass(model):
    image = picture(3600)
    with torch.inference_mode():
        _, logits = model(torch.from_numpy(image)[None, None] / 255)
    whole = torch.sigmoid(logits[0, 0]).numpy()
    for memory in (1000, 12, 1):
        assert np.abs(draem.anomaly_map(model, image, (0, 3600), memory) - whole).max() < 1e-5
    assert len(tiling.tiles(3600, 1, model.config.receptive_field, model.config.multiple)) > 2, "or nothing was tiled"


@pytest.mark.parametrize(("width", "height"), [(3605, 64), (700, 75), (431, 33), (17, 40), (9, 5)])
def test_off_the_grid_the_ends_are_seen_as_they_are(model, width, height):
    """The last rows and columns are those of a pass that ends with the picture, the first of one that begins with it;
    tiled or not, the map is the same."""
    image = picture(width, height)
    scores = draem.anomaly_map(model, image, (0, width))
    assert np.abs(draem.anomaly_map(model, image, (0, width), memory_mb=1) - scores).max() < 1e-5
    rows, columns = (side - side % 16 or side for side in image.shape)
    with torch.inference_mode():
        for place in np.s_[:rows, :columns], np.s_[-rows:, -columns:]:
            part = torch.from_numpy(np.ascontiguousarray(image[place]))[None, None] / 255
            passed = torch.sigmoid(model(part)[1][0, 0]).numpy()
            corner = np.s_[0, 0] if place == np.s_[:rows, :columns] else np.s_[-1, -1]
            assert passed[corner] == pytest.approx(scores[corner], abs=1e-5)


def test_many_rolls_are_scored_as_each_by_itself(model):
    rolls = [
        Roll(str(width), "00", "000", picture(width), (start, width), None)
        for width, start in ((700, 0), (700, 3), (700, 9), (300, 100), (701, 0), (2000, 37))
    ]
    alone = [draem.anomaly_map(model, roll.image, roll.edges) for roll in rolls]
    for memory in (1, 30, 1000):
        detector = draem.DraemDetector(model, memory_mb=memory)
        for one, together in zip(alone, detector.predict_rolls(rolls), strict=True):
            assert np.abs(one - together).max() < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory the process holds")
def test_the_memory_bound_holds():
    """In a process of its own: what the networks add to what was held before stays under the bound."""
    code = """
import numpy as np
from draem_aitex import inference, networks

def held(what):  # getrusage's peak would be that of the process which started this one
    return next(int(line.split()[1]) / 2**10 for line in open("/proc/self/status") if line.startswith(what + ":"))

model = networks.build_draem("compact").eval()
image = np.random.default_rng(0).integers(0, 255, (256, 16384)).astype(np.uint8)
inference.anomaly_map(model, image[:, :512], (0, 512), 600)
before = held("VmRSS")
scores = inference.anomaly_map(model, image, (0, 16384), 600)
print(held("VmHWM") - before - scores.nbytes / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 100 < float(done.stdout) < 600


def test_sixteen_bits_change_scores_little(model):
    image = picture(400)
    full, half = (draem.DraemDetector(model, bfloat16=bits).predict(image, (0, 400)) for bits in (False, True))
    assert half.dtype == np.float32 and 0 < np.abs(full - half).max() < 0.02


def test_zero_outside_the_fabric_and_nothing_else_is_seen(model):
    image = picture(400)
    scores = draem.anomaly_map(model, image, (100, 372))
    assert scores.shape == image.shape and scores.dtype == np.float32
    assert not scores[:, :100].any() and not scores[:, 372:].any()
    assert (scores[:, 100:372] > 0).all() and scores.max() <= 1
    image[:, :100] = 255
    assert np.array_equal(scores, draem.anomaly_map(model, image, (100, 372)))


def test_wrong_pictures_are_named(model):
    with pytest.raises(InputError, match=r"float64 of shape \(64, 64\); expected uint8"):
        draem.anomaly_map(model, np.zeros((64, 64)), (0, 64))
    with pytest.raises(InputError, match="memory_mb: 0; expected more than 0"):
        draem.DraemDetector(model, memory_mb=0)


def test_levels_make_flawless_cloth_of_every_fabric_equal(model):
    """Two cloths, one livelier: normalised, the same share of either's patches lies above the common level."""
    rolls = [
        Roll(name, name, "000", np.clip(picture(2048, 256) * contrast, 0, 255).astype(np.uint8), (0, 2048), None)
        for name, contrast in (("00", 0.2), ("01", 0.9))
    ]
    levels = draem.DraemDetector(model).offsets_from(rolls, share=0.25)
    detector = draem.DraemDetector(model, levels)
    common = 1 / (1 + np.exp(-np.median(list(levels.values()))))
    assert abs(levels["00"] - levels["01"]) > 1e-4
    for roll in rolls:
        maxima = patch_maxima(detector.predict(roll.image, roll.edges, roll.fabric), roll.edges)
        assert (maxima > common).sum() == 2, "a quarter of eight patches"
        raw = draem.anomaly_map(detector.model, roll.image, roll.edges)
        assert detector.is_calibrated(roll.fabric)
        assert np.array_equal(detector.predict(roll.image, roll.edges), raw)
        with pytest.warns(UserWarning, match="fabric 77: not calibrated"):
            assert np.array_equal(detector.predict(roll.image, roll.edges, "77"), raw)


def test_calibration_rolls_are_levelled_by_the_others(model):
    """By hand: of two rolls of a fabric each gets the other's level; the only roll of another keeps its own."""
    rolls = [
        Roll(str(index), code, "000", np.clip(picture(1024 + 256 * index, 256) * contrast, 0, 255).astype(np.uint8),
             (0, 1024 + 256 * index), None)
        for index, (code, contrast) in enumerate((("00", 0.2), ("00", 0.9), ("01", 0.5)))
    ]  # fmt: skip
    levels = draem.DraemDetector(model).offsets_from(rolls)
    detector = draem.DraemDetector(model, levels)
    alone = [detector.offsets_from([roll])[roll.fabric] for roll in rolls]
    raw = detector.raw_patch_scores(rolls)
    for index, level in enumerate((alone[1], alone[0], alone[2])):
        moved = logit(raw[index]) + np.median(list(levels.values())) - level
        held_out = detector.held_out_patch_scores(rolls)[index]
        assert held_out == pytest.approx(1 / (1 + np.exp(-moved)), abs=1e-5)
    together = np.sort(np.concatenate(detector.held_out_patch_scores(rolls)))[::-1]
    assert np.array_equal(calibration.calibration_scores(detector, rolls).scores, together.astype(np.float64))


def test_levelled_scores_keep_their_order_and_range(model):
    image = picture(600)
    detector = draem.DraemDetector(model, {"00": -40.0, "01": 0.0, "02": 40.0})
    raw = draem.anomaly_map(detector.model, image, (50, 600))
    assert np.abs(raw - draem.anomaly_map(model, image, (50, 600))).max() < 1e-5, "folded batch norms"
    for code in detector.offsets:
        scores = detector.predict(image, (50, 600), code)
        assert scores.dtype == np.float32 and not scores[:, :50].any()
        assert scores[:, 50:].min() > 0 and scores.max() <= 1
        order = np.argsort(raw[:, 50:].ravel())
        assert (np.diff(scores[:, 50:].ravel()[order]) >= 0).all()
