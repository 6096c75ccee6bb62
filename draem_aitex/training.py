"""Training: crops in, corrupted on the spot, two losses, one optimiser; stoppable and resumable at any step."""

import csv
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from draem_aitex.augmenter import Augmenter, AugmenterConfig
from draem_aitex.checkpoint import load_checkpoint, network_content, save_checkpoint
from draem_aitex.errors import InputError
from draem_aitex.losses import reconstruction_loss, segmentation_loss
from draem_aitex.networks import PRESETS, NetworkConfig, build_draem
from draem_aitex.sampler import CropSampler


@dataclass(frozen=True)
class TrainConfig:
    """What defines a training run. Give `minutes` or `steps`; the schedule fits either."""

    preset: str | NetworkConfig = "compact"  # a name in `networks.PRESETS`, or a pair of your own
    minutes: float | None = None
    steps: int | None = None
    batch: int = 16  # crops a step
    crop: int = 128  # pixels
    learning_rate: float = 2e-3  # at the peak of the schedule
    warm_up: float = 0.05  # share of the run over which the rate climbs
    ema_decay: float = 0.99  # of the averaged weights, per step
    seed: int = 0
    augmenter: AugmenterConfig = field(default_factory=AugmenterConfig)

    def __post_init__(self):
        if not isinstance(self.preset, NetworkConfig) and self.preset not in PRESETS:
            raise InputError(f"preset: {self.preset!r}; expected one of {', '.join(PRESETS)}")
        if (self.minutes is None) == (self.steps is None):
            raise InputError(f"minutes={self.minutes}, steps={self.steps}; expected one of the two; give the other up")
        budget = self.steps if self.minutes is None else self.minutes
        if not (math.isfinite(budget) and budget > 0):
            raise InputError(f"training budget of {budget}; expected more than 0; give steps or minutes")


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the averaged networks, one log row per interval, and whether it reached its end."""

    model: torch.nn.Module
    log: list
    steps: int
    finished: bool


def pick_device(name="auto"):
    """ "auto" is CUDA where there is one, else the CPU. Raises `InputError` for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise InputError(f"device: {name!r} is not available here; expected auto, cpu or cuda") from None
    return device


def learning_rate_factor(progress, warm_up):
    """The schedule: a linear climb over the warm-up, then half a cosine to 1 % of the peak. progress: 0 to 1."""
    if progress < warm_up:
        return 0.01 + 0.99 * progress / warm_up
    done = (progress - warm_up) / (1 - warm_up)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(done, 1))) / 2


def precision(device):
    """bfloat16 where the processor computes in it, else float32: an autocast context."""
    if device.type == "cuda":
        enabled = torch.cuda.is_bf16_supported()
    else:
        enabled = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


