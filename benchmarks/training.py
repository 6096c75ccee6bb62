"""How fast a step of training is, and where its time goes: networks, losses, augmenter; beside the authors' networks.

    python benchmarks/training.py [--peer DIR]

Ours is the whole step as `draem_aitex train` takes it: sampler, augmenter, networks, losses, optimiser, averaging, in
bfloat16 where the device computes in it. Shares are of parts measured by themselves on tensors of the step's shapes:
`network` is forward, backward, clipping, optimiser and averaging, `augmenter` is sampler and augmenter. DIR is a
checkout of VitjanZ/DRAEM. Its two networks are trained as its script does, in float32 and with Adam, on ready-made
noise of 256 x 256 pixels. Its own losses have CUDA written into them, so that elsewhere mean squared error and
cross-entropy stand in for them, which cost less. Simulated fabric, medians; our tasks take turns, the peer's run after
them. The last line is one JSON object; a record is written with --record FILE. What takes a GPU is in gpu.py.
"""

import sys

import torch
from record import load_peer, medians, run_speed, speed_parser, training_rolls
from torch.nn import functional as F

from draem_aitex.losses import reconstruction_loss, segmentation_loss
from draem_aitex.machine import pick_device
from draem_aitex.recipe import TrainConfig
from draem_aitex.trainer import Trainer

PEER_SIZE = 256  # pixels


def main():
    parser = speed_parser(__doc__)
    parser.add_argument("--preset", default="compact", help="default: compact, that of the shipped checkpoints")
    parser.add_argument("--peer-runs", type=int, default=3, help="steps of the peer whose median counts (default: 3)")
    parser.add_argument("--peer-batch", type=int, default=1, help="pictures a step of the peer (default: 1)")
    return run_speed(parser, measure)


def measure(options):
    device = pick_device(options.device)
    peer = Peer(options.peer, options.peer_batch, device) if options.peer else None
    rolls = training_rolls()
    trainer = Trainer(rolls, TrainConfig.of_preset(options.preset, steps=10_000), device)
    config = trainer.config
    seconds = medians(parts(trainer), options.runs, device)
    result = {
        "preset": options.preset,
        "batch": config.batch,
        "crop": config.crop,
        "pixels_per_s": config.batch * config.crop**2 / seconds["step"],
        "peer_pixels_per_s": None,
        "pixels_per_s_ratio": None,
        **{f"{name}_share": seconds[name] / seconds["step"] for name in ("network", "losses", "augmenter")},
    }
    if peer is not None:
        # One warm-up is enough for steps of seconds, and they do not take turns with ours of milliseconds.
        taken = medians({"peer": peer.step}, options.peer_runs, device, warm_up=1)
        result["peer_pixels_per_s"] = options.peer_batch * PEER_SIZE**2 / taken["peer"]
        result["pixels_per_s_ratio"] = result["pixels_per_s"] / result["peer_pixels_per_s"]
    print(f"simulated fabric, {device}, medians of {options.runs} runs in turn; the peer of {options.peer_runs}")
    for name in ("network", "losses", "augmenter"):
        print(
            f"{name}: {result[f'{name}_share']:.1%} of a step of {config.batch} crops of {config.crop} x {config.crop}"
        )
    return result


def parts(trainer):
    """The step and its parts, each by itself on tensors of the step's shapes."""
    clean = trainer.sampler(trainer.config.batch, trainer.generator)
    batch = trainer.augmenter(clean, trainer.generator)
    outputs = [output.detach().requires_grad_() for output in trainer.forward(batch.images)]

    def losses():
        total = reconstruction_loss(outputs[0], clean).total + segmentation_loss(outputs[1], batch.masks).total
        return torch.autograd.grad(total, outputs)

    gradients = losses()

    def network():
        trainer.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(trainer.forward(batch.images), gradients)
        trainer.descend()

    def augmenter():
        trainer.augmenter(trainer.sampler(trainer.config.batch, trainer.generator), trainer.generator)

    return {"step": trainer.step, "network": network, "losses": losses, "augmenter": augmenter}


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
        repainted = F.mse_loss(reconstruction, self.images) + self.ssim(reconstruction, self.images)
        return repainted + self.focal(torch.softmax(logits, dim=1), self.masks)

    def _stand_ins(self, reconstruction, logits):
        return F.mse_loss(reconstruction, self.images) + F.cross_entropy(logits, self.masks[:, 0].long())


if __name__ == "__main__":
    sys.exit(main())
