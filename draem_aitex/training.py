"""Training: crops in, corrupted on the spot, two losses, one optimiser; stoppable and resumable at any step.

The same loop runs on a CPU, on a GPU and, started by `torchrun`, on several of them: PyTorch's DDP averages their
gradients, every rank draws crops of its own, the first one logs and saves.
"""

import copy
import csv
import io
import math
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm.auto import tqdm

from draem_aitex import ranks
from draem_aitex.augmenter import Augmenter
from draem_aitex.checkpoint import load_checkpoint, network_content, save_checkpoint
from draem_aitex.errors import InputError
from draem_aitex.files import remove_leftovers, write_whole
from draem_aitex.losses import reconstruction_loss, segmentation_loss
from draem_aitex.machine import computes_in_bfloat16, pick_device
from draem_aitex.networks import build_draem
from draem_aitex.sampler import CropSampler

LINE_SECONDS = 30  # between plain lines of progress, where no bar can be drawn


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the averaged networks, one log row per interval, and whether it reached its end.

    saved: the step that the checkpoint holds; None without one.
    """

    model: torch.nn.Module
    log: list
    steps: int
    finished: bool
    saved: int | None


def precision(device, wanted="auto"):
    """Autocast to bfloat16 where the device computes in it, unless `wanted` is "float32".

    What stays in float32 (losses, optimiser) is computed in float32: PyTorch's switch for TF32 in matrix products is
    left as it is found, which is off.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted != "float32" and computes_in_bfloat16(device))


class Trainer:
    """State of a run and its single step. `train` drives it; a notebook may call `step` by hand.

    compiled: let `torch.compile` fuse the networks' operations, which pays on CUDA and takes a minute first.
    """

    def __init__(self, rolls, config, device="cpu", compiled=False):
        self.config, self.device = config, pick_device(device)
        self.model = build_draem(config.preset, config.seed).to(self.device, memory_format=torch.channels_last).train()
        # `swa_utils.AveragedModel` would ask a counter on the host at every step, for which a GPU would be waited for.
        self.average = copy.deepcopy(self.model).eval()
        self.moving_average = get_ema_multi_avg_fn(config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.parallel = DistributedDataParallel(self.model) if ranks.count() > 1 else self.model
        self.compiled = compiled
        if compiled:
            self.parallel = torch.compile(self.parallel)
        self.sampler = CropSampler(rolls, config.crop, self.device, config.variation)
        self.augmenter = Augmenter(config.augmenter)
        self.steps, self.seconds, self.log = 0, 0.0, []
        self.generator = self._fresh_generator()
        self.sound = torch.ones((), dtype=torch.bool, device=self.device)  # every loss and gradient so far was finite

    @property
    def progress(self):
        """Part of the budget used, 0 to 1 and beyond."""
        if self.config.steps is not None:
            return self.steps / self.config.steps
        return self.seconds / (60 * self.config.minutes)

    def step(self):
        """One batch: returns the losses by name, as tensors (no wait for the device)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.steps, self.progress)
        clean = self.sampler(self.config.batch, self.generator)
        losses = self.backward(clean, self.augmenter(clean, self.generator))
        self.descend()
        self.sound &= losses["loss"].isfinite()
        self.steps += 1
        return losses

    def backward(self, clean, batch):
        """Gradients of both losses on a corrupted batch and its clean original; returns the losses by name."""
        reconstruction, logits = self.forward(batch.images)
        repainted = reconstruction_loss(reconstruction, clean)
        segmented = segmentation_loss(logits, batch.masks)
        loss = repainted.total + segmented.total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return {"loss": loss.detach(), **repainted.parts, **segmented.parts}

    def forward(self, images):
        """What the networks make of a batch, in the precision and memory layout of training."""
        try:
            with precision(self.device, self.config.precision):
                return self.parallel(images.contiguous(memory_format=torch.channels_last))
        except Exception as error:
            if not self.compiled or not type(error).__module__.startswith("torch._dynamo"):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"compile: not possible on this machine ({reason}); train without it") from None

    def descend(self):
        """Move the weights along their gradients, and the averaged weights after them."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.sound &= norm.isfinite()
        self.optimizer.step()
        self._follow()

    @torch.no_grad()
    def _follow(self):
        """Draw the averaged weights, and batch norm's statistics with them, a little towards the present ones."""
        if self.steps == 0:
            self.average.load_state_dict(self.model.state_dict())
            return
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        moving = [pair for pair in pairs if pair[0].is_floating_point()]  # the others only count batches
        self.moving_average(*map(list, zip(*moving, strict=True)), None)

    def check(self):
        """Raise `InputError` if a loss or a gradient was not finite since the run began. Waits for the device."""
        if not self.sound:
            raise InputError(
                f"loss: not finite at step {self.steps} or shortly before; expected a number; the last checkpoint, if "
                f"any, is from before and stays: begin anew with a lower rate than {self.config.learning_rate}"
            )

    def state(self, finished):
        """The averaged weights for whoever wants to use them and, while unfinished, everything `restore` needs.

        With several ranks all of them must call this: each has a random state of its own to give.
        """
        content = {**network_content(self.average), "config": asdict(self.config), "log": self.log}
        content |= {"steps": self.steps, "seconds": self.seconds, "finished": finished}
        if not finished:
            content["training"] = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generators": ranks.gathered(self.generator.get_state()),
            }
        return content

    def restore(self, content):
        """Go on from a checkpoint's content, written by as many ranks or by others, on this device or another."""
        self.steps, self.seconds, self.log = content["steps"], content["seconds"], list(content["log"])
        self.average.load_state_dict(content["weights"])
        if content["finished"]:
            return
        saved = content["training"]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        mine = saved["generators"][ranks.rank() : ranks.rank() + 1]
        if mine and mine[0].shape == self.generator.get_state().shape:
            self.generator.set_state(mine[0].cpu())
        else:  # a rank, or a kind of device, that was not there before
            self.generator = self._fresh_generator()

    def _fresh_generator(self):
        """A random state that no other rank has, nor this one at another step."""
        seed = self.config.seed + 1_000_003 * ranks.rank() + 7_919 * self.steps
        return torch.Generator(self.device).manual_seed(seed)


