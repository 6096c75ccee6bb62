"""How fast a step of training is, and where its time goes: networks, losses, augmenter; beside the authors' networks.

    python benchmarks/training.py [--peer DIR]

Ours is the whole step as `draem_aitex train` takes it: sampler, augmenter, networks, losses, optimizer, averaging, in
bfloat16 where the device computes in it. Shares are of the same step, taken in pieces with a look at the clock between
them, turn and turn about with whole ones: `network` is forward, backward, clipping, optimizer and averaging of both
networks, `losses` are the five with their gradients, `augmenter` is sampler and augmenter. DIR is a checkout of
VitjanZ/DRAEM. Its two networks are trained as its script does, in float32 and with Adam, on ready-made
noise of 256 x 256 pixels. Its own losses have CUDA written into them, so that elsewhere mean squared error and
cross-entropy stand in for them, which cost less. Simulated fabric, medians; the peer's steps run after ours. The last
line is one JSON object; a record is written with --record FILE. What takes a GPU is in gpu.py.
"""

import sys
import time

import numpy as np
import torch
from record import block_of_steps, load_peer, medians, run_speed, speed_parser, training_rolls
from torch.nn import functional as F

from draem_aitex.devices import pick_device
from draem_aitex.model.losses import reconstruction_loss, segmentation_loss
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.trainer import Trainer, precision

PEER_SIZE = 256  # pixels


def main():
    parser = speed_parser(__doc__)
    parser.add_argument("--preset", default="compact", help="default: compact, that of the shipped checkpoints")
    parser.add_argument("--peer-runs", type=int, default=3, help="steps of the peer whose median counts (default: 3)")
    parser.add_argument("--peer-batch", type=int, default=1, help="images a step of the peer (default: 1)")
    return run_speed(parser, measure)


def measure(options):
    device = pick_device(options.device)
    peer = Peer(options.peer, options.peer_batch, device) if options.peer else None
    rolls = training_rolls()
    trainer = Trainer(rolls, TrainConfig.of_preset(options.preset, steps=10_000), device)
    config = trainer.config
    pieces = Pieces(trainer, device)
    seconds = medians({"step": block_of_steps(trainer), "pieces": pieces.steps}, options.runs, device)
    shares = pieces.shares(options.runs)
    a_step = seconds["step"] / trainer.ahead
    result = {
        "preset": options.preset,
        "batch": config.batch,
        "crop": config.crop,
        "pixels_per_s": config.batch * config.crop**2 / a_step,
        "peer_pixels_per_s": None,
        "pixels_per_s_ratio": None,
        **{f"{name}_share": share for name, share in shares.items()},
    }
    if peer is not None:
        # One warm-up is enough for steps of seconds, and they do not take turns with ours of milliseconds.
        taken = medians({"peer": peer.step}, options.peer_runs, device, warm_up=1)
        result["peer_pixels_per_s"] = options.peer_batch * PEER_SIZE**2 / taken["peer"]
        result["pixels_per_s_ratio"] = result["pixels_per_s"] / result["peer_pixels_per_s"]
    print(f"simulated fabric, {device}, medians of {options.runs} runs in turn; the peer of {options.peer_runs}")
    for name, share in shares.items():
        print(f"{name}: {share:.1%} of a step of {config.batch} crops of {config.crop} x {config.crop}")
    print(f"a step in pieces takes {seconds['pieces'] / seconds['step']:.2f} times as long as a whole one")
    return result


class Pieces:
    """The trainer's step, piece by piece, and how long each piece took.

    The gradients of the losses stop at what the networks gave, and go on through the networks in a piece of their own;
    that, and the clock, is all that differs from `Trainer.step`: the weights come out the same.
    """

    def __init__(self, trainer, device):
        self.trainer, self.device = trainer, device
        self.times = {"network": [], "losses": [], "augmenter": []}

    def steps(self):
        """A whole block of steps, of which the first draws the crops of all."""
        for _ in range(self.trainer.ahead):
            self.step()

    def step(self):
        trainer, clock = self.trainer, [self._now()]
        trainer.set_learning_rate()
        clean, batch = trainer.draw()
        clock.append(self._now())
        with precision(trainer.device, "float32"):
            outputs = trainer.forward(batch.images)
            clock.append(self._now())
            ends = [output.detach().requires_grad_() for output in outputs]
            reconstructed = reconstruction_loss(ends[0], clean, batch.masks)
            total = reconstructed.total + segmentation_loss(ends[1], batch.masks).total
            gradients = torch.autograd.grad(total, ends)
            clock.append(self._now())
            trainer.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(outputs, gradients)
        trainer.optimizer_step()
        clock.append(self._now())
        trainer.steps += 1
        augmenter, forward, losses, backward = np.diff(clock)
        for name, taken in (("network", forward + backward), ("losses", losses), ("augmenter", augmenter)):
            self.times[name].append(taken)

    def shares(self, runs):
        """Each piece's share of their sum, by the medians of the last `runs` blocks of steps."""
        ahead = self.trainer.ahead
        blocks = {name: np.sum(np.reshape(taken, (-1, ahead)), axis=1)[-runs:] for name, taken in self.times.items()}
        medians = {name: float(np.median(taken)) for name, taken in blocks.items()}
        return {name: median / sum(medians.values()) for name, median in medians.items()}

    def _now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Peer:
    """The authors' networks, trained on one ready-made batch, again and again."""

    def __init__(self, folder, batch, device, size=PEER_SIZE):
        networks = load_peer(folder, "model_unet.py")
        with torch.random.fork_rng():
            self.reconstructive = networks.ReconstructiveSubNetwork(in_channels=3, out_channels=3).to(device).train()
            self.discriminative = networks.DiscriminativeSubNetwork(in_channels=6, out_channels=2).to(device).train()
        parameters = [*self.reconstructive.parameters(), *self.discriminative.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4)
        generator = torch.Generator(device).manual_seed(0)
        self.images = torch.rand(batch, 3, size, size, generator=generator, device=device)
        self.masks = torch.zeros(batch, 1, size, size, device=device)
        self.loss = self._stand_ins
        if device.type == "cuda":
            losses = load_peer(folder, "loss.py")
            self.ssim, self.focal, self.loss = losses.SSIM(), losses.FocalLoss(), self._own

    def step(self):
        reconstruction = self.reconstructive(self.images)
        logits = self.discriminative(torch.cat([reconstruction, self.images], dim=1))
        loss = self.loss(reconstruction, logits)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _own(self, reconstruction, logits):
        likeness = F.mse_loss(reconstruction, self.images) + self.ssim(reconstruction, self.images)
        return likeness + self.focal(torch.softmax(logits, dim=1), self.masks)

    def _stand_ins(self, reconstruction, logits):
        return F.mse_loss(reconstruction, self.images) + F.cross_entropy(logits, self.masks[:, 0].long())


if __name__ == "__main__":
    sys.exit(main())