class Trainer:
    """State of a run and its single step. `train` drives it; a notebook may call `step` by hand."""

    def __init__(self, rolls, config, device="cpu"):
        self.config, self.device = config, torch.device(device)
        self.model = build_draem(config.preset, config.seed).to(self.device, memory_format=torch.channels_last).train()
        average = get_ema_multi_avg_fn(config.ema_decay)
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.learning_rate)
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.sampler = CropSampler(rolls, config.crop, self.device)
        self.augmenter = Augmenter(config.augmenter)
        self.steps, self.seconds, self.log = 0, 0.0, []

    @property
    def progress(self):
        """Part of the budget used, 0 to 1 and beyond."""
        if self.config.steps is not None:
            return self.steps / self.config.steps
        return self.seconds / (60 * self.config.minutes)

    def step(self):
        """One batch: returns the losses by name, as tensors (no wait for the device)."""
        rate = self.config.learning_rate * learning_rate_factor(self.progress, self.config.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        clean = self.sampler(self.config.batch, self.generator)
        batch = self.augmenter(clean, self.generator)
        reconstruction, logits = self.forward(batch.images)
        repainted = reconstruction_loss(reconstruction, clean)
        segmented = segmentation_loss(logits, batch.masks)
        loss = repainted.total + segmented.total
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.descend()
        self.steps += 1
        return {"loss": loss.detach(), **repainted.parts, **segmented.parts}

    def forward(self, images):
        """What the networks make of a batch, in the precision and memory layout of training."""
        with precision(self.device):
            return self.model(images.contiguous(memory_format=torch.channels_last))

    def descend(self):
        """Move the weights along their gradients, and the averaged weights after them."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)

    def state(self, finished):
        """The averaged weights for whoever wants to use them and, while unfinished, everything `restore` needs."""
        content = {**network_content(self.average.module), "config": asdict(self.config), "log": self.log}
        content |= {"steps": self.steps, "seconds": self.seconds, "finished": finished}
        if not finished:
            content["training"] = {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
            }
        return content

    def restore(self, content):
        """Go on from a checkpoint's content."""
        self.steps, self.seconds, self.log = content["steps"], content["seconds"], list(content["log"])
        if content["finished"]:
            self.average.module.load_state_dict(content["weights"])
            return
        saved = content["training"]
        self.model.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.generator.set_state(saved["generator"].cpu())


def train(
    rolls, config, checkpoint=None, device="cpu", extra=None, on_log=None, log_every=25, save_seconds=30, quiet=False
):
    """Train until the budget is spent or the cell (or process) is interrupted.

    rolls: list of `fabric.Roll`, defect-free. checkpoint: file that is resumed if it is there and written at
    intervals. extra: dict stored beside the weights (the split, say); a checkpoint with another config or another
    split is refused. on_log: called with the log, a list of dicts, at every interval.

    Returns a `TrainResult`; `finished` is False after an interruption, and the averaged weights are usable then too.
    Raises `InputError` for a checkpoint of another run and for a loss that is not finite.
    """
    trainer = Trainer(rolls, config, device)
    if checkpoint is not None:
        _prepare(trainer, Path(checkpoint), config, extra or {})
    already_done = trainer.progress >= 1
    finished = True
    bar = tqdm(total=100, desc="training", unit="%", disable=quiet, bar_format="{desc} {percentage:3.0f}% {postfix}")
    try:
        _loop(trainer, checkpoint, extra or {}, on_log, log_every, save_seconds, bar)
    except KeyboardInterrupt:
        finished = False
    finally:
        bar.close()
    if checkpoint is not None and not already_done:
        _save(trainer, checkpoint, extra or {}, finished)
    model = trainer.average.module.eval()
    return TrainResult(model, trainer.log, trainer.steps, finished)


def _prepare(trainer, path, config, extra):
    if not path.parent.is_dir():
        raise InputError(f"{path}: folder {path.parent} does not exist; make it first or choose another place")
    if not path.exists():
        return
    content = load_checkpoint(path)
    for name, wanted in {"config": asdict(config), **extra}.items():
        if content.get(name) != wanted:
            raise InputError(
                f"{path}: holds a run with another {_difference(name, content.get(name), wanted)}; give the same "
                "settings to resume it, or another --out for a new run"
            )
    trainer.restore(content)


def _difference(name, found, wanted):
    """Which setting differs, for the message that refuses to resume."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted:
            if found.get(key) != wanted[key]:
                if isinstance(wanted[key], dict):
                    return f"{name} ({key})"
                return f"{name} ({key}: found {found.get(key)}, given {wanted[key]})"
    return name


def _loop(trainer, checkpoint, extra, on_log, log_every, save_seconds, bar):
    started = time.monotonic() - trainer.seconds
    saved = time.monotonic()
    while trainer.progress < 1:
        losses = trainer.step()
        trainer.seconds = time.monotonic() - started
        bar.update(min(100 * trainer.progress, 100) - bar.n)
        if trainer.steps % log_every == 0 or trainer.progress >= 1:
            _log(trainer, losses, on_log, bar)
        if checkpoint is not None and time.monotonic() - saved > save_seconds:
            _save(trainer, checkpoint, extra, finished=False)
            saved = time.monotonic()


def _log(trainer, losses, on_log, bar):
    row = {"step": trainer.steps, "seconds": round(trainer.seconds, 2)}
    row |= {"learning_rate": trainer.optimizer.param_groups[0]["lr"]}
    row |= {name: float(value) for name, value in losses.items()}
    if not math.isfinite(row["loss"]):
        raise InputError(
            f"loss of {row['loss']} at step {trainer.steps}; expected a finite value; the last checkpoint is kept: "
            "resume with a lower learning rate"
        )
    trainer.log.append(row)
    bar.set_postfix_str(f"step {trainer.steps}, loss {row['loss']:.3f}")
    if on_log is not None:
        on_log(trainer.log)


def _save(trainer, checkpoint, extra, finished):
    save_checkpoint(checkpoint, {**trainer.state(finished), **extra})


def write_log(log, path):
    """Write the log as CSV, atomically."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(log[0]) if log else ["step"])
        writer.writeheader()
        writer.writerows(log)
    os.replace(temporary, path)
