"""Baselines on stripes with a planted blob: they learn, find it, repeat themselves, are kept, refuse bad input."""

import inspect
import os
import re
import sys
import traceback
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torchvision import models

from draem_aitex import workflow
from draem_aitex.baselines import backbones, neighbours, patchcore
from draem_aitex.baselines.backbones import build_backbone, gabor_filters, turned
from draem_aitex.baselines.baseline import odds_to_scores, smoothed
from draem_aitex.baselines.neighbours import nearest_distances, searcher
from draem_aitex.baselines.patchcore import PatchCore, greedy_coreset
from draem_aitex.baselines.vae import VAE
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint
from draem_aitex.training.sampler import CropSampler, NormalAugmentation

EDGES = (70, 500)
DENSENET, RESNET = ("https://download.pytorch.org/models/" + name for name in (
    "densenet121-a639ec97.pth", "resnet50-0676ba61.pth"))  # fmt: skip


def stripes(seed, height=128, width=512):
    """A twill-like roll with a white margin at the left, as uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cloth = 120 + 40 * np.sin(2 * np.pi * (x + y + rng.uniform(0, 8)) / 8) + rng.normal(0, 6, (height, width))
    cloth[:, : EDGES[0]] = 250
    return cloth.clip(0, 255).astype(np.uint8)


def seamless(seed):
    """128 x 416 px of upright stripes whose mirror image goes on as the stripes do: no border is odd."""
    x = np.arange(416)
    cloth = 120 + 40 * np.cos(2 * np.pi * x / 10) + np.random.default_rng(seed).normal(0, 6, (128, 416))
    return cloth.clip(0, 255).astype(np.uint8)


def with_blob(image, row=64, column=294, radius=9):
    """The picture with a flat grey disc, and each pixel's distance from the disc's middle."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    distance = np.hypot(y - row, x - column)
    return np.where(distance <= radius, 120, image).astype(np.uint8), distance


def as_roll(image, fabric="00", edges=EDGES, mask=None):
    return Roll(f"0001_000_{fabric}", fabric, "000", image, edges, mask)


