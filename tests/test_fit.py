"""The `fit` command: baselines on the small set, and what the other commands make of them."""

import json
import shutil
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from test_cli import fails_with_one_line

from draem_aitex.baselines import backbones
from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.cli.fit import build_detector
from draem_aitex.cli.main import build_parser, main
from draem_aitex.data import aitex, images
from draem_aitex.training.checkpoint import load_checkpoint
from draem_aitex.training.sampler import NormalAugmentation
from draem_aitex.workflow import load_detector

SMALL = ("--bank-size", "50", "--pool-size", "500")
WHAT = {
    "patchcore": "PatchCore, backbone fft, one bank of 50 vectors of 41 numbers, fitted on simulated fabric",
    "vae": "trained 3 steps, fitted on simulated fabric",
}


def run(*arguments):
    return main([str(argument) for argument in arguments])


def fitted(folder, small_set, detector, *options):
    path = folder / f"{detector}.pt"
    assert run("fit", detector, "--data", small_set, "--out", path, *options) == 0
    return path


@pytest.fixture(scope="module")
def bank(small_set, tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("bank"), small_set, "patchcore", *SMALL)


@pytest.fixture(scope="module")
def per_fabric(small_set, tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("banks"), small_set, "patchcore", *SMALL, "--per-fabric")


@pytest.fixture(scope="module")
def vae(small_set, tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("vae"), small_set, "vae", "--steps", "3")


@pytest.fixture(params=["patchcore", "vae"])
def baseline(request):
    return request.getfixturevalue("bank" if request.param == "patchcore" else "vae")


def test_a_fitted_checkpoint_holds_what_a_trained_one_does(baseline, small_set):
    content = load_checkpoint(baseline)
    assert content["detector"] == baseline.stem and content["source"] == "simulated fabric"
    assert {part: len(names) for part, names in content["split"].items()}["train"] == 2
    assert content["seed"] == 0 and content["seconds"] > 0 and content["fabrics"] == []
    patches = content["threshold"]["patches"]
    assert content["threshold"]["wanted"] == pytest.approx(1 / (patches + 1)), "one roll cannot promise 1 %"
    assert content["threshold"]["value"] == max(content["calibration"]["scores"]) <= 1
    assert len(content["calibration"]["scores"]) == patches and content["calibration"]["rolls"] == 1
    assert list(content["fabric_offsets"]) == ["01"]
    detector = load_detector(baseline, quiet=True)
    record = next(record for record in aitex.load_aitex(small_set).records if record.number == 4)
    image = images.read_image(record.path)
    assert (
        detector.predict(image, edges=(100, 1000), fabric="01").score <= 1
        and detector.offsets == content["fabric_offsets"]
    )


def test_the_same_command_gives_the_same_bank_and_another_seed_another(bank, small_set, tmp_path):
    wanted = load_checkpoint(bank)["state"]["banks"]["all fabrics"]["vectors"]
    for seed, same in ((0, True), (1, False)):
        again = fitted(tmp_path, small_set, "patchcore", *SMALL, "--seed", seed)
        assert torch.equal(load_checkpoint(again)["state"]["banks"]["all fabrics"]["vectors"], wanted) is same


def test_fitting_says_what_was_made_of_which_rolls(small_set, tmp_path, capsys):
    path = fitted(tmp_path, small_set, "vae", "--steps", "1")
    printed = capsys.readouterr()
    assert "data: simulated fabric, " in printed.out and "split by roll: 2 train" in printed.out
    assert f"{path}:\nVAE, l1 error, " in printed.out and "\nthreshold " in printed.out
    assert "too few to promise a false-positive rate of 1%" in printed.err


def test_evaluate_judges_any_detector_and_says_which(baseline, small_set, tmp_path, capsys):
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    assert run("evaluate", "--data", small_set, "--checkpoint", baseline, "--json", figures, "--report", page) == 0
    assert WHAT[baseline.stem] in capsys.readouterr().out
    table = json.loads(figures.read_text())
    assert table["n_test_rolls"] == len(load_checkpoint(baseline)["split"]["test"]) and 0 <= table["patch_auroc"] <= 1
    assert table["threshold"] == load_checkpoint(baseline)["threshold"]["value"] and set(table["by_fabric"]) == {"01"}
    text = page.read_text()
    assert f"{baseline.name}: " in text and WHAT[baseline.stem] in text and "http" not in text


