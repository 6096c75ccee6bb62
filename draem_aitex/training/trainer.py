"""The trainer: the state of a run, and the one step that it repeats.

Crops in, corrupted on the spot, two losses, one optimiser, averaged weights. The same step runs on a CPU, on a GPU and,
under `torchrun`, on several of them: PyTorch's DDP averages their gradients, every rank draws crops of its own.
"""

import copy
from dataclasses import asdict

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from draem_aitex.anomalies.augmenter import Augmenter
from draem_aitex.devices import computes_in_bfloat16, pick_device
from draem_aitex.errors import InputError, one_line
from draem_aitex.model.draem import build_draem
from draem_aitex.model.losses import reconstruction_loss, segmentation_loss
from draem_aitex.training import distributed
from draem_aitex.training.checkpoint import network_content
from draem_aitex.training.sampler import CropSampler


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

    def __init__(self, rolls, config, device="auto", compiled=False):
        self.config, self.device = config, pick_device(device)
        self.model = build_draem(config.preset, config.seed).to(self.device, memory_format=torch.channels_last).train()
        # `swa_utils.AveragedModel` would ask a counter on the host at every step, for which a GPU would be waited for.
        self.average = copy.deepcopy(self.model).eval()
        self.moving_average = get_ema_multi_avg_fn(config.ema_decay)
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        moving = [pair for pair in pairs if pair[0].is_floating_point()]  # the others only count batches
        self.averaged = [list(side) for side in zip(*moving, strict=True)]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.parallel = DistributedDataParallel(self.model) if distributed.count() > 1 else self.model
        self.compiled = compiled
        if compiled:
            self.parallel = torch.compile(self.parallel)
        self.sampler = CropSampler(rolls, config.crop, self.device, config.normal_augmentation)
        self.augmenter = Augmenter(config.augmenter)
        self.steps, self.seconds, self.log = 0, 0.0, []
        self.generator = self._fresh_generator()
        self.all_finite = torch.ones(
            (), dtype=torch.bool, device=self.device
        )  # every loss and gradient so far was finite

    @property
    def progress(self):
        """Part of the budget used, 0 to 1 and beyond."""
        if self.config.steps is not None:
            return self.steps / self.config.steps
        return self.seconds / (60 * self.config.minutes)

    def step(self):
        """One batch: returns the losses by name, as tensors (no wait for the device)."""
        self.set_learning_rate()
        clean = self.sampler(self.config.batch, self.generator)
        losses = self.backward(clean, self.augmenter(clean, self.generator))
        self.optimizer_step()
        self.all_finite &= losses["loss"].isfinite()
        self.steps += 1
        return losses

    def set_learning_rate(self):
        """Give the optimiser the learning rate of the coming step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.steps, self.progress)

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
            raise InputError(f"compile: not possible on this machine ({one_line(error)}); train without it") from None

    def optimizer_step(self):
        """Move the weights along their gradients, and the averaged weights after them."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.all_finite &= norm.isfinite()
        self.optimizer.step()
        self._follow()

    @torch.no_grad()
    def _follow(self):
        """Draw the averaged weights, and batch norm's statistics with them, a little towards the present ones."""
        if self.steps == 0:
            self.average.load_state_dict(self.model.state_dict())
            return
        self.moving_average(*self.averaged, None)

    def check(self):
        """Raise `InputError` if a loss or a gradient was not finite since the run began. Waits for the device."""
        if not self.all_finite:
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
                "generators": distributed.gathered(self.generator.get_state()),
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
        mine = saved["generators"][distributed.rank() : distributed.rank() + 1]
        if mine and mine[0].shape == self.generator.get_state().shape:
            self.generator.set_state(mine[0].cpu())
        else:  # a rank, or a kind of device, that was not there before
            self.generator = self._fresh_generator()

    def _fresh_generator(self):
        """A random state that no other rank has, nor this one at another step."""
        seed = self.config.seed + 1_000_003 * distributed.rank() + 7_919 * self.steps
        return torch.Generator(self.device).manual_seed(seed)
