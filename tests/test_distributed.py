"""Several processes on gloo: what DDP must give, and what happens when a rank dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from draem_aitex.training.checkpoint import load_checkpoint

GRADIENTS = """
import sys, torch
from draem_aitex.data import aitex, rolls as data_rolls
from draem_aitex.training import distributed
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.trainer import Trainer

folder, out = sys.argv[1:]
rolls = data_rolls.load_rolls(aitex.load_aitex(folder).train)
config = TrainConfig(steps=4, batch=2, crop=64, precision="float32")
with distributed.joined("cpu"):
    trainer = Trainer(rolls, config)
    trainer.model.eval()
    generator = torch.Generator().manual_seed(5)  # the joint batch is the same for all
    clean = trainer.sampler(4, generator)
    batch = trainer.augmenter(clean, generator)
    mine = slice(0, 4) if distributed.count() == 1 else slice(2 * distributed.rank(), 2 * distributed.rank() + 2)
    trainer.backward(clean[mine], batch.part(mine.start, mine.stop))
    own = trainer.sampler(2, trainer.generator)
    gradients = [parameter.grad for parameter in trainer.model.parameters()]
    torch.save({"gradients": gradients, "crops": own}, f"{out}{distributed.rank()}.pt")
"""


WAITING = """
import datetime, functools, sys, time
import torch
from draem_aitex.training import distributed

# Collectives of the group that gradients go through give up after a second, as NCCL's would after ten minutes.
start = torch.distributed.init_process_group
torch.distributed.init_process_group = functools.partial(start, timeout=datetime.timedelta(seconds=1))
with distributed.joined("cpu"):
    rank = distributed.rank()
    said = distributed.from_first(f"from {rank}")
    everyone = distributed.gathered(torch.tensor([rank]))
    if rank == 0:
        time.sleep(4)  # calibrates
    done = time.time()
left = time.time()
torch.save({"done": done, "left": left, "said": said, "everyone": torch.cat(everyone)}, sys.argv[1] + str(rank))
"""

ONE_RANKS_OWN = """
import os, sys, time
from draem_aitex.cli.main import main

if os.environ["RANK"] == "0":
    time.sleep(600)
sys.exit(main(["train", "--out", sys.argv[1], "--device", "cuda:7"]))
"""


FULL_DISK = """
import errno, os, sys
from draem_aitex import files
from draem_aitex.cli.main import main

def full(number):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

if os.environ["RANK"] == "1":
    os.fsync = full
sys.exit(main())
"""


def torchrun(number, *arguments):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}", *arguments]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def tried(command):
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)


def run(command):
    done = tried(command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def train(small_set, path, *more):
    return [
        "-m", "draem_aitex", "train", "--data", str(small_set), "--out", str(path), "--batch", "2", "--crop", "64",
        *more,
    ]  # fmt: skip


def test_two_ranks_give_the_gradients_of_the_joint_batch(small_set, tmp_path):
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    run([sys.executable, str(script), str(small_set), str(tmp_path / "one")])
    run(torchrun(2, str(script), str(small_set), str(tmp_path / "two")))
    one, first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("one0.pt", "two0.pt", "two1.pt"))
    assert not torch.equal(first["crops"], second["crops"]), "ranks draw different crops"
    assert max(gradient.abs().max() for gradient in one["gradients"]) > 1e-3
    for alone, *shared in zip(one["gradients"], first["gradients"], second["gradients"], strict=True):
        for gradient in shared:
            assert torch.allclose(alone, gradient, atol=1e-5, rtol=1e-5)


def test_a_run_of_two_ranks_goes_on_with_one_and_with_three(small_set, tmp_path):
    path = tmp_path / "model.pt"
    steps = ["--steps", "100", "--save-seconds", "0"]
    job = subprocess.Popen(
        torchrun(2, *train(small_set, path, *steps)), env=environment(), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(path, job)
    kill_one_rank(job)
    _, error = job.communicate(timeout=120)
    assert job.returncode != 0 and "SIGKILL" in error
    content = load_checkpoint(path)
    assert not content["finished"] and len(content["training"]["generators"]) == 2
    reached = content["steps"]
    assert 0 < reached < 100
    for number in (1, 3):
        again = tmp_path / f"on{number}.pt"
        again.write_bytes(path.read_bytes())
        if number == 1:
            printed = run([sys.executable, *train(small_set, again, *steps)]).stdout
        else:
            printed = run(torchrun(number, *train(small_set, again, *steps))).stdout
        finished = load_checkpoint(again)
        assert finished["finished"] and finished["steps"] == 100 and "threshold" in finished
        assert printed.count("trained 100 steps") == 1, "the first rank alone speaks"
        assert [row["step"] for row in finished["log"]] == [25, 50, 75, 100]


def wait_for(path, job):
    until = time.monotonic() + 120
    while not path.exists():
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def kill_one_rank(job):
    """kill -9 the last rank of a torchrun job."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(job.pid)], capture_output=True, text=True, check=True)
    os.kill(max(int(pid) for pid in listed.stdout.split()), signal.SIGKILL)


