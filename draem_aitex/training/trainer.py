"""The trainer: the state of a run, and the one step that it repeats.

Crops in, corrupted on the spot, two losses, one optimizer, averaged weights. The same step runs on a CPU, on a GPU and,
under `torchrun`, on several of them: PyTorch's DDP averages their gradients, every rank draws crops of its own.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import torch

from draem_aitex.anomalies.augmenter import AugmentedBatch
from draem_aitex.data.rolls import Roll
from draem_aitex.devices import Device, computes_in_bfloat16, pick_device
from draem_aitex.errors import InputError, one_line
from draem_aitex.model.draem import DRAEM, build_draem
from draem_aitex.model.losses import reconstruction_loss, segmentation_loss
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training import distributed
from draem_aitex.training.checkpoint import checkpoint_file, load_checkpoint, load_model, network_content, on_host
from draem_aitex.training.config import NOTHING, TrainConfig
from draem_aitex.training.sampler import CropSampler

# Positions at the lowest level along a crop's side: on crops of half as many every position lies near a padded border,
# losses look well, and on whole rolls, most of which lies near none, the reconstruction is twice as far off.
POSITIONS = 8
AHEAD = 8  # steps whose crops a GPU draws and corrupts in one call: it would wait for the launches of single ones


@contextmanager
def precision(device: torch.device, wanted: str = "auto") -> Iterator[None]:
    """Autocast to bfloat16 where the device computes in it, unless `wanted` is "float32".

    What is in float32 is computed in float32: within this context, cuDNN's convolutions don't use TF32, which PyTorch
    lets them do by default (in matrix products it does not). Gradients computed outside of it would.
    """
    cudnn = torch.backends.cudnn
    as_found = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    sixteen_bits = wanted != "float32" and computes_in_bfloat16(device)
    with cudnn.flags(**as_found, allow_tf32=False), torch.autocast(device.type, torch.bfloat16, enabled=sixteen_bits):
        yield


class Trainer:
    """State of a run and its single step. `train_networks` drives it; a notebook may call `step` by hand.

    Args:
        rolls: `data.rolls.Roll`, defect-free.
        config: what defines the run.
        device: "auto", "cpu", "cuda" or a `torch.device`.
        compiled: let `torch.compile` fuse the networks' operations, which pays on CUDA and takes a minute first.
        ahead: steps whose crops are drawn and corrupted in one call; 0 means `AHEAD` on CUDA and 1 elsewhere.

    Raises:
        InputError: rolls, a configuration or a device that can't be used.
    """

    def __init__(
        self, rolls: list[Roll], config: TrainConfig, device: Device = "auto", compiled: bool = False, ahead: int = 0
    ) -> None:
        self.config, self.device, self.compiled = config, pick_device(device), compiled
        if config.crop < (least := POSITIONS * config.network.multiple):
            said = f"crop: {config.crop} pixels; networks trained on less than {least} reconstruct whole rolls badly"
            warnings.warn(f"{said}; give {least} or more where the rolls are that high", stacklevel=2)
        self.ahead = ahead or (AHEAD if self.device.type == "cuda" else 1)
        model = build_draem(config.preset, config.seed)
        if config.start is not None and config.start != NOTHING:
            model.load_state_dict(_first_weights(config.start, config.network))
        model = model.to(self.device)
        self.model: DRAEM = model.to(memory_format=torch.channels_last).train()
        # `swa_utils.AveragedModel` would ask a counter on the host at every step, for which a GPU would be waited for.
        self.average: DRAEM = copy.deepcopy(self.model).eval()
        self.moving_average = torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay)
        states = self.average.state_dict().values(), self.model.state_dict().values()
        self.averaged = [[t for t in state if t.is_floating_point()] for state in states]  # the others count batches
        decay, rate = config.weight_decay, config.learning_rate
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=decay, fused=True)
        parallel = torch.nn.parallel.DistributedDataParallel(self.model) if distributed.count() > 1 else self.model
        self.parallel: Any = torch.compile(parallel) if compiled else parallel
        varied = config.normal_augmentation
        self.sampler = CropSampler(rolls, config.crop, self.device, varied, config.network.channels)
        self.augmenter = config.augmenter.build()
        self.steps, self.seconds = 0, 0.0
        self.log: list[dict[str, float]] = []
        self.generator = self._fresh_generator()
        self._drawn: tuple[torch.Tensor, AugmentedBatch] | None = None  # crops of `ahead` steps
        self.all_finite = torch.ones((), dtype=torch.bool, device=self.device)  # every loss and gradient so far was

    @property
    def progress(self) -> float:
        """Part of the budget used, 0 to 1 and beyond."""
        if self.config.minutes is not None:
            return self.seconds / (60 * self.config.minutes)
        return self.steps / (self.config.steps or 1)

    def step(self) -> dict[str, torch.Tensor]:
        """One batch: returns the losses by name, as tensors (no wait for the device)."""
        self.set_learning_rate()
        clean, batch = self.draw()
        try:
            losses = self.backward(clean, batch)
        except Exception as error:
            if not self.compiled or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise InputError(f"compile: not possible on this machine ({one_line(error)}); train without it") from None
        self.optimizer_step()
        self.all_finite &= losses["loss"].isfinite()
        self.steps += 1
        return losses

    def set_learning_rate(self) -> None:
        """Give the optimizer the learning rate of the coming step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.steps, self.progress)

    def draw(self) -> tuple[torch.Tensor, AugmentedBatch]:
        """The coming step's normal crops, float32 `(batch, channels, crop, crop)`, and what the augmenter made of them.

        Those of `ahead` steps are drawn together, beginning with a step whose number is a multiple of `ahead`.
        """
        size, part = self.config.batch, self.steps % self.ahead
        if self._drawn is None or part == 0:
            self._state_before = self.generator.get_state()
            clean = self.sampler(self.ahead * size, self.generator)
            self._drawn = clean, self.augmenter(clean, self.generator)
        (clean, corrupted), first, last = self._drawn, part * size, (part + 1) * size
        return clean[first:last], corrupted.part(first, last)

    def backward(self, clean: torch.Tensor, batch: AugmentedBatch) -> dict[str, torch.Tensor]:
        """Gradients of both losses on a corrupted batch and its clean original; returns the losses by name."""
        with precision(self.device, "float32"):  # for the losses and all gradients
            reconstruction, logits = self.forward(batch.images)
            reconstructed = reconstruction_loss(reconstruction, clean, batch.masks)
            segmented = segmentation_loss(logits, batch.masks)
            loss = reconstructed.total + segmented.total
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        return {"loss": loss.detach(), **reconstructed.parts, **segmented.parts}

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The networks' reconstruction and logits of a batch, in the precision and memory layout of training."""
        with precision(self.device, self.config.precision):
            return self.parallel(images.contiguous(memory_format=torch.channels_last))

    def optimizer_step(self) -> None:
        """Move the weights along their gradients, clipped to a norm of 1, and draw the averaged weights after them.

        Batch norm's statistics are averaged like weights. The average begins where the first step ends.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.all_finite &= norm.isfinite()
        self.optimizer.step()
        if self.steps == 0:
            self.average.load_state_dict(self.model.state_dict())
        else:
            self.moving_average(*self.averaged, None)

    def check(self) -> None:
        """Raise `InputError` if a loss or a gradient was not finite since the run began. Waits for the device."""
        if not self.all_finite:
            advice = f"begin anew with a lower learning rate than {self.config.learning_rate}"
            said = f"loss: not finite at step {self.steps} or shortly before; expected a number; {advice}"
            raise distributed.SharedError(f"{said} (the last checkpoint, if any, is from before)")

    def state(self, finished: bool) -> dict[str, Any]:
        """The averaged weights for whoever wants to use them and, while unfinished, everything `restore` needs.

        A copy on the host. With several ranks all of them must call this, for each has a random state of its own to
        give; the first alone gets the content, the others an empty dict.
        """
        due = self._drawn is None or self.steps % self.ahead == 0  # the coming step draws
        generators = distributed.gathered(self.generator.get_state() if due else self._state_before)
        if distributed.rank() > 0:
            return {}
        content = {**network_content(self.average), "config": asdict(self.config), "log": list(self.log)}
        content |= {"steps": self.steps, "seconds": self.seconds, "finished": finished}
        if not finished:
            learned = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            content["training"] = {**on_host(learned), "generators": generators}
        return content

    def restore(self, content: dict[str, Any]) -> None:
        """Go on from a checkpoint's content, written by as many ranks or by others, on this device or another."""
        self.steps, self.seconds, self.log = content["steps"], content["seconds"], list(content["log"])
        self.average.load_state_dict(content["weights"])
        if content["finished"]:
            return
        saved = content["training"]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if any(kept["exp_avg"].shape != weight.shape for weight, kept in self.optimizer.state.items()):
            raise ValueError("the optimizer's averages are of other shapes than the weights")
        mine, self._drawn = saved["generators"][distributed.rank() :][:1], None
        if mine and mine[0].shape == self.generator.get_state().shape:
            self.generator.set_state(mine[0].cpu())
        else:  # a rank, or a kind of device, that was not there before
            self.generator = self._fresh_generator()

    def _fresh_generator(self):
        """A random state that no other rank has, nor this one at another step."""
        seed = self.config.seed + 1_000_003 * distributed.rank() + 7_919 * self.steps
        return torch.Generator(self.device).manual_seed(seed)


def _first_weights(start: str, network: NetworkConfig) -> dict[str, torch.Tensor]:
    """The averaged weights of the checkpoint that a run starts from. Raises `InputError` for one of other networks."""
    path = checkpoint_file(start)
    content = load_checkpoint(path, "draem")
    if (found := NetworkConfig(**content["network"])) != network:
        differs = [field.name for field in fields(found) if getattr(found, field.name) != getattr(network, field.name)]
        raise InputError(f"start: {path} holds networks of other {', '.join(differs)}; expected the same; give another")
    return load_model(content, path).state_dict()
