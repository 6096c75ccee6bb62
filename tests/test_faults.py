"""kill -9 at a random moment of every command that writes: the same command, given again, ends as if it had not been.

KILLS=50 in the environment kills each fifty times in a row; SEED another number draws other moments. At the end two
soaks: PICTURES=2000 takes as many of other sizes through `inspect`, STEPS=20000 trains as many small steps.
"""

import json
import os
import random
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from test_download import site  # noqa: F401
from test_training import limited

from draem_aitex.cli.main import main
from draem_aitex.training.checkpoint import load_checkpoint

KILLS, SEED = int(os.environ.get("KILLS", 1)), int(os.environ.get("SEED", 0))
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
COMMANDS = {  # run in a folder of results
    "train": "train --data {data} --out x.pt --steps 6 --batch 2 --save-seconds 0",
    "fit": "fit vae --data {data} --out x.pt --steps 5",
    "evaluate": "evaluate --data {data} --checkpoint {model} --json x.json --report x.html",
    "inspect": "inspect {data}/Defect_images --checkpoint {model} --out maps --json maps/found.json",
    "simulate": "simulate --out fabric",
}
FILES = "x.pt", "x.pt", "x.", "maps/", "fabric"  # what a full disk is said to have refused


def started(words, folder):
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def results(folder):
    """Name to content, of a checkpoint its weights; of a log, which has seconds in it, nothing."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes() if path.suffix not in (".pt", ".csv") else b""
        if path.suffix == ".pt":
            checkpoint = load_checkpoint(path)
            weights = checkpoint["weights"] if "weights" in checkpoint else checkpoint["state"]["weights"]
            content = torch.cat([tensor.flatten().double() for tensor in weights.values()])
        found[path.relative_to(folder).as_posix()] = content
    return found


def killed_and_repeated(words, tmp_path):
    """Kill as often as asked for, at moments spread over the time that the command takes, then let it end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    began, process = time.monotonic(), started(words, whole)
    assert process.communicate() and process.returncode == 0
    seconds, moments = time.monotonic() - began, random.Random(SEED)
    for _ in range(KILLS):
        process = started(words, killed)
        try:
            process.wait(timeout=moments.uniform(0.3, 1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    process = started(words, killed)
    said = process.communicate()[1]
    assert process.returncode == 0 or b"not empty; expected an empty folder" in said, said  # woven before the kill
    one, other = results(whole), results(killed)
    assert list(one) == list(other), "nothing is missing, and nothing left over"
    for name, content in one.items():
        assert torch.equal(content, other[name]) if name.endswith(".pt") else content == other[name], name


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(name, small_set, checkpoint, tmp_path):
    words = COMMANDS[name].format(data=small_set, model=checkpoint).split()
    killed_and_repeated(["-m", "draem_aitex", *words], tmp_path)


def test_a_download_killed_at_random_moments(site, tmp_path):  # noqa: F811
    code = f"from draem_aitex.data.download import download; download('data', {site[0]!r}, {site[1]!r}, False)"
    place = tmp_path / "results"
    place.mkdir()
    killed_and_repeated(["-c", code], place)


@pytest.mark.parametrize(("name", "file"), [*zip(COMMANDS, FILES, strict=True), ("export", "x.onnx")])
def test_a_full_disk_names_the_file(name, file, small_set, checkpoint, tmp_path, monkeypatch, capsys):
    """No file may grow beyond 2 KB, which ends a write as a full disk does."""
    words = {**COMMANDS, "export": "export {model} x.onnx"}[name].format(data=small_set, model=checkpoint).split()
    monkeypatch.chdir(tmp_path)
    status = []
    limited(lambda: status.append(main(words)), 2048)
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == [2] and error.startswith(f"error: {file}") and "not written (File too large)" in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux", reason="memory in use is read from /proc")
def test_inspect_keeps_no_memory_however_many_images(tmp_path):
    """Of sizes that no two have in common; in a process of its own, after a few that let it grow to its size."""
    count = int(os.environ.get("PICTURES", 30))
    generator = np.random.default_rng(0)
    for folder, number in (("first", 10), ("then", count)):
        (tmp_path / folder).mkdir()
        for index in range(number):
            image = generator.integers(0, 255, generator.integers(64, 600, 2)).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / folder / f"{index}.png"), image)
    code = """
import sys
from pathlib import Path
from draem_aitex.cli.main import main
def megabytes_after(folder):
    assert main(["inspect", folder, "--checkpoint", "compact_loom", "--out", "maps"]) == 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
print(-megabytes_after("first") + megabytes_after("then"), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ALONE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.splitlines()[-1]) < 100, "MB"


@pytest.mark.skipif(sys.platform != "linux", reason="memory in use is read from /proc")
def test_training_keeps_no_memory_and_stays_finite_however_many_steps(tmp_path):
    """Of tiny networks on tiny crops, saved every second; in a process of its own, after a tenth that it grows in."""
    steps = int(os.environ.get("STEPS", 200))
    code = f"""
import json, sys
from pathlib import Path
import numpy as np
from draem_aitex.data.rolls import roll_of_array
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.loop import train_networks
image = np.random.default_rng(0).integers(90, 160, (64, 256)).astype(np.uint8)
roll, _ = roll_of_array(image, "00", edges=(0, 256))
config = TrainConfig(preset=NetworkConfig(1, (4, 4), (4, 4), 1), steps={steps}, batch=2, crop=32)
used = []
def look(_):
    used.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
how = dict(on_log=look, log_every={steps} // 20, save_seconds=1, quiet=True)
result = train_networks([roll], config, "x.pt", "cpu", **how)
print(json.dumps([used, [row["loss"] for row in result.log]]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ALONE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    used, losses = json.loads(done.stdout)
    assert len(losses) == 20 and np.isfinite(losses).all() and np.mean(losses[-5:]) < np.mean(losses[:5])
    assert max(used[2:]) - used[1] < 20, "MB"