def test_bad_input_is_said_once(small_set, tmp_path):
    arguments = ["-m", "draem_aitex", "train", "--data", str(tmp_path), "--out", str(tmp_path / "model.pt")]
    done = tried(torchrun(2, *arguments))
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(said) == 1 and "no images known to be normal" in said[0], done.stderr


def test_an_error_of_another_rank_is_said_with_its_number(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ONE_RANKS_OWN)
    command = torchrun(2, str(script), str(tmp_path / "model.pt"))
    done = tried(command)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(said) == 1 and said[0].startswith("error: rank 1: device: 'cuda:7'"), (
        done.stderr
    )


def test_all_ranks_wait_for_the_first_one(tmp_path):
    """It calibrates after a training; torn down before, a group may hang or abort it."""
    script = tmp_path / "script.py"
    script.write_text(WAITING)
    run(torchrun(2, str(script), str(tmp_path / "rank")))
    first, second = (torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in (0, 1))
    assert second["done"] + 2 < first["done"] <= second["left"]
    for one in (first, second):
        assert one["said"] == "from 0" and one["everyone"].tolist() == [0, 1]


def test_a_checkpoint_of_another_run_is_said_once(small_set, tmp_path):
    path = tmp_path / "model.pt"
    run([sys.executable, *train(small_set, path, "--steps", "1")])
    command = torchrun(2, *train(small_set, path, "--steps", "2"))
    done = tried(command)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(said) == 1 and "steps: found 1, given 2" in said[0], done.stderr


def test_a_job_that_torchrun_did_not_start_is_named(small_set, tmp_path):
    command = [sys.executable, *train(small_set, tmp_path / "model.pt", "--steps", "2")]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment(), "WORLD_SIZE": "2"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "start it with torchrun" in done.stderr


def test_ranks_agree_on_the_time(small_set, tmp_path):
    """With minutes as the budget all ranks take the same steps at the same rates, or they would wait for ever."""
    path = tmp_path / "model.pt"
    run(torchrun(2, *train(small_set, path, "--minutes", "0.05")))
    content = load_checkpoint(path)
    assert content["finished"] and 3 <= content["seconds"] < 60 and content["steps"] >= 1


def test_two_ranks_evaluate_as_one(small_set, checkpoint, tmp_path):
    """One joint table, the figures of one process: shares of a region add up in another order, to rounding."""
    words = ["-m", "draem_aitex", "evaluate", "--data", str(small_set), "--checkpoint", str(checkpoint), "--json"]
    alone = run([sys.executable, *words, str(tmp_path / "one.json")]).stdout
    assert run(torchrun(2, *words, str(tmp_path / "two.json"))).stdout == alone and alone.count("Judged: ") == 1
    texts = [(tmp_path / name).read_text() for name in ("one.json", "two.json")]
    one, two = (json.loads(text, parse_float=lambda number: round(float(number), 9)) for text in texts)
    assert one == two and one["aupro"] > 0


def test_two_ranks_inspect_as_one(small_set, checkpoint, tmp_path):
    """And a file that one of them cannot read is said in its place, by the first one."""
    folder = tmp_path / "images"
    shutil.copytree(small_set / "Defect_images", folder)
    (folder / "9999_002_01.png").write_bytes(b"no image")
    said = []
    for name, command in (("one", [sys.executable]), ("two", torchrun(2))):
        out = tmp_path / name
        words = ["-m", "draem_aitex", "inspect", folder, "--checkpoint", checkpoint, "--out", out]
        done = tried([*command, *map(str, words), "--json", str(out / "found.json")])
        errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "note"))]
        said.append((done.stdout, errors, {path.name: path.read_bytes() for path in out.iterdir()}))
        assert done.returncode != 0 and len(errors) == 1 and "9999_002_01.png: not a readable image" in errors[0], (
            done.stderr
        )
    assert said[0] == said[1] and said[0][0].count("\n") == 4 and len(said[0][2]) == 9


def test_what_a_rank_cannot_write_is_said_once(small_set, checkpoint, tmp_path):
    """The disk is full for the second rank alone: nobody waits for it."""
    folder, out = tmp_path / "images", tmp_path / "out"
    for place in ("a", "b"):
        shutil.copytree(small_set / "Defect_images", folder / place)
    script = tmp_path / "script.py"
    script.write_text(FULL_DISK)
    command = torchrun(2, str(script), "inspect", str(folder), "--checkpoint", str(checkpoint), "--out", str(out))
    done = tried(command)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert done.returncode != 0 and len(errors) == 1 and "not written (No space left" in errors[0], done.stderr
    assert "exitcode  : 2" in done.stderr and "SIGABRT" not in done.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_two_cuda_devices_train_together(small_set, tmp_path):
    run(torchrun(2, *train(small_set, tmp_path / "model.pt", "--steps", "4", "--device", "cuda")))
    assert load_checkpoint(tmp_path / "model.pt")["finished"]