ROLLS = [as_roll(stripes(seed)) for seed in range(4)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_bank(seed=0, rolls=ROLLS, **options):
    options = {"bank_size": 100, "pool_size": 800, "learn_steps": 0, **options}
    return PatchCore(**options).fit(rolls, seeded(seed))


def small_vae(seed=0, steps=60, **options):
    return VAE(**{"size": 64, "width": 8, **options}).fit(ROLLS, seeded(seed), steps=steps, batch=8)


@pytest.fixture(scope="module")
def vae():
    return small_vae(steps=200)


@pytest.fixture(scope="module")
def bank():
    return small_bank()


@pytest.fixture(scope="module")
def random_shallow():
    return small_bank(backbone="shallow")


@pytest.fixture(scope="module")
def trained_shallow():
    return small_bank(backbone="shallow", learn_steps=3)


@pytest.fixture(scope="module")
def per_fabric():
    """Banks of two fabrics, one of the usual stripes, one of stripes turned the other way."""
    turned_over = [as_roll(np.ascontiguousarray(roll.image[::-1]), "01") for roll in ROLLS[2:]]
    return small_bank(rolls=[*ROLLS[:2], *turned_over], per_fabric=True, bank_size=50, pool_size=400)


@pytest.fixture
def detector(request):
    """The fitted detector that a test names."""
    return request.getfixturevalue(request.param)


FITTED = pytest.mark.parametrize("detector", ["bank", "random_shallow", "trained_shallow", "vae"], indirect=True)


def assert_is_a_map(scores, image, edges=EDGES):
    assert scores.shape == image.shape and scores.dtype == np.float32
    cloth = scores[:, slice(*edges)]
    assert not scores[:, : edges[0]].any() and not scores[:, edges[1] :].any()
    assert cloth.min() >= 1e-6 and cloth.max() <= 1, "NaN fails here as well"


def predicted(detector, image, edges, fabric=None):
    """The map that `predict` gives."""
    return detector.predict(image, edges=edges, fabric=fabric).map


def assert_refused(call, *words):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


READS = ("item", "tolist", "numpy", "cpu", "__int__", "__float__", "__bool__", "__index__")


class Reads(TorchFunctionMode):
    """Counts how often values are read that would have to come from the device, but for PyTorch's own optimizers."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READS:
            callers = "".join(frame.filename for frame in traceback.extract_stack())
            self.count += os.path.join("torch", "optim") not in callers
        return func(*args, **(kwargs or {}))


# Every detector


@FITTED
def test_a_map_is_zero_beside_the_fabric_and_from_a_millionth_to_one_on_it(detector):
    image = stripes(9)
    assert_is_a_map(predicted(detector, image, EDGES), image)
    black = np.where(np.arange(512) < 300, 0, image).astype(np.uint8)  # as odd as it gets
    assert_is_a_map(predicted(detector, black, EDGES), black)


@FITTED
def test_any_size_and_edges_from_32_pixels_on_fit(detector):
    for height, edges in ((128, (0, 512)), (96, (3, 450)), (77, (101, 140)), (33, (7, 512)), (32, (200, 232))):
        image = stripes(5)[:height]
        scores = predicted(detector, image, edges)
        assert_is_a_map(scores, image, edges)
        assert (scores > 0).sum() == height * (edges[1] - edges[0])


@FITTED
def test_what_lies_beside_the_fabric_does_not_matter(detector):
    image = stripes(9)
    other = image.copy()
    other[:, : EDGES[0]], other[:, EDGES[1] :] = 0, 77
    assert np.array_equal(predicted(detector, image, EDGES), predicted(detector, other, EDGES))


@pytest.mark.parametrize(
    "make",
    [
        small_bank,
        lambda seed=0: small_bank(seed, coreset="random"),
        lambda seed=0: small_bank(seed, backbone="shallow", pool_size=400),
        lambda seed=0: small_bank(seed, backbone="shallow", pool_size=400, learn_steps=2),
        lambda seed=0: small_vae(seed, steps=3),
    ],
    ids=["fft", "fft, random coreset", "shallow, random", "shallow, trained", "vae"],
)
def test_the_generator_decides_and_the_global_state_is_left_alone(make):
    """The latter is looked at by a fixture of every test."""
    image, _ = with_blob(stripes(9))
    first, again, other = (predicted(make(seed), image, EDGES) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("make", [small_bank, small_vae], ids=["bank", "vae"])
def test_augmented_crops_make_another_detector(make):
    normal_augmentation = NormalAugmentation(share=1.0)
    detector = make(**({"steps": 3} if make is small_vae else {}))
    plain = predicted(detector, stripes(9), EDGES)
    arguments = {"steps": 3, "batch": 8} if make is small_vae else {}
    detector.fit(ROLLS, seeded(), normal_augmentation=normal_augmentation, **arguments)
    assert not np.array_equal(plain, predicted(detector, stripes(9), EDGES))


# PatchCore


@pytest.mark.parametrize("coreset", ["greedy", "random"])
def test_filters_find_a_flat_blob_among_stripes(coreset):
    edges = (0, 416)
    rolls = [as_roll(seamless(seed), edges=edges) for seed in range(4)]
    image, distance = with_blob(seamless(9), row=64, column=224, radius=12)
    scores = predicted(small_bank(rolls=rolls, coreset=coreset, pool_size=1500), image, edges)
    assert_is_a_map(scores, image, edges)
    assert distance.flat[scores.argmax()] < 12 + 12, "within a position and a half of the blob"
    assert scores[distance < 6].min() > scores[distance > 12 + 32].max()


def test_a_score_is_the_distance_to_the_bank_over_itself_and_the_radius():
    """By other means: a table of all distances, and OpenCV to lengthen it."""
    edges = (0, 416)
    detector = small_bank(rolls=[as_roll(seamless(seed), edges=edges) for seed in range(2)])
    image, _ = with_blob(seamless(9), column=224)
    features = build_backbone("fft")(torch.from_numpy(image)[None, None] / 255)[0][0]
    kept = detector.banks[patchcore.EVERY]
    positions = (features.flatten(1).T - kept.mean) / kept.deviation
    nearest = torch.cdist(positions, kept.vectors, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    odds = cv2.resize((nearest / kept.radius).view(16, 52).numpy(), (416, 128), interpolation=cv2.INTER_LINEAR)
    assert np.abs(detector.raw_map(image, edges) - odds / (1 + odds)).max() < 1e-4


def test_the_pool_is_standardised_and_its_oddest_position_sets_the_radius(monkeypatch):
    pools = []

    def first_ones(points, count, generator):
        pools.append(points)
        return torch.arange(count)

    monkeypatch.setattr(patchcore, "greedy_coreset", first_ones)
    kept = small_bank(pool_size=500).banks[patchcore.EVERY]
    pool = pools[0]
    assert pool.shape == (500, 41) and torch.equal(kept.vectors, pool[:100])
    assert pool.mean(0).abs().max() < 1e-3 and (pool.std(0) - 1).abs().max() < 1e-3
    wanted = torch.cdist(pool, pool[:100], compute_mode="donot_use_mm_for_euclid_dist").amin(1).max()
    assert float(kept.radius) == pytest.approx(float(wanted), rel=1e-3)


@pytest.mark.parametrize(
    ("backbone", "neighbourhood", "tolerance"), [("fft", 1, 1e-5), ("fft", 3, 1e-5), ("shallow", 1, 1e-4)]
)
def test_tiles_show_no_seam(monkeypatch, backbone, neighbourhood, tolerance):
    detector = small_bank(backbone=backbone, neighbourhood=neighbourhood, pool_size=400)
    image, edges, calls = stripes(9, height=320, width=700), (30, 690), []
    embedded = detector._embedded
    monkeypatch.setattr(detector, "_embedded", lambda pictures: calls.append(pictures.shape) or embedded(pictures))
    monkeypatch.setattr(patchcore, "TILE", 2**30)
    whole = predicted(detector, image, edges)
    assert len(calls) == 1
    monkeypatch.setattr(patchcore, "TILE", 2**15)
    cut = predicted(detector, image, edges)
    assert len(calls) > 7 and all(shape[2] * shape[3] <= 2**15 for shape in calls[1:])
    assert np.abs(whole - cut).max() < tolerance


def test_a_neighbourhood_is_the_mean_of_square_features(bank):
    pictures = torch.from_numpy(stripes(9))[None, None] / 255
    alone = bank._embedded(pictures)[0].numpy()
    together = PatchCore(neighbourhood=3)
    together.network = bank.network
    means = np.stack([cv2.blur(field, (3, 3)) for field in alone])
    found = together._embedded(pictures)[0].numpy()
    assert np.abs(found - means)[:, 1:-1, 1:-1].max() < 1e-5 and found.shape == alone.shape
    corner = alone[:, :2, :2].mean((1, 2))
    assert np.abs(found[:, 0, 0] - corner).max() < 1e-5, "at the border of the positions that there are"


def test_a_bank_says_what_it_is(bank, random_shallow, trained_shallow, per_fabric):
    assert bank.what == "PatchCore, backbone fft, one bank of 100 vectors of 41 numbers"
    assert random_shallow.what == "PatchCore, backbone shallow (random), one bank of 100 vectors of 192 numbers"
    assert "backbone shallow (trained 3 steps on the normal rolls), one bank" in trained_shallow.what
    assert per_fabric.what == "PatchCore, backbone fft, a bank for each of 2 fabrics, of 50 vectors of 41 numbers"
    assert bank.size_bytes == 4 * (100 * 41 + 2 * 41 + 1) and PatchCore().size_bytes == 0
    assert per_fabric.size_bytes == 2 * 4 * (50 * 41 + 2 * 41 + 1)
    assert (bank.name, bank.kind, list(bank.fabrics)) == ("PatchCore", "patchcore", [])


def test_training_changes_what_the_small_network_sees(random_shallow, trained_shallow):
    assert random_shallow.network.steps == 0 and trained_shallow.network.steps == 3
    image = stripes(9)
    assert not np.array_equal(predicted(random_shallow, image, EDGES), predicted(trained_shallow, image, EDGES))


def test_each_fabric_has_a_bank_of_its_own_and_others_are_refused(per_fabric):
    assert per_fabric.fabrics == ["00", "01"]
    image = stripes(9)
    own, other = (predicted(per_fabric, image, EDGES, fabric)[:, 100:480].mean() for fabric in ("00", "01"))
    assert own < other, "the other one knows no such stripes"
    alone = small_bank(rolls=ROLLS[:2], per_fabric=True, bank_size=50, pool_size=400)
    assert np.array_equal(alone.raw_map(image, EDGES, "00"), per_fabric.raw_map(image, EDGES, "00"))
    assert_refused(lambda: predicted(per_fabric, image, EDGES, "02"), "fabric 02", "00, 01")
    assert_refused(lambda: predicted(per_fabric, image, EDGES), "not named", "00, 01")


def scores_of_normal_fabric(detector):
    return detector.raw_map(stripes(9), EDGES)[:, slice(*EDGES)]


@pytest.mark.parametrize("coreset", ["greedy", "random"])
@pytest.mark.parametrize("bank_size", [100, 99, 51])
def test_a_bank_of_nearly_the_whole_pool_scores_like_others(coreset, bank_size):
    """Distances within a pool that is kept whole are rounding noise; with that as the radius all scores would be 1."""
    rolls = [as_roll(stripes(seed, height=256, width=900)) for seed in range(4)]
    small = small_bank(rolls=rolls, bank_size=50, pool_size=100, coreset=coreset)
    large = small_bank(rolls=rolls, bank_size=bank_size, pool_size=100, coreset=coreset)
    radius = float(large.banks[patchcore.EVERY].radius)
    assert 0.5 < radius / float(small.banks[patchcore.EVERY].radius) < 2
    assert scores_of_normal_fabric(large).mean() < 0.6


def test_as_long_as_half_of_the_pool_is_left_over_nothing_more_is_drawn(monkeypatch):
    drawn = []
    pool = PatchCore._pool
    monkeypatch.setattr(PatchCore, "_pool", lambda *arguments: drawn.append(1) or pool(*arguments))
    for bank_size, pools in ((400, 1), (401, 2)):
        drawn.clear()
        small_bank(bank_size=bank_size, pool_size=800)
        assert len(drawn) == pools


# Backbones

STAND_IN = """
from torch import nn

dependencies = ["torch"]


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 384, 14, stride=14)

    def get_intermediate_layers(self, x, n=1, reshape=False, return_class_token=False, norm=True):
        height, width = x.shape[2:]
        assert height % 14 == 0 and width % 14 == 0, "as Meta's code has it"
        assert n == 1 and reshape and norm and not return_class_token
        return (self.patch_embed(x),)


