import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from draem_aitex.anomalies.paper_augmenter import PaperAugmenterConfig
from draem_aitex.data import aitex
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError
from draem_aitex.model.losses import reconstruction_loss
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training import distributed, live, loop
from draem_aitex.training.checkpoint import FORMAT, load_checkpoint, load_model, save_checkpoint
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.trainer import Trainer, precision


@pytest.fixture(scope="module")
def rolls(small_set):
    return load_rolls(aitex.load_aitex(small_set).train)


def config(**changes):
    return TrainConfig(**{"steps": 4, "batch": 2, "crop": 64, **changes})


def weights(result):
    return weights_of(result.model)


def weights_of(model):
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_training_learns(rolls):
    result = loop.train_networks(rolls, config(steps=40, learning_rate=3e-3), quiet=True, log_every=1)
    losses = [row["loss"] for row in result.log]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert list(result.log[0])[3:] == ["loss", "l1", "ssim", "fft", "bce", "focal"]


def test_the_papers_layout_trains_resumes_and_comes_back(rolls, tmp_path):
    """Two classes, bilinear upsampling, networks of different depth: the published settings, with narrow widths."""
    narrow = NetworkConfig(reconstructive=(4, 8), discriminative=(4, 8, 8))
    path = tmp_path / "narrow.pt"
    first = loop.train_networks(rolls, config(preset=narrow), quiet=True)
    loop.train_networks(rolls, config(preset=narrow), path, quiet=True, on_log=stop_at(2), log_every=1)
    again = loop.train_networks(rolls, config(preset=narrow), path, quiet=True)
    assert first.finished and again.steps == first.steps == 4
    assert torch.equal(weights(first), weights(again))
    model, images = load_model(load_checkpoint(path)), torch.rand(1, 1, 64, 64, generator=torch.Generator())
    assert model.config == narrow and torch.allclose(model(images)[1], first.model(images)[1], atol=1e-5)
    other = NetworkConfig(reconstructive=(4, 4), discriminative=(4, 8))
    with pytest.raises(InputError, match=r"another config \(preset\)"):
        loop.train_networks(rolls, config(preset=other), path, quiet=True)


def test_same_seed_same_weights(rolls):
    first, second = (weights(loop.train_networks(rolls, config(), quiet=True)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(loop.train_networks(rolls, config(seed=1), quiet=True)))


def test_interrupted_and_resumed_is_the_same_run(rolls, tmp_path):
    whole = loop.train_networks(rolls, config(steps=6), tmp_path / "whole.pt", quiet=True)

    path = tmp_path / "parts.pt"
    part = loop.train_networks(rolls, config(steps=6), path, quiet=True, log_every=1, on_log=stop_at(3))
    assert not part.finished and part.steps == 3 and not load_checkpoint(path)["finished"]
    rest = loop.train_networks(rolls, config(steps=6), path, quiet=True)
    assert rest.finished and rest.steps == 6
    assert torch.equal(weights(whole), weights(rest))
    loaded = load_model(load_checkpoint(path))
    assert torch.equal(weights(whole), torch.cat([parameter.flatten() for parameter in loaded.parameters()]))


def test_another_config_or_split_is_refused_and_the_file_stays(rolls, tmp_path):
    path = tmp_path / "model.pt"
    loop.train_networks(rolls, config(), path, extra={"split": {"train": {"a": "1"}}}, quiet=True)
    before = path.read_bytes()
    with pytest.raises(InputError, match="seed: found 0, given 7"):
        loop.train_networks(rolls, config(seed=7), path, extra={"split": {"train": {"a": "1"}}}, quiet=True)
    with pytest.raises(InputError, match="another split"):
        loop.train_networks(rolls, config(), path, extra={"split": {"train": {"a": "2"}}}, quiet=True)
    assert path.read_bytes() == before


def test_ctrl_c_waits_for_the_end_of_the_step(rolls, tmp_path, monkeypatch):
    """Stopped in the middle of a step, weights and random state would be of different steps."""
    path, step = tmp_path / "model.pt", Trainer.optimizer_step

    def interrupted(trainer):
        if trainer.steps == 2:
            signal.raise_signal(signal.SIGINT)
        step(trainer)

    whole = loop.train_networks(rolls, config(), quiet=True)
    monkeypatch.setattr(Trainer, "optimizer_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    part = loop.train_networks(rolls, config(), path, quiet=True)
    assert not part.finished and part.steps == part.saved == 3 and [row["step"] for row in part.log] == [3]
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert torch.equal(weights(whole), weights(loop.train_networks(rolls, config(), path, quiet=True)))


def test_a_second_ctrl_c_is_heard_at_once_and_saves_nothing(rolls, tmp_path, monkeypatch):
    def impatient(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "optimizer_step", impatient)
    part = loop.train_networks(rolls, config(), tmp_path / "model.pt", quiet=True)
    assert not part.finished and part.saved is None
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("save_every", [0, 1000])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(rolls, tmp_path, monkeypatch, save_every):
    """Checked before every save, not only where a line is logged."""
    path, lasting, calls = tmp_path / "model.pt", reconstruction_loss, []
    monkeypatch.setattr(loop, "SAVE_SHARE", float("inf"))

    def explode(reconstruction, clean, mask):
        calls.append(1)
        return lasting(reconstruction * (float("nan") if len(calls) > good else 1), clean, mask)

    good = 2 if save_every else 1
    monkeypatch.setattr("draem_aitex.training.trainer.reconstruction_loss", explode)
    if save_every:
        loop.train_networks(rolls, config(), path, quiet=True, on_log=stop_at(2), log_every=1)
    with pytest.raises(InputError, match="loss: not finite at step"):
        loop.train_networks(rolls, config(), path, quiet=True, save_seconds=save_every)
    content = load_checkpoint(path)
    assert not content["finished"] and content["steps"] == good
    assert all(value.isfinite().all() for value in content["weights"].values())


def test_the_log_lies_beside_the_checkpoint(rolls, tmp_path):
    """Two checkpoints whose names differ in their endings alone have a log each."""
    steps = {"model.pt": 6, "model.ckpt": 4, "model": 2}
    results = {
        name: loop.train_networks(rolls, config(steps=count), tmp_path / name, quiet=True, log_every=2)
        for name, count in steps.items()
    }
    for name, result in results.items():
        with open(tmp_path / f"{name}.log.csv") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["step"]) for row in rows] == list(range(2, steps[name] + 1, 2))
        assert [float(row["loss"]) for row in rows] == [row["loss"] for row in result.log]


