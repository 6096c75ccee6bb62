"""What a memory bank sees of an image: feature extractors by name.

Two need no download: `fft`, a bank of filters, and `shallow`, a small network trained on the normal rolls themselves.
The others were trained on photographs and fetch their weights once, to where PyTorch keeps such files.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from draem_aitex.baselines.baseline import convolution
from draem_aitex.errors import InputError, check_choice, one_line
from draem_aitex.files import CACHE
from draem_aitex.training.sampler import CropSampler

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its colours
DINOV2 = "facebookresearch/dinov2:b8931f7bf91576930313be2c6d6af376033b35f0"  # the commit whose code is run
DINOV2_WEIGHTS = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
PRETRAINED = {  # by torchvision: the nodes of its graph that are tapped, of strides 8 and 16, and all their channels
    "resnet50": (("layer2", "layer3"), 512 + 1024),
    "wide_resnet50_2": (("layer2", "layer3"), 512 + 1024),
    "convnext_tiny": (("features.3", "features.5"), 192 + 384),
    "densenet121": (("features.denseblock2", "features.denseblock3"), 512 + 1024),
}
SETTLING = 20  # batches that the batch norms of `shallow` see before it is trained


class Backbone(nn.Module):
    """A module from images float32 `(B, 1, H, W)` in [0, 1] to a list of feature maps, fine to coarse.

    H and W are multiples of `multiple` px. A map is `(B, C, H / s, W / s)`, with s = `stride` for the finest and twice
    that for a second one; `channels` is the sum of the C. `fft` and `shallow` look at no more than `margin` px of
    context beside a position; the others look farther, so a map of theirs depends a little on where its tiles lie.
    """

    stride: int = 8
    multiple: int = 16
    margin: int
    channels: int
    steps: int | None = None  # of training; None where nothing is trained here


def build_backbone(name: str, generator: torch.Generator | None = None, pretrained: bool = True) -> Backbone:
    """A `Backbone`, in evaluation mode, on the CPU; torch's global random state stays as it was.

    name: one of `BACKBONES`. generator: draws the weights of `shallow`. pretrained: False leaves the others with random
    weights. Raises `InputError` for an unknown name, and where weights can neither be found nor fetched.
    """
    check_choice("backbone", name, BACKBONES)
    with torch.random.fork_rng(devices=[]):
        if name == "shallow" and generator is not None:
            torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return BACKBONES[name](pretrained).eval().requires_grad_(False)


class FilterBank(Backbone):
    """`fft`: how much of each frequency and direction there is at a position, and how bright it is; nothing learnt.

    Magnitudes of Gabor filters, waves under a Gaussian window, which is a local Fourier transform at chosen
    frequencies (Gabor 1946; for textures Jain and Farrokhnia, Pattern Recognition 24, 1991).

    wavelengths: px; orientations: how many directions of each.
    """

    filters: Tensor

    def __init__(self, wavelengths: Sequence[float] = (3.0, 4.2, 6.0, 8.5, 12.0), orientations: int = 8) -> None:
        super().__init__()
        self.register_buffer("filters", gabor_filters(wavelengths, orientations))
        self.margin = self.filters.shape[-1] // 2
        self.channels = 1 + len(wavelengths) * orientations

    def forward(self, images: Tensor) -> list[Tensor]:
        padded = F.pad(images, (self.margin,) * 4, mode="reflect")
        responses = F.conv2d(padded, self.filters, stride=2)  # magnitudes vary slowly: every second pixel will do
        even, odd = responses[:, 1:].chunk(2, dim=1)
        magnitudes = (even**2 + odd**2 + 1e-12).sqrt()
        return [F.avg_pool2d(torch.cat([responses[:, :1], magnitudes], dim=1), self.stride // 2)]


def gabor_filters(wavelengths: Sequence[float], orientations: int) -> Tensor:
    """Filters float32 `(1 + 2 K, 1, side, side)`: one Gaussian, K even (cosine) and K odd (sine) Gabor filters.

    K = len(wavelengths) * orientations; wavelengths in px. Every Gabor filter sums to 0, so that brightness does not
    enter; the even one has unit L1 norm; the window's standard deviation is half a wavelength.
    """
    margin = math.ceil(1.25 * max(wavelengths))
    y, x = torch.meshgrid(*[torch.arange(-margin, margin + 1, dtype=torch.float32)] * 2, indexing="ij")
    even, odd = [], []
    for wavelength in wavelengths:
        window = torch.exp(-(x**2 + y**2) / (2 * (0.5 * wavelength) ** 2))
        for k in range(orientations):
            angle = math.pi * k / orientations
            phase = 2 * math.pi / wavelength * (x * math.cos(angle) + y * math.sin(angle))
            wave = window * phase.cos()
            wave = wave - window * (wave.sum() / window.sum())
            norm = wave.abs().sum()
            even.append(wave / norm)
            odd.append(window * phase.sin() / norm)
    blur = torch.exp(-(x**2 + y**2) / 8)
    return torch.stack([blur / blur.sum(), *even, *odd])[:, None]


class Shallow(Backbone):
    """`shallow`: six convolutions, random until `learn` has trained them to tell how a crop was turned.

    The task (Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018; here all
    eight ways to lay a square) needs no labels, and whoever solves it has looked at the threads' directions.
    """

    margin = 32
    steps: int = 0
    TURNS = 8

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            *convolution(1, width, 2), *convolution(width, width),
            *convolution(width, 2 * width, 2), *convolution(2 * width, 2 * width),
        )  # fmt: skip
        self.coarse = nn.Sequential(*convolution(2 * width, 4 * width, 2), *convolution(4 * width, 4 * width))
        self.head = nn.Linear(4 * width, self.TURNS)
        self.channels = 2 * width + 4 * width

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.fine(images)
        return [torch.cat([F.avg_pool2d(fine, 2), self.coarse(fine)], dim=1)]

    def learn(self, sampler: CropSampler, generator: torch.Generator, steps: int, batch: int = 64) -> Tensor:
        """Train for some steps on crops; returns the loss of each, float32 `(steps,)`, on the network's device.

        Before that the batch norms see a few batches: as they are made, most channels would be silent. Only there the
        device is waited for. sampler, generator: on the CPU.
        """
        device = next(self.parameters()).device
        self.train()
        update_bn((sampler(batch, generator) for _ in range(SETTLING)), self, device)
        self.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        losses = torch.zeros(steps, device=device)
        for step in range(steps):
            turns = torch.randint(self.TURNS, (batch,), generator=generator)
            crops = turned(sampler(batch, generator), turns).to(device, non_blocking=True)
            votes = self.head(self.coarse(self.fine(crops)).mean((2, 3)))
            loss = F.cross_entropy(votes, turns.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[step] = loss.detach()
        self.eval().requires_grad_(False)
        self.steps += steps
        return losses


def turned(crops: Tensor, turns: Tensor) -> Tensor:
    """Crops `(B, 1, S, S)`, each laid in one of the eight ways of a square.

    turns: int64 `(B,)`, 0 to 7: `turns % 4` quarter turns, and from 4 on mirrored first.
    """
    flipped = torch.where((turns >= 4).to(crops.device)[:, None, None, None], crops.flip(3), crops)
    ways = torch.stack([torch.rot90(flipped, quarter, (2, 3)) for quarter in range(4)])
    return ways[turns.to(crops.device) % 4, torch.arange(len(crops), device=crops.device)]


class _Photographic(Backbone):
    """Two middle stages of a network of torchvision, trained on the photographs of ImageNet; grey is shown as colour.

    The stages are those that PatchCore takes of a WideResNet-50, and their like in the others.
    """

    margin = 96

    def __init__(self, name: str, pretrained: bool) -> None:
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        nodes, self.channels = PRETRAINED[name]
        network = models.get_model(name, weights=None)
        if pretrained:
            _load(network, name, models.get_model_weights(name).IMAGENET1K_V1.url)
        self.network = create_feature_extractor(network.eval(), list(nodes))

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.network(_as_photograph(images)).values())


class _Dinov2(Backbone):
    """The last layer of DINOv2's smallest vision transformer (Oquab et al. 2023), through `torch.hub`.

    `torch.hub` fetches Meta's code from GitHub once, always the same commit, and runs it; whoever asks for this
    backbone agrees to that. It looks at all of a tile at once, so its map depends on how wide the tiles are.
    """

    stride, multiple, margin, channels = 14, 28, 112, 384

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        with _fetching("dinov2_vits14", "its code", "https://github.com/facebookresearch/dinov2"):
            self.network = torch.hub.load(
                DINOV2, "dinov2_vits14", pretrained=False, trust_repo=True, skip_validation=True, verbose=False
            )
        if pretrained:
            _load(self.network, "dinov2_vits14", DINOV2_WEIGHTS)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.network.get_intermediate_layers(_as_photograph(images), n=1, reshape=True, norm=True))


BACKBONES: dict[str, Callable[[bool], Backbone]] = {  # to add one: a class, and here what makes it
    "fft": lambda pretrained: FilterBank(), "shallow": lambda pretrained: Shallow(),
    **{name: partial(_Photographic, name) for name in PRETRAINED}, "dinov2_vits14": _Dinov2,
}  # fmt: skip


def _as_photograph(images: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(part, device=images.device)[:, None, None] for part in IMAGENET)
    return (images - mean) / deviation


def _load(network: nn.Module, name: str, url: str) -> None:
    """Give a network its pretrained weights, from PyTorch's folder for such files, fetched into it once.

    torchvision's own loading would run the file's pickle; here none is run. A file name that ends in a hash is held to
    it. DenseNet's file has its layers' names as they were before PyTorch 0.4, norm.1 instead of norm1.
    """
    with _fetching(name, "its weights", url):
        weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        modern = {re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", key): value for key, value in weights.items()}
        network.load_state_dict(modern)


@contextmanager
def _fetching(name: str, what: str, url: str) -> Iterator[None]:
    """Around what `torch.hub` is asked for: what goes wrong becomes an `InputError`; a cache that is named is used."""
    usual, named = torch.hub.get_dir(), os.environ.get(CACHE)
    if named:
        torch.hub.set_dir(os.path.join(named, "torch"))
    try:
        yield
    except (OSError, ImportError, RuntimeError, EOFError, UnpicklingError, AttributeError) as error:
        reason = one_line(getattr(error, "reason", error))  # urllib's errors have one
        found = f"{what} not whole in {torch.hub.get_dir()} and not to be fetched ({reason}); expected {url}"
        hint = "connect to a network once, remove a broken file, or take fft or shallow, which need none"
        raise InputError(f"backbone: {name}: {found}; {hint}") from None
    finally:
        if named:
            torch.hub.set_dir(usual)
