"""Two small, real detectors to hold DRÆM against: a variational autoencoder and a memory bank.

Both learn from defect-free rolls alone and share DRÆM's interface, so that one loop scores all three:

    detector = MemoryBank().fit(rolls, edges, torch.Generator().manual_seed(0))
    scores = detector.predict(image, (start, end))     # float32 (H, W): 0 outside the fabric, > 0 inside

The scores have no common unit: compare detectors at thresholds set for the same rate of false alarms, never
by value.
"""

import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from draem_aitex.errors import InputError

FLOOR = 1e-6  # added to every score on the fabric, so that 0 can mean "not fabric"


class VAE:
    """A fully convolutional variational autoencoder, scored by what it fails to reconstruct.

    Idea: squeeze the picture through a narrow, noisy code and learn to restore it. Defect-free cloth is all
    it has learnt to restore, so a large error should mean a defect. The price is blur: detail finer than
    the code can carry is lost on good cloth too, and a fine defect has to stand out from that error.

    Source: Kingma & Welling, "Auto-Encoding Variational Bayes", 2014, arXiv 1312.6114 (reparameterisation:
    section 2.4). Different here: the code is a field, one vector per 16×16 pixels, in place of one vector
    per picture, so the network runs over a whole roll; the likelihood is Laplace (L1 error); the
    Kullback-Leibler term is weighted by `beta`, since at full weight a code this local is switched off; the
    score is the error of the decoded mean, smoothed with a Gaussian, not a likelihood.

    Args: `size` side of the training crops in pixels (a multiple of 16); `width` and `latent` channels of
    the network and of its code; `beta` weight of the KL term; `smoothing` standard deviation of the map's
    Gaussian in pixels; `device` where it trains and predicts.
    """

    name = "VAE"

    def __init__(self, size=64, width=16, latent=16, beta=0.01, smoothing=3.0, device="cpu"):
        if size < 16 or size % 16:
            raise InputError(f"size={size}: expected a multiple of 16 pixels; use 64 or 128")
        self.size, self.width, self.latent, self.beta = size, width, latent, beta
        self.smoothing, self.device = smoothing, torch.device(device)
        self.network: _Autoencoder | None = None
        self.losses: list[float] = []

    @property
    def size_bytes(self) -> int:
        """Bytes of the trained weights (0 before `fit`)."""
        return sum(p.numel() * p.element_size() for p in self.network.parameters()) if self.network else 0

    def fit(self, rolls, edges, generator: torch.Generator, steps=600, batch=32, seconds=None, progress=None):
        """Train on random crops of defect-free rolls; every step's loss is kept in `.losses`.

        Args: `rolls` list of uint8 (H, W); `edges` list of (start, end) columns, half open; `generator` on
        the CPU draws weights, crops and code noise; `steps` of `batch` crops, or fewer where `seconds` run
        out first (then the result depends on the machine's speed); `progress` is called with (step, loss).
        Returns self. Raises InputError for no rolls, lists of different length, or fabric smaller than a
        crop.
        """
        fabrics = _fabrics(rolls, edges, least=self.size)
        self.network = _seeded(lambda: _Autoencoder(self.width, self.latent), generator).to(self.device)
        self.losses = []
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=2e-3)
        began, done = time.monotonic(), 0.0  # `done`: share of the budget used, 0 to 1
        while done < 1:
            images = _random_crops(fabrics, self.size, batch, generator).to(self.device)
            mean, log_variance = self.network.encode(images)
            noise = torch.randn(mean.shape, generator=generator).to(self.device)
            code = mean + noise * (0.5 * log_variance).exp()  # reparameterisation
            error = (self.network.decode(code) - images).abs().mean()
            divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / images.numel()
            loss = error + self.beta * divergence
            optimiser.zero_grad()
            optimiser.param_groups[0]["lr"] = 2e-3 * math.cos(math.pi / 2 * done)
            loss.backward()
            optimiser.step()
            self.losses.append(loss.item())
            spent = 0.0 if seconds is None else (time.monotonic() - began) / seconds
            done = max(len(self.losses) / steps, spent)
            if progress is not None:
                progress(len(self.losses), self.losses[-1])
        self.network.eval()
        return self

    @torch.inference_mode()
    def reconstruct(self, image: np.ndarray, edges) -> np.ndarray:
        """Decode a roll's mean code: uint8 (H, W) in, float32 (H, W) in [0, 1] out, 0 outside the fabric."""
        return _on_roll(image, edges, self._decoded(_fabric(image, edges, least=16)))

    @torch.inference_mode()
    def predict(self, image: np.ndarray, edges, fabric=None) -> np.ndarray:
        """Score a roll by its smoothed absolute reconstruction error.

        Args: `image` uint8 (H, W); `edges` (start, end) columns of the fabric; `fabric` is not used.
        Returns float32 (H, W): 0 outside the fabric, above 0 (mean grey value error, white = 1) inside.
        Raises InputError before `fit` or on bad input.
        """
        fabric = _fabric(image, edges, least=16)
        error = (self._decoded(fabric) - _as_input(fabric).to(self.device)).abs()
        return _on_roll(image, edges, _smooth(error, self.smoothing) + FLOOR)

    def _decoded(self, fabric: np.ndarray) -> Tensor:
        if self.network is None:
            raise InputError("VAE: found no trained network; call fit(rolls, edges, generator) first")
        height, width = fabric.shape
        padded = F.pad(_as_input(fabric), (0, -width % 16, 0, -height % 16), mode="replicate").to(self.device)
        mean, _ = self.network.encode(padded)
        return self.network.decode(mean)[..., :height, :width]


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


