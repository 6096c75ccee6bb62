"""The public names: what a reader types in a notebook of their own, outside the repository."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

import draem_aitex
from draem_aitex import Detector, InputError, TrainConfig, evaluate, load_aitex, load_detector, load_folder, train
from draem_aitex.cli.main import main
from draem_aitex.data.rolls import load_roll
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint
from draem_aitex.training.loop import train_networks

SMALL = TrainConfig(steps=2, batch=2, crop=64)
SNIPPET = """
from draem_aitex import evaluate, load_detector, load_simulated, train
data = load_simulated()
detector = train(data, steps=2)
detector.calibrate(data, fpr=0.05)
result = detector.predict("some.jpg")
detector.save("mine.pt")
detector = load_detector("mine.pt")
print(evaluate(detector, data.test[:4]))
print(result.map.shape, result.is_defective, len(result.regions))
"""


@pytest.fixture(scope="module")
def trained(small_set, tmp_path_factory):
    """A detector trained in Python, and the file its run is kept in."""
    path = tmp_path_factory.mktemp("api") / "run.pt"
    with pytest.warns(UserWarning, match="too few to promise"):
        detector = train(load_aitex(small_set), SMALL, checkpoint=path, device="cpu", quiet=True)
    return detector, path


def every_command_takes(path, small_set, tmp_path, capsys):
    picture = next(record.path for record in load_aitex(small_set).records if not record.is_normal)
    commands = [
        ["info", path],
        ["evaluate", "--data", small_set, "--checkpoint", path],
        ["inspect", picture, "--checkpoint", path, "--out", tmp_path / "maps"],
        ["export", path, tmp_path / "draem.onnx"],
    ]
    for command in commands:
        assert main([str(word) for word in command]) == 0, (command, capsys.readouterr().err)


def test_ten_lines_outside_the_repository(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (300, 500)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "some.jpg"), image)
    assert len(SNIPPET.strip().splitlines()) <= 10
    done = subprocess.run([sys.executable, "-c", SNIPPET], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "patch AUROC" in done.stdout and "(300, 500)" in done.stdout


def test_all_names_are_there_and_lazy():
    assert set(draem_aitex.__all__) <= set(dir(draem_aitex))
    for name in draem_aitex.__all__:
        assert getattr(draem_aitex, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        draem_aitex.tain  # noqa: B018
    code = "import sys, draem_aitex; assert not {'torch', 'cv2', 'matplotlib', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_finished_in_python_works_in_every_command(trained, small_set, tmp_path, capsys):
    detector, path = trained
    content = load_checkpoint(path)
    assert content["finished"] and content["threshold"]["value"] == detector.threshold.value
    assert content["made"]["command"].startswith("draem_aitex.train")
    every_command_takes(path, small_set, tmp_path, capsys)


def test_a_detector_saved_in_a_notebook_works_in_every_command(trained, small_set, tmp_path, capsys):
    detector, _ = trained
    detector.save(tmp_path / "mine.pt")
    every_command_takes(tmp_path / "mine.pt", small_set, tmp_path, capsys)


def test_networks_of_a_loop_of_ones_own_become_a_detector(small_set, tmp_path, capsys):
    """Weights without a threshold are refused with what to do, and then work."""
    data = load_aitex(small_set)
    rolls = [load_roll(record) for record in data.train]
    path = tmp_path / "loop.pt"
    train_networks(rolls, SMALL, path, device="cpu", quiet=True)
    assert main(["export", str(path), str(tmp_path / "x.onnx")]) == 2
    assert "calibrate(data).save" in capsys.readouterr().err
    with pytest.warns(UserWarning):
        load_detector(path, "cpu", quiet=True).calibrate(data).save(path)
    every_command_takes(path, small_set, tmp_path, capsys)


def test_one_from_the_command_line_works_in_python(checkpoint, small_set):
    detector = load_detector(checkpoint, "cpu", quiet=True)
    data = load_aitex(small_set)
    roll = load_roll(next(record for record in data.test if not record.is_normal))
    result = detector.predict(roll)
    assert result.map.shape == roll.image.shape and result.map.dtype == np.float32
    assert result.score == result.map.max() and result.is_defective == (result.score > detector.threshold.value)
    assert bool(result.regions) == result.is_defective and result.overlay.shape == (*roll.image.shape, 3)
    assert str(result).startswith(f"score {result.score:.4f}, threshold")
    for same in (roll.image, next(record.path for record in data.test if record.name == roll.name)):
        given = {"fabric": "01", "edges": roll.edges}
        assert np.array_equal(detector.predict(same, **given).map, result.map)
    evaluation = evaluate(detector, data.test, quiet=True)
    assert evaluation.figures()["patches"] > 0 and "patch AUROC" in str(evaluation)
    assert "<table" in evaluation._repr_html_()


def test_saved_and_loaded_it_is_the_same(trained, tmp_path):
    detector, _ = trained
    detector.save(tmp_path / "mine.pt")
    again = load_detector(tmp_path / "mine.pt", "cpu", quiet=True)
    image = np.random.default_rng(1).integers(0, 256, (64, 200)).astype(np.uint8)
    assert np.array_equal(detector.predict(image).map, again.predict(image).map)
    assert again.threshold == detector.threshold and again.offsets == detector.offsets and again.about == detector.about
    assert np.array_equal(again.calibration.scores, detector.calibration.scores) and str(again) == str(detector)


def test_shipped_detectors_by_name(capsys):
    for name, source in (("compact_loom", "simulated fabric"), ("compact_aitex", "AITEX")):
        detector = load_detector(name, "cpu")
        assert isinstance(detector, Detector) and detector.about["source"] == source
        assert capsys.readouterr().out.startswith(f"{name}.pt:\nDRAEM, compact")
    with pytest.raises(InputError, match="compact_moon: no such checkpoint"):
        load_detector("compact_moon")


def test_an_unfinished_run_is_not_overwritten(trained, small_set, tmp_path):
    detector, _ = trained
    data = load_aitex(small_set)

    def stop(trainer):
        raise KeyboardInterrupt

    path = tmp_path / "part.pt"
    with pytest.warns(UserWarning):
        stopped = train(data, SMALL, checkpoint=path, device="cpu", quiet=True, on_log=stop, log_every=1)
    assert not stopped.about["finished"] and stopped.threshold is not None, "usable all the same"
    with pytest.raises(InputError, match="a training that is not finished"):
        detector.save(path)
    with pytest.warns(UserWarning):
        finished = train(data, SMALL, checkpoint=path, device="cpu", quiet=True)
    assert finished.about["steps"] == 2 and load_checkpoint(path)["finished"]


def test_own_images_from_folder_to_detector(tmp_path):
    """What `load_folder` can so far: good, bad, masks; one height."""
    rng = np.random.default_rng(0)
    weave = 120 + 60 * np.sin(2 * np.pi * np.arange(512) / 8)[:, None] + np.zeros((512, 512))
    for folder, count in (("good", 6), ("bad", 4)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            image = np.clip(weave + rng.normal(0, 8, weave.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), image)
    data = load_folder(tmp_path)
    assert data.source == f"own pictures: {data.root.resolve().name}" and data.train and data.calibration and data.test
    with pytest.warns(UserWarning):
        detector = train(data, SMALL, device="cpu", quiet=True)
    assert detector.about["source"] == data.source
    assert detector.predict(tmp_path / "bad" / "0.png").map.shape == (512, 512)


def test_bad_arguments(small_set, tmp_path):
    data = load_aitex(small_set)
    with pytest.raises(InputError, match="0 training and 1 calibration rolls"):
        train(replace(data, train=()), steps=1)
    with pytest.raises(InputError, match="warp"):
        train(data, SMALL, device="warp")
    with pytest.raises(InputError, match="warp"):
        load_detector("compact_loom", device="warp")
    with pytest.raises(InputError, match="steps=1"):
        train(data, minutes=1, steps=1)
    with pytest.raises(InputError, match="fabric 77"):
        data.of_fabrics(["77"])
    save_checkpoint(tmp_path / "x.pt", {"detector": "draem"})
    with pytest.raises(InputError, match="network: missing"):
        load_detector(tmp_path / "x.pt")


def test_random_state_and_cuda_are_left_alone():
    before = torch.random.get_rng_state()
    load_detector("compact_loom", "cpu", quiet=True)
    assert torch.equal(before, torch.random.get_rng_state()) and not torch.cuda.is_initialized()
    assert (ROOT / "checkpoints/compact_loom.pt").is_file()
