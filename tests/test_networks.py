import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from draem_aitex.errors import InputError
from draem_aitex.model import draem, published_weights
from draem_aitex.model.draem import build_draem, count_parameters
from draem_aitex.model.unet import NetworkConfig, ResidualBlock


@pytest.fixture
def model():
    return build_draem("compact").eval()


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def lived_in(model):
    """Batch norms of a trained model: statistics and factors that are not 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:  # of batch norms, and the biases of convolutions
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 * (not name.endswith("bias")))
    return model.eval()


# The authors' networks, from what their model_unet.py lists: channels of each layer, in multiples of the base width.
PUBLISHED = {
    "reconstructive": {
        "base": 128, "encoder": "encoder", "decoder": "decoder", "skips": False,
        "down": [1, 2, 4, 8, 8],
        "up": {"1": (8, 8), "2": (4, 4), "3": (2, 2), "4": (1, 1)},
        "db": {"1": (8, 8, 4), "2": (4, 4, 2), "3": (2, 2, 1), "4": (1, 1, 1)},
    },
    "discriminative": {
        "base": 64, "encoder": "encoder_segment", "decoder": "decoder_segment", "skips": True,
        "down": [1, 2, 4, 8, 8, 8],
        "up": {"_b": (8, 8), "1": (8, 4), "2": (4, 2), "3": (2, 1), "4": (1, 1)},
        "db": {"_b": (16, 8, 8), "1": (12, 4, 4), "2": (6, 2, 2), "3": (3, 1, 1), "4": (2, 1, 1)},
    },
}  # fmt: skip


def published_state(layout, inputs, outputs):
    """Random weights under the authors' names."""
    generator, base, state = torch.Generator().manual_seed(inputs), layout["base"], {}

    def layer(convolution, norm, before, after):
        scale = (2 / (9 * before)) ** 0.5
        state[f"{convolution}.weight"] = scale * torch.randn(after, before, 3, 3, generator=generator)
        state[f"{convolution}.bias"] = 0.1 * torch.randn(after, generator=generator)
        if norm:
            for name, offset in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
                state[f"{norm}.{name}"] = torch.rand(after, generator=generator) + offset
            state[f"{norm}.num_batches_tracked"] = torch.tensor(1)

    before = inputs
    for number, after in enumerate(layout["down"], start=1):
        block = f"{layout['encoder']}.block{number}"
        layer(f"{block}.0", f"{block}.1", before, after * base)
        layer(f"{block}.3", f"{block}.4", after * base, after * base)
        before = after * base
    for name in layout["up"]:
        up, db = f"{layout['decoder']}.up{name}", f"{layout['decoder']}.db{name}"
        layer(f"{up}.1", f"{up}.2", *(base * width for width in layout["up"][name]))
        first, middle, last = (base * width for width in layout["db"][name])
        layer(f"{db}.0", f"{db}.1", first, middle)
        layer(f"{db}.3", f"{db}.4", middle, last)
    layer(f"{layout['decoder']}.fin_out.0", None, base, outputs)
    return state


