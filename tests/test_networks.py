import pytest
import torch

from draem_aitex.errors import InputError
from draem_aitex.networks import NetworkConfig, build_draem, count_parameters


@pytest.fixture
def model():
    return build_draem("compact").eval()


@pytest.mark.parametrize("size", [(128, 128), (256, 320), (100, 77), (17, 16)])
def test_any_size_comes_back(model, size):
    reconstruction, logits = model(torch.zeros(2, 1, *size))
    assert reconstruction.shape == logits.shape == (2, 1, *size)


def test_compact_is_about_a_million_parameters(model):
    assert 0.8e6 < count_parameters(model) < 1.1e6


def test_the_reconstructive_network_has_no_skips_and_the_discriminative_has(model):
    """Cut the lowest level's way up: without skips nothing of the input is left, with skips the picture still is."""
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 1, 1, 64, 64, generator=generator)
    for network, inputs, differs in ((model.reconstructive, 1, False), (model.discriminative, 2, True)):
        bottom = network.encoder[-1].register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))
        first, second = network(one.repeat(1, inputs, 1, 1)), network(other.repeat(1, inputs, 1, 1))
        bottom.remove()
        assert (not torch.allclose(first, second)) == differs


def test_three_channels():
    reconstruction, logits = build_draem(NetworkConfig(channels=3, width=8))(torch.zeros(2, 3, 64, 64))
    assert reconstruction.shape == (2, 3, 64, 64) and logits.shape == (2, 1, 64, 64)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 64, 64), torch.zeros(64, 64), torch.zeros(1, 1, 8, 64)])
def test_wrong_shapes_name_expected_and_found(model, images):
    with pytest.raises(InputError, match=r"expected"):
        model(images)


def test_unknown_preset():
    with pytest.raises(InputError, match="'huge'; expected one of compact"):
        build_draem("huge")