def test_evaluate_keeps_the_figures_of_any_detector(bank, small_set, tmp_path, capsys):
    path = tmp_path / "kept.pt"
    shutil.copy(bank, path)
    assert run("evaluate", "--data", small_set, "--checkpoint", path, "--keep") == 0
    content, before = load_checkpoint(path), load_checkpoint(bank)
    assert "test" in content["figures"] and content["detector"] == "patchcore"
    vectors = [one["state"]["banks"]["all fabrics"]["vectors"] for one in (content, before)]
    assert torch.equal(*vectors)
    capsys.readouterr()
    assert run("info", path) == 0
    assert "| test rolls |" in capsys.readouterr().out


def test_inspect_writes_the_maps_of_any_detector_and_says_which(baseline, small_set, tmp_path, capsys):
    record = next(record for record in aitex.load_aitex(small_set).records if not record.is_normal)
    found = tmp_path / "found.json"
    assert run("inspect", record.path, "--checkpoint", baseline, "--out", tmp_path / "maps", "--json", found) == 0
    printed = capsys.readouterr()
    assert WHAT[baseline.stem] in printed.err and str(record.path) in printed.out
    content = json.loads(found.read_text())
    (picture,) = content["images"]
    assert content["checkpoint"] == baseline.name and picture["fabric"] == "01" and picture["normalised"]
    scores = np.load(tmp_path / "maps" / f"{record.name}.npy")
    start, end = picture["edges"]
    assert picture["score"] == float(scores.max()) <= 1 and not scores[:, :start].any()
    assert scores[:, start:end].min() >= 1e-6


def test_info_gives_the_card_of_any_detector(baseline, capsys):
    assert run("info", baseline) == 0
    card = capsys.readouterr().out
    assert card.startswith(f"# {baseline.name}\n") and WHAT[baseline.stem] in card
    assert "Split by roll: 2 train, 1 calibration" in card and "| | development rolls |" in card
    options = {"patchcore": " ".join(SMALL), "vae": "--steps 3"}[baseline.stem]
    command = f"python -m draem_aitex fit {baseline.stem} --data DIR --out {baseline.name} {options}"
    assert f"Made by `{command}` with Python" in card
    again = build_parser().parse_args(command.split()[3:])
    assert again.detector == baseline.stem


def test_a_bank_of_each_fabric_is_used_by_the_fabrics_name(per_fabric, small_set, tmp_path, capsys):
    content = load_checkpoint(per_fabric)
    assert content["fabrics"] == ["01"] and list(content["state"]["banks"]) == ["01"]
    assert content["made"]["command"].endswith("--out patchcore.pt --bank-size 50 --pool-size 500 --per-fabric")
    assert run("evaluate", "--data", small_set, "--checkpoint", per_fabric) == 0
    assert "of 50 vectors of 41 numbers, fitted on simulated fabric, fabrics 01" in capsys.readouterr().out
    record = next(record for record in aitex.load_aitex(small_set).records if not record.is_normal)
    piece = tmp_path / "piece.png"
    shutil.copy(record.path, piece)
    inspect = ["inspect", piece, "--checkpoint", per_fabric]
    assert run(*inspect, "--out", tmp_path / "named", "--fabric", "01") == 0
    assert (tmp_path / "named" / "piece.npy").exists()


def test_a_picture_of_a_fabric_without_a_bank_is_named_and_the_others_are_judged(
    per_fabric, small_set, tmp_path, capsys
):
    record = next(record for record in aitex.load_aitex(small_set).records if not record.is_normal)
    for name, found in (("piece.png", "fabric not named"), (f"{record.name[:-2]}07.png", "fabric 07")):
        picture, out = tmp_path / name, tmp_path / "out"
        shutil.copy(record.path, picture)
        capsys.readouterr()
        judged_but_one(capsys, record.path, picture, per_fabric, out, found, "expected one of 01")


def test_a_picture_too_small_for_the_detector_is_named_and_the_others_are_judged(baseline, small_set, tmp_path, capsys):
    record, picture = aitex.load_aitex(small_set).records[0], tmp_path / "small.png"
    cv2.imwrite(str(picture), images.read_image(record.path)[:12, 1000:1064])
    least, name = {"patchcore": (32, "PatchCore"), "vae": (16, "VAE")}[baseline.stem]
    said = "12 x 64 pixels", f"expected {least} x {least}", name
    judged_but_one(capsys, record.path, picture, baseline, tmp_path / "out", *said)


