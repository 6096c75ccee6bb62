"""Bad input, one table for each border: files, archives and servers, arguments in Python and on the command line.

Each row is refused in one line that says what is wrong (`InputError`; status 2 on the command line), prints nothing
besides, waits for nothing and leaves the disk as it was.
"""

import contextlib
import gzip
import io
import itertools
import math
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import cv2
import numpy as np
import py7zr
import pytest
import torch
from bad_files import WHOLE, malformed, with_bytes
from conftest import ROOT
from test_cli import fails_with_one_line
from test_download import with_new_checksums

from draem_aitex import files
from draem_aitex.anomalies.augmenter import Augmenter, AugmenterConfig
from draem_aitex.anomalies.kinds import KINDS
from draem_aitex.anomalies.paper_augmenter import PaperAugmenter, PaperAugmenterConfig
from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.baselines.neighbours import nearest_distances
from draem_aitex.baselines.patchcore import PatchCore, greedy_coreset
from draem_aitex.baselines.vae import VAE
from draem_aitex.cli.main import main
from draem_aitex.data import aitex, download, fabric_edges, images, patcher
from draem_aitex.data.folder import load_folder
from draem_aitex.data.rolls import Collection, Roll, load_roll, read_mask, roll_of_array
from draem_aitex.detectors import onnx, regions
from draem_aitex.detectors.calibration import Calibration, Threshold
from draem_aitex.detectors.draem import DraemDetector, anomaly_map
from draem_aitex.devices import pick_device
from draem_aitex.errors import InputError
from draem_aitex.evaluation import bootstrap, metrics
from draem_aitex.evaluation.evaluator import Evaluation, evaluate
from draem_aitex.evaluation.pixel_metrics import PixelHistogram
from draem_aitex.model import losses
from draem_aitex.model.draem import build_draem
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.simulation import loom
from draem_aitex.simulation.loom import simulate_roll
from draem_aitex.training import checkpoint as checkpoints
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.loop import train_networks
from draem_aitex.training.sampler import CropSampler, NormalAugmentation
from draem_aitex.workflow import fit, load_detector, train

MODEL = ROOT / "checkpoints/compact_loom.pt"
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with good and bad things; every row of a table must leave it as it is."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def unchanged(place):
    """The folder `place` is the same afterwards: names, kinds, sizes and times."""
    before = listing(place)
    yield place
    assert listing(place) == before


def listing(folder):
    return {path: (stat := path.lstat()).st_mode + stat.st_size + stat.st_mtime_ns for path in folder.rglob("*")}


def refused(capfd, call, *words):
    """The one line of the `InputError` that a call ends with; nothing else reaches the terminal."""
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        call()
    said = str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert said and "\n" not in said
    for word in words:
        assert str(word) in said, said


def refused_by_command(capfd, arguments, *words):
    """A command that ends with one line on standard error and status 2, whatever was said before it."""
    capfd.readouterr()
    fails_with_one_line(capfd, arguments, *words)


# Image files

MALFORMED = malformed()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_images(name, tmp_path, capfd):
    path = tmp_path / name
    path.write_bytes(MALFORMED[name])
    refused(capfd, lambda: images.read_image(path), f"{path}: ", "; expected ")
    assert os.listdir(tmp_path) == [name]


def test_the_files_that_were_spoilt_are_good(tmp_path, capfd):
    for name, data in WHOLE.items():
        (tmp_path / name).write_bytes(data)
        assert images.read_image(tmp_path / name).shape == (96, 128)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["noise_0_grey.jpg", "lies_higher.png", "damaged_lzw.tif", "lies_huge.bmp"])
def test_a_malformed_image_ends_a_command(name, unchanged, tmp_path, capfd):
    path = tmp_path / name
    path.write_bytes(MALFORMED[name])
    out = tmp_path / "out"
    refused_by_command(capfd, ["inspect", path, "--checkpoint", MODEL, "--out", out], path)
    assert not out.exists()


@pytest.fixture
def bounded():
    """The bound in pixels is the module's again afterwards."""
    before = images.Image.MAX_IMAGE_PIXELS
    yield
    images.Image.MAX_IMAGE_PIXELS = before


def test_the_bound_in_pixels_is_before_the_decoder(tmp_path, capfd, bounded):
    path = tmp_path / "a.png"
    path.write_bytes(WHOLE["grey.png"])
    images.bound_pixels(96 * 128)
    assert images.read_image(path).shape == (96, 128)
    images.bound_pixels(96 * 128 - 1)
    for read in (images.read_image, images.image_size):
        refused(capfd, lambda read=read: read(path), path, "at most 12287 pixels", "--max-pixels")
    for wrong in (0, -1, 1.5, NAN, "9", True, None):
        refused(capfd, lambda wrong=wrong: images.bound_pixels(wrong), f"max_pixels: {wrong!r}; expected a whole")


# Paths: what is no regular file is refused wherever a file is asked for, and never waited for

PATHS = ("missing", "folder", "fifo", "socket", "null", "zero", "loop", "dangling", "newline", "nul", "long", "below")


@pytest.fixture(scope="module")
def odd_paths(place):
    """Names that lead to no regular file, or should not be read."""
    folder = place / "odd"
    folder.mkdir()
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(folder / "socket.png"))
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "new\nline.png").write_bytes(WHOLE["grey.png"])
    (folder / "file").write_bytes(b"")
    paths = {name: folder / f"{name}.png" for name in ("missing", "fifo", "socket", "loop", "dangling")}
    paths |= {"folder": folder, "null": "/dev/null", "zero": "/dev/zero", "newline": folder / "new\nline.png"}
    return paths | {"nul": f"{folder}/a\0b.png", "long": folder / ("x" * 300), "below": folder / "file" / "a.png"}


READERS = {
    "image": images.read_image,
    "size": images.image_size,
    "predict": lambda path: load_detector(MODEL, quiet=True).predict(path),
    "checkpoint": checkpoints.load_checkpoint,
}


@pytest.mark.parametrize(("reader", "name"), list(itertools.product(READERS, PATHS)))
def test_paths_that_are_no_files(reader, name, odd_paths, unchanged, capfd):
    refused(capfd, lambda: READERS[reader](odd_paths[name]), "; ")


FOLDERS = tuple(name for name in PATHS if name not in ("folder", "long"))


@pytest.mark.parametrize(("reader", "name"), list(itertools.product(("aitex", "folder", "verify"), FOLDERS)))
def test_paths_that_are_no_folders(reader, name, odd_paths, unchanged, capfd):
    read = {"aitex": aitex.load_aitex, "folder": load_folder, "verify": aitex.verify}[reader]
    refused(capfd, lambda: read(odd_paths[name]), "; ")


@pytest.mark.parametrize("name", [name for name in PATHS if name not in ("folder", "nul")])
def test_commands_name_odd_paths(name, odd_paths, unchanged, tmp_path, capfd):
    path = odd_paths[name]
    refused_by_command(capfd, ["inspect", path, "--checkpoint", MODEL, "--out", tmp_path / "out"])
    refused_by_command(capfd, ["info", path])
    refused_by_command(capfd, ["verify", "--data", path])
    assert not (tmp_path / "out").exists()


# Checkpoints


def altered(content, at, value):
    """A copy of a nest of dicts and lists in which another value stands at a path of keys; `GONE` removes it."""
    copy = dict(content) if isinstance(content, dict) else list(content)
    key, *rest = at
    if rest:
        copy[key] = altered(content[key], rest, value)
    elif value is GONE:
        del copy[key]
    else:
        copy[key] = value
    return copy


