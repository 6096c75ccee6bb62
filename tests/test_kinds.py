import cv2
import numpy as np
import pytest
import torch

from draem_aitex.anomalies.kinds import KINDS, MINIMUM_MASK, PITCH, kind
from draem_aitex.errors import InputError

NINE = ["perlin_texture", "cut_paste", "cut_paste_scar", "thread", "slip", "spot", "stain", "crease", "hole"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def woven(batch=32, size=128, channels=1):
    """Woven, uneven and different from sample to sample."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    weave = 0.1 * torch.sin(2 * torch.pi * y / 7.3) * torch.sin(2 * torch.pi * x / 8.1)
    tone = torch.linspace(0.3, 0.6, batch)[:, None, None, None]
    grain = 0.02 * torch.randn(batch, channels, size, size, generator=seeded(9))
    return (tone + weave + grain).clamp(0, 1)


def apply(name, images, severity, seed=0, fabric=None):
    fabric = torch.ones_like(images[:, :1]) if fabric is None else fabric
    return KINDS[name](images, fabric, torch.full((len(images),), severity), seeded(seed))


def test_the_nine_kinds_are_there():
    assert list(KINDS) == NINE


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NINE)
def test_a_kind_keeps_its_promises(name, channels):
    images = woven(channels=channels)
    before = images.clone()
    corrupted, masks = apply(name, images, 0.7)
    assert torch.equal(images, before), "the images given are left alone"
    assert corrupted.shape == images.shape and masks.shape == (32, 1, 128, 128)
    assert corrupted.dtype == masks.dtype == torch.float32
    assert 0 <= corrupted.min() and corrupted.max() <= 1 and set(masks.unique().tolist()) <= {0.0, 1.0}
    sizes = masks.sum((1, 2, 3))
    assert ((sizes == 0) | (sizes >= MINIMUM_MASK)).all() and (sizes > 0).float().mean() > 0.8
    assert torch.equal(corrupted[sizes == 0], images[sizes == 0]), "no mask, no change"
    change = (corrupted - images).abs().mean(1, keepdim=True)
    inside = (change * masks).sum((1, 2, 3))[sizes > 0] / sizes[sizes > 0]
    assert (inside > 0.01).float().mean() > 0.9 and inside.mean() > 0.04, "inside the mask something happens"


@pytest.mark.parametrize("name", NINE)
def test_nothing_happens_off_the_fabric(name):
    images = woven()
    fabric = torch.ones_like(images)
    fabric[..., :50] = 0
    corrupted, masks = apply(name, images, 0.9, fabric=fabric)
    assert torch.equal(corrupted[..., :50], images[..., :50]) and masks[..., :50].sum() == 0
    assert (masks.sum((1, 2, 3)) > 0).float().mean() > 0.7, "anomalies are placed where the fabric is"
    corrupted, masks = apply(name, images, 0.9, fabric=torch.zeros_like(images))
    assert torch.equal(corrupted, images) and masks.sum() == 0


@pytest.mark.parametrize("name", NINE)
def test_masks_are_bands_not_combs(name):
    """Closing them over a thread's pitch adds next to nothing: they are closed already."""
    masks = apply(name, woven(), 0.8)[1].numpy()[:, 0]
    wide = [cv2.copyMakeBorder(mask, *[2 * PITCH] * 4, cv2.BORDER_CONSTANT) for mask in masks]
    closed = [cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((PITCH, PITCH))) for mask in wide]
    assert np.sum(closed) <= 1.02 * masks.sum() + 20


@pytest.mark.parametrize("name", sorted({*NINE} - {"slip"}))
def test_what_changed_lies_in_the_mask_or_beside_it(name):
    """Soft edges go a little beyond the mask; half of the change or more is inside, most of it nearby."""
    images = woven()
    corrupted, masks = apply(name, images, 0.8)
    change = (corrupted - images).abs()
    nearby = torch.nn.functional.max_pool2d(masks, 21, 1, 10)
    assert (change * masks).sum() > 0.5 * change.sum() and (change * nearby).sum() > 0.95 * change.sum()


def test_fabric_beyond_a_slip_is_moved_but_normal():
    images = woven(64)
    corrupted, masks = apply("slip", images, 0.75, seed=1)
    for shown in (images, corrupted):
        assert abs(shown.mean() - images.mean()) < 0.003
    assert abs(corrupted.std() / images.std() - 1) < 0.03, "nothing is blurred or painted by much"
    # Away from the line, a slipped image is the old one moved by a few pixels, at least on one side of it.
    moved = [i for i in range(64) if (corrupted[i] - images[i]).abs().mean() > 0.02]
    assert len(moved) > 10
    for i in moved[:10]:
        assert masks[i].mean() < 0.1, "the mask is a narrow band"


def test_a_slip_shows_at_its_line_alone():
    """Where a line ends the move fans out: fabric striped along the weft stays smooth along it, away from the line."""
    rows = torch.arange(128)[:, None] * torch.ones(128)
    stripes = (0.5 + 0.2 * torch.sin(2 * torch.pi * rows / 8)).expand(64, 1, 128, 128)
    corrupted, masks = apply("slip", stripes, 0.9, seed=3)
    assert (corrupted - stripes).abs().mean() > 0.01
    away = torch.nn.functional.max_pool2d(masks, 21, 1, 10) == 0
    assert (corrupted.diff(dim=3).abs() * away[..., 1:] * away[..., :-1]).max() < 0.08


@pytest.mark.parametrize("name", NINE)
def test_severity_makes_anomalies_stronger(name):
    images = woven(64)
    weak, strong = (apply(name, images, severity, seed=2)[0] for severity in (0.0, 1.0))
    factor = 1.1 if name.startswith("cut_paste") else 1.5  # turned fabric differs from fabric at any angle
    assert (strong - images).abs().mean() > factor * (weak - images).abs().mean()