class MemoryBank:
    """PatchCore's idea with hand-made features: remember good cloth, score by distance to the nearest memory.

    Idea: describe every 8×8-pixel cell of the defect-free rolls by a vector, keep a small set of vectors that
    covers them all, and call a new cell as odd as it is far from the nearest one kept.

    Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (PatchCore), CVPR 2022,
    arXiv 2106.08265: locally averaged features, greedy coreset, nearest neighbour, upsampled and smoothed
    map. Different here: the features are magnitudes of a Gabor filter bank (and the mean grey),
    standardised on the training cells, where PatchCore takes two middle levels of a pretrained
    WideResNet-50, so nothing is downloaded; the coreset is picked from a random pool, without random
    projection; scores are not re-weighted by the neighbourhood of the nearest vector.

    Args: `bank_size` vectors kept, of `pool_size` random training cells; `coreset` "greedy" (k-centre) or
    "random"; `wavelengths` in pixels and number of `orientations` of the filters; `smoothing` standard
    deviation of the map's Gaussian in pixels; `device` where it runs.
    """

    name = "Memory bank"
    stride = 8  # pixels a cell

    def __init__(
        self,
        bank_size=2000,
        pool_size=20_000,
        coreset="greedy",
        wavelengths=(4.0, 6.5, 10.0),
        orientations=6,
        smoothing=2.0,
        device="cpu",
    ):
        if coreset not in ("greedy", "random"):
            raise InputError(f"coreset={coreset!r}: expected 'greedy' or 'random'; choose one of them")
        self.bank_size, self.pool_size, self.coreset = bank_size, pool_size, coreset
        self.smoothing, self.device = smoothing, torch.device(device)
        self.filters = gabor_bank(wavelengths, orientations).to(self.device)
        self.bank: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the bank, its standardisation and the filters (the bank counts 0 before `fit`)."""
        kept = [self.filters] if self.bank is None else [self.filters, self.bank, self.mean, self.spread]
        return sum(t.numel() * t.element_size() for t in kept)

    @torch.inference_mode()
    def fit(self, rolls, edges, generator: torch.Generator):
        """Fill the bank from defect-free rolls; the same generator state gives the same bank.

        Args: `rolls` list of uint8 (H, W); `edges` list of (start, end) columns, half open; `generator` on
        the CPU draws the pool and the first vector of the coreset. Returns self. Raises InputError for no
        rolls, lists of different length, or fabric smaller than 32×32 pixels.
        """
        fabrics = _fabrics(rolls, edges, least=32)
        share = math.ceil(self.pool_size / len(fabrics))
        pool = []
        for fabric in fabrics:  # the same number of cells from every roll, however wide
            cells = self._embed(fabric).flatten(1).T
            pool.append(cells[torch.randperm(len(cells), generator=generator)[:share].to(cells.device)])
        pool = torch.cat(pool)
        self.mean, self.spread = pool.mean(0), pool.std(0).clamp_min(1e-6)
        pool = (pool - self.mean) / self.spread
        if self.coreset == "greedy":
            chosen = greedy_coreset(pool, self.bank_size, generator)
        else:
            chosen = torch.randperm(len(pool), generator=generator)[: self.bank_size]
        self.bank = pool[chosen.to(pool.device)].clone()
        return self

    @torch.inference_mode()
    def predict(self, image: np.ndarray, edges, fabric=None) -> np.ndarray:
        """Score a roll by each cell's distance to the nearest vector in the bank.

        Args: `image` uint8 (H, W); `edges` (start, end) columns of the fabric; `fabric` is not used.
        Returns float32 (H, W): 0 outside the fabric, above 0 (Euclidean, each feature in standard
        deviations of the training cells) inside. Raises InputError before `fit` or on bad input.
        """
        if self.bank is None:
            raise InputError("MemoryBank: found an empty bank; call fit(rolls, edges, generator) first")
        fabric = _fabric(image, edges, least=32)
        field = self._embed(fabric)
        cells = (field.flatten(1).T - self.mean) / self.spread
        nearest = torch.cat([torch.cdist(chunk, self.bank).amin(1) for chunk in cells.split(1024)])
        distance = nearest.view(1, 1, *field.shape[1:])
        distance = F.interpolate(distance, scale_factor=self.stride, mode="bilinear", align_corners=False)
        distance = distance[..., : fabric.shape[0], : fabric.shape[1]]
        return _on_roll(image, edges, _smooth(distance, self.smoothing) + FLOOR)

    def _embed(self, fabric: np.ndarray) -> Tensor:
        """uint8 (H, W) -> (D, ceil(H/8), ceil(W/8)): mean grey and Gabor magnitudes, averaged over a cell."""
        height, width = fabric.shape
        reach = self.filters.shape[-1] // 2
        right, below = reach + -width % self.stride, reach + -height % self.stride
        padded = F.pad(_as_input(fabric).to(self.device), (reach, right, reach, below), mode="reflect")
        responses = F.conv2d(padded, self.filters, stride=2)  # magnitudes vary slowly: half the pixels will do
        even, odd = responses[:, 1:].chunk(2, dim=1)
        features = torch.cat([responses[:, :1], (even**2 + odd**2 + 1e-12).sqrt()], dim=1)
        return F.avg_pool2d(features, self.stride // 2)[0]


def gabor_bank(wavelengths, orientations: int) -> Tensor:
    """Filters float32 (1 + 2·K, 1, side, side): one Gaussian, K even (cosine) and K odd (sine) Gabor filters.

    K = len(wavelengths) · orientations; wavelengths in pixels. Every Gabor filter sums to 0, so that
    brightness does not enter; the even one has unit L1 norm; the envelope's standard deviation is half a
    wavelength.
    """
    reach = math.ceil(1.25 * max(wavelengths))
    y, x = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float32)] * 2, indexing="ij")
    even, odd = [], []
    for wavelength in wavelengths:
        envelope = torch.exp(-(x**2 + y**2) / (2 * (0.5 * wavelength) ** 2))
        for k in range(orientations):
            angle = math.pi * k / orientations
            phase = 2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle))
            wave = envelope * phase.cos()
            wave = wave - envelope * (wave.sum() / envelope.sum())
            norm = wave.abs().sum()
            even.append(wave / norm)
            odd.append(envelope * phase.sin() / norm)
    blur = torch.exp(-(x**2 + y**2) / 8)
    return torch.stack([blur / blur.sum(), *even, *odd])[:, None]


def greedy_coreset(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Pick a k-centre subset of `points` (N, D): indices (min(count, N),), each farthest from all before it.

    Source: PatchCore, algorithm 1, without the random projection. The generator draws the first index.
    """
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    squares = (points**2).sum(1)
    distance = torch.full_like(squares, math.inf)
    for _ in range(min(count, len(points)) - 1):
        centre = points[chosen[-1]]
        torch.minimum(distance, squares - 2 * (points @ centre) + centre @ centre, out=distance)
        distance[chosen[-1]] = -math.inf  # never twice, whatever the rounding
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)


