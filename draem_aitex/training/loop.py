"""Training: steps until the budget is spent, a checkpoint at intervals; stoppable and resumable at any step."""

import csv
import io
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from draem_aitex.errors import InputError, one_line
from draem_aitex.files import remove_leftovers, write_whole
from draem_aitex.training import distributed
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint
from draem_aitex.training.progress import Progress
from draem_aitex.training.trainer import Trainer


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


def train_networks(
    rolls,
    config,
    checkpoint=None,
    device="auto",
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
        with Progress(trainer, quiet) as progress:
            finished = run.loop(progress)
    return TrainResult(trainer.average, trainer.log, trainer.steps, finished, run.saved)


class _Run:
    """A trainer, the file it is kept in, and who hears of it."""

    def __init__(self, trainer, path, extra, on_log, log_every, save_seconds):
        self.trainer, self.path, self.extra = trainer, None if path is None else Path(path), extra
        self.log_path = None if path is None else self.path.with_suffix(".log.csv")
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
        if distributed.rank() == 0:
            remove_leftovers(self.path)
            remove_leftovers(self.log_path)
        if not self.path.exists():
            return False
        content = load_checkpoint(self.path, "draem")
        for name, wanted in {"config": asdict(self.trainer.config), **self.extra}.items():
            if content.get(name) != wanted:
                raise InputError(
                    f"{self.path}: holds a run with another {_difference(name, content.get(name), wanted)}; give the "
                    "same settings to resume it, or another --out for a new run"
                )
        try:
            self.trainer.restore(content)
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.path}: does not fit this run ({one_line(error)}); give another --out, train anew"
            ) from None
        self.saved = content["steps"]
        return content["finished"]

    def loop(self, progress):
        """Step until the budget is spent (True) or the user interrupts (False); the file is up to date afterwards."""
        try:
            with _interrupts_waiting() as interrupted:
                self._steps(progress, interrupted)
        except KeyboardInterrupt:
            if distributed.count() > 1:  # the others may be at another step: what all have last saved together stays
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
            if distributed.count() == 1 or logs or trainer.steps & (trainer.steps - 1) == 0:
                now = time.monotonic()
                trainer.seconds, due = distributed.from_first((now - started, now - saved > self.save_seconds))
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
        if self.on_log is not None and distributed.rank() == 0:
            self.on_log(trainer)

    def _save(self, finished):
        if self.path is None:
            return
        self.trainer.check()
        content = {**self.trainer.state(finished), **self.extra}
        if distributed.rank() == 0:
            save_checkpoint(self.path, content)
            write_log(self.trainer.log, self.log_path)
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


def write_log(log, path):
    """Write the log as CSV, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(log[0]) if log else ["step"])
    writer.writeheader()
    writer.writerows(log)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))
