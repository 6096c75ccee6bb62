import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from draem_aitex.data import aitex
from draem_aitex.data.patcher import PatchDataset, open_set_split
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError


@pytest.fixture(scope="module")
def rolls(small_set):
    return load_rolls(aitex.load_aitex(small_set).records)


def test_patches_are_the_rolls(rolls):
    dataset = PatchDataset(rolls)
    assert len(dataset) == sum((roll.edges[1] - roll.edges[0]) // 256 for roll in rolls)
    by_name = {roll.name: roll for roll in rolls}
    for item in (dataset[0], dataset[len(dataset) - 1]):
        place = np.s_[item["row"] : item["row"] + 256, item["column"] : item["column"] + 256]
        roll = by_name[item["name"]]
        assert np.array_equal((item["image"][0] * 255).round().byte().numpy(), roll.image[place])
        assert item["label"] == int(roll.mask is not None and roll.mask[place].any())
    assert {item["label"] for item in dataset} == {0, 1}


def test_a_loader_batches_them(rolls):
    batch = next(iter(DataLoader(PatchDataset(rolls, 64, 32), batch_size=5, generator=torch.Generator())))
    assert batch["image"].shape == batch["mask"].shape == (5, 1, 64, 64) and batch["image"].dtype == torch.float32
    assert 0 <= batch["image"].min() and batch["image"].max() <= 1 and len(batch["name"]) == 5


def places(subset):
    return {(subset.dataset.items[index][3:]) for index in subset.indices}


@pytest.mark.parametrize("shots", [0, 1])
def test_open_set_split(rolls, shots):
    split = open_set_split(rolls, shots)
    train, shown, test = places(split.train), places(split.shots), places(split.test)
    assert not train & test and not train & shown and not shown & test
    normal = [roll for roll in rolls if roll.defect == "000"]
    assert len(train) == round(0.75 * sum(roll.image.shape[1] // 256 for roll in normal))  # the backlight is in
    assert {name for name, *_ in train} <= {roll.name for roll in normal}
    assert all(item["label"] == 1 for item in split.shots) and len(shown) == shots
    labels = [item["label"] for item in split.test]
    defective = sum(item["label"] == 1 for item in split.test.dataset)
    assert sum(labels) == defective - shots and set(labels) == {0, 1}
    assert places(open_set_split(rolls, shots).train) == train != places(open_set_split(rolls, shots, seed=1).train)


def test_more_shots_than_defects(rolls):
    with pytest.raises(InputError, match="shots=1000: the rolls have .* defective patches; ask for"):
        open_set_split(rolls, 1000)
