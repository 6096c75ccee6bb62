"""The loop: trainer steps until the budget is spent, a checkpoint at intervals; stoppable and resumable at any step."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from draem_aitex.data.rolls import Roll
from draem_aitex.devices import Device, memory_errors
from draem_aitex.errors import InputError, check_number, one_line
from draem_aitex.files import FilePath, claimed, write_whole
from draem_aitex.model.draem import DRAEM
from draem_aitex.training import distributed
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.trainer import Trainer

SAVE_SHARE = 0.05  # of a run's time is spent on checkpoints, at most: large ones are written less often
LATER = {"start": None, "scale": 1.0}  # settings that runs of earlier versions did not write down
LINE_SECONDS = 30  # between lines of progress where there is no terminal


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    model: the averaged networks. log: one row per `log_every` steps. steps, seconds: taken so far. finished: whether
    the budget is spent. saved: the step that the checkpoint holds; None without one.
    """

    model: DRAEM
    log: list[dict[str, float]]
    steps: int
    seconds: float
    finished: bool
    saved: int | None


def train_networks(
    rolls: list[Roll], config: TrainConfig, checkpoint: FilePath | None = None, device: Device = "auto",
    extra: dict[str, Any] | None = None, on_log: Callable[[Trainer], object] | None = None, log_every: int = 25,
    save_seconds: float = 30, quiet: bool = False, compiled: bool = False,
) -> TrainResult:  # fmt: skip
    """Train until the budget is spent or the cell (or process) is interrupted.

    With `steps` as the budget an interrupted and resumed run on a CPU ends, on one machine and number of threads, with
    the very weights of one that was not. Under `torchrun` an interruption is left to the caller, and the last
    checkpoint stays. Minutes are counted from the end of this process's first step, which may compile.

    Args:
        rolls: `data.rolls.Roll`, defect-free.
        config: what defines the run.
        checkpoint: file that is resumed if it is there and written every `save_seconds`, with the log beside it,
            see `log_of`. It is written in the background, and less often where that would take over 5 % of the time.
        device: "auto", "cpu", "cuda" or a `torch.device`.
        extra: stored beside the weights (the split, say); a checkpoint with another config or extra is refused. Of a
            split the training part alone must be the same: a run goes on when another roll was mended meanwhile.
        on_log: called with the `Trainer` every `log_every` steps, on the first rank.
        quiet: no progress is shown.
        compiled: see `Trainer`.

    Returns:
        A `TrainResult`; after an interruption `finished` is False, and the averaged weights are usable then too.

    Raises:
        InputError: a checkpoint of another run or one that can't be written, a loss that is not finite, too little
            memory.
    """
    check_number("log_every", log_every, 1, whole=True)
    check_number("save_seconds", save_seconds, 0)
    advice = f"batch: {config.batch} crops of {config.crop} pixels do not fit; give a smaller batch or smaller crops"
    with memory_errors(advice), ExitStack() as held, ThreadPoolExecutor(1) as writer:
        trainer = Trainer(rolls, config, device, compiled)
        run = _Run(trainer, checkpoint, extra or {}, on_log, log_every, save_seconds, writer)
        if checkpoint is not None:
            distributed.on_first(lambda: held.enter_context(claimed([run.path, run.log_path])))
        finished = distributed.in_turn(run.resume)
        if not finished:
            with _progress_bar(trainer, quiet) as bar:
                finished = run.loop(bar)
    return TrainResult(trainer.average, trainer.log, trainer.steps, trainer.seconds, finished, run.saved)


def log_of(checkpoint: Path) -> Path:
    """Where the log of a run is written: beside its checkpoint, a.pt.log.csv for a.pt, which no other one has.

    It is written whole each time, from what the checkpoint holds; earlier versions called it a.log.csv.
    """
    return checkpoint.with_name(f"{checkpoint.name}.log.csv")


