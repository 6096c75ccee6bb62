"""What a memory bank sees of a picture: feature extractors by name.

Two need no download: `fft`, a bank of filters, and `shallow`, a small network trained on the normal rolls themselves.
The others were trained on photographs and fetch their weights once, to where PyTorch keeps such files.
"""

import math
import re
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import nn

from draem_aitex.errors import InputError, one_line

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its colours
DINOV2 = "facebookresearch/dinov2:b8931f7bf91576930313be2c6d6af376033b35f0"  # the commit whose code is run
DINOV2_WEIGHTS = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"


PRETRAINED = {  # by torchvision: the nodes of its graph that are tapped, of strides 8 and 16, and all their channels
    "resnet50": (("layer2", "layer3"), 512 + 1024),
    "wide_resnet50_2": (("layer2", "layer3"), 512 + 1024),
    "convnext_tiny": (("features.3", "features.5"), 192 + 384),
    "densenet121": (("features.denseblock2", "features.denseblock3"), 512 + 1024),
}
SETTLING = 20  # batches
NAMES = ("fft", "shallow", *PRETRAINED, "dinov2_vits14")


def build_backbone(name, generator=None, pretrained=True):
    """A backbone: a module from pictures float32 `(B, 1, H, W)` in [0, 1] to a list of feature maps, fine to coarse.

    H and W are multiples of `multiple` px; a map is `(B, C, H / s, W / s)`, with s = `stride` for the finest and twice
    that for a second one; `channels` is the sum of the C. `margin` px of context beside a cell are all that `fft` and
    `shallow` look at; the others look farther, and a map of theirs depends a little on where its windows lie.

    name: one of `NAMES`. generator: draws the weights of `shallow`. pretrained: False leaves the others with random
    weights. Raises `InputError` for an unknown name, and where weights can neither be found nor fetched.
    """
    if name not in NAMES:
        raise InputError(f"backbone: {name!r}; expected one of {', '.join(NAMES)}; choose one")
    if name == "fft":
        backbone = FilterBank()
    elif name == "shallow":
        backbone = Shallow(generator)
    elif name == "dinov2_vits14":
        backbone = _Dinov2(pretrained)
    else:
        backbone = _Photographic(name, pretrained)
    return backbone.eval().requires_grad_(False)