def test_lines_where_no_bar_can_be_drawn(rolls, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LINE_SECONDS", 0)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    loop.train_networks(rolls, config(), log_every=1)
    printed = capsys.readouterr()
    lines = [line.strip() for line in printed.err.splitlines() if line.strip()]
    assert any(re.search(r"training +50% \|#+.*\| 00:\d\d < 00:\d\d, step 2, loss \d\.\d{3}$", line) for line in lines)
    assert "100%" in lines[-1] and not printed.out


def test_off_a_terminal_two_lines_a_minute_are_enough(rolls, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    loop.train_networks(rolls, config(), log_every=1)
    assert capsys.readouterr() == ("", "")


def test_compiled_networks_compute_the_same(rolls):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    shallow = NetworkConfig(reconstructive=(4, 8), discriminative=(4, 8), classes=1, upsampling="nearest")
    settings = config(preset=shallow, precision="float32")
    plain, compiled = (Trainer(rolls, settings, compiled=value) for value in (False, True))
    for _ in range(2):
        assert plain.step()["loss"].item() == pytest.approx(compiled.step()["loss"].item(), rel=1e-4)


def test_a_compiler_that_is_missing_is_one_line(rolls):
    trainer = Trainer(rolls, config(), compiled=True)
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(InputError, match="compile: "):
        trainer.step()


def test_other_errors_of_a_compiled_step_stay_what_they_are(rolls, monkeypatch):
    trainer = Trainer(rolls, config(), compiled=True)
    monkeypatch.setattr(trainer, "parallel", lambda images: images.no_such_thing)
    with pytest.raises(AttributeError):
        trainer.step()


def test_the_first_step_of_a_process_costs_no_training_time(rolls, tmp_path, monkeypatch):
    """It may compile for a minute. Nor does it when the run is resumed."""
    slow_start(monkeypatch)
    path, budget = tmp_path / "model.pt", 0.02  # minutes
    part = loop.train_networks(rolls, minutes(budget), path, quiet=True, on_log=stop_at(3), log_every=1)
    assert not part.finished and part.steps == 3 and part.seconds < 60 * budget
    slow_start(monkeypatch)
    whole = loop.train_networks(rolls, minutes(budget), path, quiet=True)
    assert whole.finished and whole.steps > 5 and 60 * budget <= whole.seconds < 60 * budget + 1


def minutes(budget):
    return config(steps=None, minutes=budget)


def slow_start(monkeypatch):
    """The next step, and that one alone, takes longer than a run's budget."""
    step, started = Trainer.step, []

    def compiling(trainer):
        if not started:
            time.sleep(2)
        started.append(trainer.steps)
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", compiling)


def test_convolutions_keep_to_float32(rolls, monkeypatch):
    """cuDNN would take TF32 by default, in the forward and in the backward pass. Outside of a step it may."""
    assert torch.backends.cudnn.allow_tf32
    seen = []

    class Watching(torch.autograd.Function):
        @staticmethod
        def forward(context, images):
            seen.append(torch.backends.cudnn.allow_tf32)
            return images.clone()

        @staticmethod
        def backward(context, gradient):
            seen.append(torch.backends.cudnn.allow_tf32)
            return gradient

    for wanted in ("float32", "auto"):
        trainer = Trainer(rolls, config(precision=wanted))
        networks = trainer.parallel
        monkeypatch.setattr(
            trainer, "parallel", lambda images, networks=networks: map(Watching.apply, networks(images))
        )
        trainer.step()
    assert len(seen) == 8 and not any(seen) and torch.backends.cudnn.allow_tf32


def test_precision_leaves_the_other_settings_of_cudnn(monkeypatch):
    for benchmark in (False, True):
        with torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=not benchmark):
            with precision(torch.device("cpu"), "float32"):
                assert torch.backends.cudnn.benchmark == benchmark and torch.backends.cudnn.enabled
                assert torch.backends.cudnn.deterministic != benchmark and not torch.backends.cudnn.allow_tf32
                assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(KeyError), precision(torch.device("cpu")):
        raise KeyError
    assert torch.backends.cudnn.allow_tf32


def test_networks_for_colour_train_on_grey_rolls(rolls):
    colour = NetworkConfig(channels=3, reconstructive=(4, 8), discriminative=(4, 8))
    result = loop.train_networks(rolls, config(preset=colour, steps=2), quiet=True)
    assert result.model(torch.rand(1, 3, 64, 64, generator=torch.Generator()))[0].shape == (1, 3, 64, 64)


def test_the_published_augmenter_trains_and_resumes(rolls, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "textures").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"textures/{number}.png"), generator.integers(0, 256, (80, 90), dtype=np.uint8))
    published = config(augmenter=PaperAugmenterConfig(str(tmp_path / "textures")))
    assert live.fixed_sample(rolls, published).corrupted[0], "half of the published crops are left alone, this one not"
    whole = loop.train_networks(rolls, published, quiet=True)
    path = tmp_path / "model.pt"
    loop.train_networks(rolls, published, path, quiet=True, log_every=1, on_log=stop_at(2))
    assert torch.equal(weights(whole), weights(loop.train_networks(rolls, published, path, quiet=True)))
    with pytest.raises(InputError, match=r"another config \(augmenter\)"):
        loop.train_networks(rolls, config(), path, quiet=True)


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_crops_of_several_steps_drawn_at_once_resume_exactly(rolls, tmp_path, monkeypatch, stop):
    """The random state that is kept is that before the block of steps; the steps that were taken of it are skipped."""
    monkeypatch.setattr(loop, "Trainer", lambda *arguments: Trainer(*arguments, ahead=4))
    whole = loop.train_networks(rolls, config(steps=9), quiet=True)
    path = tmp_path / "model.pt"
    part = loop.train_networks(rolls, config(steps=9), path, quiet=True, log_every=1, on_log=stop_at(stop))
    assert part.steps == stop
    assert torch.equal(weights(whole), weights(loop.train_networks(rolls, config(steps=9), path, quiet=True)))