def train(
    rolls,
    config,
    checkpoint=None,
    device="cpu",
    extra=None,
    on_log=None,
    log_every=25,
    save_seconds=30,
    quiet=False,
    compiled=False,
):
    """Train until the budget is spent or the cell (or process) is interrupted.

    rolls: list of `fabric.Roll`, defect-free. config: a `recipe.TrainConfig`. checkpoint: file that is resumed if it
    is there and written at intervals of `save_seconds`, with the log beside it as NAME.log.csv. extra: dict stored
    beside the weights (the split, say); a checkpoint with another config or another split is refused. on_log: called
    with the `Trainer` every `log_every` steps, on the first rank. quiet: no bar and no lines of progress. compiled:
    see `Trainer`.

    Returns a `TrainResult`; `finished` is False after an interruption, and the averaged weights are usable then too.
    With `steps` as the budget an interrupted run on a CPU ends, on one machine and number of threads, with the very
    weights of one that was not. Under `torchrun` an interruption is left to the caller, and the last checkpoint stays.
    Raises `InputError` for a checkpoint of another run, a loss that is not finite, too little memory.
    """
    if not log_every >= 1 or not save_seconds >= 0:
        raise InputError(f"log_every={log_every}, save_seconds={save_seconds}; expected 1 or more, and 0 or more")
    trainer = Trainer(rolls, config, device, compiled)
    run = _Run(trainer, checkpoint, extra or {}, on_log, log_every, save_seconds)
    finished = run.resume()
    if not finished:
        with _Progress(trainer, quiet) as progress:
            finished = run.loop(progress)
    return TrainResult(trainer.average, trainer.log, trainer.steps, finished, run.saved)


