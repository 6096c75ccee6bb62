"""The variational autoencoder: squeeze an image through a narrow, noisy code and score what it fails to restore."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from draem_aitex.baselines.baseline import Baseline, convolution, on_roll
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.errors import ABOVE_0, InputError, check_choice, check_number
from draem_aitex.training.sampler import CropSampler, NormalAugmentation

RATE = 2e-3  # learning rate at the start
MOST_CHANNELS = 1024
CHECKED = 50  # steps after which the losses are read: only then the device is waited for


@dataclass(eq=False)
class VAE(Baseline):
    """A fully convolutional variational autoencoder, scored by what it fails to reconstruct.

    Normal fabric is all that it has learnt to restore, so a large error should mean a defect. The price is blur: what
    is finer than the code can carry is lost on normal fabric too, and a fine defect has to stand out from that error.

    Source: Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114 (reparameterisation: section
    2.4). Different here: the code is a field, one vector per 16 x 16 px, in place of one vector per image, so the
    network runs over a whole roll; the Kullback-Leibler term is weighted by `beta`, since at full weight a code this
    local is switched off; the score is no likelihood but e / (e + u), e the smoothed error of the decoded mean and u
    the mean error at the end of training, so that 0.5 is the error that normal fabric has on average.

    Raises `InputError` for an option out of its range.
    """

    size: int = 64  # side of the training crops, px, a multiple of 16
    width: int = 16  # channels of the network
    latent: int = 16  # channels of its code
    beta: float = 0.01  # weight of the Kullback-Leibler term
    error: str = "l1"  # absolute differences (a Laplace likelihood), or "mse", squared ones (a Gaussian one)
    smoothing: float = 3.0

    name, kind, least = "VAE", "vae", 16  # px; the code has one vector for every 16 x 16

    def __post_init__(self, device: str | torch.device) -> None:
        super().__post_init__(device)
        check_number("size", self.size, 16, expected="a multiple of 16 pixels, such as 64", whole=True)
        if self.size % 16:
            raise InputError(f"size: {self.size}; expected a multiple of 16 pixels; use 64 or 128")
        check_choice("error", self.error, ("l1", "mse"))
        for name in ("width", "latent"):
            check_number(name, getattr(self, name), 1, MOST_CHANNELS, whole=True)
        check_number("beta", self.beta, 0)
        self.network: Autoencoder  # from `fit` on
        self.unit = 1.0  # the mean error at the end of training
        self.steps = 0  # of training
        self.losses: list[float] = []  # of each step

    @property
    def what(self) -> str:
        """The detector in words."""
        return f"VAE, {self.error} error, {self.size_bytes / 4e6:.2f} M weights, trained {self.steps} steps"

    @property
    def size_bytes(self) -> int:
        """Memory of the trained weights; 0 before `fit`."""
        return sum(p.numel() * p.element_size() for p in self.network.parameters()) if self.steps else 0

    def fit(
        self, rolls: list[Roll], generator: torch.Generator, steps: int = 600, batch: int = 32,
        seconds: float | None = None, normal_augmentation: NormalAugmentation | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> Self:  # fmt: skip
        """Train on random crops of normal rolls; every step's loss is kept in `losses`.

        rolls: in grey. generator: on the CPU, draws weights, crops and the code's noise. steps: of `batch`
        crops, or fewer where `seconds` run out first (then the result depends on the machine's speed).
        normal_augmentation: of the crops; None is no augmentation. progress: called with each step's number and loss,
        for which the device is waited for. Returns the detector itself, not calibrated. Raises `InputError` for no
        rolls, rolls in colour, a loss that is not finite, and where memory runs out.
        """
        check_number("steps", steps, 1, whole=True)
        check_number("batch", batch, 1, whole=True)
        if seconds is not None:
            check_number("seconds", seconds, ABOVE_0, expected="a number above 0")
        sampler = CropSampler(rolls, self.size, "cpu", normal_augmentation)
        with self._fitting(generator, f"batch: {batch} crops; give a smaller batch, or device='cpu'"):
            self.network, self.steps, self.losses = self._built(generator), 0, []
            optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE)
            unread = []  # loss and error of the last steps, (2,) each, on the device
            read: list[list[float]] = []  # those of all steps before, as numbers
            began, done, step = time.monotonic(), 0.0, 0  # `done`: share of the budget used, 0 to 1
            while done < 1:
                optimizer.param_groups[0]["lr"] = RATE * math.cos(math.pi / 2 * done)
                unread.append(self._step(sampler(batch, generator), generator, optimizer))
                step += 1
                spent = 0.0 if seconds is None else (time.monotonic() - began) / seconds
                done = max(step / steps, spent)
                if done >= 1 or len(unread) == CHECKED or progress is not None:
                    new = torch.stack(unread).tolist()  # the one place where the device is waited for
                    unread, read = [], read + new
                    self.losses += [loss for loss, _ in new]
                    if not np.isfinite(self.losses).all():
                        raise InputError(f"beta: {self.beta}; the loss is not finite; give a smaller one")
                if progress is not None:
                    progress(step, self.losses[-1])
            self.network.eval()
            self.steps, self.unit = step, max(float(np.mean([error for _, error in read[-50:]])), FLOOR)
        return self

    def _step(self, crops: Tensor, generator: torch.Generator, optimizer: torch.optim.Optimizer) -> Tensor:
        """One optimizer step on crops from the CPU; its loss and its error, `(2,)`, left on the device."""
        images = crops.to(self.device, non_blocking=True)
        mean, log_variance = self.network.encode(images)
        noise = torch.randn(mean.shape, generator=generator).to(self.device, non_blocking=True)
        code = mean + noise * (0.5 * log_variance).exp()  # reparameterisation
        error = self._error(self.network.decoder(code), images).mean()
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / images.numel()
        loss = error + self.beta * divergence
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return torch.stack([loss, error]).detach()

    @torch.inference_mode()
    def reconstruct(self, image: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
        """Decode a roll's mean code: uint8 `(H, W)` in, float32 `(H, W)` in [0, 1] out, 0 off the fabric.

        edges: `(start, end)` in columns. Raises `InputError` as `raw_map`.
        """
        return on_roll(image, edges, self._decoded(self._pixels(image, edges)))

    def _oddness(self, pixels: Tensor, fabric: str | None) -> tuple[Tensor, float]:
        """The reconstruction error; the fabric does not matter."""
        return self._error(self._decoded(pixels), pixels), self.unit

    def _error(self, decoded: Tensor, images: Tensor) -> Tensor:
        difference = decoded - images
        return difference.abs() if self.error == "l1" else difference**2

    def _decoded(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        padded = nn.functional.pad(pixels, (0, -width % 16, 0, -height % 16), mode="replicate")
        mean, _ = self.network.encode(padded)
        return self.network.decoder(mean)[..., :height, :width]

    def _built(self, generator: torch.Generator) -> "Autoencoder":
        """Networks whose weights come from the generator; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            return Autoencoder(self.width, self.latent).to(self.device)

    def _state(self) -> dict[str, Any]:
        return {"weights": self.network.state_dict(), "unit": self.unit, "steps": self.steps}

    def _restore(self, state: dict[str, Any]) -> None:
        self.network, self.unit, self.steps = self._built(torch.Generator()), state["unit"], state["steps"]
        self.network.load_state_dict(state["weights"])
        self.network.eval()


_block = partial(convolution, activation=nn.SiLU)


class Autoencoder(nn.Module):
    """The two networks: (B, 1, H, W) in [0, 1] -> code (B, latent, H/16, W/16) -> (B, 1, H, W) in (0, 1)."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        w = width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), _block(16, 2 * w),  # H/4
            nn.Conv2d(2 * w, 4 * w, 2, stride=2), _block(4 * w, 4 * w),  # H/8
            nn.Conv2d(4 * w, 4 * w, 2, stride=2), _block(4 * w, 4 * w),  # H/16
            nn.Conv2d(4 * w, 2 * latent, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, 4 * w, 1), _block(4 * w, 4 * w),  # H/16
            nn.ConvTranspose2d(4 * w, 4 * w, 2, stride=2), _block(4 * w, 4 * w),  # H/8
            nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2), _block(2 * w, 2 * w),  # H/4
            nn.Conv2d(2 * w, 16, 3, padding=1, padding_mode="replicate"), nn.PixelShuffle(4), nn.Sigmoid(),  # H
        )  # fmt: skip

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code, `(B, latent, H/16, W/16)` each."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 5)
