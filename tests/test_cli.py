import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

from draem_aitex import files
from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.anomalies.paper_augmenter import PaperAugmenterConfig
from draem_aitex.cli.main import build_parser, main
from draem_aitex.cli.shared import recorded
from draem_aitex.cli.train import train_config
from draem_aitex.data import aitex, fabric_edges, images
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.calibration import Calibration
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.simulation import loom
from draem_aitex.training import loop
from draem_aitex.training.checkpoint import describe_split, load_checkpoint, save_checkpoint
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.model_card import headline


def fails_with_one_line(capsys, arguments, *words):
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and error.startswith("error: "), error
    for word in words:
        assert str(word) in error, error


def test_checkpoint_says_what_it_is(checkpoint, small_set):
    content = load_checkpoint(checkpoint)
    assert content["source"] == "simulated fabric" and content["finished"]
    assert {part: len(names) for part, names in content["split"].items()}["train"] == 2
    name, digest = next(iter(content["split"]["calibration"].items()))
    record = next(record for record in aitex.load_aitex(small_set).records if record.name == name)
    assert record.number == 4 and files.sha256(record.path) == digest
    patches = content["threshold"]["patches"]
    assert content["threshold"]["wanted"] == pytest.approx(1 / (patches + 1)), "one roll cannot promise 1 %"
    assert content["threshold"]["value"] == max(content["calibration"]["scores"]) <= 1
    assert len(content["calibration"]["scores"]) == patches and content["calibration"]["rolls"] == 1
    assert content["config"]["steps"] == 3


def test_options_of_train_become_a_configuration():
    options = ["train", "--out", "x.pt", "--steps", "5", "--preset", "paper", "--batch", "2", "--no-augmentation"]
    config = train_config(build_parser().parse_args(options))
    assert config == TrainConfig.of_preset("paper", steps=5, batch=2, normal_augmentation=None)
    mixed = train_config(build_parser().parse_args(["train", "--out", "x.pt", "--mix", "slip=0.72", "spot=0"]))
    changed = {"slip": 0.72, "spot": 0.0}
    assert mixed.augmenter.weights == AugmenterConfig().weights | changed
    assert train_config(build_parser().parse_args(["train", "--out", "x.pt"])) == TrainConfig(minutes=8.0)


def test_the_published_augmenter_can_be_chosen(tmp_path, capsys):
    options = ["train", "--out", "x.pt", "--steps", "5", "--augmenter", "paper", "--textures", str(tmp_path)]
    assert train_config(build_parser().parse_args(options)).augmenter == PaperAugmenterConfig(str(tmp_path))
    for wrong in (options[:-2], [*options, "--mix", "slip=1"]):
        with pytest.raises(InputError, match="--augmenter paper: needs --textures DIR and takes no --mix"):
            train_config(build_parser().parse_args(wrong))
    train = [*options[:2], tmp_path / "x.pt", *options[3:]]
    fails_with_one_line(capsys, train, tmp_path, "texture")


def test_a_command_is_recorded_without_the_paths_of_this_machine(tmp_path):
    words = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "a b.pt"), "--steps", "3"]
    options = build_parser().parse_args(words)
    options.arguments = words
    assert recorded(options) == "python -m draem_aitex train --data DIR --out 'a b.pt' --steps 3"
    assert recorded(options, 2).startswith("torchrun --nproc-per-node=2 -m draem_aitex train")


def test_train_again_changes_nothing_and_another_config_is_refused(checkpoint, small_set, capsys):
    weights = load_checkpoint(checkpoint)["weights"]
    again = ["train", "--data", str(small_set), "--out", str(checkpoint)]
    assert main([*again, "--steps", "3"]) == 0
    assert all(torch.equal(value, weights[name]) for name, value in load_checkpoint(checkpoint)["weights"].items())
    before = checkpoint.read_bytes()
    capsys.readouterr()
    fails_with_one_line(capsys, [*again, "--steps", "4"], checkpoint, "steps", 4)
    assert checkpoint.read_bytes() == before