class _Run:
    """A trainer, the file it is kept in, and who hears of it."""

    def __init__(self, trainer, path, extra, on_log, log_every, save_seconds):
        self.trainer, self.path, self.extra = trainer, None if path is None else Path(path), extra
        self.on_log, self.log_every, self.save_seconds = on_log, log_every, save_seconds
        self.between_steps = True  # the state is whole: weights, averages and random state are of the same step
        self.saved = None

    def resume(self):
        """Restore the trainer from the file, if it is there and of the same run; says whether that run is finished."""
        if self.path is None:
            return False
        if not self.path.parent.is_dir():
            raise InputError(
                f"{self.path}: folder {self.path.parent} does not exist; make it first or choose another place"
            )
        if ranks.rank() == 0:
            remove_leftovers(self.path)
        if not self.path.exists():
            return False
        content = load_checkpoint(self.path)
        for name, wanted in {"config": asdict(self.trainer.config), **self.extra}.items():
            if content.get(name) != wanted:
                raise InputError(
                    f"{self.path}: holds a run with another {_difference(name, content.get(name), wanted)}; give the "
                    "same settings to resume it, or another --out for a new run"
                )
        try:
            self.trainer.restore(content)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.path}: does not fit this run ({reason}); give another --out, train anew") from None
        self.saved = content["steps"]
        return content["finished"]

    def loop(self, progress):
        """Step until the budget is spent (True) or the user interrupts (False); the file is up to date afterwards."""
        try:
            with _interrupts_waiting() as interrupted:
                self._steps(progress, interrupted)
        except KeyboardInterrupt:
            if ranks.count() > 1:  # the others may be at another step: what all have last saved together stays
                raise
            if self.between_steps:
                self._save(finished=False)
            return False
        except torch.OutOfMemoryError:
            raise InputError(
                f"batch: {self.trainer.config.batch} crops of {self.trainer.config.crop} pixels do not fit into the "
                "device's memory; give a smaller batch or smaller crops"
            ) from None
        self._save(finished=True)
        return True

    def _steps(self, progress, interrupted):
        trainer, started, saved = self.trainer, time.monotonic() - self.trainer.seconds, time.monotonic()
        while trainer.progress < 1:
            self.between_steps = False
            losses = trainer.step()
            self.between_steps = True
            logs, due = trainer.steps % self.log_every == 0, False
            # Ranks must agree on the time, or their rates and their ends would differ; seldom, for it makes them wait.
            if ranks.count() == 1 or logs or trainer.steps & (trainer.steps - 1) == 0:
                now = time.monotonic()
                trainer.seconds, due = ranks.from_first((now - started, now - saved > self.save_seconds))
            if logs or trainer.progress >= 1 or interrupted():
                self._log(losses)
            if due:
                self._save(finished=False)
                saved = time.monotonic()
            progress.update()
            if interrupted():
                raise KeyboardInterrupt

    def _log(self, losses):
        trainer = self.trainer
        trainer.check()
        row = {"step": trainer.steps, "seconds": round(trainer.seconds, 2)}
        row |= {"learning_rate": trainer.optimizer.param_groups[0]["lr"]}
        trainer.log.append(row | {name: float(value) for name, value in losses.items()})
        if self.on_log is not None and ranks.rank() == 0:
            self.on_log(trainer)

    def _save(self, finished):
        if self.path is None:
            return
        self.trainer.check()
        content = {**self.trainer.state(finished), **self.extra}
        if ranks.rank() == 0:
            save_checkpoint(self.path, content)
            write_log(self.trainer.log, self.path.with_suffix(".log.csv"))
        self.saved = self.trainer.steps


@contextmanager
def _interrupts_waiting():
    """Let a step end before Ctrl-C (or a notebook's stop button) is heard; a second one is heard at once.

    Gives a function that says whether one came. Stopped half way through a step, a run could not go on to the bit.
    """
    pressed = []

    def note(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():  # Python lets the main thread alone set handlers
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _difference(name, found, wanted):
    """Which setting differs, for the message that refuses to resume."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            if found.get(key) != wanted[key]:
                if isinstance(wanted[key], dict):
                    return f"{name} ({key})"
                return f"{name} ({key}: found {found.get(key)}, given {wanted[key]})"
    return name


class _Progress:
    """A bar with the time left in a notebook or terminal, plain lines elsewhere; on the first rank alone."""

    def __init__(self, trainer, quiet):
        self.trainer, self.quiet = trainer, quiet or ranks.rank() > 0
        drawn = "ipykernel" in sys.modules or sys.stderr.isatty()
        self.lines = not drawn and not self.quiet
        self.bar = tqdm(
            total=100,
            initial=100 * trainer.progress,
            desc="training",
            disable=self.quiet or self.lines,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}",
        )
        self.began, self.started, self.said = trainer.progress, time.monotonic(), time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self):
        """After a step."""
        trainer = self.trainer
        if not self.lines:
            if trainer.log:
                self.bar.set_postfix_str(f"step {trainer.steps}, loss {trainer.log[-1]['loss']:.3f}", refresh=False)
            self.bar.update(min(100 * trainer.progress, 100) - self.bar.n)
        elif time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            pace = (trainer.progress - self.began) / (self.said - self.started)
            left = (1 - trainer.progress) / pace / 60 if pace > 0 else math.inf
            loss = f", loss {trainer.log[-1]['loss']:.3f}" if trainer.log else ""
            print(f"step {trainer.steps}, {trainer.progress:.0%}{loss}, about {left:.1f} minutes left", flush=True)


def write_log(log, path):
    """Write the log as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(log[0]) if log else ["step"])
    writer.writeheader()
    writer.writerows(log)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