def test_drawing_ahead_hands_out_every_crop_once(rolls):
    trainer, alone = Trainer(rolls, config(), ahead=3), Trainer(rolls, config(batch=6))
    clean, batch = alone.draw()
    for step in range(3):
        mine, corrupted = trainer.draw()
        assert torch.equal(mine, clean[2 * step : 2 * step + 2])
        assert torch.equal(corrupted.images, batch.images[2 * step : 2 * step + 2])
        assert corrupted.masks.shape == (2, 1, 64, 64) and corrupted.names == batch.names
        trainer.steps += 1
    assert not torch.equal(trainer.draw()[0], mine)


def test_the_loop_goes_on_while_a_checkpoint_is_written(rolls, tmp_path, monkeypatch):
    """What is written is the state as it was when the writing began; the last one is waited for."""
    monkeypatch.setattr(loop, "SAVE_SHARE", float("inf"))
    path, written, seen = tmp_path / "model.pt", [], []

    def slow(path, content):
        time.sleep(0.5)
        save_checkpoint(path, content)
        written.append(content["steps"])

    def watch(trainer):
        seen.append((trainer.steps, list(written)))

    monkeypatch.setattr(loop, "save_checkpoint", slow)
    options = {"save_seconds": 0, "log_every": 1, "on_log": watch, "quiet": True}
    whole = loop.train_networks(rolls, config(steps=4), path, **options)
    assert (2, []) in seen and written[0] == 1 and written[-1] == 4 and load_checkpoint(path)["finished"]
    assert torch.equal(weights(whole), weights_of(load_model(load_checkpoint(path))))


