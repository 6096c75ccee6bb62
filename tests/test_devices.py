import pytest
import torch

from draem_aitex.data import aitex
from draem_aitex.data.rolls import load_rolls
from draem_aitex.devices import describe, memory_errors, pick_device
from draem_aitex.errors import InputError
from draem_aitex.training import live, loop
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import CropSampler
from draem_aitex.training.trainer import Trainer


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    assert pick_device("cpu") == pick_device(torch.device("cpu")) == torch.device("cpu")
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "threads" in describe(torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("warp", "'warp' is not available here; expected auto, cpu or cuda"),
        ("meta", "'meta' is not available here"),
        ("cuda:99", "'cuda:99' is not available here"),
        ("mps", "'mps' is not used, for nothing here was ever run on it"),
    ],
)
def test_a_device_that_is_not_there_is_one_line_wherever_it_is_named(name, message, small_set):
    rolls, config = load_rolls(aitex.load_aitex(small_set).train), TrainConfig(steps=1, batch=2, crop=64)
    for entry in (
        lambda: pick_device(name),
        lambda: CropSampler(rolls, 64, name),
        lambda: Trainer(rolls, config, name),
        lambda: loop.train_networks(rolls, config, device=name),
        lambda: live.fixed_sample(rolls, config, name),
    ):
        with pytest.raises(InputError, match=message):
            entry()


def test_too_little_memory_is_said_with_advice():
    with (
        pytest.raises(InputError, match="memory is too small for this; batch: 8 crops"),
        memory_errors("batch: 8 crops"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="something else"), memory_errors("no"):
        raise RuntimeError("something else")
