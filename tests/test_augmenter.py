import pytest
import torch

from draem_aitex.augmenter import KINDS, Augmenter, AugmenterConfig
from draem_aitex.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cloth(batch=32, size=128):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    weave = 0.4 + 0.1 * torch.sin(2 * torch.pi * y / 7.3) * torch.sin(2 * torch.pi * x / 8.1)
    return weave.expand(batch, 1, size, size).clone()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_changes_only_what_it_says(kind):
    images = cloth()
    corrupted, masks = KINDS[kind](images, torch.full((32,), 0.8), seeded())
    assert corrupted.shape == masks.shape == images.shape and corrupted.dtype == torch.float32
    assert 0 <= corrupted.min() and corrupted.max() <= 1
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    change = (corrupted - images).abs()
    assert change[masks == 1].mean() > 0.02, "inside the mask something happens"
    if kind in ("perlin_texture", "cut_paste"):
        assert change[masks == 0].max() == 0, "nothing outside the mask"
    if kind != "slip":  # behind a slip the cloth is moved, flawless as before
        assert change[masks == 0].mean() < 0.01


def test_severity_makes_defects_stronger():
    images = cloth(64)
    for kind in ("perlin_texture", "thread", "spot"):
        weak, _ = KINDS[kind](images, torch.full((64,), 0.05), seeded(1))
        strong, _ = KINDS[kind](images, torch.full((64,), 0.95), seeded(1))
        assert (strong - images).abs().mean() > 2 * (weak - images).abs().mean(), kind


def test_mix_labels_and_clean_share():
    images = cloth(256, 64)
    batch = Augmenter(AugmenterConfig(clean_share=0.5))(images, seeded())
    touched = batch.kinds > 0
    assert 0.3 < touched.float().mean() < 0.6
    assert torch.equal(batch.images[~touched], images[~touched]) and batch.masks[~touched].sum() == 0
    assert (batch.masks[touched].sum((1, 2, 3)) >= 4).all(), "a corrupted sample has a mask"
    assert set(batch.kinds.tolist()) == set(range(len(KINDS) + 1))
    assert batch.name(int(touched.nonzero()[0])) in KINDS


def test_masks_are_small_as_real_defects_are():
    masks = Augmenter(AugmenterConfig(clean_share=0))(cloth(256), seeded()).masks
    sizes = masks.sum((1, 2, 3))
    assert sizes[sizes > 0].median() < 700 and sizes.max() > 1500


def test_same_seed_same_batch():
    images = cloth()
    first, second = (Augmenter()(images, seeded(5)) for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.masks, second.masks)
    assert not torch.equal(first.images, Augmenter()(images, seeded(6)).images)


def test_any_size_and_a_kind_of_ones_own(monkeypatch):
    def inverted(images, severity, generator=None):
        return 1 - images, torch.ones_like(images)

    monkeypatch.setitem(KINDS, "inverted", inverted)
    images = cloth(8)[:, :, :100, :77]
    batch = Augmenter(AugmenterConfig(clean_share=0, weights={"inverted": 1.0}))(images, seeded())
    assert torch.allclose(batch.images, 1 - images)
    for kind in KINDS:
        assert KINDS[kind](images, torch.rand(8, generator=seeded()), seeded())[0].shape == images.shape


def test_bad_input():
    with pytest.raises(InputError, match="unknown kind 'moth'"):
        Augmenter(AugmenterConfig(weights={"moth": 1.0}))
    with pytest.raises(InputError, match=r"\(4, 3, 8, 8\)"):
        Augmenter()(torch.zeros(4, 3, 8, 8))