def test_checkpoints_take_a_small_part_of_the_time(rolls, tmp_path, monkeypatch):
    """One that takes a second is followed by one after twenty, whatever `save_seconds` says."""
    saves = []

    def slow(path, content):
        time.sleep(0.2)
        saves.append(content["steps"])

    monkeypatch.setattr(loop, "save_checkpoint", slow)
    result = loop.train_networks(rolls, minutes(0.05), tmp_path / "model.pt", quiet=True, save_seconds=0)
    assert result.steps > 10 and saves == [1, result.steps], "the first one, and the end"


def test_a_checkpoint_that_cannot_be_written_ends_the_run(rolls, tmp_path, monkeypatch):
    def full(path, content):
        raise InputError("disk: not written")

    monkeypatch.setattr(loop, "save_checkpoint", full)
    monkeypatch.setattr(loop, "SAVE_SHARE", float("inf"))
    for steps in (1, 1_000_000):  # at the end, and at the next one on the way
        with pytest.raises(InputError, match="disk: not written"):
            loop.train_networks(rolls, config(steps=steps), tmp_path / "model.pt", quiet=True, save_seconds=0)


def test_ranks_other_than_the_first_copy_nothing_to_the_host(rolls, monkeypatch):
    trainer = Trainer(rolls, config())
    trainer.step()
    assert {"weights", "training"} <= set(trainer.state(finished=False))
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr("draem_aitex.training.trainer.network_content", None)
    assert trainer.state(finished=False) == {}


def test_a_state_is_a_copy(rolls):
    trainer = Trainer(rolls, config())
    trainer.step()
    state = trainer.state(finished=False)
    kept = [value.clone() for value in tensors(state)]
    trainer.step()
    assert len(kept) > 100 and all(torch.equal(a, b) for a, b in zip(kept, tensors(state), strict=True))
    assert state["log"] is not trainer.log and torch.backends.cudnn.allow_tf32


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_checkpoints_of_the_format_before_are_read(tmp_path):
    """The same content, some of it under another name."""
    old = {
        "format": "draem_aitex checkpoint 4", "detector": "vae", "what": "VAE", "seed": 0, "seconds": 1.0,
        "options": {"variation": {"share": 0.5}, "steps": 3},
        "state": {"weights": {"w": torch.arange(3)}, "unit": 1.0, "steps": 3},
        "fabric_levels": {"01": 1.5}, "levelled": True,
    }  # fmt: skip
    torch.save(old, tmp_path / "old.pt")
    content = load_checkpoint(tmp_path / "old.pt", "vae")
    assert content["format"] == FORMAT and content["fabric_offsets"] == {"01": 1.5} and content["normalised"] is True
    assert content["options"] == {"normal_augmentation": {"share": 0.5}, "steps": 3}
    assert torch.equal(content["state"]["weights"]["w"], torch.arange(3))
    assert len(content) == len(old)


def command(small_set, path, *more):
    return [
        sys.executable, "-m", "draem_aitex", "train", "--data", str(small_set), "--out", str(path),
        "--batch", "2", "--crop", "64", *more,
    ]  # fmt: skip


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(small_set, tmp_path):
    """kill -9, three times, wherever it happens to hit; the file is always whole, the end always the same."""
    whole, killed = tmp_path / "whole.pt", tmp_path / "killed.pt"
    more, one_thread = ["--steps", "400", "--save-seconds", "0"], {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(small_set, whole, *more), check=True, capture_output=True, env=one_thread)
    reached = 0
    for further, patience in ((1, 0.0), (30, 0.013), (40, 0.007)):
        process = subprocess.Popen(command(small_set, killed, *more), stdout=subprocess.DEVNULL, env=one_thread)
        until = time.monotonic() + 120
        while not killed.exists() or load_checkpoint(killed)["steps"] < reached + further:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.1)
        time.sleep(patience)
        process.kill()
        process.wait()
        content = load_checkpoint(killed)
        reached = content["steps"]
        assert not content["finished"]
    subprocess.run(command(small_set, killed, *more), check=True, capture_output=True, env=one_thread)
    first, second = load_checkpoint(whole), load_checkpoint(killed)
    assert first["steps"] == second["steps"] == 400
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    logs = [[{**row, "seconds": 0} for row in content["log"]] for content in (first, second)]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == list(range(25, 401, 25))
    assert sorted(path.name for path in tmp_path.glob("*killed*")) == ["killed.pt", "killed.pt.log.csv"]


