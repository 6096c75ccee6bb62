"""Bad input, one table for each border: files, archives and servers, arguments in Python and on the command line.

Each row is refused in one line that says what is wrong (`InputError`; status 2 on the command line), prints nothing
besides, waits for nothing and leaves the disk as it was.
"""

import itertools
import math
import os
import socket
import zipfile

import numpy as np
import pytest
import torch
from bad_files import WHOLE, malformed
from conftest import ROOT

from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.cli.main import main
from draem_aitex.data import aitex, images
from draem_aitex.data.folder import load_folder
from draem_aitex.data.rolls import roll_of_array
from draem_aitex.errors import InputError
from draem_aitex.model.draem import build_draem
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training import checkpoint as checkpoints
from draem_aitex.workflow import load_detector

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
    """A command that ends with one line on standard error and status 2."""
    capfd.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    error = capfd.readouterr().err
    assert status == 2 and error.count("\n") == 1 and error.startswith("error: "), error
    for word in words:
        assert str(word) in error, error


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


@pytest.mark.parametrize("name", [name for name in PATHS if name not in ("folder", "nul", "loop")])
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
    refused(capfd, lambda: detector.predict(image, edges=(0, 64)), "image: its anomaly map is not finite")
    roll = roll_of_array(np.full((256, 512), 128, np.uint8), edges=(0, 512))[0]
    refused(capfd, lambda: detector.calibrate([roll]), "its anomaly map is not finite")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path, capfd):
    content = checkpoints.load_checkpoint(MODEL)
    weights = content["weights"] | {"discriminative.head.bias": torch.zeros(1).expand(10**13)}
    torch.save({**content, "weights": weights}, tmp_path / "bomb.pt")
    refused(capfd, lambda: load_detector(tmp_path / "bomb.pt"), "bomb.pt: weights.discriminative.head.bias: ")
