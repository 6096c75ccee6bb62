import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from draem_aitex.data.patcher import patch_maxima
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors import draem, tiling
from draem_aitex.detectors.calibration import logit, offsets_of
from draem_aitex.errors import InputError
from draem_aitex.model.draem import build_draem
from draem_aitex.model.unet import NetworkConfig


@pytest.fixture(scope="module")
def model():
    return build_draem("compact", seed=3).eval()


def picture(width, height=64):
    return np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("width", [1, 15, 300, 2048, 2049, 2175, 2400, 3000, 3563, 4096, 9999])
@pytest.mark.parametrize(
    ("most", "margin", "multiple"), [(2176, 176, 16), (1, 176, 16), (700, 40, 8), (99999, 420, 32)]
)
def test_tiles_cover_every_column_once_and_with_context(width, most, margin, multiple):
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


def test_the_receptive_field_is_what_can_matter_to_a_pixel(model):
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
        for one, together in zip(alone, detector.maps(rolls), strict=True):
            assert np.abs(one - together).max() < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory the process holds")
def test_the_memory_bound_holds():
    """In a process of its own: what the networks add to what was held before stays under the bound."""
    code = """
import numpy as np
from draem_aitex.detectors import draem
from draem_aitex.model.draem import build_draem

def held(what):  # getrusage's peak would be that of the process which started this one
    return next(int(line.split()[1]) / 2**10 for line in open("/proc/self/status") if line.startswith(what + ":"))

model = build_draem("compact").eval()
image = np.random.default_rng(0).integers(0, 255, (256, 16384)).astype(np.uint8)
draem.anomaly_map(model, image[:, :512], (0, 512), 600)
before = held("VmRSS")
scores = draem.anomaly_map(model, image, (0, 16384), 600)
print(held("VmHWM") - before - scores.nbytes / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 100 < float(done.stdout) < 600


def test_sixteen_bits_change_scores_little(model):
    image = picture(400)
    full, half = (
        draem.DraemDetector(model, bfloat16=bits).predict(image, edges=(0, 400)).map for bits in (False, True)
    )
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


def two_fabrics():
    """Two rolls of two fabrics, one livelier."""
    return [
        Roll(name, name, "000", np.clip(picture(2048, 256) * contrast, 0, 255).astype(np.uint8), (0, 2048), None)
        for name, contrast in (("00", 0.2), ("01", 0.9))
    ]


def test_offsets_make_normal_fabric_of_every_kind_equal(model):
    """Normalised, the same share of either fabric's patches lies above the common offset."""
    rolls = two_fabrics()
    detector = draem.DraemDetector(model)
    detector.offsets = offsets = offsets_of(detector.raw_patch_scores(rolls), ["00", "01"], share=0.25)
    common = 1 / (1 + np.exp(-np.median(list(offsets.values()))))
    assert abs(offsets["00"] - offsets["01"]) > 1e-4
    for roll in rolls:
        maxima = patch_maxima(detector.predict(roll).map, roll.edges)
        assert (maxima > common).sum() == 2, "a quarter of eight patches"
        raw = draem.anomaly_map(detector.model, roll.image, roll.edges)
        assert detector.is_calibrated(roll.fabric)
        assert np.array_equal(detector.predict(roll.image, edges=roll.edges).map, raw)
        with pytest.warns(UserWarning, match="fabric 77: not calibrated"):
            assert np.array_equal(detector.predict(roll, fabric="77").map, raw)