def dinov2_vits14(pretrained=True):
    assert not pretrained
    return Transformer()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A folder of `torch.hub` with code in the place of DINOv2's: the names and shapes of one layer of it."""
    folder = tmp_path / "hub" / backbones.DINOV2.replace("/", "_").replace(":", "_")
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(STAND_IN)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Nothing in PyTorch's folder, and nothing to be fetched."""

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_every_backbone_gives_maps_of_the_promised_shapes_and_fills_a_bank(name, stand_in):
    backbone = build_backbone(name, seeded(), pretrained=False)
    height, width = 4 * backbone.multiple, 8 * backbone.multiple
    maps = backbone(torch.rand(2, 1, height, width, generator=seeded()))
    assert isinstance(maps, list) and sum(field.shape[1] for field in maps) == backbone.channels
    for index, field in enumerate(maps):
        stride = backbone.stride * 2**index
        assert field.shape[0] == 2 and field.shape[2:] == (height // stride, width // stride)
        assert field.isfinite().all() and not field.requires_grad
    assert len(maps) == (2 if name in backbones.PRETRAINED else 1)
    assert not backbone.training and not any(part.training for part in backbone.modules())
    assert not any(weight.requires_grad for weight in backbone.parameters())
    detector = PatchCore(name, bank_size=20, pool_size=400, learn_steps=0, pretrained=False).fit(ROLLS[:1], seeded())
    assert detector.banks[patchcore.EVERY].vectors.shape == (20, backbone.channels)
    for height, edges in ((128, EDGES), (45, (101, 150))):
        image = stripes(9)[:height]
        assert_is_a_map(predicted(detector, image, edges), image, edges)


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    for make in (lambda: build_backbone("vgg"), lambda: PatchCore("vgg")):
        assert_refused(make, "backbone: 'vgg'", *backbones.BACKBONES)


@pytest.mark.parametrize(("name", "url"), [("densenet121", DENSENET), ("resnet50", RESNET)])
def test_weights_that_cannot_be_had_are_one_line_with_a_way_out(name, url, no_network):
    words = (name, "its weights", "no route to host", url, "fft", "shallow", torch.hub.get_dir())
    assert_refused(lambda: build_backbone(name), *words)
    assert_refused(lambda: PatchCore(name).fit(ROLLS[:1], seeded()), *words)


def test_a_file_with_the_wrong_checksum_is_one_line(monkeypatch):
    def damaged(*_, **__):
        raise RuntimeError('invalid hash value (expected "a639ec97", got "0")')

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", damaged)
    assert_refused(lambda: build_backbone("densenet121"), "densenet121", "invalid hash value", DENSENET)


@pytest.mark.parametrize("pretrained", [True, False])
def test_dinov2s_code_that_cannot_be_had_is_one_line_with_a_way_out(pretrained, no_network):
    words = ("dinov2_vits14", "its code", "no route to host", "https://github.com/facebookresearch/dinov2", "fft")
    assert_refused(lambda: build_backbone("dinov2_vits14", pretrained=pretrained), *words, "shallow")


def test_dinov2s_weights_that_cannot_be_had_are_one_line_with_a_way_out(stand_in, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    words = ("dinov2_vits14", "its weights", backbones.DINOV2_WEIGHTS, "fft", "shallow")
    assert_refused(lambda: build_backbone("dinov2_vits14"), *words)


def fetching(monkeypatch, weights):
    """Gives these weights to whoever fetches some; a list of (url, arguments) that fills."""
    calls = []

    def fetch(url, **arguments):
        calls.append((url, arguments))
        return weights

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    return calls


def test_fetched_weights_are_read_without_pickle_and_under_their_old_names(monkeypatch):
    """DenseNet's file is of PyTorch 0.3, where a layer could be called norm.1."""
    with torch.random.fork_rng(devices=[]):
        weights = models.get_model("densenet121", weights=None).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name): value for name, value in weights.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old and not old.keys() >= weights.keys()
    calls = fetching(monkeypatch, old)
    held = build_backbone("densenet121").network.state_dict()
    ((url, arguments),) = calls
    assert url == DENSENET and arguments["weights_only"] is True and arguments["check_hash"] is True
    assert len(held) > 200 and "features.denseblock3.denselayer24.conv2.weight" in held
    assert all(torch.equal(value, weights[name]) for name, value in held.items())


def test_dinov2s_fetched_weights_are_read_without_pickle(stand_in, monkeypatch):
    weights = {"patch_embed.weight": torch.zeros(384, 3, 14, 14), "patch_embed.bias": torch.arange(384.0)}
    calls = fetching(monkeypatch, weights)
    (field,) = build_backbone("dinov2_vits14")(torch.rand(1, 1, 28, 56, generator=seeded()))
    ((url, arguments),) = calls
    assert url == backbones.DINOV2_WEIGHTS and arguments["weights_only"] is True
    assert torch.equal(field, torch.arange(384.0)[None, :, None, None].expand(1, 384, 2, 4))


def test_gabor_filters_ignore_brightness_and_answer_their_own_wave():
    filters = gabor_filters((4.0, 8.0), 4)
    assert filters.shape == (1 + 2 * 8, 1, 21, 21)
    assert filters[0].sum() == pytest.approx(1, abs=1e-5)
    assert filters[1:].sum((1, 2, 3)).abs().max() < 1e-5
    assert filters[1:9].abs().sum((1, 2, 3)).numpy() == pytest.approx(1, abs=1e-5)
    y, x = torch.meshgrid(*[torch.arange(21.0)] * 2, indexing="ij")
    for direction, place in ((x, 4), (y, 6)):  # of eight: wavelength 8 comes second, 90 degrees third
        wave = torch.cos(2 * torch.pi * direction / 8)
        even, odd = (filters[1:, 0] * wave).sum((1, 2)).chunk(2)
        assert (even**2 + odd**2).argmax() == place


def test_the_eight_ways_to_lay_a_square_are_numpys_and_all_different():
    picture = np.arange(25, dtype=np.float32).reshape(5, 5) ** 2
    ways = turned(torch.from_numpy(picture).expand(8, 1, 5, 5), torch.arange(8))[:, 0].numpy()
    for turn, way in enumerate(ways):
        assert np.array_equal(way, np.rot90(np.fliplr(picture) if turn >= 4 else picture, turn % 4))
    assert len({way.tobytes() for way in ways}) == 8


def test_the_small_network_learns_to_tell_how_a_crop_was_turned():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :512]
    saw = 60 + 15 * ((x + 2 * y) % 8) + rng.normal(0, 6, (128, 512))  # looks different in every turn
    sampler = CropSampler([as_roll(saw.clip(0, 255).astype(np.uint8), edges=(0, 512))], 64, "cpu")
    network = build_backbone("shallow", seeded())
    losses = network.learn(sampler, seeded(), 40, batch=32)
    assert losses.shape == (40,) and losses.dtype == torch.float32 and network.steps == 40
    assert losses[0] > 0.8 * np.log(8) and losses[-5:].mean() < 0.8 * np.log(8)
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    network.learn(sampler, seeded(1), 1, batch=4)
    assert network.steps == 41