def published_forward(layout, state, x):
    """What the authors' network does with these weights, layer by layer, as plain functions."""

    def layer(x, convolution, norm):
        x = F.conv2d(x, state[f"{convolution}.weight"], state[f"{convolution}.bias"], padding=1)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return F.relu(F.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"]))

    seen = []
    for number in range(1, len(layout["down"]) + 1):
        block = f"{layout['encoder']}.block{number}"
        x = layer(layer(F.max_pool2d(x, 2) if seen else x, f"{block}.0", f"{block}.1"), f"{block}.3", f"{block}.4")
        seen.append(x)
    for name, skip in zip(layout["up"], seen[-2::-1], strict=True):
        up, db = f"{layout['decoder']}.up{name}", f"{layout['decoder']}.db{name}"
        x = layer(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), f"{up}.1", f"{up}.2")
        x = torch.cat([x, skip], 1) if layout["skips"] else x
        x = layer(layer(x, f"{db}.0", f"{db}.1"), f"{db}.3", f"{db}.4")
    head = f"{layout['decoder']}.fin_out.0"
    return F.conv2d(x, state[f"{head}.weight"], state[f"{head}.bias"], padding=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_paper_computes_what_the_authors_networks_compute(channels):
    states = {
        "reconstructive": published_state(PUBLISHED["reconstructive"], channels, channels),
        "discriminative": published_state(PUBLISHED["discriminative"], 2 * channels, 2),
    }
    model = build_draem("paper", channels=channels).eval()
    published_weights.load_published_weights(model, **states)
    images = noise(1, channels, 64, 96)
    with torch.inference_mode():
        expected = published_forward(PUBLISHED["reconstructive"], states["reconstructive"], images)
        two = published_forward(PUBLISHED["discriminative"], states["discriminative"], torch.cat([expected, images], 1))
        reconstruction, logits = model(images)
        assert torch.allclose(model.discriminative(torch.cat([expected, images], 1)), two, atol=1e-5)
    assert torch.allclose(reconstruction, expected, atol=1e-5)
    assert torch.allclose(torch.sigmoid(logits), torch.softmax(two, 1)[:, 1:], atol=1e-5)


def test_paper_has_the_published_number_of_parameters():
    model = build_draem("paper", channels=3)
    assert count_parameters(model.reconstructive) == 69_048_579
    assert count_parameters(model.discriminative) == 28_374_146


def test_published_weights_that_do_not_fit_are_named():
    states = [published_state(PUBLISHED[name], 1, 1) for name in ("reconstructive", "discriminative")]
    model = build_draem("paper")
    before = model.reconstructive.head.weight.clone()
    with pytest.raises(
        InputError,
        match='discriminative: weights do not fit .*; expected theirs, and build_draem\\("paper", channels=3\\)',
    ):
        published_weights.load_published_weights(model, *states)
    assert torch.equal(model.reconstructive.head.weight, before), "all or nothing"
    with pytest.raises(InputError, match="reconstructive: weights do not fit"):
        published_weights.load_published_weights(model, states[1], states[1])
    with pytest.raises(InputError, match=r"'module\.block1\.0\.weight' is no name of the authors'"):
        published_weights.rename_published({"module.block1.0.weight": torch.zeros(1)})


@pytest.mark.parametrize("size", [(128, 128), (256, 320), (100, 77), (17, 16), (1, 1), (3, 200)])
def test_any_size_comes_back(model, size):
    reconstruction, logits = model(noise(2, 1, *size))
    assert reconstruction.shape == logits.shape == (2, 1, *size)


def test_padding_mirrors_and_crops_back(model):
    images = noise(1, 1, 37, 50)
    down, right = -37 % model.config.multiple, -50 % model.config.multiple
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, down), (0, right)), mode="reflect")
    for ours, expected in zip(model(images), model(torch.from_numpy(padded)), strict=True):
        assert torch.allclose(ours, expected[..., :37, :50], atol=1e-6)
    small = noise(1, 1, 3, 1)
    expected = np.pad(small.numpy(), ((0, 0), (0, 0), (0, 13), (0, 15)), mode="reflect")
    assert np.array_equal(draem.mirror_to_multiple(small, 16).numpy(), expected)


def test_presets_are_one_definition():
    """Stem, classes, slope and upsampling change sizes, never which layers there are."""
    compact = replace(draem.PRESETS["compact"], reconstructive_block="plain")
    published = NetworkConfig(1, compact.reconstructive, compact.discriminative, up_convolution=compact.up_convolution)
    assert list(build_draem(compact).state_dict()) == list(build_draem(published).state_dict())
    assert count_parameters(build_draem("compact")) < 2e6


def residual_forward(state, x, levels, blocks):
    """What a network of residual blocks with skips computes, as plain functions, batch norms in evaluation mode."""

    def blocked(x, level, first=1):
        for number in range(first, first + blocks):
            at = f"{level}.{number}.body"
            inner = F.conv2d(x, state[f"{at}.0.weight"], state[f"{at}.0.bias"], padding=1)
            norm = [state[f"{at}.1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
            inner = F.leaky_relu(F.batch_norm(inner, *norm), 0.1)
            x = x + F.conv2d(inner, state[f"{at}.3.weight"], state[f"{at}.3.bias"], padding=1)
        return x

    def conv(x, name, **options):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)

    x, seen = F.pixel_unshuffle(x, 2), []
    for level in range(levels):
        x = conv(x, f"encoder.{level}.0", **({"stride": 2} if level else {"padding": 1}))
        x = blocked(x, f"encoder.{level}")
        seen.append(x)
    for step, skip in enumerate(seen[-2::-1]):
        x = F.pixel_shuffle(conv(x, f"up.{step}.0"), 2)
        x = blocked(conv(torch.cat([x, skip], 1), f"decoder.{step}.0"), f"decoder.{step}")
    return F.pixel_shuffle(conv(x, "head", padding=1), 2)


def test_residual_blocks_against_plain_functions():
    settings = {"reconstructive_block": "residual", "discriminative_block": "residual", "residual": (2, 2, 2)}
    config = NetworkConfig(1, (4, 8, 8), (4, 8, 8), 1, stem=2, negative_slope=0.1, **settings)
    network = build_draem(config).discriminative
    generator = torch.Generator().manual_seed(2)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.3 + 0.2 * name.endswith("var"))
    network.eval()
    x = noise(1, 2, 32, 48)
    assert torch.allclose(network(x), residual_forward(network.state_dict(), x, 3, 2), rtol=1e-4)


def test_the_residual_network_starts_linear(model):
    one, other = noise(2, 1, 1, 64, 64)
    network = model.reconstructive
    zero, sums = network(torch.zeros_like(one)), network((one + other) / 2)
    assert torch.allclose(sums, (network(one) + network(other)) / 2, atol=1e-5) and not torch.allclose(
        sums, zero, atol=1e-3
    )