GONE = object()
T = torch.tensor
FIELDS = {  # of each detector: where, and values that do not belong there
    "draem": {
        "format": (GONE, 5, "draem_aitex checkpoint 3", ["draem_aitex checkpoint 5"]),
        "detector": (GONE, None, "vit", {}),
        "network": (GONE, None, [], "compact", {}),
        "network.stem": (0, -1, 2.0, "2", 10**9, True, None),
        "network.reconstructive": (16, (), [4, 4], (4, "x"), (10**9,) * 2, (4,) * 100),
        "network.residual": ((0, 10**9), (0, 0), (1,), None, (0, -1)),
        "network.negative_slope": (NAN, INF, "0", None),
        "network.classes": (3, 1.0, None),
        "network.discriminative_block": ("dense", None, []),
        "weights": (GONE, None, [], {}, {"a": 1}, {"a": T(1.0)}, {1: T(1.0)}),
        "config": (GONE, None, 7, {}),
        "config.preset": (None, 7, []),
        "config.seed": ("0", 1.5, []),
        "steps": (GONE, -1, 1.5, "7", None, True, NAN),
        "seconds": (GONE, -1.0, NAN, INF, "7", None),
        "finished": (GONE, 1, None, "yes", False),
        "log": (GONE, None, {}, "log", [1], [{"loss": "x"}], [{"loss": NAN}]),
        "source": (None, 7, []),
        "fabrics": (None, "00", [7], {}),
        "split": (None, [], {"train": ["a"]}, {"train": {"a": 7}}, {7: {}}),
        "figures": (None, 7, {"test": None}, {"test": {}}, {"test": {"defects": "many"}}),
        "made": (7, [], {}, {"date": 7, "machine": "", "command": "", "versions": ""}),
        "fabric_offsets": (None, [], {"00": "x"}, {"00": NAN}, {"00": INF}, {"00": 1e300}, {7: 1.0}),
        "threshold": (7, [], {}, {"value": 0.5}),
        "threshold.value": (NAN, INF, -INF, -0.1, 1.1, "0.5", None, T(0.5)),
        "threshold.wanted": (NAN, -1.0, 2.0, "x"),
        "threshold.bound": (NAN, 2.0, None),
        "threshold.patches": (0, -1, 1.5, "7"),
        "threshold.rolls": (0, None, True),
        "calibration": (7, [], {}),
        "calibration.scores": (None, [], [0.1, 0.2], [NAN], [2.0], ["x"], T([0.5])),
        "calibration.rolls": (0, -1, "7", 1.5),
        "training": (7, [], {}, {"model": {}, "optimizer": {}}),
    },
    "vae": {
        "what": (GONE, 7, None),
        "options": (GONE, None, [], {"no_such": 1}, {"width": 10**6}, {"size": NAN}, {"smoothing": NAN}, {"beta": "x"}),
        "state": (GONE, None, [], {}),
        "state.weights": (None, {}, [], {"a": T(NAN)}),
        "state.unit": (GONE, NAN, INF, -1.0, "x"),
        "state.steps": (GONE, 0, -1, 1.5, "x"),
        "seed": (GONE, -1, "x", 1.5),
        "seconds": (NAN, -1, "x"),
    },
    "patchcore": {
        "options": (None, {"backbone": "no_such"}, {"backbone": []}, {"neighbourhood": 2}, {"per_fabric": True}),
        "state": (GONE, {}),
        "state.backbone": (None, []),
        "state.backbone_steps": (-1, "x", NAN),
        "state.banks": (None, {}, [], {"00": {}}, {"all fabrics": None}),
        "state.banks.all fabrics.vectors": (None, T(1.0), T([[NAN] * 41]), T([[1.0]]), torch.zeros(0, 41)),
        "state.banks.all fabrics.mean": (None, T(1.0), T([INF] * 41)),
        "state.banks.all fabrics.deviation": (None, T([NAN] * 41), torch.zeros(41), -torch.ones(41)),
        "state.banks.all fabrics.radius": (None, T([NAN]), T([0.0]), T([-1.0]), T([1.0, 2.0])),
    },
}  # fmt: skip
ROWS = [(kind, at, index) for kind, of in FIELDS.items() for at, values in of.items() for index in range(len(values))]


@pytest.fixture(scope="module")
def contents():
    """What a whole checkpoint of each kind holds."""
    image = np.random.default_rng(0).integers(0, 255, (128, 512)).astype(np.uint8)
    rolls = [roll_of_array(image, "00", edges=(0, 512))[0]] * 2
    small = NetworkConfig(1, (4, 4), (4, 4), 1, negative_slope=0.1, reconstructive_block="residual", residual=(0, 1))
    networks = checkpoints.network_content(build_draem(small))
    found = {"draem": {**checkpoints.load_checkpoint(MODEL), **networks}}
    for detector in (VAE(width=4), PatchCore(bank_size=20, pool_size=400)):
        budget = {"steps": 2, "batch": 2} if detector.kind == "vae" else {}
        detector.fit(rolls, torch.Generator().manual_seed(0), **budget)
        found[detector.kind] = {**detector.content(), **detector.about}
    return found


@pytest.mark.parametrize(("kind", "at", "index"), ROWS)
def test_every_field_of_a_checkpoint_is_looked_at(kind, at, index, contents, tmp_path, capfd):
    path, value = tmp_path / "bad.pt", FIELDS[kind][at][index]
    torch.save(altered({"format": checkpoints.FORMAT, **contents[kind]}, at.split("."), value), path)
    refused(capfd, lambda: load_detector(path, quiet=True), "bad.pt: ", "; ")


@pytest.mark.parametrize("kind", FIELDS)
def test_a_checkpoint_that_was_not_altered_is_read(kind, contents, tmp_path):
    checkpoints.save_checkpoint(tmp_path / "good.pt", contents[kind])
    assert load_detector(tmp_path / "good.pt", quiet=True).kind == kind


def test_a_flipped_bit_of_a_checkpoint_is_found_or_changes_nothing(tmp_path, capfd):
    """Checksums guard what is stored; what is not guarded, such as the padding between entries, means nothing."""
    whole, draws = MODEL.read_bytes(), np.random.default_rng(0)
    path, wanted = tmp_path / "flipped.pt", checkpoints.load_checkpoint(MODEL)
    found = 0
    for at, bit in zip(draws.integers(0, len(whole), 60), draws.integers(0, 8, 60), strict=True):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        try:
            assert same(checkpoints.load_checkpoint(path), wanted)
        except InputError as error:
            assert str(error).startswith(f"{path}: not a readable checkpoint")
            found += 1
    assert found >= 55 and capfd.readouterr() == ("", "")