# Nearest neighbours and the coreset


def vectors(count, numbers, seed):
    return torch.randn(count, numbers, generator=seeded(seed))


@pytest.mark.parametrize("memory_mb", [64, 0.01, 1e-6])
def test_nearest_distances_are_those_of_a_full_table_within_any_memory(memory_mb):
    queries, kept = vectors(101, 24, 0), vectors(37, 24, 1)
    found = nearest_distances(queries, kept, memory_mb)
    assert found.dtype == torch.float32
    assert (found - torch.cdist(queries, kept).amin(1)).abs().max() < 1e-4
    assert nearest_distances(kept, kept).max() < 0.02, "no NaN where rounding makes a square negative"


@pytest.mark.parametrize("search", ["faiss", "auto"])
def test_faiss_finds_the_same_distances(search):
    pytest.importorskip("faiss", reason="faiss is not installed: nothing to compare with")
    queries, kept = vectors(101, 24, 0), vectors(37, 24, 1)
    found = searcher(kept, search)(queries)
    assert found.dtype == torch.float32 and found.shape == (101,)
    assert (found - searcher(kept, "torch")(queries)).abs().max() < 1e-4


def test_without_faiss_auto_is_torch_and_faiss_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(neighbours, "find_spec", lambda name: None)
    queries, kept = vectors(11, 8, 0), vectors(5, 8, 1)
    assert torch.equal(searcher(kept, "auto")(queries), nearest_distances(queries, kept))
    assert_refused(lambda: searcher(kept, "faiss"), "'faiss' is not installed", "pip install faiss-cpu")
    assert_refused(lambda: PatchCore(search="faiss"), "'faiss' is not installed")


