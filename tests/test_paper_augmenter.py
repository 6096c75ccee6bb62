import cv2
import numpy as np
import pytest
import torch
from test_kinds import seeded, woven

from draem_aitex.anomalies.paper_augmenter import (
    PaperAugmenter,
    PaperAugmenterConfig,
    operations,
    paper_masks,
    rotated,
)
from draem_aitex.errors import InputError


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """Two folders of one texture each, as in DTD."""
    folder = tmp_path_factory.mktemp("textures")
    noise = np.random.default_rng(0)
    for name in ("banded", "blotchy"):
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "one.jpg"), noise.integers(0, 255, (90, 120, 3), np.uint8))
    return folder


def test_masks_have_the_published_distribution():
    """Medians and shares measured on the authors' code at 256 x 256: 3,500 px, about ten components, 4.3 % empty."""
    masks = paper_masks(torch.empty(600, 3, 256, 256), seeded()).numpy().astype(np.uint8)[:, 0]
    sizes = masks.sum((1, 2))
    components = [cv2.connectedComponents(mask)[0] - 1 for mask in masks if mask.any()]
    assert 2800 < np.median(sizes[sizes > 0]) < 4200
    assert 0.02 < (sizes == 0).mean() < 0.07
    assert 6 <= np.median(components) <= 16


def test_half_are_touched_and_opacity_is_as_published(textures):
    images = woven(200, 64, channels=3)
    batch = PaperAugmenter(PaperAugmenterConfig(str(textures)))(images, seeded())
    assert 0.35 < batch.corrupted.float().mean() < 0.55
    assert torch.equal(batch.images[~batch.corrupted], images[~batch.corrupted])
    opacity = batch.severity[batch.corrupted, 0]
    assert 0.2 <= opacity.min() < 0.3 and 0.9 < opacity.max() <= 1
    assert ((batch.images - images).abs().amax(1, keepdim=True) * (1 - batch.masks)).max() == 0
    assert 0 <= batch.images.min() and batch.images.max() <= 1 and batch.name(int(batch.corrupted.nonzero()[0]))


def test_grey_and_seeds(textures):
    images = woven(8, 48)
    first, second = (PaperAugmenter(PaperAugmenterConfig(str(textures)))(images, seeded(4)) for _ in range(2))
    assert first.images.shape == images.shape and torch.equal(first.images, second.images)


def test_hidden_files_and_paths(textures):
    """A path becomes a string, which a checkpoint can hold; what a file system keeps beside an image is no texture."""
    (textures / "banded" / "._one.jpg").write_bytes(b"no image")
    config = PaperAugmenterConfig(textures)
    assert config.textures == str(textures) and len(PaperAugmenter(config).paths) == 2


@pytest.mark.parametrize("name", operations())
def test_every_operation_gives_a_texture(name):
    texture = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=seeded())
    for strength in (0.0, 0.3, 1.0):
        changed = operations()[name](texture, strength)
        assert changed.shape == texture.shape and changed.dtype == torch.uint8


def test_a_quarter_turn():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 4:8, :] = 1
    assert torch.allclose(rotated(image, torch.full((1, 1, 1, 1), torch.pi / 2)).sum(), image.sum(), rtol=0.01)
    assert rotated(image, torch.full((1, 1, 1, 1), torch.pi / 2))[0, 0, 16].sum().round() == 4


def test_bad_input(textures, tmp_path):
    with pytest.raises(InputError, match="textures: .*none: no images; expected a folder with some"):
        PaperAugmenter(PaperAugmenterConfig(str(tmp_path / "none")))
    with pytest.raises(InputError, match="textures: .*: no images"):
        PaperAugmenter(PaperAugmenterConfig(str(tmp_path)))
    with pytest.raises(InputError, match="pixels; expected 32 or more"):
        PaperAugmenter(PaperAugmenterConfig(str(textures)))(torch.zeros(1, 3, 16, 16), seeded())
    with pytest.raises(InputError, match="2 channels; expected 3"):
        PaperAugmenter(PaperAugmenterConfig(str(textures)))(torch.zeros(1, 2, 32, 32), seeded())
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="broken.jpg: not a readable image"):
        PaperAugmenter(PaperAugmenterConfig(str(tmp_path)))(torch.zeros(1, 3, 32, 32), seeded())