def _block(inside: int, outside: int) -> nn.Sequential:
    """Borders are continued, not set to zero: most cells of a small training crop lie at its border, and with zeros
    there the network would expect them on a whole roll too."""
    convolution = nn.Conv2d(inside, outside, 3, padding=1, padding_mode="replicate")
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.SiLU())


def _seeded(make, generator: torch.Generator) -> nn.Module:
    """A module whose initial weights come from the generator; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return make()


def _fabric(image: np.ndarray, edges, least: int, name="image") -> np.ndarray:
    """The fabric's columns of a roll, checked: uint8 (H, end - start), at least `least` pixels each way."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 2:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}".strip()
        raise InputError(f"{name}: found {found}, expected uint8 (H, W); read it with aitex.read_image")
    start, end = edges
    if not 0 <= start < end <= image.shape[1]:
        raise InputError(
            f"{name}: found edges ({start}, {end}), expected 0 <= start < end <= {image.shape[1]} columns; "
            "take them from fabric.fabric_edges"
        )
    if image.shape[0] < least or end - start < least:
        raise InputError(
            f"{name}: found {image.shape[0]} x {end - start} pixels of fabric, expected at least "
            f"{least} x {least}; leave this roll out or correct its edges"
        )
    return image[:, start:end]


def _fabrics(rolls, edges, least: int) -> list[np.ndarray]:
    if len(rolls) == 0:
        raise InputError("rolls: found none, expected one defect-free roll or more; pass training rolls")
    if len(rolls) != len(edges):
        raise InputError(
            f"edges: found {len(edges)} for {len(rolls)} rolls, expected one (start, end) each; "
            "make both lists from the same records"
        )
    return [_fabric(r, e, least, f"rolls[{i}]") for i, (r, e) in enumerate(zip(rolls, edges, strict=True))]