def test_the_reconstructive_network_has_no_skips_and_the_discriminative_has(model):
    """Cut the lowest level's way up: without skips nothing of the input is left, with skips the image still is."""
    one, other = noise(2, 1, 1, 64, 64)
    for network, inputs, differs in ((model.reconstructive, 1, False), (model.discriminative, 2, True)):
        bottom = network.encoder[-1].register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
        first, second = network(one.repeat(1, inputs, 1, 1)), network(other.repeat(1, inputs, 1, 1))
        bottom.remove()
        assert (not torch.allclose(first, second)) == differs


def test_folding_changes_nothing_but_the_layers():
    for model in (lived_in(build_draem("compact")), lived_in(build_draem(NetworkConfig(3, (8, 16), (8, 16, 16))))):
        images = noise(2, model.config.channels, 64, 80)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        folded = draem.fold_batch_norm(model)
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
        for ours, expected in zip(folded(images), model(images), strict=True):
            assert torch.allclose(ours, expected, atol=1e-5)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_same_seed_same_weights_and_the_global_state_untouched():
    before = torch.get_rng_state()
    one, same, other = (build_draem("compact", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(2, 3, 64, 64),
            r"float32 of shape \(2, 3, 64, 64\); expected torch.float32 of shape \(B, 1, H, W\)",
        ),
        (torch.zeros(64, 64), r"shape \(64, 64\); expected"),
        (torch.zeros(0, 1, 64, 64), r"shape \(0, 1, 64, 64\); expected"),
        (torch.zeros(1, 1, 64, 64, dtype=torch.uint8), "torch.uint8 .*expected torch.float32"),
        (torch.zeros(1, 1, 64, 64, dtype=torch.float64), "torch.float64 .*expected torch.float32"),
        (torch.full((1, 1, 64, 64), 255.0), "images: values from 255 to 255; expected 0 to 1; divide"),
        (torch.full((1, 1, 64, 64), torch.nan), "images: values from nan"),
    ],
)
def test_bad_images_name_expected_and_found(model, images, message):
    with pytest.raises(InputError, match=message) as caught:
        model(images)
    assert "\n" not in str(caught.value)


def test_grey_images_for_a_network_of_colour():
    """The message says how to repeat grey, and what it says works."""
    model, grey = build_draem(NetworkConfig(3, (8, 16), (8, 16))).eval(), noise(2, 1, 32, 32)
    with pytest.raises(
        InputError, match=r"\(B, 3, H, W\) in \[0, 1\]; repeat grey images: images.expand\(-1, 3, -1, -1\)$"
    ):
        model(grey)
    assert model(grey.expand(-1, 3, -1, -1))[0].shape == (2, 3, 32, 32)
    with pytest.raises(InputError, match=r"\(B, 3, H, W\) in \[0, 1\]$"):
        model(noise(2, 2, 32, 32))


@pytest.mark.parametrize("settings", [{}, {"reconstructive_block": "residual", "residual": (1, 3)}])
def test_the_receptive_field_is_the_half_width(settings):
    """Nothing farther away than this changes an output pixel; the farthest pixel that does is most of it away."""
    config = NetworkConfig(1, (4, 4), (4, 4, 4), stem=2, classes=1, upsampling="nearest", **settings)
    model = build_draem(config).eval()
    for block in (module for module in model.modules() if isinstance(module, ResidualBlock)):
        torch.nn.init.normal_(block.body[-1].weight, generator=torch.Generator().manual_seed(0))
    half = model.config.receptive_field
    images = noise(1, 1, 16, 4 * half).requires_grad_()
    middle = 2 * half
    model(images)[1][0, 0, 8, middle].backward()
    changed = (images.grad[0, 0].abs().sum(0).nonzero() - middle).abs()
    assert 0.7 * half < changed.max() <= half


@pytest.mark.parametrize(
    "settings",
    [
        {"stem": 0},
        {"classes": 3},
        {"upsampling": "cubic"},
        {"reconstructive": ()},
        {"discriminative": 16},
        {"discriminative": (16, 0.5)},
        {"channels": 0},
        {"reconstructive_block": "dense"},
        {"discriminative_block": "dense"},
    ],
)
def test_bad_settings_are_named(settings):
    [(name, value)] = settings.items()
    with pytest.raises(InputError, match=f"^{name}: {re.escape(repr(value))}; expected"):
        NetworkConfig(**settings)


def test_residual_blocks_are_counted_level_by_level():
    with pytest.raises(
        InputError, match=r"residual: \(1, 2\); expected a tuple of 3 numbers of blocks, .* of reconstr"
    ):
        NetworkConfig(1, (4, 8, 8), reconstructive_block="residual", residual=(1, 2))


def test_unknown_preset():
    with pytest.raises(InputError, match="'huge'; expected one of compact, paper"):
        build_draem("huge")
