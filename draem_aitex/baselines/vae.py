"""The variational autoencoder: squeeze a picture through a narrow, noisy code and score what it fails to restore."""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from draem_aitex.baselines.parts import MOST_SMOOTHING, check_picture, odds_to_scores, on_roll, smoothed
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.devices import pick_device
from draem_aitex.errors import InputError, one_line
from draem_aitex.training.sampler import CropSampler


class VAE(Detector):
    """A fully convolutional variational autoencoder, scored by what it fails to reconstruct.

    Flawless cloth is all that it has learnt to restore, so a large error should mean a defect. The price is blur: what
    is finer than the code can carry is lost on good cloth too, and a fine defect has to stand out from that error.

    Source: Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114 (reparameterisation: section
    2.4). Different here: the code is a field, one vector per 16 x 16 px, in place of one vector per picture, so the
    network runs over a whole roll; the Kullback-Leibler term is weighted by `beta`, since at full weight a code this
    local is switched off; the score is no likelihood but e / (e + u), e the smoothed error of the decoded mean and u
    the mean error at the end of training, so that 0.5 is the error that good cloth has on average.

    size: side of the training crops, px, a multiple of 16. width, latent: channels of the network and of its code.
    beta: weight of the KL term. error: "l1", absolute differences (a Laplace likelihood), or "mse", squared ones
    (a Gaussian one), in training and in the score. smoothing: standard deviation of the map's Gaussian, px.
    normalised: whether scores are normalised by fabric, see `Detector`.
    """

    name, kind, least = "VAE", "vae", 16  # px; the code has one vector for every 16 x 16

    def __init__(
        self, size=64, width=16, latent=16, beta=0.01, error="l1", smoothing=3.0, normalised=True, device="cpu"
    ):
        if size < 16 or size % 16:
            raise InputError(f"size: {size}; expected a multiple of 16 pixels; use 64 or 128")
        if error not in ("l1", "mse"):
            raise InputError(f"error: {error!r}; expected 'l1' or 'mse'; choose one of them")
        if width < 1 or latent < 1 or not 0 <= beta < math.inf or not 0 <= smoothing <= MOST_SMOOTHING:
            raise InputError(
                f"width: {width}, latent: {latent}, beta: {beta}, smoothing: {smoothing}; expected 1 or more channels, "
                f"a weight of 0 or more, and 0 to {MOST_SMOOTHING} px; change them"
            )
        self.options = {
            "size": size, "width": width, "latent": latent, "beta": beta, "error": error, "smoothing": smoothing,
            "normalised": normalised,
        }  # fmt: skip
        self.device = pick_device(device)
        self.normalised = normalised
        self.network, self.unit, self.steps, self.losses, self.offsets = None, 1.0, 0, [], {}

    @property
    def what(self):
        """The detector in words."""
        return f"VAE, {self.options['error']} error, {self.size_bytes / 4e6:.2f} M weights, trained {self.steps} steps"

    @property
    def size_bytes(self):
        """Memory of the trained weights (0 before `fit`)."""
        return sum(p.numel() * p.element_size() for p in self.network.parameters()) if self.network else 0

    def fit(self, rolls, generator, steps=600, batch=32, seconds=None, normal_augmentation=None, progress=None):
        """Train on random crops of defect-free rolls; every step's loss is kept in `losses`.

        rolls: list of `fabric.Roll`. generator: on the CPU, draws weights, crops and the code's noise. steps: of
        `batch` crops, or fewer where `seconds` run out first (then the result depends on the machine's speed).
        normal_augmentation: a `sampler.NormalAugmentation` of the crops, None leaves them as recorded. progress: called with (step, loss).
        Returns self. Raises `InputError` for no rolls, rolls of different height, or fabric smaller than a crop.
        """
        if steps < 1 or batch < 1 or (seconds is not None and not seconds > 0):
            raise InputError(
                f"steps: {steps}, batch: {batch}, seconds: {seconds}; expected 1 or more, and above 0; change them"
            )
        sampler = CropSampler(rolls, self.options["size"], normal_augmentation=normal_augmentation)
        self.network = self._built(generator)
        self.losses, self.offsets, errors = [], {}, []
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=2e-3)
        began, done = time.monotonic(), 0.0  # `done`: share of the budget used, 0 to 1
        while done < 1:
            images = sampler(batch, generator).to(self.device)
            mean, log_variance = self.network.encode(images)
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            code = mean + noise * (0.5 * log_variance).exp()  # reparameterisation
            error = self._error(self.network.decode(code), images).mean()
            divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / images.numel()
            loss = error + self.options["beta"] * divergence
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 2e-3 * math.cos(math.pi / 2 * done)
            loss.backward()
            optimizer.step()
            self.losses.append(loss.item())
            if not math.isfinite(self.losses[-1]):
                self.network = None
                raise InputError(f"beta: {self.options['beta']}; the loss is not finite; give a smaller one")
            errors.append(error.item())
            spent = 0.0 if seconds is None else (time.monotonic() - began) / seconds
            done = max(len(self.losses) / steps, spent)
            if progress is not None:
                progress(len(self.losses), self.losses[-1])
        self.network.eval()
        self.steps, self.unit = len(errors), max(float(np.mean(errors[-50:])), FLOOR)
        return self

    @torch.inference_mode()
    def reconstruct(self, image, edges):
        """Decode a roll's mean code: uint8 `(H, W)` in, float32 `(H, W)` in [0, 1] out, 0 beside the fabric."""
        return on_roll(image, edges, self._decoded(check_picture(image, edges, self.least)))

    @torch.inference_mode()
    def raw_map(self, image, edges, fabric=None):
        """Score a roll by its reconstruction error; the fabric does not matter. `InputError` before `fit`."""
        cloth = check_picture(image, edges, self.least)
        error = smoothed(self._error(self._decoded(cloth), _as_input(cloth, self.device)), self.options["smoothing"])
        return on_roll(image, edges, odds_to_scores(error / self.unit))

    def _error(self, decoded, images):
        difference = decoded - images
        return difference.abs() if self.options["error"] == "l1" else difference**2

    def _decoded(self, cloth):
        if self.network is None:
            raise InputError("VAE: found no trained network; expected one; call fit(rolls, generator) first")
        height, width = cloth.shape
        padded = F.pad(_as_input(cloth, self.device), (0, -width % 16, 0, -height % 16), mode="replicate")
        mean, _ = self.network.encode(padded)
        return self.network.decode(mean)[..., :height, :width]

    def _built(self, generator):
        """Networks whose weights come from the generator; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            return _Autoencoder(self.options["width"], self.options["latent"]).to(self.device)

    def content(self):
        """What a checkpoint needs to hold."""
        weights = {name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        state = {"weights": weights, "unit": self.unit, "steps": self.steps}
        return {"detector": self.kind, "what": self.what, "options": self.options, "state": state}

    @classmethod
    def from_content(cls, content, path, device="cpu"):
        """The detector of a checkpoint's content; `InputError` where its weights do not fit its options."""
        try:
            detector, state = cls(**content["options"], device=device), content["state"]
            detector.network = detector._built(torch.Generator())
            detector.network.load_state_dict(state["weights"])
            detector.unit, detector.steps = state["unit"], state["steps"]
        except (TypeError, KeyError, RuntimeError, AttributeError, ValueError) as error:
            raise InputError(f"{Path(path).name}: no whole VAE ({one_line(error)}); train it anew") from None
        detector.network.eval()
        detector.offsets = dict(content.get("fabric_offsets", {}))
        return detector