def test_info_says_what_a_checkpoint_is_and_loading_says_the_first_lines(checkpoint, small_set, tmp_path, capsys):
    kept = tmp_path / "kept.pt"
    shutil.copy(checkpoint, kept)
    assert main(["evaluate", "--data", str(small_set), "--checkpoint", str(kept), "--keep"]) == 0
    capsys.readouterr()
    assert main(["info", str(kept)]) == 0
    card = capsys.readouterr().out
    content = load_checkpoint(kept)
    first = headline(content)
    assert card.startswith("# kept.pt\n") and all(f"{line}.  \n" in card for line in first)
    assert "1.78 M weights, trained on simulated fabric" in first[0]
    assert first[1].startswith("3 steps in ") and "seed 0, 20" in first[1] and first[2].startswith("test rolls: patch")
    assert "| | development rolls | test rolls |" in card and "Split by roll: 2 train, 1 calibration" in card
    assert "`python -m draem_aitex train --data DIR --out model.pt --steps 3`" in card
    aurocs = [f"{content['figures'][part]['patch_auroc']:.3f}" for part in ("development", "test")]
    assert f"| patch AUROC, pooled | {' | '.join(aurocs)} |" in card
    DraemDetector.load(kept)
    assert capsys.readouterr().out.splitlines() == ["kept.pt:", *first]
    DraemDetector.load(kept, quiet=True)
    assert not capsys.readouterr().out


def test_an_unfinished_checkpoint_says_so(small_set, tmp_path, capsys):
    rolls = load_rolls(aitex.load_aitex(small_set).train)

    def stop(trainer):
        raise KeyboardInterrupt

    config = TrainConfig(steps=3, batch=2, crop=64)
    loop.train_networks(rolls, config, tmp_path / "part.pt", on_log=stop, log_every=1, quiet=True)
    assert main(["info", str(tmp_path / "part.pt")]) == 0
    assert "1 steps in 0.0 minutes so far (not finished), seed 0." in capsys.readouterr().out
    fails_with_one_line(
        capsys, ["evaluate", "--data", small_set, "--checkpoint", tmp_path / "part.pt"], "part.pt", "not finished"
    )