class _Run:
    """A trainer, the file it is kept in, and who hears of it."""

    def __init__(self, trainer, path, extra, on_log, log_every, save_seconds, writer):
        self.trainer, self.path, self.extra = trainer, path and Path(path), extra
        self.log_path = self.path and log_of(self.path)
        self.on_log, self.log_every, self.save_seconds = on_log, log_every, save_seconds
        self.between_steps = True  # the state is whole: weights, averages and random state are of the same step
        self.saved = None
        self.writer, self.writing = writer, writer.submit(lambda: None)
        self.cost = 0.0  # seconds that the last checkpoint took

    def resume(self):
        """Restore the trainer from the file, if it is there and of the same run; says whether that run is finished."""
        if self.path is None or not self.path.exists() or not self.path.stat().st_size:
            return False
        content, again = load_checkpoint(self.path, "draem"), "give another file (--out) and train anew"
        for name, wanted in {"config": asdict(self.trainer.config), **self.extra}.items():
            found = _completed(content.get(name), wanted)
            if difference := _difference(name, *(_trained_on(name, value) for value in (found, wanted))):
                raise InputError(f"{self.path}: holds a run with another {difference}; give the same, or {again}")
        try:
            self.trainer.restore(content)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path}: does not fit this run ({one_line(error)}); {again}") from None
        self.saved = content["steps"]
        return content["finished"]

    def loop(self, bar):
        """Step until the budget is spent (True) or the user interrupts (False); the file is up to date afterwards."""
        finished = True
        try:
            with _interrupts_waiting() as interrupted:
                self._steps(bar, interrupted)
        except KeyboardInterrupt:
            if distributed.count() > 1:  # the others may be at another step: what all have last saved together stays
                raise
            finished = False
        if finished or self.between_steps:
            self._save(finished)
        self.writing.result()
        return finished

    def _steps(self, bar, interrupted):
        trainer, started, saved = self.trainer, None, time.monotonic()
        while trainer.progress < 1:
            self.between_steps = False
            losses = trainer.step()
            self.between_steps = True
            # The first step of a process compiles, loads libraries, takes memory: it is not counted.
            started = started or time.monotonic() - trainer.seconds
            logs, due = trainer.steps % self.log_every == 0, False
            # Ranks must agree on the time, or their rates and their ends would differ; seldom, for it makes them wait.
            if distributed.count() == 1 or logs or trainer.steps & (trainer.steps - 1) == 0:
                now, pause = time.monotonic(), max(self.save_seconds, self.cost / SAVE_SHARE)
                due = now - saved > pause and self.writing.done()
                trainer.seconds, due = distributed.from_first((now - started, due))
            if logs or trainer.progress >= 1 or interrupted():
                self._log(losses)
            if due:
                self._save(finished=False)
                saved = time.monotonic()
            if trainer.log:
                bar.set_postfix_str(f"step {trainer.steps}, loss {trainer.log[-1]['loss']:.3f}", refresh=False)
            bar.update(min(100 * trainer.progress, 100) - bar.n)
            if interrupted():
                raise KeyboardInterrupt

    def _log(self, losses):
        trainer = self.trainer
        trainer.check()
        rate, losses = trainer.optimizer.param_groups[0]["lr"], {name: float(loss) for name, loss in losses.items()}
        seconds = round(trainer.seconds, 2)
        trainer.log.append({"step": trainer.steps, "seconds": seconds, "learning_rate": rate, **losses})
        if self.on_log is not None and distributed.rank() == 0:
            self.on_log(trainer)

    def _save(self, finished):
        """Take a copy of the state and have it written in the background; raises what the last writing has met."""
        if self.path is None:
            return
        began, trainer = time.monotonic(), self.trainer
        trainer.check()
        self.writing.result()
        content = trainer.state(finished)
        if distributed.rank() == 0:
            self.writing = self.writer.submit(self._write, {**content, **self.extra}, began)
        self.saved = trainer.steps

    def _write(self, content, began):
        save_checkpoint(self.path, content)
        log = content["log"]  # it holds numbers alone, so that nothing needs quotes
        lines = [",".join(row) for row in log[:1]] + [",".join(map(str, row.values())) for row in log]
        write_whole(self.log_path, lambda file: file.write("\n".join([*lines, ""]).encode()))
        self.cost = time.monotonic() - began


def _progress_bar(trainer, quiet):
    """A bar with step, loss and time left, on the first rank alone; off a terminal, a line now and then."""
    drawn, quiet = "ipykernel" in sys.modules or sys.stderr.isatty(), quiet or distributed.rank() > 0
    lines = {} if drawn else {"ascii": True, "mininterval": LINE_SECONDS, "delay": LINE_SECONDS}
    form = "{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}" + ("" if drawn else "\n")
    began = 100 * trainer.progress
    return tqdm(desc="training", total=100, initial=began, disable=quiet, bar_format=form, **lines)


@contextmanager
def _interrupts_waiting() -> Iterator[Callable[[], bool]]:
    """Let a step end before Ctrl-C (or a notebook's stop button) is heard; a second one is heard at once.

    Gives a function that says whether one came. Stopped half way through a step, a run could not go on to the bit.
    """
    pressed = []

    def note(number, frame):
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    able = threading.current_thread() is threading.main_thread()  # Python lets the main thread alone set handlers
    before = signal.signal(signal.SIGINT, note) if able else None
    try:
        yield lambda: bool(pressed)
    finally:
        if able:
            signal.signal(signal.SIGINT, before)


def _trained_on(name, value):
    """What of a checkpoint's content decides whether a training may go on with it: of a split, the training rolls."""
    return {"train": value.get("train")} if name == "split" and isinstance(value, dict) else value


def _completed(found, wanted):
    """A setting as a checkpoint has it, with what the version that wrote it did not know."""
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return found
    known = {key: LATER[key] for key in wanted if key in LATER} | found
    return {key: _completed(value, wanted.get(key)) for key, value in known.items()}


def _difference(name, found, wanted):
    """Which setting differs, for the message that refuses to resume; empty where none does."""
    if found == wanted or not isinstance(found, dict) or not isinstance(wanted, dict):
        return "" if found == wanted else name
    key = next(key for key in [*wanted, *found] if found.get(key) != wanted.get(key))
    one, other = found.get(key), wanted.get(key)
    return f"{name} ({key})" if isinstance(other, dict) else f"{name} ({key}: found {one}, given {other})"