def test_calibration_rolls_are_normalised_by_the_others(model):
    """By hand: of two rolls of a fabric each gets the other's offset; the only roll of another keeps its own."""
    rolls = [
        Roll(str(index), code, "000", np.clip(picture(1024 + 256 * index, 256) * contrast, 0, 255).astype(np.uint8),
             (0, 1024 + 256 * index), None)
        for index, (code, contrast) in enumerate((("00", 0.2), ("00", 0.9), ("01", 0.5)))
    ]  # fmt: skip
    detector = draem.DraemDetector(model).calibrate(rolls, fpr=0.5)
    raw = detector.raw_patch_scores(rolls)
    alone = [offsets_of([scores], ["00"])["00"] for scores in raw]
    by_hand = []
    for scores, offset in zip(raw, (alone[1], alone[0], alone[2]), strict=True):
        moved = logit(scores) + np.median(list(detector.offsets.values())) - offset
        by_hand.append(1 / (1 + np.exp(-moved)))
    together = np.sort(np.concatenate(by_hand))[::-1]
    assert detector.calibration.scores == pytest.approx(together, abs=1e-5) and detector.calibration.rolls == 3
    k = (len(together) + 1) // 2
    assert detector.threshold.value == detector.calibration.scores[k - 1]


def test_normalised_scores_keep_their_order_and_range(model):
    image = picture(600)
    detector = draem.DraemDetector(model)
    detector.offsets = {"00": -40.0, "01": 0.0, "02": 40.0}
    raw = draem.anomaly_map(detector.model, image, (50, 600))
    assert np.abs(raw - draem.anomaly_map(model, image, (50, 600))).max() < 1e-5, "folded batch norms"
    for code in detector.offsets:
        scores = detector.predict(image, edges=(50, 600), fabric=code).map
        assert scores.dtype == np.float32 and not scores[:, :50].any()
        assert scores[:, 50:].min() > 0 and scores.max() <= 1
        order = np.argsort(raw[:, 50:].ravel())
        assert (np.diff(scores[:, 50:].ravel()[order]) >= 0).all()


def test_three_channels_see_grey_three_times():
    """Networks of the authors' shape judge grey fabric: their maps are those of the image as grey colour."""
    config = NetworkConfig(channels=3, reconstructive=(4, 8), discriminative=(4, 8))
    detector = draem.DraemDetector(build_draem(config, seed=1))
    image = picture(96)
    with torch.inference_mode():
        colour = (torch.from_numpy(image)[None, None] / 255).expand(1, 3, -1, -1)
        expected = torch.sigmoid(detector.model(colour)[1])[0, 0].numpy()
    assert np.abs(detector.predict(image, edges=(0, 96)).map - expected).max() < 1e-5


def test_too_little_memory_is_one_line(model, monkeypatch):
    detector = draem.DraemDetector(model)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(detector.model, "forward", full)
    with pytest.raises(InputError, match="memory"):
        detector.predict(picture(64), edges=(0, 64))


def test_calibration_says_what_it_cannot_promise(model):
    rolls = two_fabrics()
    with pytest.warns(UserWarning, match="16 calibration patches are too few .* for 5.9%"):
        detector = draem.DraemDetector(model).calibrate(rolls)
    assert detector.threshold.wanted == pytest.approx(1 / 17)
    with pytest.raises(InputError, match="fpr: 0.01; expected 0.058"):
        detector.calibrate(rolls, fpr=0.01)
    with pytest.raises(InputError, match="a roll with a defect, 019"):
        detector.calibrate([replace(rolls[0], defect="019")])
    with pytest.raises(InputError, match="no patch of 256 x 256"):
        detector.calibrate([replace(rolls[0], edges=(0, 200))])


def test_predict_names_what_it_cannot_take(model):
    detector = draem.DraemDetector(model)
    for wrong in ([[1, 2]], 7, None):
        with pytest.raises(InputError, match="image: .*; expected a path"):
            detector.predict(wrong)
    with pytest.raises(InputError, match="expected uint8"):
        detector.predict(np.zeros((64, 64)), edges=(0, 64))
    with pytest.raises(InputError, match="call its calibrate"):
        detector.predict(picture(64), edges=(0, 64)).regions  # noqa: B018


def test_convolutions_in_float32_are_not_tf32(model, monkeypatch):
    detector, seen = draem.DraemDetector(model), []
    forward = detector.model.forward
    monkeypatch.setattr(detector.model, "forward", lambda x: seen.append(torch.backends.cudnn.allow_tf32) or forward(x))
    before = torch.backends.cudnn.allow_tf32
    detector.predict(picture(64), edges=(0, 64))
    assert seen == [False] and torch.backends.cudnn.allow_tf32 == before