def _as_input(fabric: np.ndarray) -> Tensor:
    """uint8 (H, W) -> float32 (1, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(fabric)).float().div_(255)[None, None]


def _random_crops(fabrics: list[np.ndarray], size: int, count: int, generator: torch.Generator) -> Tensor:
    """float32 (count, 1, size, size) in [0, 1]; every roll is equally likely, and every place on it."""
    crops = []
    for which, u, v in torch.rand(count, 3, generator=generator, dtype=torch.float64).tolist():
        fabric = fabrics[int(which * len(fabrics))]
        top, left = (int(r * (n - size + 1)) for r, n in zip((u, v), fabric.shape, strict=True))
        crops.append(fabric[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(crops)).float().div_(255)[:, None]


def _smooth(field: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (1, 1, H, W), standard deviation `sigma` in pixels, borders continued."""
    reach = math.ceil(3 * sigma)
    if reach == 0:
        return field
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=field.device) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(field, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))


def _on_roll(image: np.ndarray, edges, values: Tensor) -> np.ndarray:
    """Put the fabric's values back in their columns: float32 (H, W), 0 elsewhere."""
    whole = np.zeros(image.shape, np.float32)
    whole[:, edges[0] : edges[1]] = values[0, 0].float().cpu().numpy()
    return whole