class _Autoencoder(nn.Module):
    """(B, 1, H, W) in [0, 1] -> code (B, latent, H/16, W/16) -> (B, 1, H, W) in (0, 1)."""

    def __init__(self, width: int, latent: int):
        super().__init__()
        w = width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            _block(16, 2 * w),  # H/4
            nn.Conv2d(2 * w, 4 * w, 2, stride=2),
            _block(4 * w, 4 * w),  # H/8
            nn.Conv2d(4 * w, 4 * w, 2, stride=2),
            _block(4 * w, 4 * w),  # H/16
            nn.Conv2d(4 * w, 2 * latent, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, 4 * w, 1),
            _block(4 * w, 4 * w),  # H/16
            nn.ConvTranspose2d(4 * w, 4 * w, 2, stride=2),
            _block(4 * w, 4 * w),  # H/8
            nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2),
            _block(2 * w, 2 * w),  # H/4
            nn.Conv2d(2 * w, 16, 3, padding=1, padding_mode="replicate"),
            nn.PixelShuffle(4),
            nn.Sigmoid(),
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 5)

    def decode(self, code: Tensor) -> Tensor:
        return self.decoder(code)


def _block(inside: int, outside: int) -> nn.Sequential:
    """Borders are continued, not set to zero: most cells of a small training crop lie at its border, and with zeros
    there the network would expect them on a whole roll too."""
    convolution = nn.Conv2d(inside, outside, 3, padding=1, padding_mode="replicate")
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.SiLU())


def _as_input(cloth, device):
    """uint8 (H, W) -> float32 (1, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(cloth)).to(device).float().div_(255)[None, None]