def judged_but_one(capsys, good, bad, checkpoint, out, *said):
    """`inspect` names the bad image in one line, writes the map of the good one alone, and ends with status 2."""
    assert main(["inspect", str(good), str(bad), "--checkpoint", str(checkpoint), "--out", str(out)]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert all(part in error for part in (str(bad), *said)), error
    assert [path.stem for path in out.glob("*.npy")] == [good.stem]


def test_options_of_fit_become_a_detector():
    def made(*options):
        return build_detector(build_parser().parse_args(["fit", *options, "--out", "x.pt", "--device", "cpu"]))

    detector, arguments = made("vae")
    assert detector.options == VAE().options and arguments == {
        "steps": 600,
        "normal_augmentation": NormalAugmentation(),
    }
    words = "--steps 7 --error mse --beta 0.5 --smoothing 2 --no-augmentation --no-normalisation"
    detector, arguments = made("vae", *words.split())
    assert detector.options == VAE(error="mse", beta=0.5, smoothing=2.0, normalised=False).options
    assert arguments == {"steps": 7, "normal_augmentation": None}
    detector, arguments = made("patchcore")
    assert detector.options == PatchCore().options and arguments == {"normal_augmentation": NormalAugmentation()}
    options = ("--backbone", "shallow", "--per-fabric", "--bank-size", "7", "--pool-size", "70", "--smoothing", "2")
    wanted = PatchCore("shallow", per_fabric=True, bank_size=7, pool_size=70, smoothing=2.0)
    assert made("patchcore", *options)[0].options == wanted.options


def test_what_only_draem_does_is_refused_in_one_line(baseline, small_set, tmp_path, capsys):
    before, name = baseline.read_bytes(), {"patchcore": "PatchCore", "vae": "VAE"}[baseline.stem]
    fails_with_one_line(capsys, ["export", baseline, tmp_path / "model.onnx"], baseline, name, "DRAEM")
    train = ["train", "--data", small_set, "--out", baseline, "--steps", "1"]
    fails_with_one_line(capsys, train, baseline, f"'{baseline.stem}'", "'draem'")
    evaluate = ["evaluate", "--data", small_set, "--checkpoint", baseline]
    fails_with_one_line(capsys, [*evaluate, "--bfloat16"], "bfloat16", name, "DRAEM")
    picture = aitex.load_aitex(small_set).records[0].path
    inspect = ["inspect", picture, "--checkpoint", baseline, "--out", tmp_path / "out", "--bfloat16"]
    fails_with_one_line(capsys, inspect, "bfloat16", name)
    assert baseline.read_bytes() == before and not list(tmp_path.iterdir())


def test_a_refused_fit_leaves_the_file_as_it_was(bank, small_set, tmp_path, capsys, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    out, none = tmp_path / "mine.pt", tmp_path / "none.pt"
    shutil.copy(bank, out)
    fails_with_one_line(capsys, ["fit", "vae", "--data", small_set, "--out", out], out, "'patchcore'", "'vae'")
    bank = ["fit", "patchcore", "--data", small_set, "--out", out]
    vae = ["fit", "vae", "--data", small_set, "--out", none]
    before = out.read_bytes()
    fails_with_one_line(capsys, [*bank, "--seed", "-1"], "seed: -1")
    fails_with_one_line(capsys, [*vae, "--beta", "inf"], "beta: inf")
    fails_with_one_line(capsys, [*vae, "--smoothing", "inf"], "smoothing: inf")
    fails_with_one_line(capsys, [*bank, "--backbone", "vgg"], "'vgg'", *backbones.BACKBONES)
    fails_with_one_line(
        capsys, [*bank, "--backbone", "densenet121"], "densenet121", "no route to host", "fft", "shallow"
    )
    fails_with_one_line(capsys, [*bank, "--bank-size", "0"], "bank_size: 0")
    fails_with_one_line(capsys, [*bank, "--smoothing", "-1"], "smoothing: -1")
    fails_with_one_line(capsys, [*bank, "--fabric", "77"], "77", "01")
    fails_with_one_line(capsys, [*bank, "--device", "warp"], "warp")
    fails_with_one_line(capsys, [*vae, "--error", "l3"], "'l3'")
    fails_with_one_line(capsys, [*vae, "--steps", "0"], "steps: 0")
    fails_with_one_line(capsys, [*vae, "--bank-size", "5"], "--bank-size")
    fails_with_one_line(capsys, ["fit", "vae", "--data", tmp_path, "--out", none], "no images known to be normal")
    fails_with_one_line(capsys, ["fit", "vae", "--out", tmp_path / "no" / "x.pt"], "x.pt", "cannot be written")
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "draem", "--out", "x.pt"], ["fit", "vae"]])
def test_usage_of_fit_is_one_line(arguments, capsys):
    fails_with_one_line(capsys, arguments)