def test_calibration_rolls_without_a_patch_are_found_before_the_training(small_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("draem_aitex.workflow.patch_corners", lambda *roll, **how: [])
    train = ["train", "--data", small_set, "--steps", "1", "--out", tmp_path / "x.pt"]
    fails_with_one_line(capsys, train, small_set, "no calibration roll holds a patch of 256 x 256")
    assert not (tmp_path / "x.pt").exists()


def test_evaluate_tests_only_unseen_rolls(checkpoint, small_set, tmp_path, capsys):
    report = tmp_path / "report.html"
    figures = tmp_path / "figures.json"
    results = ["--json", str(figures), "--report", str(report)]
    assert main(["evaluate", "--data", str(small_set), "--checkpoint", str(checkpoint), *results]) == 0
    printed = capsys.readouterr().out
    table = json.loads(figures.read_text())
    content = load_checkpoint(checkpoint)
    tested = len(content["split"]["test"])
    assert f"Judged: {tested} rolls" in printed and "Trained on 2 rolls" in printed
    assert table["n_test_rolls"] == tested and table["n_train_rolls"] == 2 and table["source"] == "simulated fabric"
    assert table["defects"] == table["hits"] + round(table["miss_rate"] * table["defects"])
    assert set(table["by_fabric"]) == {"01"} and 0 <= table["patch_auroc"] <= 1
    assert table["false_positive_regions_per_metre"] is None, "no resolution given"
    page = report.read_text()
    assert "http" not in page and page.count("<img") >= 2, "self-contained, with pictures"
    assert "model.pt: DRAEM, compact" in page


def test_another_rate_takes_the_threshold_anew_without_the_rolls(checkpoint, small_set, tmp_path, capsys):
    evaluate = ["evaluate", "--data", str(small_set), "--checkpoint", str(checkpoint)]
    figures = tmp_path / "figures.json"
    options = ["--fpr", "0.25", "--mm-per-px", "0.2", "--json", str(figures)]
    assert main([*evaluate, *options]) == 0
    scores, table = load_checkpoint(checkpoint)["calibration"]["scores"], json.loads(figures.read_text())
    assert table["threshold"] == Calibration(np.array(scores), 1).threshold(0.25).value and table["fpr_wanted"] == 0.25
    assert table["metres"] == pytest.approx(table["fabric_columns"] * 0.2 / 1000)
    assert load_checkpoint(checkpoint)["threshold"]["wanted"] < 0.25, "the checkpoint keeps its own"
    capsys.readouterr()
    fails_with_one_line(capsys, [*evaluate, "--fpr", "0.001"], "fpr: 0.001", len(scores), "rolls")
    fails_with_one_line(capsys, [*evaluate, "--fpr", "0.25", "--keep"], "--keep")
    fails_with_one_line(capsys, [*evaluate, "--bfloat16", "--keep"], "--keep")
    before = checkpoint.read_bytes()
    fails_with_one_line(capsys, [*evaluate, "--json", checkpoint], checkpoint, "ends in .json")
    fails_with_one_line(capsys, [*evaluate, "--report", tmp_path / "page.json"], "ends in .html")
    assert checkpoint.read_bytes() == before
    fails_with_one_line(capsys, [*evaluate, "--mm-per-px", "0"], "mm_per_px: 0.0; expected")
    older = {name: value for name, value in load_checkpoint(checkpoint).items() if name != "calibration"}
    save_checkpoint(tmp_path / "older.pt", older)
    older = [*evaluate[:-1], tmp_path / "older.pt", "--fpr", "0.25"]
    fails_with_one_line(capsys, older, "not calibrated")


def test_a_roll_trained_on_is_left_out_under_any_name(checkpoint, small_set, tmp_path, capsys):
    """The split's hashes decide: a training roll copied to a test roll's name is not tested."""
    folder = tmp_path / "copy"
    shutil.copytree(small_set, folder)
    normal = folder / "NODefect_images" / aitex.FABRIC_FOLDERS["01"]
    shutil.copy(normal / "0001_000_01.png", normal / "0009_000_01.png")
    assert main(["evaluate", "--data", str(folder), "--checkpoint", str(checkpoint)]) == 0
    tested = len(load_checkpoint(checkpoint)["split"]["test"])
    printed = capsys.readouterr()
    assert f"Judged: {tested - 1} rolls" in printed.out and "left out" in printed.err


def test_inspect_writes_map_overlay_and_line(checkpoint, simulated, tmp_path, capsys):
    record = next(
        record for record in aitex.load_aitex(simulated).records if record.fabric == "01" and not record.is_normal
    )
    crop = tmp_path / "piece.png"
    cv2.imwrite(str(crop), images.read_image(record.path)[:200, 1000:1333])
    pictures = [str(record.path), str(crop)]
    assert main(["inspect", *pictures, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "o")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for path, line in zip((record.path, crop), lines, strict=True):
        image = images.read_image(path)
        start, end = fabric_edges.fabric_edges(image)
        scores = np.load(tmp_path / "o" / f"{path.stem}.npy")
        assert scores.dtype == np.float32 and scores.shape == image.shape
        assert not scores[:, :start].any() and not scores[:, end:].any()
        assert (scores[:, start:end] > 0).all() and scores.max() <= 1
        assert cv2.imread(str(tmp_path / "o" / f"{path.stem}.png")).shape == (*image.shape, 3)
        assert str(path) in line and f"score {scores.max():.4f}" in line and line.split()[-1] in ("normal", "defective")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == sorted(
        [f"{record.name}.npy", f"{record.name}.png", "piece.npy", "piece.png"]
    )


def test_inspect_refuses_before_any_work(checkpoint, simulated, tmp_path, capsys):
    good = next(record.path for record in aitex.load_aitex(simulated).records)
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / f"{good.stem}.jpg"
    cv2.imwrite(str(twin), images.read_image(good))
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:5000])
    common = ["--checkpoint", checkpoint, "--out", out]
    fails_with_one_line(capsys, ["inspect", good, twin, *common], good, twin)
    fails_with_one_line(capsys, ["inspect", cut, *common], cut, "truncated")
    fails_with_one_line(capsys, ["inspect", good, tmp_path / "none.png", *common], "none.png")
    fails_with_one_line(capsys, ["inspect", good, "--checkpoint", good, "--out", out], good, "checkpoint")
    assert not out.exists()