def same(one, other):
    """Whether two nests of dicts and lists hold the same values."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_files_that_are_no_checkpoints(tmp_path, capfd):
    whole = MODEL.read_bytes()
    files = {f"cut_at_{part}": whole[: int(part * len(whole))] for part in (0.01, 0.5, 0.9, 0.9999)}
    files |= {"empty": b"", "text": b"weights\n", "pickle": b"\x80\x04N.", "page": b"<html></html>"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        refused(capfd, lambda name=name: load_detector(tmp_path / name), name, "not a readable checkpoint")
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed, zipfile.ZipFile(MODEL) as plain:
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    refused(capfd, lambda: load_detector(tmp_path / "packed"), "packed", "not a readable checkpoint")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_score_comes_from_weights_that_are_not_finite(value, tmp_path, capfd):
    content = checkpoints.load_checkpoint(MODEL)
    weights = {name: tensor.clone() for name, tensor in content["weights"].items()}
    weights["discriminative.head.bias"][0] = value
    checkpoints.save_checkpoint(tmp_path / "bad.pt", {**content, "weights": weights})
    (tmp_path / "a.png").write_bytes(WHOLE["grey.png"])
    inspect = ["inspect", tmp_path / "a.png", "--checkpoint", tmp_path / "bad.pt", "--out", tmp_path / "out"]
    refused_by_command(capfd, [*inspect, "--fail-on-defect"], "bad.pt: weights.discriminative.head.bias: ")
    assert not (tmp_path / "out").exists()


def test_a_map_that_is_not_finite_is_no_score(capfd):
    """Wherever it comes from: weights can be finite and their sums not."""
    detector, image = load_detector(MODEL, quiet=True), np.full((64, 64), 128, np.uint8)
    next(module for module in detector.model.modules() if isinstance(module, torch.nn.Conv2d)).weight.data.fill_(NAN)
    refused(capfd, lambda: detector.predict(image, edges=(0, 64)), "image: anomaly_map: not finite")
    roll = roll_of_array(np.full((256, 512), 128, np.uint8), edges=(0, 512))[0]
    refused(capfd, lambda: detector.calibrate([roll]), "anomaly_map: not finite")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path, capfd):
    content = checkpoints.load_checkpoint(MODEL)
    weights = content["weights"] | {"discriminative.head.bias": torch.zeros(1).expand(10**13)}
    torch.save({**content, "weights": weights}, tmp_path / "bomb.pt")
    refused(capfd, lambda: load_detector(tmp_path / "bomb.pt"), "bomb.pt: weights.discriminative.head.bias: ")


# Arguments in Python

GREY = np.random.default_rng(0).integers(0, 255, (64, 96)).astype(np.uint8)
ROLL = Roll("roll", "00", "000", GREY, (0, 96), None)
HALF = torch.full((2, 1, 32, 32), 0.5)
NUMBERS = {  # arguments that are numbers: which are refused, whatever they are of
    "share": (-0.1, 1.1, NAN, INF, "0.5", None, True, [0.5]),
    "count": (0, -1, 1.5, NAN, INF, "7", None, True, [1]),
    "positive": (0.0, -1.0, NAN, INF, "7", True, [1.0]),
    "bool": (None, "yes", 2, []),
}


def seeded():
    return torch.Generator().manual_seed(0)


def fitted_roll():
    return roll_of_array(np.random.default_rng(1).integers(0, 255, (128, 512)).astype(np.uint8), edges=(0, 512))[0]


def configured(**changes):
    return TrainConfig(**{"steps": 1, **changes})


OF_NUMBERS = {  # what takes them: kind, and a call with one of them
    "TrainConfig.minutes": ("positive", lambda x: TrainConfig(minutes=x)),
    "TrainConfig.steps": ("count", lambda x: TrainConfig(steps=x)),
    "TrainConfig.batch": ("count", lambda x: configured(batch=x)),
    "TrainConfig.crop": ("count", lambda x: configured(crop=x)),
    "TrainConfig.learning_rate": ("positive", lambda x: configured(learning_rate=x)),
    "TrainConfig.weight_decay": ("share", lambda x: configured(weight_decay=x)),
    "TrainConfig.warm_up": ("share", lambda x: configured(warm_up=x)),
    "TrainConfig.ema_decay": ("share", lambda x: configured(ema_decay=x)),
    "NormalAugmentation.share": ("share", lambda x: NormalAugmentation(share=x)),
    "NormalAugmentation.tone": ("share", lambda x: NormalAugmentation(tone=x)),
    "AugmenterConfig.clean_share": ("share", lambda x: AugmenterConfig(clean_share=x)),
    "AugmenterConfig.pair_share": ("share", lambda x: AugmenterConfig(pair_share=x)),
    "NetworkConfig.channels": ("count", lambda x: NetworkConfig(channels=x)),
    "NetworkConfig.stem": ("count", lambda x: NetworkConfig(stem=x)),
    "NetworkConfig.negative_slope": ("share", lambda x: NetworkConfig(negative_slope=x)),
    "VAE.width": ("count", lambda x: VAE(width=x)),
    "VAE.size": ("count", lambda x: VAE(size=x)),
    "VAE.smoothing": ("share", lambda x: VAE(smoothing=x if x != 1.1 else 1e9)),
    "VAE.beta": ("share", lambda x: VAE(beta=x if x != 1.1 else INF)),
    "VAE.fit.steps": ("count", lambda x: VAE().fit([fitted_roll()], seeded(), steps=x)),
    "VAE.fit.batch": ("count", lambda x: VAE().fit([fitted_roll()], seeded(), batch=x)),
    "VAE.normalised": ("bool", lambda x: VAE(normalised=x)),
    "PatchCore.bank_size": ("count", lambda x: PatchCore(bank_size=x)),
    "PatchCore.pool_size": ("count", lambda x: PatchCore(bank_size=1, pool_size=x)),
    "PatchCore.neighbourhood": ("count", lambda x: PatchCore(neighbourhood=x)),
    "PatchCore.per_fabric": ("bool", lambda x: PatchCore(per_fabric=x)),
    "DraemDetector.memory_mb": ("positive", lambda x: DraemDetector(build_draem(SMALL), memory_mb=x)),
    "anomaly_map.memory_mb": ("positive", lambda x: anomaly_map(build_draem(SMALL), GREY, (0, 96), memory_mb=x)),
    "train_networks.log_every": ("count", lambda x: train_networks([ROLL], configured(), log_every=x)),
    "Evaluation.mm_per_px": ("positive", lambda x: Evaluation(LEVEL, mm_per_px=x)),
    "Calibration.threshold": ("share", lambda x: Calibration(np.array([0.5]), 1).threshold(x)),
    "patch_columns.size": ("count", lambda x: patcher.patch_columns((0, 512), x)),
    "extract_patches.size": ("count", lambda x: patcher.extract_patches(GREY, size=x)),
    "PatchDataset.size": ("count", lambda x: patcher.PatchDataset([ROLL], x)),
    "open_set_split.size": ("count", lambda x: patcher.open_set_split([ROLL], size=x)),
    "CropSampler.crop": ("count", lambda x: CropSampler([ROLL], x, "cpu")),
    "CropSampler.channels": ("count", lambda x: CropSampler([ROLL], 32, "cpu", channels=x)),
    "CropSampler.batch": ("count", lambda x: CropSampler([ROLL], 32, "cpu")(x, seeded())),
    "focal_loss.gamma": ("positive", lambda x: losses.focal_loss(HALF, HALF, gamma=x or -1)),
    "focal_loss.alpha": ("share", lambda x: losses.focal_loss(HALF, HALF, alpha=2 if x is None else x)),
    "balance_weights.balance": ("positive", lambda x: losses.balance_weights(HALF, x or -1)),
    "aupro.limit": ("share", lambda x: PixelHistogram().aupro(x)),
    "draw_rolls.resamples": ("count", lambda x: bootstrap.draw_rolls(3, x)),
    "nearest_distances.memory_mb": ("positive", lambda x: nearest_distances(torch.ones(2, 2), torch.ones(2, 2), x)),
    "greedy_coreset.count": ("count", lambda x: greedy_coreset(torch.ones(2, 2), x, seeded())),
    "simulate_roll.width": ("count", lambda x: simulate_roll("00", generator=np.random.default_rng(0), width=x)),
    "dilate.radius": ("count", lambda x: regions.dilate(GREY > 9, x or -1)),
    "find_regions.threshold": ("share", lambda x: regions.find_regions(GREY / np.float32(255), x)),
    "overlay.threshold": ("share", lambda x: regions.overlay(GREY, GREY / np.float32(255), x)),
}  # fmt: skip
SMALL = NetworkConfig(1, (4, 4), (4, 4), 1)
LEVEL = Threshold(0.5, 0.01, 0.01, 99, 1)
NUMBER_ROWS = [(name, index) for name, (kind, _) in OF_NUMBERS.items() for index in range(len(NUMBERS[kind]))]


@pytest.mark.parametrize(("name", "index"), NUMBER_ROWS)
def test_numbers_in_python(name, index, capfd):
    kind, call = OF_NUMBERS[name]
    refused(capfd, lambda: call(NUMBERS[kind][index]), "; ")


SEEDS = (-1, 2**64, 1.5, "7", None, NAN, True)
OF_SEEDS = {
    "TrainConfig": lambda x: configured(seed=x),
    "simulate": lambda x: loom.simulate("/dev/null/nowhere", seed=x),
    "load_simulated": lambda x: loom.load_simulated("/dev/null/nowhere", seed=x),
    "build_draem": lambda x: build_draem(SMALL, seed=x),
    "fit": lambda x: fit(VAE(), load_aitex_of_nothing(), seed=x),
    "open_set_split": lambda x: patcher.open_set_split([ROLL], seed=x, size=32),
    "draw_rolls": lambda x: bootstrap.draw_rolls(3, seed=x),
}


def load_aitex_of_nothing():
    return Collection(ROOT, "AITEX", (), (), (), (), ())


@pytest.mark.parametrize(("name", "index"), [(name, i) for name in OF_SEEDS for i in range(len(SEEDS))])
def test_seeds_in_python(name, index, capfd):
    refused(capfd, lambda: OF_SEEDS[name](SEEDS[index]), "seed")


FLOATS = GREY.astype(np.float32) / 255
IMAGES = {  # arrays that are no grey image
    "list": GREY.tolist(), "none": None, "number": 7, "empty": np.zeros((0, 0), np.uint8), "no_rows": GREY[:0],
    "no_columns": GREY[:, :0], "row": GREY[0], "colour": np.dstack([GREY] * 3), "batch": GREY[None], "bool": GREY > 9,
    "float": FLOATS, "nan": FLOATS * np.nan, "int64": GREY.astype(np.int64), "uint16": GREY.astype(np.uint16),
    "objects": GREY.astype(object), "text": GREY.astype(str), "tensor": torch.from_numpy(GREY),
}  # fmt: skip
OF_IMAGES = {
    "predict": lambda x: DraemDetector(build_draem(SMALL)).predict(x),
    "anomaly_map": lambda x: anomaly_map(build_draem(SMALL), x, (0, 1)),
    "fabric_edges": fabric_edges.fabric_edges,
    "find_selvedges": lambda x: fabric_edges.find_selvedges(x, (0, 1)),
    "roll_of_array": roll_of_array,
}


@pytest.mark.parametrize(("name", "what"), list(itertools.product(OF_IMAGES, IMAGES)))
def test_arrays_that_are_no_images(name, what, capfd):
    refused(capfd, lambda: OF_IMAGES[name](IMAGES[what]), "image: ", "; ")


EDGES = (
    (-1, 50),
    (0, 97),
    (50, 50),
    (60, 50),
    (0,),
    (0, 50, 90),
    (0.5, 50),
    (0, NAN),
    ("0", "50"),
    7,
    "ab",
    (None, None),
)


@pytest.mark.parametrize(
    ("name", "index"), list(itertools.product(("predict", "map", "patches", "selvedges"), range(12)))
)
def test_edges_that_do_not_lie_in_an_image(name, index, capfd):
    call = {
        "predict": lambda edges: DraemDetector(build_draem(SMALL)).predict(GREY, edges=edges),
        "map": lambda edges: anomaly_map(build_draem(SMALL), GREY, edges),
        "patches": lambda edges: patcher.extract_patches(GREY, edges, 16),
        "selvedges": lambda edges: fabric_edges.find_selvedges(GREY, edges),
    }[name]
    refused(capfd, lambda: call(EDGES[index]), "edges: ", "; ")


OTHERS = {  # a call each
    "weights of an unknown kind": lambda: AugmenterConfig(weights={"stripe": 1.0}),
    "weights that are none": lambda: AugmenterConfig(weights={}),
    "weights of nothing": lambda: AugmenterConfig(weights={"slip": 0.0}),
    "weights below 0": lambda: AugmenterConfig(weights={"slip": -1.0, "spot": 2.0}),
    "weights not a number": lambda: AugmenterConfig(weights={"slip": NAN}),
    "weights without an end": lambda: AugmenterConfig(weights={"slip": INF}),
    "weights of texts": lambda: AugmenterConfig(weights={"slip": "much"}),
    "weights in a list": lambda: AugmenterConfig(weights=["slip"]),
    "stretch turned round": lambda: NormalAugmentation(stretch=(2.0, 1.0)),
    "stretch of one number": lambda: NormalAugmentation(stretch=(1.0,)),
    "stretch a number": lambda: NormalAugmentation(stretch=1.0),
    "stretch of texts": lambda: NormalAugmentation(stretch=("a", "b")),
    "stretch not a number": lambda: NormalAugmentation(stretch=(NAN, 1.0)),
    "a factor below 1": lambda: NormalAugmentation(density=0.5),
    "an unknown preset": lambda: configured(preset="huge"),
    "a preset that is no name": lambda: configured(preset=["compact"]),
    "an unknown schedule": lambda: configured(schedule=None),
    "an unknown precision": lambda: configured(precision="float8"),
    "an augmentation that is none": lambda: configured(normal_augmentation=True),
    "an augmenter that is none": lambda: configured(augmenter="own"),
    "a batch that cannot be allocated": lambda: train_networks([tall_roll()], configured(batch=10**14)),
    "a batch of the VAE that cannot be allocated": lambda: VAE().fit([fitted_roll()], seeded(), 1, 10**14),
    "a pool that cannot be allocated": lambda: PatchCore(pool_size=10**14, bank_size=10).fit([fitted_roll()], seeded()),
    "no rolls": lambda: CropSampler([], 32),
    "rolls that are none": lambda: CropSampler([GREY], 32),
    "crops much larger than the roll": lambda: CropSampler([ROLL], 257),
    "an unknown device": lambda: pick_device("warp"),
    "a device that is no name": lambda: pick_device(7),
    "a device far away": lambda: pick_device("cuda:99"),
    "an unknown backbone": lambda: PatchCore(backbone="no_such"),
    "an even neighbourhood": lambda: PatchCore(neighbourhood=4),
    "a huge neighbourhood": lambda: PatchCore(neighbourhood=10**6 + 1),
    "a bank larger than its pool": lambda: PatchCore(bank_size=30_000),
    "an unknown search": lambda: PatchCore(search="guess"),
    "an unknown error": lambda: VAE(error="l3"),
    "a size that is no multiple": lambda: VAE(size=60),
    "a huge width": lambda: VAE(width=10**6),
    "fit without a generator": lambda: VAE().fit([fitted_roll()], 7),
    "fit of the bank without a generator": lambda: PatchCore().fit([fitted_roll()], None),
    "predict with a fabric that is no text": lambda: DraemDetector(build_draem(SMALL)).predict(ROLL, fabric=7),
    "predict with edges outside a roll": lambda: DraemDetector(build_draem(SMALL)).predict(ROLL, edges=(0, 500)),
    "calibrate on nothing": lambda: DraemDetector(build_draem(SMALL)).calibrate([]),
    "calibrate on no rolls": lambda: DraemDetector(build_draem(SMALL)).calibrate([GREY]),
    "calibrate on a number": lambda: DraemDetector(build_draem(SMALL)).calibrate(7),
    "evaluate nothing": lambda: evaluate(load_detector(MODEL, quiet=True), []),
    "evaluate no rolls": lambda: evaluate(load_detector(MODEL, quiet=True), [GREY]),
    "evaluate without a threshold": lambda: evaluate(DraemDetector(build_draem(SMALL)), [ROLL]),
    "train on nothing": lambda: train(load_aitex_of_nothing(), steps=1),
    "train on a folder's name": lambda: train("data", steps=1),
    "train with an unknown option": lambda: train(load_aitex_of_nothing(), steps=1, speed=9),
    "a map not a number": lambda: Evaluation(LEVEL).add(ROLL, FLOATS * np.nan),
    "a map of another size": lambda: Evaluation(LEVEL).add(ROLL, FLOATS[:9]),
    "a map in a list": lambda: Evaluation(LEVEL).add(ROLL, FLOATS.tolist()),
    "regions of a map not a number": lambda: regions.find_regions(FLOATS * np.nan, 0.5),
    "regions of no map": lambda: regions.find_regions(GREY[0], 0.5),
    "overlay of another size": lambda: regions.overlay(GREY, FLOATS[:9], 0.5),
    "overlay of a list": lambda: regions.overlay(GREY.tolist(), FLOATS, 0.5),
    "stitching too few corners": lambda: patcher.stitch_patches(GREY[None, :8, :8], [], (8, 8)),
    "stitching outside": lambda: patcher.stitch_patches(GREY[None, :8, :8], [(9, 9)], (8, 8)),
    "stitching before the beginning": lambda: patcher.stitch_patches(GREY[None, :8, :8], [(-1, 0)], (8, 8)),
    "stitching patches without sides": lambda: patcher.stitch_patches(GREY[:8], [(0, 0)], (8, 8)),
    "patches of a list": lambda: patcher.extract_patches(GREY.tolist()),
    "patches of a row": lambda: patcher.extract_patches(GREY[0]),
    "a stride of 0": lambda: patcher.extract_patches(GREY, size=8, stride=0),
    "a stride that leaves gaps": lambda: patcher.extract_patches(GREY, size=8, stride=9, remainder="cover"),
    "an unknown remainder": lambda: patcher.extract_patches(GREY, size=8, remainder="fold"),
    "more shots than defects": lambda: patcher.open_set_split([ROLL], shots=3, size=32),
    "shots below 0": lambda: patcher.open_set_split([ROLL], shots=-1, size=32),
    "noise finer than pixels": lambda: perlin_noise((8, 8), T([[9, 1]]), seeded()),
    "noise without cells": lambda: perlin_noise((8, 8), T([[0, 1]]), seeded()),
    "noise on no lattice": lambda: perlin_noise((8, 8), T([1.0]), seeded()),
    "noise of no lattice at all": lambda: perlin_noise((8, 8), torch.zeros(0, 2, dtype=torch.int64), seeded()),
    "noise of an image without rows": lambda: perlin_noise((0, 8), T([[1, 1]]), seeded()),
    "noise of a shape of one number": lambda: perlin_noise((8,), T([[1, 1]]), seeded()),
    "a kind on values above 1": lambda: KINDS["spot"](HALF * 9, HALF, T([0.5, 0.5]), seeded()),
    "a kind on values not a number": lambda: KINDS["spot"](HALF * NAN, HALF, T([0.5, 0.5]), seeded()),
    "a kind on another shape": lambda: KINDS["spot"](HALF[0], HALF, T([0.5, 0.5]), seeded()),
    "a kind with one severity": lambda: KINDS["spot"](HALF, HALF, T([0.5]), seeded()),
    "a kind with a severity above 1": lambda: KINDS["spot"](HALF, HALF, T([0.5, 2.0]), seeded()),
    "a kind without a generator": lambda: KINDS["spot"](HALF, HALF, T([0.5, 0.5]), None),
    "a kind on an array": lambda: KINDS["spot"](GREY, HALF, T([0.5, 0.5]), seeded()),
    "an augmenter on nothing": lambda: Augmenter()(HALF[:0], seeded()),
    "an augmenter on bytes": lambda: Augmenter()(HALF.byte(), seeded()),
    "an augmenter on an array": lambda: Augmenter()(GREY, seeded()),
    "textures from nowhere": lambda: PaperAugmenter(PaperAugmenterConfig("/dev/null/nowhere")),
    "a loss of two shapes": lambda: losses.l1_loss(HALF, HALF[:1]),
    "a loss of nothing": lambda: losses.l1_loss(HALF[:0], HALF[:0]),
    "a loss of bytes": lambda: losses.bce_loss(HALF.byte(), HALF.byte()),
    "a loss of a target above 1": lambda: losses.fft_loss(HALF, HALF * 4),
    "a loss of a target not a number": lambda: losses.fft_loss(HALF, HALF * NAN),
    "a loss of small images": lambda: losses.ssim_loss(HALF[..., :10], HALF[..., :10]),
    "a loss of arrays": lambda: losses.l1_loss(GREY, GREY),
    "losses with other weights": lambda: losses.segmentation_loss(HALF, HALF, {"bce": 1.0}),
    "losses with weights below 0": lambda: losses.segmentation_loss(HALF, HALF, {"bce": -1.0, "focal": 1.0}),
    "losses with weights not a number": lambda: losses.segmentation_loss(HALF, HALF, {"bce": NAN, "focal": 1.0}),
    "networks of colour": lambda: build_draem(SMALL)(HALF.expand(-1, 3, -1, -1)),
    "networks of bytes": lambda: build_draem(SMALL)((HALF * 255).byte()),
    "networks of values above 1": lambda: build_draem(SMALL)(HALF * 255),
    "networks of an array": lambda: build_draem(SMALL)(GREY),
    "a figure of two lengths": lambda: metrics.auroc([True, False], [0.5]),
    "a figure of scores not a number": lambda: metrics.auroc([True, False], [NAN, 0.5]),
    "a figure of labels that are words": lambda: metrics.average_precision(["a", "b"], [0.1, 0.5]),
    "a figure of nothing": lambda: metrics.f1_max_upper_bound([True], []),
    "decisions of two lengths": lambda: metrics.decision_counts([True], [True, False]),
    "decisions of scores not a number": lambda: metrics.decision_figures([True], [NAN], 0.5),
    "pixels below 0": lambda: PixelHistogram().add(-FLOATS, GREY > 9),
    "pixels not a number": lambda: PixelHistogram().add(FLOATS * np.nan, GREY > 9),
    "pixels of two shapes": lambda: PixelHistogram().add(FLOATS, GREY[:9] > 9),
    "pixels with labels that are no bool": lambda: PixelHistogram().add(FLOATS, GREY),
    "vectors of another length": lambda: nearest_distances(torch.ones(2, 3), torch.ones(2, 2)),
    "vectors of no bank": lambda: nearest_distances(torch.ones(2, 3), torch.ones(0, 3)),
    "a coreset of nothing": lambda: greedy_coreset(torch.ones(0, 3), 2, seeded()),
    "an unknown fabric": lambda: simulate_roll("99", generator=np.random.default_rng(0)),
    "an unknown defect": lambda: simulate_roll("00", "999", generator=np.random.default_rng(0)),
    "an unknown recording": lambda: simulate_roll("00", generator=np.random.default_rng(0), recording=99),
    "a loom without a generator": lambda: simulate_roll("00", generator=7),
    "fabrics that are not there": lambda: load_aitex_of_nothing().of_fabrics(["77"]),
    "sixteen bits of a bank": lambda: load_detector(MODEL, quiet=True, bfloat16="yes"),
    "a checkpoint's name that is a number": lambda: load_detector(7, quiet=True),
    "an image's name that is a number": lambda: images.read_image(7),
    "an AITEX folder's name that is a list": lambda: aitex.load_aitex(["data"]),
    "export of a bank": lambda: onnx.export(PatchCore(), "/dev/null/a.onnx"),
    "saving without a fit": lambda: PatchCore().save("/dev/null/a.pt"),
    "saving to nowhere": lambda: load_detector(MODEL, quiet=True).save("/no/such/folder/a.pt"),
}  # fmt: skip


def tall_roll():
    return Roll(
        "roll", "00", "000", np.random.default_rng(0).integers(0, 255, (256, 512)).astype(np.uint8), (0, 512), None
    )


@pytest.mark.parametrize("what", OTHERS)
def test_other_arguments_in_python(what, capfd):
    refused(capfd, OTHERS[what], "; ")


# Archives and servers

ROWS_OF_MANIFEST = [{"path": "Defect_images/0001_002_01.png", "bytes": "1", "sha256": "0" * 64}]


def archive(entries, **options):
    """A 7z archive of names and contents."""
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", **options) as packed:
        packed.set_encoded_header_mode(False) if not options else None
        for name, data in entries.items():
            packed.writestr(data, name)
    return buffer.getvalue()


def renamed(old, new):
    """An archive whose one entry has a name that py7zr would not write; both of one length."""
    data = archive({old: b"evil"}).replace(old.encode("utf-16le"), new.encode("utf-16le"))
    return with_new_checksums(data, None)


GOOD_NAME = ROWS_OF_MANIFEST[0]["path"]
PACKED = archive({GOOD_NAME: bytes(range(256)) * 40})
ARCHIVES = {
    "empty": b"",
    "text": b"no archive\n" * 99,
    "page": b"<!DOCTYPE html><html>sorry</html>",
    "zip": b"PK\x03\x04" + bytes(200),
    "signature alone": PACKED[:6],
    "head alone": PACKED[:32],
    "cut": PACKED[:-20],
    "flipped in the head": with_bytes(PACKED, 10, bytes([PACKED[10] ^ 1])),
    "flipped in the start": with_bytes(PACKED, 20, bytes([PACKED[20] ^ 1])),
    "flipped in the data": with_bytes(PACKED, 60, bytes([PACKED[60] ^ 1])),
    "flipped in the names": with_bytes(PACKED, len(PACKED) - 9, bytes([PACKED[-9] ^ 1])),
    "encrypted": archive({GOOD_NAME: b"secret"}, password="x"),
    "encrypted names": archive({GOOD_NAME: b"secret"}, password="x", header_encryption=True),
    "other files": archive({"Defect_images/readme.txt": b"hello"}),
    "another image": archive({GOOD_NAME: b"no picture"}),
    "no entry": archive({}),
    "up and out": renamed("xxxxxxxxxxx", "../evil.txt"),
    "up and out below": renamed("xxxxxxxxxxxxxxxx", "a/../../evil.txt"),
    "from the root": renamed("xxxxxxxxx", "/evil.txt"),
    "up and out by Windows": renamed("xxxxxxxxxxx", "..\\evil.txt"),
    "a drive of Windows": renamed("xxxxxxxxxxx", "C:\\evil.txt"),
    "a bomb": archive({GOOD_NAME: bytes(2**21)}),
}  # fmt: skip
HEAD = "HTTP/1.1 {}\r\nConnection: close\r\n{}\r\n"
ANSWERS = {  # of servers: bytes, after which the connection is closed
    "nothing": b"",
    "garbage": b"\x00\xff" * 500,
    "words": b"hello\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an unknown version": b"HTTP/9.9 200 OK\r\n\r\n",
    "no number": b"HTTP/1.1 fine OK\r\n\r\n",
    "not found": HEAD.format("404 Not Found", "").encode(),
    "broken": HEAD.format("500 Oops", "").encode(),
    "no content": HEAD.format("204 No Content", "").encode(),
    "somewhere else for ever": HEAD.format("302 Found", "Location: /again\r\n").encode(),
    "somewhere on this disk": HEAD.format("302 Found", "Location: file:///etc/hostname\r\n").encode(),
    "somewhere that is nowhere": HEAD.format("302 Found", "Location: http://[::\r\n").encode(),
    "login": HEAD.format("401 Unauthorized", "WWW-Authenticate: Basic\r\n").encode(),
    "less than it said": HEAD.format("200 OK", "Content-Length: 99999\r\n").encode() + PACKED,
    "more than it said": HEAD.format("200 OK", "Content-Length: 40\r\n").encode() + PACKED,
    "a length that is no number": HEAD.format("200 OK", "Content-Length: much\r\n").encode() + b"x",
    "a length below 0": HEAD.format("200 OK", "Content-Length: -5\r\n").encode() + b"x",
    "chunks that break off": HEAD.format("200 OK", "Transfer-Encoding: chunked\r\n").encode() + b"ff\r\nabc",
    "chunks without a size": HEAD.format("200 OK", "Transfer-Encoding: chunked\r\n").encode() + b"zz\r\nabc\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300,
    "a line without an end": b"HTTP/1.1 200 " + b"x" * 70_000,
    "packed once more": HEAD.format("200 OK", "Content-Encoding: gzip\r\n").encode() + gzip.compress(PACKED),
    "another part": HEAD.format("206 Partial", "Content-Range: bytes 9-10/11\r\n").encode() + b"xy",
    "no end": HEAD.format("200 OK", "").encode() + bytes(2**21),
}  # fmt: skip


@pytest.fixture
def server():
    """A server that gives whoever asks the bytes in `answer`, and closes."""

    class Handler(socketserver.BaseRequestHandler):
        answer = b""

        def handle(self):
            self.request.recv(65536)
            with contextlib.suppress(OSError):  # the other side has heard enough
                self.request.sendall(Handler.answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        Handler.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield Handler
        listening.shutdown()


@pytest.mark.parametrize("what", [*ARCHIVES, *ANSWERS])
def test_archives_and_servers(what, server, tmp_path, capfd, monkeypatch):
    for bound in ("MOST_BYTES", "MOST_FETCHED"):
        monkeypatch.setattr(download, bound, 2**20)
    whole = HEAD.format("200 OK", f"Content-Length: {len(ARCHIVES.get(what, b''))}\r\n").encode()
    server.answer = ANSWERS[what] if what in ANSWERS else whole + ARCHIVES[what]
    folder = tmp_path / "data"

    def fetch():
        download.download(folder, server.url, ROWS_OF_MANIFEST, progress=False)

    refused(capfd, fetch, "Defect_images.7z", "; ")
    assert [path.suffix for path in folder.rglob("*")] in ([], [".part"])
    assert not list(tmp_path.rglob("evil*"))


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        refused(capfd, lambda: download.download(tmp_path / "data", url, ROWS_OF_MANIFEST), url, "timed out")


# Folders of rolls: what lies in them is found when it is read

SPOILT = (
    "cut_at_0.6_grey.png",
    "checksum_of_pixels.png",
    "noise_0_grey.jpg",
    "float.tif",
    "lies_huge.bmp",
    "text.png",
)


@pytest.fixture
def one_roll(tmp_path):
    """A folder in AITEX's layout: one defective roll and its mask, which a test spoils."""
    picks = np.uint8(100 + 80 * np.sin(np.arange(128) * (2 * np.pi / 8)))[:, None]
    for name in ("Defect_images/0001_002_00.png", "Mask_images/0001_002_00_mask.png"):
        (tmp_path / name).parent.mkdir()
        assert cv2.imwrite(str(tmp_path / name), picks + fitted_roll().image // 8)
    return tmp_path


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("where", ["Defect_images/0001_002_00.png", "Mask_images/0001_002_00_mask.png"])
def test_images_and_masks_in_folders(where, name, one_roll, capfd):
    (one_roll / where).write_bytes(MALFORMED[name])
    (record,) = aitex.load_aitex(one_roll).records
    refused(capfd, lambda: load_roll(record), one_roll / where, "; expected ")


@pytest.mark.parametrize("shape", [(127, 512), (128, 511), (512, 128), (1, 1)])
def test_a_mask_of_another_size(shape, one_roll, capfd):
    mask = one_roll / "Mask_images/0001_002_00_mask.png"
    cv2.imwrite(str(mask), np.zeros(shape, np.uint8))
    (record,) = aitex.load_aitex(one_roll).records
    refused(capfd, lambda: read_mask(record), mask, f"{shape[1]} x {shape[0]}")


@pytest.mark.parametrize("odd", ["fifo", "loop", "dangling"])
def test_what_is_no_file_among_rolls_is_named(odd, one_roll, capfd):
    """And never waited for."""
    path = one_roll / "Defect_images/0002_002_00.png"
    links = {"loop": path, "dangling": one_roll / "nowhere"}
    os.symlink(links[odd], path) if odd in links else os.mkfifo(path)
    record = aitex.load_aitex(one_roll).records[1]
    refused(capfd, lambda: load_roll(record), f"{path}: cannot be read (")
    assert {"file": "Defect_images/0002_002_00.png", "status": "altered"} in aitex.verify(one_roll)


# Folders of one's own images: what cannot be true of them is found when they are looked through

IMAGES_OF_OWN = [cv2.imencode(".png", np.roll(GREY, shift, axis=1))[1].tobytes() for shift in range(3)]
ONE, OTHER, THIRD = IMAGES_OF_OWN
MARKING = cv2.imencode(".png", np.eye(64, 96, dtype=np.uint8))[1].tobytes()
ALONE = ", but no images known to be normal"
FIFO = os.mkfifo
OF_OWN = {  # what lies in the folder, and words of the refusal; a text is where a link leads, from its own place
    "nothing": ({}, "no images known to be normal"),
    "no image": ({"a.txt": ONE, "b": OTHER}, "no images known to be normal"),
    "junk alone": ({"good/._a.png": ONE, "__MACOSX/good/a.png": ONE}, "no images known to be normal"),
    "an empty good": ({"good/below": None, "masks": None}, "no images known to be normal"),
    "a file called good": ({"good": ONE, "bad/1.png": OTHER}, f"bad/1.png{ALONE}"),
    "bad alone": ({"bad/1.png": ONE}, f"bad/1.png{ALONE}"),
    "masks alone": ({"masks/1.png": MARKING}, f"masks/1.png{ALONE}"),
    "masks alone by their names": ({"1_mask.png": MARKING, "b/2_GT.png": MARKING}, f"1_mask.png{ALONE}"),
    "a mask beside an image": ({"1.png": ONE, "2.png": OTHER, "1_mask.png": MARKING}, f"1_mask.png{ALONE}"),
    "test alone": ({"test/good/1.png": ONE}, f"test/good/1.png{ALONE}"),
    "ground truth alone": ({"ground_truth/cut/1_mask.png": MARKING}, f"ground_truth/cut/1_mask.png{ALONE}"),
    "a layout one folder too deep": ({"cloth/good/1.png": ONE, "cloth/bad/2.png": OTHER}, f"cloth/bad/2.png{ALONE}"),
    "an image filed twice": ({"good/1.png": ONE, "bad/2.png": ONE}, "bad/2.png: the same image as good/1.png"),
    "an image filed twice, tested": ({"train/good/1.png": ONE, "test/good/2.png": OTHER, "test/cut/3.png": OTHER},
                                     "test/cut/3.png: the same image as test/good/2.png"),
    "an image linked into both": ({"good/1.png": ONE, "bad/2.png": "../good/1.png"}, "the same image as good/1.png"),
    "a folder linked into both": ({"good/1.png": ONE, "bad": "good"}, "bad/1.png: the same image as good/1.png"),
    "bad below good": ({"good/1.png": ONE, "good/Bad/2.png": OTHER}, "good/Bad/2.png: filed as normal, and in a fol"),
    "masks below good": ({"good/1.png": ONE, "good/masks/2.png": MARKING}, "masks/2.png: filed as normal, and in a"),
    "a mask on a normal image": ({"good/1.png": ONE, "masks/1.png": MARKING}, "good/1.png: filed as normal, but"),
    "a mask beside a normal image": ({"good/1.png": ONE, "good/1_mask.png": MARKING}, "good/1.png: filed as normal, b"),
    "a mask that is cut off": ({"good/1.png": ONE, "bad/2.png": OTHER, "masks/2.png": MARKING[:90]}, "masks/2.png: "),
    "a mask that is a pipe": ({"good/1.png": ONE, "bad/2.png": OTHER, "masks/2.png": FIFO}, "2.png: cannot be read"),
    "a mask that is the image": ({"good/1.png": ONE, "bad/2.png": OTHER, "masks/2.png": "../bad/2.png"}, "a mask"),
    "an image that is a text": ({"good/1.png": b"no image" * 9}, "good/1.png: not a readable image"),
    "an image that is empty": ({"good/1.png": ONE, "bad/2.png": b""}, "bad/2.png: not a readable image (0 bytes"),
    "a bomb": ({"good/1.png": MALFORMED["lies_huge.png"]}, "good/1.png: too large to decode"),
    "a pipe": ({"good/1.png": ONE, "good/2.png": FIFO}, "good/2.png: cannot be read (no regular file)"),
    "a link that leads nowhere": ({"good/1.png": ONE, "bad/2.png": "away.png"}, "bad/2.png: cannot be read (No such"),
    "a link to itself": ({"good/1.png": ONE, "good/2.png": "2.png"}, "good/2.png: cannot be read (Too many"),
    "a link to the folder above": ({"good/1.png": ONE, "good/up": ".."}, "good/up: a link to a folder that it lies in"),
    "two folders linked into each other": ({"good/1.png": ONE, "good/a": "../bad", "bad/b": "../good"}, "a link to a"),
    "a new line in a name": ({"good/a\nb.png": ONE}, "good/a\\nb.png: a control character in its name"),
    "a bell in a name": ({"good/a.png": ONE, "bad/\a.png": OTHER}, "bad/\\x07.png: a control character in its name"),
}  # fmt: skip


def laid_out(root, files):
    """A folder with such files; see `OF_OWN`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.mkdir() if content is None else content(path) if callable(content) else path.symlink_to(content)
    return root


@pytest.mark.parametrize("what", OF_OWN)
def test_folders_of_own_images(what, place, tmp_path, capfd):
    inside, words = OF_OWN[what]
    root = laid_out(tmp_path / "own", {"": None, **inside})
    before = listing(root)
    refused(capfd, lambda: load_folder(root), words, "; ")
    refused_by_command(capfd, ["train", "--data", root, "--out", tmp_path / "x.pt", "--steps", "1"], words)
    assert listing(root) == before and os.listdir(tmp_path) == ["own"]


NORMAL_ONES = {f"good/{number}.png": cv2.imencode(".png", GREY + number)[1].tobytes() for number in range(5)}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("where", ["good/0", "good/3", "good/4", "bad/0", "bad/3"])
def test_own_images_that_cannot_be_used_are_found_before_a_training(where, name, tmp_path, capfd):
    """One of each part: train, calibration, test and development."""
    defective = {f"bad/{number}.png": cv2.imencode(".png", GREY - number - 9)[1].tobytes() for number in range(4)}
    spoilt = f"{where}{os.path.splitext(name)[1]}"
    files = {path: data for path, data in {**NORMAL_ONES, **defective}.items() if not path.startswith(f"{where}.")}
    root = laid_out(tmp_path / "own", {"": None, **files, spoilt: MALFORMED[name]})
    refused_by_command(capfd, ["train", "--data", root, "--out", tmp_path / "x.pt", "--steps", "1"], root / spoilt)
    assert os.listdir(tmp_path) == ["own"]


def test_equal_names_in_different_case_are_two_images(tmp_path):
    """A mask that could be of either is named, and used for neither."""
    files = {
        "good/1.png": ONE,
        "good/1.PNG": OTHER,
        "bad/a.png": THIRD,
        "bad/A.png": NORMAL_ONES["good/3.png"],
        "masks/a.png": MARKING,
    }
    data = load_folder(laid_out(tmp_path, files))
    assert [record.name for record in data.records] == ["good/1.PNG", "good/1.png", "bad/A.png", "bad/a.png"]
    assert data.quirks == (
        "1 masks of no image, or of several; not used: masks/a.png",
        "2 defective images without a mask; image level only: bad/A.png, bad/a.png",
    )


def test_what_is_named_as_not_used_stays_on_its_line(tmp_path):
    data = load_folder(laid_out(tmp_path, {"good/1.png": ONE, "a\nb.txt": b"", "\udcff.txt": b"", "c.sock": FIFO}))
    assert data.quirks == (r"3 no images; not used: a\nb.txt, c.sock, \udcff.txt",)


def test_a_name_that_is_no_utf8_is_read_and_printed(tmp_path, capfd):
    """As cameras with other alphabets left them."""
    root = laid_out(tmp_path / "own", {"": None, "good/1.png": ONE, "bad/t\udcfcll.png": OTHER})
    assert [record.name for record in load_folder(root).test] == [r"bad/t\udcfcll.png"]
    inspect = ["inspect", root, "--checkpoint", MODEL, "--out", tmp_path / "out", "--json", tmp_path / "found.json"]
    assert main([str(word) for word in inspect]) == 0
    assert r"bad/t\udcfcll.png  score" in capfd.readouterr().out and (tmp_path / "out/bad/t\udcfcll.npy").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs a user who may not read a folder")
def test_a_folder_that_may_not_be_read_is_named(capfd):
    with tempfile.TemporaryDirectory() as folder:
        root = laid_out(Path(folder), {"good/1.png": ONE, "bad/1.png": OTHER})
        root.chmod(0o755)
        (root / "bad").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:  # who may read everything
                os.seteuid(65534)
            refused(capfd, lambda: load_folder(root), f"{root}/bad: cannot be read (Permission denied)")
        finally:
            os.seteuid(user)
            (root / "bad").chmod(0o755)


@pytest.mark.parametrize("root", [7, None, b"own", ["own"], 1.5, "x" * 300, "x/" * 3000, "a\0b", ""])
def test_names_of_folders_that_are_none(root, capfd):
    refused(capfd, lambda: load_folder(root), "; ")


WRONG = [("channels", value) for value in (2, 0, "3", None, 3.0, True)]
WRONG += [("bit_depth", value) for value in (0, 9, -8, "12", 12.0, NAN, False)]
WRONG += [("find_edges", value) for value in ("yes", 1, None)]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_options_of_load_folder(name, value, tmp_path, capfd):
    root = laid_out(tmp_path, NORMAL_ONES)
    refused(capfd, lambda: load_folder(root, **{name: value}), f"{name}: {value!r}; expected one of")


LONG = "ä" * 120 + "xxxxxx"  # 246 bytes


@pytest.mark.parametrize("line", [
    "inspect {long}.png --checkpoint {model} --out {new}", "train --data {own} --steps 1 --out {new}{name}.pt",
    "fit vae --data {own} --out {new}{name}.pt", "evaluate --checkpoint {model} --json {new}{name}.json",
    "evaluate --checkpoint {model} --report {new}{name}.html", "export {model} {new}{name}.onnx",
])  # fmt: skip
def test_names_that_are_too_long_to_write_are_refused_before_work(line, tmp_path, capfd):
    """As temporary files they would be longer still."""
    root = laid_out(tmp_path / "own", {"": None, **NORMAL_ONES, f"{LONG}.png": ONE})
    words = {"long": root / LONG, "model": MODEL, "own": root, "new": f"{tmp_path}/", "name": LONG}
    refused_by_command(capfd, line.format(**words).split(), "too long a name; expected fewer than 235 bytes")
    assert os.listdir(tmp_path) == ["own"]


# The command line

COMMANDS = """
|no command
simulat|
train|
train --out {new}.pt --steps 0|steps: 0
train --out {new}.pt --steps -1|steps: -1
train --out {new}.pt --steps 1.5|--steps
train --out {new}.pt --steps nan|--steps
train --out {new}.pt --steps|--steps
train --out {new}.pt --minutes 0|minutes: 0
train --out {new}.pt --minutes -1|minutes: -1
train --out {new}.pt --minutes nan|minutes: nan
train --out {new}.pt --minutes inf|minutes: inf
train --out {new}.pt --minutes 1e999|minutes: inf
train --out {new}.pt --minutes long|--minutes
train --out {new}.pt --minutes 1 --steps 1|--steps
train --out {new}.pt --steps 1 --batch 0|batch: 0
train --out {new}.pt --steps 1 --batch -8|batch: -8
train --out {new}.pt --steps 1 --batch 1.5|--batch
train --out {new}.pt --steps 1 --data {data} --batch 99999999999999|batch: 99999999999999 crops
train --out {new}.pt --steps 1 --crop 0|crop: 0
train --out {new}.pt --steps 1 --crop -128|crop: -128
train --out {new}.pt --steps 1 --data {data} --crop 100000|100000 x 100000
train --out {new}.pt --steps 1 --learning-rate 0|learning_rate: 0
train --out {new}.pt --steps 1 --learning-rate -1|learning_rate: -1
train --out {new}.pt --steps 1 --learning-rate nan|learning_rate: nan
train --out {new}.pt --steps 1 --learning-rate inf|learning_rate: inf
train --out {new}.pt --steps 1 --seed -1|seed: -1
train --out {new}.pt --steps 1 --seed 99999999999999999999|seed: 9999
train --out {new}.pt --steps 1 --seed 0.5|--seed
train --out {new}.pt --steps 1 --save-seconds -1|save_seconds: -1
train --out {new}.pt --steps 1 --save-seconds nan|save_seconds: nan
train --out {new}.pt --steps 1 --preset huge|preset
train --out {new}.pt --steps 1 --device warp|device
train --out {new}.pt --steps 1 --device cuda:99|device
train --out {new}.pt --steps 1 --device mps|device
train --out {new}.pt --steps 1 --mix slip|--mix slip
train --out {new}.pt --steps 1 --mix slip=much|--mix slip=much
train --out {new}.pt --steps 1 --mix slip=nan|slip: nan
train --out {new}.pt --steps 1 --mix slip=-1|slip: -1
train --out {new}.pt --steps 1 --mix slip=inf|slip: inf
train --out {new}.pt --steps 1 --mix stripe=1|stripe
train --out {new}.pt --steps 1 --mix =1|unknown kind
train --out {new}.pt --steps 1 --augmenter best|--augmenter
train --out {new}.pt --steps 1 --augmenter paper|--textures
train --out {new}.pt --steps 1 --augmenter paper --textures {place}/none --data {data}|texture
train --out {new}.pt --steps 1 --fabric 77 --data {data}|fabric 77
train --out {new}.pt --steps 1 --data {place}/none|{place}/none
train --out {new}.pt --steps 1 --data {good}|{good}
train --out {new}.pt --steps 1 --data {place}|{place}
train --out {place}/none/x.pt --steps 1|none/x.pt
train --out {place} --steps 1|{place}
train --out {new}.pt --steps 1 --data {data} --max-pixels 0|max_pixels: 0
train --out {new}.pt --steps 1 --data {data} --max-pixels 1000|at most 1000 pixels
train --out {new}.pt --steps 1 --faster|--faster
train --out {new}.pt --steps 1 --data {own} --channels 2|channels: 2
train --out {new}.pt --steps 1 --data {own} --channels 0|channels: 0
train --out {new}.pt --steps 1 --data {own} --channels grey|--channels
train --out {new}.pt --steps 1 --data {own} --bit-depth 0|bit_depth: 0
train --out {new}.pt --steps 1 --data {own} --bit-depth 9|bit_depth: 9
train --out {new}.pt --steps 1 --data {own} --bit-depth deep|--bit-depth
train --out {new}.pt --steps 1 --data {own} --find-edges|no fabric
train --out {new}.pt --steps 1 --data {own} --fabric 00|fabric 00
train --out {new}.pt --steps 1 --data {data} --start {place}/none.pt|none.pt
train --out {new}.pt --steps 1 --data {data} --start {good}|{good}
train --out {new}.pt --steps 1 --data {own}/good/0.png|{own}/good/0.png
train --out {own}/good/0.png --steps 1 --data {own}|{own}/good/0.png
train --out {new}.pt --steps 1 --data {one}|1 training and 0 calibration rolls
fit vae --out {new}.pt --data {one}|1 training and 0 calibration rolls
evaluate --checkpoint {model} --data {own} --bit-depth 0|bit_depth: 0
evaluate --checkpoint {model} --data {own} --json {own}/good/0.png|.json
fit|
fit svm --out {new}.pt|svm
fit vae --out {new}.pt --steps 0 --data {data}|steps: 0
fit vae --out {new}.pt --error l3|error: 'l3'
fit vae --out {new}.pt --beta nan|beta: nan
fit vae --out {new}.pt --beta -1|beta: -1
fit vae --out {new}.pt --smoothing -1|smoothing: -1
fit vae --out {new}.pt --smoothing nan|smoothing: nan
fit vae --out {new}.pt --smoothing 1e9|smoothing: 1000000000
fit vae --out {new}.pt --seed -1 --data {data}|seed: -1
fit patchcore --out {new}.pt --backbone brain|backbone: 'brain'
fit patchcore --out {new}.pt --bank-size 0|bank_size: 0
fit patchcore --out {new}.pt --pool-size 0|pool_size: 0
fit patchcore --out {new}.pt --bank-size 30000|bank_size: 30000
fit patchcore --out {new}.pt --pool-size 99999999999999 --data {data}|pool_size
fit patchcore --out {new}.pt --neighbourhood 0|neighbourhood: 0
fit patchcore --out {new}.pt --neighbourhood 2|neighbourhood: 2
fit patchcore --out {new}.pt --neighbourhood 1000001|neighbourhood: 1000001
fit patchcore --out {new}.pt --device warp|device
evaluate|
evaluate --checkpoint {place}/none.pt|none.pt
evaluate --checkpoint {good}|{good}
evaluate --checkpoint {place}|{place}
evaluate --checkpoint {model} --data {place}/none|{place}/none
evaluate --checkpoint {model} --data {data} --fpr 0|fpr: 0
evaluate --checkpoint {model} --data {data} --fpr 1|fpr: 1
evaluate --checkpoint {model} --data {data} --fpr nan|fpr: nan
evaluate --checkpoint {model} --data {data} --fpr -0.1|fpr: -0.1
evaluate --checkpoint {model} --data {data} --fpr 1e-9|fpr: 1e-09
evaluate --checkpoint {model} --data {data} --fpr some|--fpr
evaluate --checkpoint {model} --data {data} --mm-per-px 0|mm_per_px: 0
evaluate --checkpoint {model} --data {data} --mm-per-px nan|mm_per_px: nan
evaluate --checkpoint {model} --data {data} --mm-per-px inf|mm_per_px: inf
evaluate --checkpoint {model} --part train|--part
evaluate --checkpoint {model} --json {new}.txt|.json
evaluate --checkpoint {model} --report {new}.txt|.html
evaluate --checkpoint {model} --json {place}/none/x.json|none/x.json
evaluate --checkpoint {model} --fpr 0.1 --keep|--keep
evaluate --checkpoint {model} --device warp|device
inspect --checkpoint {model} --out {new}|IMAGE
inspect {good} --out {new}|--checkpoint
inspect {good} --checkpoint {model}|--out
inspect {place}/none.png --checkpoint {model} --out {new}|none.png
inspect {empty} --checkpoint {model} --out {new}|{empty}
inspect {bad} --checkpoint {model} --out {new}|{bad}
inspect {good} --checkpoint {place}/none.pt --out {new}|none.pt
inspect {good} --checkpoint {bad} --out {new}|{bad}
inspect {good} {good} --checkpoint {model} --out {new}|twice
inspect {good} --checkpoint {model} --out {new} --fabric 77|77
inspect {good} --checkpoint {model} --out {new} --json {new}.txt|.json
inspect {good} --checkpoint {model} --out {new} --device warp|device
inspect {good} --checkpoint {model} --out {new} --max-pixels 0|max_pixels: 0
inspect {good} --checkpoint {model} --out {new} --max-pixels -1|max_pixels: -1
inspect {good} --checkpoint {model} --out {new} --max-pixels many|--max-pixels
inspect {good} --checkpoint {model} --out {new} --max-pixels 12287|{good}
export {model}|FILE
export {model} {new}.txt|.onnx
export {place}/none.pt {new}.onnx|none.pt
export {good} {new}.onnx|{good}
export {model} {place}/none/x.onnx|none/x.onnx
info|checkpoint
info {place}/none.pt|none.pt
info {good}|{good}
info {place}|{place}
verify|--data
verify --data {place}/none|{place}/none
verify --data {empty}|{empty}
verify --data {good}|{good}
simulate|--out
simulate --out {place}|{place}
simulate --out {good}|{good}
simulate --out {good}/new|{good}
simulate --out {new} --seed -1|seed
simulate --out {new} --seed x|--seed
download|--data
download --data {good}|{good}
download --data {new} --url nowhere|nowhere
download --data {new} --url http://[::|http://[::
download --data {new} --url data:text/plain,hello|data:
download --data {new} --url http://127.0.0.1:9|127.0.0.1:9
download --data {new} --url http://|http:
download --data {new} --url file:///etc|file:///etc
""".strip().splitlines()


@pytest.fixture(scope="module")
def names(place):
    """What stands in braces in `COMMANDS`."""
    (place / "good.png").write_bytes(WHOLE["grey.png"])
    (place / "bad.png").write_bytes(MALFORMED["noise_0_grey.jpg"])
    (place / "empty").mkdir()
    (place / "one").mkdir()
    (place / "one/1.png").write_bytes(ONE)
    paths = {"good": place / "good.png", "bad": place / "bad.png", "empty": place / "empty", "one": place / "one"}
    return {"place": place, **paths, "own": laid_out(place / "own", {"": None, **NORMAL_ONES}), "model": MODEL}


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line, names, small_set, unchanged, tmp_path, capfd, bounded):
    command, _, word = line.partition("|")
    names = names | {"data": small_set, "new": tmp_path / "new"}
    before = listing(small_set)
    words = [word.format(**names)] if word != "no command" else []
    refused_by_command(capfd, command.format(**names).split(), *words)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [] and listing(small_set) == before


@pytest.mark.parametrize("command", ["train", "fit vae"])
def test_a_second_run_is_told_before_it_reads_anything(command, tmp_path, capfd):
    with files.locked(tmp_path / "x.pt"):
        words = [*command.split(), "--data", tmp_path / "none", "--out", tmp_path / "x.pt"]
        refused_by_command(capfd, words, "x.pt: another run is writing it")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("words", [["info", "gone.pt"], ["train", "--out", "x.pt", "--steps", "nan"]])
def test_a_command_in_a_process_of_its_own(words, tmp_path):
    done = subprocess.run([sys.executable, "-m", "draem_aitex", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and not list(tmp_path.iterdir())