@pytest.mark.parametrize("name", NINE)
def test_same_seed_same_anomalies_on_any_size(name):
    images = woven(8)[..., :100, :77]
    first, again, other = (apply(name, images, 0.5, seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert apply(name, woven(2, 24), 0.5)[0].shape == (2, 1, 24, 24)


def test_small_things_are_common():
    """AITEX's median fuzzyball has 22 px."""
    sizes = apply("spot", woven(256), 0.5)[1].sum((1, 2, 3))
    assert sizes[sizes > 0].quantile(0.25) < 60 and sizes.max() > 300


def test_a_hole_shows_the_background():
    corrupted, masks = apply("hole", woven(64), 1.0)
    inside = (masks > 0) & (torch.nn.functional.avg_pool2d(masks, 5, 1, 2) > 0.99)
    values = corrupted[inside]
    assert ((values < 0.15) | (values > 0.85)).float().mean() > 0.9


def test_a_crease_moves_no_thread():
    """Brightness is multiplied: where fabric was darker than its neighbour it still is."""
    images = woven(16)
    corrupted, _ = apply("crease", images, 0.6)
    gain = corrupted / images
    assert gain.diff(dim=3).abs().max() < 0.2 and (gain - 1).abs().max() > 0.1


def test_foreign_texture_is_what_was_given():
    images, foreign = woven(64), torch.zeros(64, 1, 128, 128)
    fabric = torch.ones_like(images)
    corrupted, masks = KINDS["perlin_texture"](images, fabric, torch.ones(64), seeded(), foreign=foreign)
    blackened = ((corrupted == 0) * masks).sum((1, 2, 3)) > 0.9 * masks.sum((1, 2, 3)).clamp_min(1)
    assert 0.15 < blackened.float().mean() < 0.55, "a third of the samples take it"


@pytest.mark.parametrize("size", [8, 24])
def test_a_small_patch_permuted_is_another_patch(size):
    images = woven(64, size)
    corrupted, masks = apply("perlin_texture", images, 1.0)
    same = ((corrupted == images) & (masks == 1)).sum((1, 2, 3)) / masks.sum((1, 2, 3)).clamp_min(1)
    assert (same > 0.9).float().mean() < 0.15


def test_contrast_is_measured_on_the_fabric():
    """White backlight beside the fabric must not make a faint spot a strong one."""
    images = woven(64)
    fabric = torch.ones_like(images)
    fabric[..., :40] = 0
    lit = torch.where(fabric == 1, images, torch.ones(()))
    change = [apply("spot", image, 0.2, 5, fabric)[0] - image for image in (images, lit)]
    assert torch.allclose(change[0].abs().mean(), change[1].abs().mean(), rtol=0.02)


def test_registering_a_kind(monkeypatch):
    monkeypatch.setattr("draem_aitex.anomalies.kinds.KINDS", dict(KINDS))

    @kind
    def whitewash(images, fabric, severity, generator):
        return images + 2 * severity, torch.ones_like(fabric)

    images = woven(4)
    fabric = torch.ones_like(images)
    fabric[..., 64:] = 0
    corrupted, masks = whitewash(images, fabric, torch.ones(4), seeded())
    assert (corrupted[..., :64] == 1).all(), "a kind clips"
    assert torch.equal(corrupted[..., 64:], images[..., 64:]) and torch.equal(masks, fabric)

    @kind
    def flat(images, fabric, severity, generator):
        return images[:, :, 0], fabric

    with pytest.raises(
        InputError,
        match=r"flat: returned shapes \[\(4, 1, 128\), \(4, 1, 128, 128\)\]; expected \[\(4, 1, 128, 128\), ",
    ):
        flat(images, fabric, torch.ones(4), seeded())


BAD = {
    "severity above 1": ({"severity": torch.full((2,), 1.5)}, r"severity: values from 1.5 to 1.5; expected 0 to 1"),
    "severity below 0": ({"severity": torch.full((2,), -0.1)}, r"severity: values from -0.1"),
    "severity not a number": ({"severity": torch.full((2,), float("nan"))}, r"severity: values from nan"),
    "one severity for two": ({"severity": torch.ones(1)}, r"severity: shape \(1,\); expected \(2,\)"),
    "grey levels": ({"images": 255 * torch.ones(2, 1, 32, 32)}, r"images: values from 255 to 255; expected 0 to 1"),
    "bytes": ({"images": torch.ones(2, 1, 32, 32, dtype=torch.uint8)}, r"images: torch.uint8 .*expected float32"),
    "no batch": ({"images": torch.ones(1, 32, 32)}, r"images: .*\(1, 32, 32\); expected float32 \(B, C, H, W\)"),
    "another fabric": ({"fabric": torch.ones(2, 1, 8, 8)}, r"fabric: .*expected float32 \(2, 1, 32, 32\)"),
    "fabric in grey levels": ({"fabric": torch.full((2, 1, 32, 32), 255.0)}, r"fabric: values from 255 to 255"),
    "no generator": ({"generator": None}, r"generator: NoneType; expected a torch.Generator on cpu"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", ["spot", "perlin_texture"])
def test_bad_arguments(case, name):
    change, message = BAD[case]
    good = {
        "images": torch.full((2, 1, 32, 32), 0.5),
        "fabric": torch.ones(2, 1, 32, 32),
        "severity": torch.ones(2),
        "generator": seeded(),
    }
    with pytest.raises(InputError, match=message):
        KINDS[name](**good | change)