def test_vectors_of_another_length_and_unknown_searches_are_refused():
    assert_refused(lambda: nearest_distances(vectors(3, 4, 0), vectors(5, 6, 1)), "queries", "(4,)", "(6,)")
    for make in (lambda: searcher(vectors(5, 6, 1), "annoy"), lambda: PatchCore(search="annoy")):
        assert_refused(make, "search: 'annoy'", "auto, torch, faiss")


def test_greedy_coreset_covers_clusters_and_never_repeats():
    for numbers in (2, 256):  # the latter under a random projection
        clusters = 10 * vectors(4, numbers, 3)
        points = (clusters[:, None] + 0.1 * torch.rand(4, 50, numbers, generator=seeded())).reshape(-1, numbers)
        chosen = greedy_coreset(points, 4, seeded())
        assert sorted((chosen // 50).tolist()) == [0, 1, 2, 3]
    everything = greedy_coreset(torch.zeros(6, 2), 9, seeded())
    assert sorted(everything.tolist()) == list(range(6))


def test_greedy_coreset_is_the_k_centre_algorithm():
    """Against the plain one in double precision, from the same first point."""
    points = vectors(300, 16, 0)
    chosen = greedy_coreset(points, 40, seeded()).tolist()
    exact, wanted = points.double().numpy(), chosen[:1]
    while len(wanted) < 40:
        nearest = np.min([np.linalg.norm(exact - exact[index], axis=1) for index in wanted], axis=0)
        wanted.append(int(nearest.argmax()))
    assert chosen == wanted
    assert greedy_coreset(points, 1, seeded(1)).tolist() != chosen[:1], "the generator draws the first"


def test_no_value_is_read_while_a_coreset_is_chosen_a_bank_filled_or_the_small_network_trained():
    with Reads() as reads:
        greedy_coreset(vectors(100, 80, 0), 20, seeded())
        detector = small_bank(bank_size=20, pool_size=400, search="torch")
        assert reads.count == 0
        crops = CropSampler(ROLLS, 64, "cpu")
        network = build_backbone("shallow")
        network.learn(crops, seeded(), 2, batch=2)
        detector._oddness(torch.rand(1, 1, 64, 64, generator=seeded()), None)
    assert reads.count == 0


def test_greedy_coreset_leaves_no_point_as_far_away_as_a_random_one_does():
    points = vectors(1000, 8, 0)
    greedy, random = greedy_coreset(points, 50, seeded()), torch.randperm(1000, generator=seeded())[:50]
    farthest = [float(torch.cdist(points, points[chosen]).amin(1).max()) for chosen in (greedy, random)]
    assert farthest[0] < 0.9 * farthest[1]


# The variational autoencoder


def test_vae_learns_to_reconstruct(vae):
    assert len(vae.losses) == vae.steps == 200
    assert np.mean(vae.losses[-20:]) < 0.5 * np.mean(vae.losses[:5])
    image = stripes(9)
    restored = vae.reconstruct(image, EDGES)
    cloth = image[:, slice(*EDGES)] / 255.0
    error = np.abs(restored[:, slice(*EDGES)] - cloth).mean()
    assert error < 0.5 * np.abs(cloth - cloth.mean()).mean()  # better than one flat grey
    inside = np.abs(restored[:, 200:232] - image[:, 200:232] / 255.0).mean()
    assert inside < 1.3 * np.mean(vae.losses[-20:])  # on a roll as on crops: no expectation of a border
    assert not restored[:, : EDGES[0]].any() and not restored[:, EDGES[1] :].any()


def test_vae_map_is_higher_on_the_blob(vae):
    image, distance = with_blob(stripes(9))
    scores = predicted(vae, image, EDGES)[:, slice(*EDGES)]
    odds, inside = scores / (1 - scores), distance[:, slice(*EDGES)] <= 9
    assert odds[inside].mean() > 1.5 * odds.mean()


@pytest.mark.parametrize(("error", "power"), [("l1", 1), ("mse", 2)])
def test_vae_scores_are_the_error_in_units_of_the_training_error(error, power):
    detector = small_vae(steps=5, error=error, smoothing=0)
    image = stripes(9)
    field = np.abs(detector.reconstruct(image, EDGES) - image / 255.0) ** power
    wanted = (field / (field + detector.unit)).clip(1e-6)[:, slice(*EDGES)]
    assert np.abs(predicted(detector, image, EDGES)[:, slice(*EDGES)] - wanted).max() < 1e-4
    assert detector.what.startswith(f"VAE, {error} error, ") and detector.what.endswith("trained 5 steps")


def test_vae_errors_weights_and_smoothing_make_different_maps():
    image = stripes(9)
    ways = [{}, {"error": "mse"}, {"beta": 1.0}, {"smoothing": 1.0}, {"latent": 4}]
    maps = [predicted(small_vae(steps=5, **way), image, EDGES) for way in ways]
    assert not any(np.array_equal(maps[0], other) for other in maps[1:])
    assert maps[3][:, slice(*EDGES)].std() > maps[0][:, slice(*EDGES)].std(), "less smoothed"


def test_vae_stops_when_the_seconds_are_used_up():
    seen = []
    detector = VAE(size=32, width=8)
    detector.fit(ROLLS, seeded(), steps=10**6, batch=4, seconds=0.3, progress=lambda *step: seen.append(step))
    assert 1 <= len(detector.losses) < 10**4 and detector.steps == len(detector.losses)
    assert seen == list(enumerate(detector.losses, 1))


def test_vae_waits_for_the_device_every_fifty_steps_unless_progress_is_asked_for():
    counts = []
    for progress in (None, lambda step, loss: None):
        with Reads() as reads:
            VAE(size=32, width=2).fit(ROLLS, seeded(), steps=60, batch=1, progress=progress)
        counts.append(reads.count)
    once = counts[0] - 2  # the seed of the weights, which comes from the host
    assert once in (0, 1) and counts[1] == once + 60


def test_a_loss_that_is_not_finite_is_one_line_and_leaves_no_detector():
    detector = VAE(size=32, width=4, beta=1e40)
    assert_refused(lambda: detector.fit(ROLLS, seeded(), steps=3, batch=2), "beta: 1e+40", "not finite", "smaller")
    assert detector.size_bytes == 0
    assert_refused(lambda: predicted(detector, stripes(9), EDGES), "call fit")


def test_vae_weighs_nothing_before_it_was_trained(vae):
    assert VAE().size_bytes == 0 < vae.size_bytes
    assert vae.size_bytes == 4 * sum(weight.numel() for weight in vae.network.parameters())
    assert (vae.name, vae.kind, list(vae.fabrics)) == ("VAE", "vae", [])


# What both need


def test_odds_become_scores():
    found = odds_to_scores(torch.tensor([0.0, 1.0, 3.0, 1e9]))
    assert found.tolist() == pytest.approx([1e-6, 0.5, 0.75, 1.0])


def test_smoothing_is_scipys_gaussian_and_keeps_constants_and_the_mean():
    from scipy.ndimage import gaussian_filter

    field = torch.rand(1, 1, 40, 50, generator=seeded())
    wanted = gaussian_filter(field[0, 0].double().numpy(), 2.0, mode="nearest", truncate=3.0)
    assert np.abs(smoothed(field, 2.0)[0, 0].numpy() - wanted).max() < 1e-5
    assert (smoothed(torch.full((1, 1, 20, 30), 0.7), 4.0) - 0.7).abs().max() < 1e-5
    spot = torch.zeros(1, 1, 41, 41)
    spot[0, 0, 20, 20] = 1
    assert float(smoothed(spot, 3.0).sum()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(smoothed(field, 0), field)


def test_a_smoothed_bank_gives_a_smoother_map(bank):
    image, _ = with_blob(stripes(9))
    content = {**bank.content(), "options": {**bank.options, "smoothing": 4.0}}
    rough, smooth = predicted(bank, image, EDGES), predicted(PatchCore.from_content(content, "x.pt"), image, EDGES)
    assert np.abs(np.diff(smooth[:, 100:480])).max() < np.abs(np.diff(rough[:, 100:480])).max()


# Score normalisation


@pytest.fixture(scope="module")
def two_fabrics():
    """Calibration rolls of two fabrics, three patches each; the second one's stripes are weaker."""
    image = stripes(7, height=256, width=840)
    weaker = (120 + 0.7 * (image.astype(np.float32) - 120)).clip(0, 255).astype(np.uint8)
    return [as_roll(image, "00", (70, 838)), as_roll(weaker, "01", (70, 838))]


def test_scores_that_are_not_normalised_are_the_raw_ones(two_fabrics):
    detector = small_bank(normalised=False, pool_size=400).calibrate(two_fabrics, fpr=0.5)
    assert detector.offsets == {"00": 0.0, "01": 0.0}
    raw = detector.raw_patch_scores(two_fabrics)
    assert [len(scores) for scores in raw] == [3, 3]
    for roll, found in zip(two_fabrics, raw, strict=True):
        assert detector.is_calibrated(roll.fabric)
        scores = detector.predict(roll).map
        assert np.array_equal(scores, detector.raw_map(roll.image, roll.edges, roll.fabric))
        assert found.tolist() == [scores[:, start : start + 256].max() for start in (70, 326, 582)]
    wanted = np.sort(np.concatenate(raw))[::-1].astype(np.float64)
    assert np.array_equal(detector.calibration.scores, wanted)


def test_normalised_scores_of_a_bank_are_moved_and_the_raw_ones_are_not(two_fabrics):
    detector = small_bank(pool_size=400).calibrate(two_fabrics, fpr=0.5)
    assert detector.offsets["00"] != detector.offsets["01"]
    roll = two_fabrics[0]
    raw = detector.raw_map(roll.image, roll.edges)
    assert np.array_equal(predicted(detector, roll.image, roll.edges), raw)
    assert not np.array_equal(predicted(detector, roll.image, roll.edges, "00"), raw)
    with pytest.warns(UserWarning, match="fabric 77: not calibrated"):
        assert np.array_equal(predicted(detector, roll.image, roll.edges, "77"), raw)


@pytest.mark.parametrize("make", [small_bank, small_vae], ids=["bank", "vae"])
def test_a_new_fit_forgets_what_the_old_one_was_calibrated_to(two_fabrics, make):
    detector = make(**({"steps": 3} if make is small_vae else {"pool_size": 400})).calibrate(two_fabrics, fpr=0.5)
    assert detector.threshold is not None and detector.offsets and detector.about["seed"] == 0
    detector.fit(ROLLS, seeded(7), **({"steps": 2} if make is small_vae else {}))
    assert detector.threshold is None and detector.calibration is None and not detector.offsets
    assert detector.about["seed"] == 7 and detector.about["seconds"] > 0


# Checkpoints

ABOUT = {"seed": 0, "seconds": 1.0}


def saved(detector, path, **changes):
    save_checkpoint(path, {**detector.content(), **ABOUT, **changes})
    return path


@FITTED
def test_a_checkpoint_gives_the_same_map_back(detector, tmp_path, capsys):
    offsets = {"00": -0.5, "01": 0.5}
    path = saved(detector, tmp_path / "kept.pt", fabric_offsets=offsets)
    found = workflow.load_detector(path)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "kept.pt:",
        f"{detector.what}, fitted on rolls of your own",
    ]
    assert type(found) is type(detector) and found.about["seed"] == 0
    assert (found.what, found.options, found.size_bytes) == (detector.what, detector.options, detector.size_bytes)
    image, _ = with_blob(stripes(9))
    assert np.array_equal(predicted(found, image, EDGES), predicted(detector, image, EDGES))
    assert found.offsets == offsets
    assert not np.array_equal(predicted(found, image, EDGES, "00"), found.raw_map(image, EDGES))
    again = type(detector).load(path, quiet=True)
    assert np.array_equal(predicted(again, image, EDGES), predicted(detector, image, EDGES))
    assert not capsys.readouterr().out


def test_a_checkpoint_keeps_the_banks_of_all_fabrics(per_fabric, tmp_path):
    found = workflow.load_detector(saved(per_fabric, tmp_path / "kept.pt"), quiet=True)
    assert found.fabrics == ["00", "01"]
    image = stripes(9)
    for fabric in found.fabrics:
        assert np.array_equal(predicted(found, image, EDGES, fabric), predicted(per_fabric, image, EDGES, fabric))


@pytest.mark.parametrize("detector", ["per_fabric", "vae"], indirect=True)
def test_a_fitted_detector_is_saved_as_it_is(detector, tmp_path):
    detector.save(tmp_path / "kept.pt")
    found = workflow.load_detector(tmp_path / "kept.pt", quiet=True)
    assert found.about["seed"] == 0 and found.about["seconds"] > 0 and found.threshold is None
    image = stripes(9)
    assert np.array_equal(found.raw_map(image, EDGES, "00"), detector.raw_map(image, EDGES, "00"))


def test_a_checkpoint_of_format_4_is_read(bank, tmp_path):
    """There the standard deviations were called spread, and whether scores are normalised, levelled."""
    content = {**bank.content(), **ABOUT, "fabric_levels": {"00": 0.5}}
    options = {("levelled" if name == "normalised" else name): value for name, value in bank.options.items()}
    banks = {fabric: {("spread" if name == "deviation" else name): tensor for name, tensor in kept.items()}
             for fabric, kept in content["state"]["banks"].items()}  # fmt: skip
    content |= {"options": options, "state": {**content["state"], "banks": banks}}
    torch.save({"format": "draem_aitex checkpoint 4", **content}, tmp_path / "old.pt")
    found = workflow.load_detector(tmp_path / "old.pt", quiet=True)
    assert found.offsets == {"00": 0.5} and found.options == bank.options
    assert np.array_equal(found.raw_map(stripes(9), EDGES), bank.raw_map(stripes(9), EDGES))


def test_a_bank_whose_backbone_cannot_be_fetched_is_one_line_that_names_the_file(tmp_path, no_network):
    detector = small_bank(rolls=ROLLS[:1], backbone="densenet121", bank_size=20, pool_size=400, pretrained=False)
    path = saved(detector, tmp_path / "kept.pt")
    words = ("kept.pt: backbone: densenet121: its weights", "not to be fetched", DENSENET, "fft")
    assert_refused(lambda: workflow.load_detector(path, quiet=True), *words)


def test_a_pretrained_backbone_is_kept_by_its_name_alone(tmp_path):
    detector = small_bank(rolls=ROLLS[:1], backbone="densenet121", bank_size=20, pool_size=400, pretrained=False)
    path = saved(detector, tmp_path / "kept.pt")
    assert path.stat().st_size < 1e6 and load_checkpoint(path)["state"]["backbone"] == {}


@pytest.mark.parametrize("damage", ["columns", "flat", "radius", "banks", "backbone", "weights"])
def test_a_bank_that_is_not_whole_is_one_line(bank, trained_shallow, tmp_path, damage):
    detector = trained_shallow if damage in ("backbone", "weights") else bank
    path = saved(detector, tmp_path / "bad.pt")
    content = load_checkpoint(path)
    kept = content["state"]["banks"][patchcore.EVERY]
    if damage == "columns":
        kept["vectors"] = kept["vectors"][:, :-1].clone()
    elif damage == "flat":
        kept["vectors"] = kept["vectors"].flatten()
    elif damage == "radius":
        del kept["radius"]
    elif damage == "weights":
        content["state"]["backbone"].popitem()
    else:
        del content["state"][damage]
    save_checkpoint(path, content)
    words = ("all fabrics", "(100, 40)", "41 numbers") if damage == "columns" else ()
    assert_refused(lambda: workflow.load_detector(path, quiet=True), "bad.pt", "fit it anew", *words)


@pytest.mark.parametrize(
    "changes", [{"options": {"width": 4}}, {"options": {"colour": "red"}}, {"state": {"weights": {}, "unit": 1.0}}]
)
def test_a_vae_of_other_options_is_one_line(vae, tmp_path, changes):
    kept = vae.content()
    changes = {name: {**(kept[name] if name == "options" else {}), **value} for name, value in changes.items()}
    path = saved(vae, tmp_path / "bad.pt", **changes)
    assert_refused(lambda: workflow.load_detector(path, quiet=True), "bad.pt", "fit it anew")


def test_a_checkpoint_without_its_state_is_one_line(bank, tmp_path):
    content = {**bank.content(), **ABOUT}
    del content["state"]
    save_checkpoint(tmp_path / "bad.pt", content)
    assert_refused(lambda: workflow.load_detector(tmp_path / "bad.pt", quiet=True), "bad.pt", "state: missing")


def test_a_file_of_another_detector_is_refused(bank, vae, tmp_path):
    path = saved(bank, tmp_path / "bank.pt")
    assert_refused(lambda: DraemDetector.load(path, quiet=True), path, "'patchcore'", "'draem'")
    assert_refused(lambda: VAE.load(path, quiet=True), path, "'patchcore'", "'vae'")
    assert_refused(lambda: PatchCore.load(saved(vae, tmp_path / "vae.pt"), quiet=True), "'vae'", "'patchcore'")
    assert_refused(lambda: workflow.load_detector(path, quiet=True, bfloat16=True), "bfloat16", path, "PatchCore")
    save_checkpoint(tmp_path / "odd.pt", {**bank.content(), **ABOUT, "detector": "psychic"})
    assert_refused(lambda: workflow.load_detector(tmp_path / "odd.pt"), "'psychic'", "draem, vae, patchcore")


# Devices and memory


@pytest.mark.parametrize("make", [VAE, PatchCore])
def test_the_device_is_auto_until_told_otherwise(make):
    for function in (make, make.load, make.from_content):
        assert inspect.signature(function).parameters["device"].default == "auto"
    assert make().device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("detector", ["bank", "vae"], indirect=True)
def test_memory_that_runs_out_is_one_line(detector, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(type(detector), "_oddness", full)
    assert_refused(lambda: predicted(detector, stripes(9), EDGES), "memory", "128 x 512 pixels", "device='cpu'")
    another = type(detector)()
    monkeypatch.setattr(type(detector), "_pool" if detector.kind == "patchcore" else "_step", full, raising=True)
    assert_refused(lambda: another.fit(ROLLS, seeded()), "memory", "device='cpu'")


# Bad input


@pytest.mark.parametrize("make", [VAE, PatchCore])
def test_bad_input_is_named_in_one_line(make):
    detector, image = make(), stripes(0)
    assert_refused(lambda: predicted(detector, image, EDGES), "call fit")
    assert_refused(lambda: detector.fit([], seeded()), "rolls: none given")
    colour = as_roll(np.stack([image] * 3, 2))
    assert_refused(lambda: detector.fit([colour], seeded()), "images of 3 channels for networks of 1", "channels=1")
    assert_refused(
        lambda: predicted(detector, image / 255, EDGES), "float64 of shape (128, 512)", "expected uint8 (H, W)"
    )
    assert_refused(lambda: predicted(detector, np.stack([image] * 3, 2), EDGES), "uint8 of shape (128, 512, 3)")
    assert_refused(lambda: predicted(detector, [[0]], EDGES), "image: list", "a uint8 array (H, W)")
    for edges in ((70, 900), (-1, 300), (300, 300), (300, 200)):
        assert_refused(lambda edges=edges: predicted(detector, image, edges), f"edges: {edges}", "512 columns")
    least = 16 if make is VAE else 32
    for picture, edges in ((image, (70, 70 + least - 1)), (image[: least - 1], EDGES)):
        words = f"{least - 1}", "pixels of fabric", f"expected {least} x {least}"
        assert_refused(lambda picture=picture, edges=edges: predicted(detector, picture, edges), *words)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (VAE, {"size": 60}, "size: 60; expected a multiple of 16"),
        (VAE, {"size": 0}, "size: 0"),
        (VAE, {"error": "l3"}, "error: 'l3'; expected one of l1, mse"),
        (VAE, {"width": 0}, "width: 0"),
        (VAE, {"latent": 0}, "latent: 0"),
        (VAE, {"beta": float("nan")}, "beta: nan"),
        (VAE, {"smoothing": -1}, "smoothing: -1"),
        (VAE, {"device": "warp"}, "'warp'"),
        (PatchCore, {"coreset": "best"}, "coreset: 'best'"),
        (PatchCore, {"bank_size": 0}, "bank_size: 0"),
        (PatchCore, {"bank_size": 20, "pool_size": 10}, "bank_size: 20; expected 1 to 10, the pool_size"),
        (PatchCore, {"neighbourhood": 2}, "neighbourhood: 2; expected an odd number"),
        (PatchCore, {"neighbourhood": 0}, "neighbourhood: 0"),
        (PatchCore, {"smoothing": float("nan")}, "smoothing: nan"),
        (PatchCore, {"learn_steps": -1}, "learn_steps: -1"),
        (PatchCore, {"device": "warp"}, "'warp'"),
    ],
)
def test_bad_options_are_refused(make, options, message):
    assert_refused(lambda: make(**options), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "steps: 0"), ({"batch": 0}, "batch: 0"), ({"seconds": float("nan")}, "seconds: nan")],
)
def test_bad_budgets_are_refused(arguments, message):
    assert_refused(lambda: VAE().fit(ROLLS, seeded(), **arguments), message)