def test_other_bad_input(checkpoint, small_set, tmp_path, capsys):
    fails_with_one_line(capsys, ["evaluate", "--data", small_set, "--checkpoint", tmp_path / "no.pt"], "no.pt")
    evaluate = ["evaluate", "--checkpoint", checkpoint]
    fails_with_one_line(capsys, [*evaluate, "--data", tmp_path], tmp_path, "no images known to be normal")
    fails_with_one_line(capsys, [*evaluate, "--data", small_set, "--json", tmp_path / "a/b.json"], "a/b.json")
    out = tmp_path / "x.pt"
    train = ["train", "--data", small_set, "--out", out]
    fails_with_one_line(capsys, [*train, "--fabric", "77"], "77", "01")
    fails_with_one_line(capsys, [*train, "--minutes", "-1"], "-1")
    fails_with_one_line(capsys, [*train, "--batch", "0"], "batch: 0")
    fails_with_one_line(capsys, [*train, "--crop", "24"], "crop: 24; expected a whole number, 32 or more")
    fails_with_one_line(capsys, [*train, "--seed", "-1"], "seed: -1")
    fails_with_one_line(capsys, [*train, "--save-seconds", "nan"], "save_seconds: nan")
    fails_with_one_line(capsys, ["train", "--data", small_set, "--out", tmp_path, "--steps", "1"], tmp_path, "a file")
    fails_with_one_line(capsys, [*train, "--learning-rate", "-1"], "learning_rate: -1")
    fails_with_one_line(capsys, ["info", tmp_path / "no.pt"], "no.pt")
    fails_with_one_line(capsys, [*train, "--preset", "huge"], "huge", "compact")
    fails_with_one_line(capsys, [*train, "--device", "warp"], "warp")
    fails_with_one_line(capsys, [*train, "--steps", "1", "--minutes", "1"], "--minutes")
    fails_with_one_line(capsys, ["train", "--data", small_set, "--out", tmp_path / "no/x.pt", "--steps", "1"], "no")
    for word, expected in (("slip", "KIND=WEIGHT"), ("lint=1", "unknown kind 'lint'"), ("slip=-1", "0 or more")):
        fails_with_one_line(capsys, ["train", "--out", tmp_path / "x.pt", "--mix", word], expected)
    assert not out.exists()
    fails_with_one_line(capsys, ["simulate", "--out", small_set], small_set)


def test_simulate_makes_an_aitex_folder_that_verify_tells_from_the_real_one(simulated, tmp_path, capsys):
    assert loom.ensure_simulated() == simulated
    assert main(["verify", "--data", str(simulated)]) == 1
    assert "simulated fabric" in capsys.readouterr().out