class FilterBank(nn.Module):
    """`fft`: how much of each frequency and direction there is in a cell, and how bright it is; nothing learnt.

    Magnitudes of Gabor filters, waves under a Gaussian window, which is a local Fourier transform at chosen
    frequencies (Gabor 1946; for textures Jain and Farrokhnia, Pattern Recognition 24, 1991).

    wavelengths: px; orientations: how many directions of each.
    """

    stride, multiple = 8, 16

    def __init__(self, wavelengths=(3.0, 4.2, 6.0, 8.5, 12.0), orientations=8):
        super().__init__()
        self.register_buffer("filters", gabor_filters(wavelengths, orientations))
        self.margin = self.filters.shape[-1] // 2
        self.channels = 1 + len(wavelengths) * orientations

    def forward(self, images):
        padded = F.pad(images, (self.margin,) * 4, mode="reflect")
        responses = F.conv2d(padded, self.filters, stride=2)  # magnitudes vary slowly: every second pixel will do
        even, odd = responses[:, 1:].chunk(2, dim=1)
        magnitudes = (even**2 + odd**2 + 1e-12).sqrt()
        return [F.avg_pool2d(torch.cat([responses[:, :1], magnitudes], dim=1), self.stride // 2)]


def gabor_filters(wavelengths, orientations):
    """Filters float32 `(1 + 2 K, 1, side, side)`: one Gaussian, K even (cosine) and K odd (sine) Gabor filters.

    K = len(wavelengths) * orientations; wavelengths in px. Every Gabor filter sums to 0, so that brightness does not
    enter; the even one has unit L1 norm; the window's standard deviation is half a wavelength.
    """
    reach = math.ceil(1.25 * max(wavelengths))
    y, x = torch.meshgrid(*[torch.arange(-reach, reach + 1, dtype=torch.float32)] * 2, indexing="ij")
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


class Shallow(nn.Module):
    """`shallow`: six convolutions, random until `learn` has trained them to tell how a crop was turned.

    The task (Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018; here all
    eight ways to lay a square) needs no labels, and whoever solves it has looked at the threads' directions.
    """

    stride, multiple, margin = 8, 16, 32
    TURNS = 8

    def __init__(self, generator=None, width=32):
        super().__init__()
        self.steps = 0  # of training
        with torch.random.fork_rng(devices=[]):
            if generator is not None:
                torch.default_generator.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            self.fine = nn.Sequential(
                *_convolution(1, width, 2), *_convolution(width, width, 1),
                *_convolution(width, 2 * width, 2), *_convolution(2 * width, 2 * width, 1),
            )  # fmt: skip
            self.coarse = nn.Sequential(*_convolution(2 * width, 4 * width, 2), *_convolution(4 * width, 4 * width, 1))
            self.head = nn.Linear(4 * width, self.TURNS)
        self.channels = 2 * width + 4 * width

    def forward(self, images):
        fine = self.fine(images)
        return [torch.cat([F.avg_pool2d(fine, 2), self.coarse(fine)], dim=1)]

    def learn(self, sampler, generator, steps, batch=64):
        """Train for some steps on crops of a `CropSampler`; returns the losses. generator: on the CPU.

        Before that the batch norms see a few batches: as they are made, most channels would be silent.
        """
        device = next(self.parameters()).device
        self.train()
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the plain mean of what they see
        with torch.no_grad():
            for _ in range(SETTLING):
                self(sampler(batch, generator).to(device))
        for norm in norms:
            norm.momentum = 0.1
        self.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3)
        losses = []
        for _ in range(steps):
            turns = torch.randint(self.TURNS, (batch,), generator=generator)
            crops = turned(sampler(batch, generator), turns).to(device)
            votes = self.head(self.coarse(self.fine(crops)).mean((2, 3)))
            loss = F.cross_entropy(votes, turns.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self.eval().requires_grad_(False)
        self.steps += steps
        return losses


def turned(crops, turns):
    """Crops `(B, 1, S, S)`, each laid in one of the eight ways of a square: `turns % 4` quarter turns, and from 4 on
    mirrored first."""
    flipped = torch.where((turns >= 4).to(crops.device)[:, None, None, None], crops.flip(3), crops)
    ways = torch.stack([torch.rot90(flipped, quarter, (2, 3)) for quarter in range(4)])
    return ways[turns.to(crops.device) % 4, torch.arange(len(crops), device=crops.device)]


def _convolution(inside, outside, stride):
    """Borders are continued: with zeros there, a roll's rim would look like nothing that a crop's middle shows."""
    return [
        nn.Conv2d(inside, outside, 3, stride, padding=1, padding_mode="replicate"),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    ]


class _Photographic(nn.Module):
    """Two middle stages of a network of torchvision, trained on the photographs of ImageNet; grey is shown as colour.

    The stages are those that PatchCore takes of a WideResNet-50, and their like in the others.
    """

    stride, multiple, margin = 8, 16, 96

    def __init__(self, name, pretrained):
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        nodes, self.channels = PRETRAINED[name]
        with torch.random.fork_rng(devices=[]):
            network = models.get_model(name, weights=None)
        if pretrained:
            _load(network, name, models.get_model_weights(name).IMAGENET1K_V1.url)
        self.network = create_feature_extractor(network.eval(), list(nodes))

    def forward(self, images):
        return list(self.network(_as_photograph(images)).values())


class _Dinov2(nn.Module):
    """The last layer of DINOv2's smallest vision transformer (Oquab et al. 2023), through `torch.hub`.

    `torch.hub` fetches Meta's code from GitHub once, always the same commit, and runs it; whoever asks for this
    backbone agrees to that. It looks at all of a window at once, so its map depends on how wide the windows are.
    """

    stride, multiple, margin, channels = 14, 28, 112, 384

    def __init__(self, pretrained):
        super().__init__()
        name = "dinov2_vits14"
        try:
            with torch.random.fork_rng(devices=[]):
                self.network = torch.hub.load(
                    DINOV2, name, pretrained=False, trust_repo=True, skip_validation=True, verbose=False
                )
        except OSError as error:  # of urllib as well
            raise _unreachable(name, error, "its code", "https://github.com/facebookresearch/dinov2") from None
        except (ImportError, RuntimeError) as error:
            raise InputError(
                f"backbone: {name}: its code in {torch.hub.get_dir()} does not run ({one_line(error)}); expected that "
                "of https://github.com/facebookresearch/dinov2; remove the folder and try again"
            ) from None
        if pretrained:
            _load(self.network, name, DINOV2_WEIGHTS)

    def forward(self, images):
        return list(self.network.get_intermediate_layers(_as_photograph(images), n=1, reshape=True, norm=True))


def _as_photograph(images):
    mean, deviation = (torch.tensor(part, device=images.device)[:, None, None] for part in IMAGENET)
    return (images - mean) / deviation


def _load(network, name, url):
    """Give a network its pretrained weights, from PyTorch's folder for such files, fetched into it once.

    No pickle is run; a file name that ends in a hash is held to it.
    """
    try:
        hashed = "-" in url.rsplit("/")[-1]
        weights = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=hashed, weights_only=True
        )
        network.load_state_dict(_modern(weights))
    except OSError as error:  # of urllib as well
        raise _unreachable(name, error, "its weights", url) from None
    except (RuntimeError, EOFError, UnpicklingError, AttributeError) as error:
        raise InputError(
            f"backbone: {name}: {url.rsplit('/')[-1]} in {torch.hub.get_dir()}/checkpoints is not its weights "
            f"({one_line(error)}); expected those of {url}; remove the file and try again"
        ) from None


def _unreachable(name, error, what, url):
    reason = one_line(getattr(error, "reason", error))
    return InputError(
        f"backbone: {name}: {what} not in {torch.hub.get_dir()} and not to be fetched ({reason}); expected a network "
        f"once, for {url}; connect, or take fft or shallow, which need none"
    )


def _modern(weights):
    """DenseNet's published file has its layers' names as they were before PyTorch 0.4, norm.1 instead of norm1."""
    return {re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", name): tensor for name, tensor in weights.items()}