def test_killed_between_its_last_step_and_its_end_it_is_finished_by_the_next_call(rolls, tmp_path):
    path = tmp_path / "model.pt"
    part = loop.train_networks(rolls, config(), path, quiet=True, on_log=stop_at(4), log_every=1)
    assert not part.finished and part.saved == 4 and not load_checkpoint(path)["finished"]
    rest = loop.train_networks(rolls, config(), path, quiet=True)
    assert rest.finished and load_checkpoint(path)["finished"] and "training" not in load_checkpoint(path)
    assert torch.equal(weights(part), weights(rest))


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(small_set, tmp_path):
    """The system refuses to write more than a part of a checkpoint, as a full disk would."""
    path = tmp_path / "model.pt"
    subprocess.run(command(small_set, path, "--steps", "2"), check=True, capture_output=True)
    whole = path.read_bytes()
    limit = len(whole) // 2
    done = subprocess.run(
        command(small_set, tmp_path / "other.pt", "--steps", "2"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr
    assert "other.pt: not written" in done.stderr and "make room" in done.stderr
    assert [entry.name for entry in tmp_path.iterdir() if "other" in entry.name] == []
    with pytest.raises(InputError, match="not written"):
        limited(lambda: save_checkpoint(path, load_checkpoint(path)), limit)
    assert path.read_bytes() == whole


def limited(write, size):
    """Call `write` while files may not grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_of_another_architecture_are_one_line(rolls, tmp_path):
    path = tmp_path / "model.pt"
    loop.train_networks(rolls, config(), path, quiet=True, on_log=stop_at(2), log_every=1)
    content = load_checkpoint(path)
    content["network"]["stem"] = 4
    with pytest.raises(InputError, match="another architecture"):
        load_model(content)
    content["training"]["model"].popitem()
    save_checkpoint(path, content)
    with pytest.raises(InputError, match="model.pt: does not fit this run"):
        loop.train_networks(rolls, config(), path, quiet=True)


def stop_at(step):
    """A listener that interrupts."""

    def listen(trainer):
        if trainer.steps == step:
            raise KeyboardInterrupt

    return listen


def test_bad_checkpoints(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    torch.save({"format": "draem_aitex checkpoint 0"}, tmp_path / "old.pt")
    torch.save({"format": FORMAT, "weights": 1}, tmp_path / "kindless.pt")
    torch.save({"format": FORMAT, "detector": "draem", "weights": 1}, tmp_path / "part.pt")
    expected = (
        ("text.pt", "not a readable"),
        ("other.pt", "not a checkpoint of this"),
        ("old.pt", "checkpoint 0"),
        ("kindless.pt", "holds a detector None; expected one of draem, vae, patchcore"),
        ("part.pt", "network: missing; expected a whole checkpoint"),
    )
    for name, found in expected:
        with pytest.raises(InputError, match=found):
            load_checkpoint(tmp_path / name)


def test_pickled_code_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"format": FORMAT, "weights": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_the_average_is_swa_utils(rolls):
    """Parameters and float buffers as `AveragedModel` averages them, without its counter on the host."""
    trainer = Trainer(rolls, config())
    theirs = AveragedModel(trainer.model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    for _ in range(3):
        trainer.step()
        theirs.update_parameters(trainer.model)
    wanted = {name: value for name, value in theirs.module.state_dict().items() if value.is_floating_point()}
    found = trainer.average.state_dict()
    assert wanted and all(torch.equal(value, found[name]) for name, value in wanted.items())
    assert not torch.equal(weights_of(trainer.average), weights_of(trainer.model))


def test_bad_arguments(rolls):
    for changes, message in (
        ({"log_every": 0}, "log_every: 0"),
        ({"save_seconds": float("nan")}, "save_seconds: nan"),
        ({"device": "warp"}, "'warp'"),
        ({"device": "meta"}, "'meta'"),
    ):
        with pytest.raises(InputError, match=message):
            loop.train_networks(rolls, config(), quiet=True, **changes)


def test_too_little_memory_is_one_line(rolls, monkeypatch):
    def full(trainer):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(InputError, match="batch: 2 crops of 64 pixels do not fit"):
        loop.train_networks(rolls, config(), quiet=True)