def test_import_opens_nothing_heavy():
    code = (
        "import sys, draem_aitex.cli.main as main; main.build_parser(); "
        "assert not {'torch', 'matplotlib', 'cv2', 'numpy'} & set(sys.modules), 'every command would start late'; "
        "import draem_aitex.workflow, torch; "
        "assert 'matplotlib' not in sys.modules; assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_rolls_train_evaluate_and_inspect(real, tmp_path, capsys):
    """Every command on real rolls, with a training far too short to be any good."""
    checkpoint = tmp_path / "real.pt"
    data = ["--data", str(real.root)]
    assert main(["train", *data, "--out", str(checkpoint), "--steps", "2", "--fabric", "04"]) == 0
    assert load_checkpoint(checkpoint)["source"] == "AITEX"
    assert main(["evaluate", *data, "--checkpoint", str(checkpoint), "--json", str(tmp_path / "f.json")]) == 0
    assert set(json.loads((tmp_path / "f.json").read_text())["by_fabric"]) == {"04"}
    capsys.readouterr()
    picture = next(record.path for record in real.records if record.fabric == "06")
    assert main(["inspect", str(picture), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("arguments", [[], ["train"], ["fly"]])
def test_usage_is_one_line(arguments, capsys):
    fails_with_one_line(capsys, arguments)


def test_what_a_command_will_need_is_read_before_its_long_part(small_set, checkpoint, tmp_path, capsys, monkeypatch):
    """A damaged roll of any part, or mask, is found before the first step and before the first map."""
    monkeypatch.setattr("draem_aitex.training.trainer.Trainer.step", lambda trainer: pytest.fail("trained"))
    monkeypatch.setattr("draem_aitex.detectors.draem.DraemDetector.raw_maps", lambda *_: pytest.fail("judged"))
    for part in ("calibration", "development", "test"):
        folder = tmp_path / part
        shutil.copytree(small_set, folder)
        record = getattr(aitex.load_aitex(folder), part)[-1]
        damaged = (*record.masks, record.path)[0]
        damaged.write_bytes(damaged.read_bytes()[:-200])
        for command in (["train", "--steps", "1"], ["fit", "vae", "--steps", "1"]):
            arguments = [*command, "--data", str(folder), "--out", str(tmp_path / "x.pt")]
            assert main(arguments) == 2
            assert str(damaged) in capsys.readouterr().err and not list(tmp_path.glob("*x.*"))
    figures = tmp_path / "f.json"
    evaluate = ["evaluate", "--data", str(folder), "--checkpoint", str(checkpoint), "--json", str(figures)]
    assert main(evaluate) == 2 and not figures.exists()
    assert str(damaged) in capsys.readouterr().err


def test_a_run_whose_training_rolls_are_the_same_can_be_finished(small_set, tmp_path, capsys):
    """A calibration roll was mended meanwhile: training goes on, and the split says what was used in the end."""
    folder, path = tmp_path / "set", tmp_path / "x.pt"
    shutil.copytree(small_set, folder)
    data, rolls = aitex.load_aitex(folder), load_rolls(aitex.load_aitex(folder).train)
    origin = {"source": data.source, "fabrics": [], "split": describe_split(data)}

    def stop(trainer):
        raise KeyboardInterrupt

    config = TrainConfig(steps=3)
    loop.train_networks(rolls, config, path, extra=origin, on_log=stop, log_every=1, quiet=True)
    mended = data.calibration[0].path
    cv2.imwrite(str(mended), images.read_image(mended) // 2)
    train = ["train", "--data", str(folder), "--out", str(path)]
    assert main([*train, "--steps", "3"]) == 0
    content = load_checkpoint(path)
    assert content["steps"] == 3 and content["split"]["calibration"] == {mended.stem: files.sha256(mended)}
    cv2.imwrite(str(mended), images.read_image(mended) // 2)
    before = path.read_bytes()
    assert main([*train, "--steps", "3"]) == 2, "calibrated with another roll"
    assert "calibrated and judged with other rolls" in capsys.readouterr().err and path.read_bytes() == before


def test_evaluate_writes_all_of_its_results_or_none(checkpoint, small_set, tmp_path, capsys, monkeypatch):
    def full(self):
        def write(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return write

    monkeypatch.setattr("draem_aitex.evaluation.evaluator.Evaluation.page", full)
    results = ["--json", str(tmp_path / "f.json"), "--report", str(tmp_path / "r.html")]
    assert main(["evaluate", "--data", str(small_set), "--checkpoint", str(checkpoint), *results]) == 2
    assert "r.html: not written (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--steps", "3", "--out", "{own}.pt"],
        ["fit", "vae", "--steps", "1", "--out", "{own}.pt"],
        ["evaluate", "--checkpoint", "{model}", "--json", "{own}.json"],
        ["evaluate", "--checkpoint", "{model}", "--report", "{own}.html"],
        ["export", "{model}", "{own}.onnx"],
        ["verify", "--data", "{data}", "--json", "{own}.json"],
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_no_command_writes_over_what_it_did_not_write(command, checkpoint, small_set, tmp_path, capsys):
    """Nor through a link, nor while another run writes it; over its own result it does."""
    own = tmp_path / "own"
    words = [word.format(own=own, model=checkpoint, data=small_set) for word in command]
    if command[0] in ("train", "evaluate"):
        words += ["--data", str(small_set)]
    result = next(Path(word) for word in words if word.startswith(str(own)))
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    result.symlink_to(mine)
    fails_with_one_line(capsys, words, result, "not written by this program")
    result.unlink()
    with files.locked(result):
        assert main(words) == 2
    assert "another run is writing it" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [mine] and mine.read_text() == "mine"
    if command[0] == "fit":
        return  # its result is made below, of the same kind, by `train`
    assert [main(words), main(words)] == [int(command[0] == "verify")] * 2 and result.stat().st_size


def test_keep_needs_a_file_of_ones_own(small_set, capsys):
    keep = ["evaluate", "--data", small_set, "--checkpoint", "compact_loom", "--keep"]
    fails_with_one_line(capsys, keep, "--keep: compact_loom is not a file")


def test_a_full_disk_behind_standard_output_is_named():
    command = [sys.executable, "-m", "draem_aitex", "info", str(ROOT / "checkpoints/compact_loom.pt")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device; check the path and the free space\n"


def test_a_cache_can_be_named(tmp_path, monkeypatch, capsys):
    """Nothing is woven for it here: a folder that holds something else is refused, and so the one that was meant."""
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated/mine.txt").write_text("mine")
    monkeypatch.setenv(files.CACHE, "to be put back")
    train = ["train", "--steps", "1", "--out", tmp_path / "x.pt", "--cache", tmp_path]
    fails_with_one_line(capsys, train, tmp_path / "simulated", "not simulated rolls")
