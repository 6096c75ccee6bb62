import json
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from test_kinds import seeded, woven
from torch.utils._python_dispatch import TorchDispatchMode

from draem_aitex.anomalies import kinds
from draem_aitex.anomalies.augmenter import Augmenter, AugmenterConfig, host_generator
from draem_aitex.anomalies.paper_augmenter import PaperAugmenter, PaperAugmenterConfig
from draem_aitex.errors import InputError

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "item")


class Operations(TorchDispatchMode):
    """Notes the operations that need to know a tensor's values, for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        masked = name.startswith("index") and any(
            torch.is_tensor(index) and index.dtype == torch.bool
            for argument in args
            if isinstance(argument, list | tuple)
            for index in argument
        )
        if name in WAITS or masked:
            self.waiting.append(name)
        return func(*args, **(kwargs or {}))


def test_shares_and_labels():
    images = woven(512, 64)
    batch = Augmenter(AugmenterConfig(clean_share=0.5, pair_share=0.2))(images, seeded())
    touched = batch.corrupted
    assert 0.4 < touched.float().mean() < 0.6
    assert torch.equal(batch.images[~touched], images[~touched]) and batch.masks[~touched].sum() == 0
    assert (batch.masks[touched].sum((1, 2, 3)) >= kinds.MINIMUM_MASK).all(), "a corrupted sample has a mask"
    assert set(batch.kinds[:, 0].tolist()) == set(range(len(kinds.KINDS) + 1))
    paired = batch.kinds[:, 1] > 0
    assert 0.1 < (paired & touched).sum() / touched.sum() < 0.3 and not (paired & ~touched).any()
    assert ((batch.severity > 0) == (batch.kinds > 0)).all() and batch.severity.max() <= 1
    assert batch.name(int((~touched).nonzero()[0])) == "untouched"
    first, second = batch.name(int((batch.kinds > 0).all(1).nonzero()[0])).split(" + ")
    assert {first, second} <= set(kinds.KINDS)


def test_nothing_moves_an_anomaly_away_from_its_mask():
    """A slip is only ever the first of two; where slips are all there is, there are no pairs."""
    batch = Augmenter(AugmenterConfig(0, 1))(woven(256, 32), seeded())
    second = batch.names.index("slip") + 1
    assert (batch.kinds[:, 0] == second).any() and not (batch.kinds[:, 1] == second).any()
    assert not Augmenter(AugmenterConfig(0, 1, {"slip": 1.0}))(woven(8, 64), seeded()).kinds[:, 1].any()


def test_weights_decide_how_often():
    batch = Augmenter(AugmenterConfig(0.0, 0.0, {"spot": 3.0, "hole": 1.0, "slip": 0.0}))(woven(400, 32), seeded())
    first = batch.kinds[:, 0]
    assert 0.65 < (first == 1).sum() / (first > 0).sum() < 0.85 and not (batch.kinds == 3).any()


def test_a_large_batch_is_as_good_as_small_ones():
    """The consecutive parts of batches of 8 * 16, and batches of 16 made one by one, have one distribution.

    Chi-square tests of first kinds, second kinds, their combination with "untouched", and the number of untouched
    samples a part; Kolmogorov-Smirnov tests of severities and mask areas. Nine groups, so 0.001 is seldom crossed.
    """
    count, parts, repeats = 16, 8, 40
    generator, augmenter = seeded(1), Augmenter()
    large = [augmenter(woven(parts * count, 24), generator) for _ in range(repeats)]
    groups = [[batch.part(count * i, count * (i + 1)) for batch in large] for i in range(parts)]
    groups.append([augmenter(woven(count, 24), generator) for _ in range(3 * repeats)])
    kinds = [torch.cat([batch.kinds for batch in group]) for group in groups]
    assert all(len(group) == count * repeats for group in kinds[:-1])
    numbers = len(augmenter.names) + 1
    untouched = [torch.stack([(~batch.corrupted).sum() for batch in group]).clamp(1, 6) for group in groups]
    for name, tables in (
        ("first kind", [torch.bincount(group[:, 0], minlength=numbers) for group in kinds]),
        ("second kind", [torch.bincount(group[:, 1], minlength=numbers) for group in kinds]),
        ("layers", [torch.bincount((group > 0).sum(1), minlength=3) for group in kinds]),
        ("untouched in a batch", [torch.bincount(group, minlength=7) for group in untouched]),
    ):
        table = torch.stack(tables)
        assert stats.chi2_contingency(table[:, table.any(0)].numpy()).pvalue > 0.001, name
    for name, values in (
        ("severity", [torch.cat([batch.severity[batch.kinds > 0] for batch in group]) for group in groups]),
        ("area", [torch.cat([batch.masks.sum((1, 2, 3))[batch.corrupted] for batch in group]) for group in groups]),
    ):
        for group in values[:-1]:
            assert stats.ks_2samp(group, values[-1]).pvalue > 0.001, name


def test_a_part_holds_its_samples_alone():
    batch = Augmenter()(woven(12, 32), seeded())
    part = batch.part(4, 8)
    for name in ("images", "masks", "kinds", "severity"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[4:8])
    assert [part.name(i) for i in range(4)] == [batch.name(i) for i in range(4, 8)]
    assert part.images.data_ptr() == batch.images[4:].data_ptr(), "nothing is copied"


def test_a_configuration_builds_its_augmenter(tmp_path):
    cv2.imwrite(str(tmp_path / "texture.png"), np.zeros((8, 8), np.uint8))
    for config, expected in (
        (AugmenterConfig(clean_share=0.3), Augmenter),
        (PaperAugmenterConfig(str(tmp_path)), PaperAugmenter),
    ):
        augmenter = config.build()
        assert type(augmenter) is expected and augmenter.config == config
        assert augmenter(woven(4, 32), seeded(), torch.ones(4, 1, 32, 32)).images.shape == (4, 1, 32, 32)
        assert type(config)(**json.loads(json.dumps(asdict(config)))) == config, "it can be saved in a checkpoint"


def test_where_a_kind_lands_is_random():
    """The batch's order tells nothing: first and last samples stay clean equally often."""
    images, augmenter, generator = woven(16, 32), Augmenter(AugmenterConfig(clean_share=0.5)), seeded()
    clean = sum((~augmenter(images, generator).corrupted).float() for _ in range(120)) / 120
    assert clean.max() - clean.min() < 0.35 and (clean[:8].mean() - clean[8:].mean()).abs() < 0.1


def test_masks_are_as_small_as_real_defects():
    """An anomaly by itself: from specks up, with a median a tenth of the published masks' 3,500 px."""
    sizes = Augmenter(AugmenterConfig(clean_share=0, pair_share=0))(woven(1024), seeded()).masks.sum((1, 2, 3))
    sizes = sizes[sizes > 0]
    assert sizes.quantile(0.1) < 60 and sizes.median() < 350 and sizes.max() > 1500


def test_same_seed_same_batch():
    images = woven()
    first, second = (Augmenter()(images, seeded(5)) for _ in range(2))
    assert all(torch.equal(getattr(first, part), getattr(second, part)) for part in ("images", "masks", "severity"))
    assert not torch.equal(first.images, Augmenter()(images, seeded(6)).images)


def test_nothing_off_the_fabric():
    images = woven(64)
    fabric = torch.ones_like(images)
    fabric[..., :64] = 0
    batch = Augmenter(AugmenterConfig(clean_share=0, pair_share=0.5))(images, seeded(), fabric)
    assert torch.equal(batch.images[..., :64], images[..., :64]) and batch.masks[..., :64].sum() == 0


def test_colour_and_any_size():
    images = woven(8, channels=3)[:, :, :100, :77]
    batch = Augmenter(AugmenterConfig(clean_share=0))(images, seeded())
    assert batch.images.shape == images.shape and batch.masks.shape == (8, 1, 100, 77)


def test_a_kind_of_ones_own(monkeypatch):
    monkeypatch.setitem(kinds.KINDS, "inverted", None)

    @kinds.kind
    def inverted(images, fabric, severity, generator):
        return 1 - images, fabric

    images = woven(8)
    batch = Augmenter(AugmenterConfig(0, 0, {"inverted": 1.0}))(images, seeded())
    assert torch.allclose(batch.images, 1 - images) and batch.name(0) == "inverted"


def test_nothing_waits_for_the_device(monkeypatch):
    """No operation asks for a tensor's values, once the range was seen: checked here by the operations themselves."""
    augmenter = Augmenter(AugmenterConfig(pair_share=0.5))
    images = woven(64)
    with Operations() as operations:
        images.max().item()
    assert operations.waiting, "the check notices a wait"
    counts = augmenter._draw_counts(64, seeded())
    augmenter._draw_counts = lambda batch, host: counts  # drawn on the host, where nothing is waited for
    monkeypatch.setattr("draem_aitex.anomalies.augmenter.check_batch", lambda *_, **__: None)
    with Operations() as operations:
        augmenter(images, seeded())
    assert operations.waiting == []


def test_the_hosts_generator():
    given = seeded(3)
    assert host_generator(given) is given


def test_bad_input():
    with pytest.raises(InputError, match="unknown kind 'moth'; expected some of perlin_texture"):
        AugmenterConfig(weights={"moth": 1.0})
    with pytest.raises(InputError, match="weights: .*one of them above 0"):
        AugmenterConfig(weights={"spot": 0.0})
    with pytest.raises(InputError, match="clean_share: 1.5; expected a share"):
        AugmenterConfig(clean_share=1.5)
    with pytest.raises(InputError, match=r"images: .*\(4, 8, 8\)"):
        Augmenter()(torch.zeros(4, 8, 8), seeded())
    with pytest.raises(InputError, match="images: values from 0.3 to 254"):
        Augmenter()(torch.tensor([0.3, 254.0]).view(1, 1, 1, 2), seeded())
    with pytest.raises(InputError, match="generator: None"):
        Augmenter()(woven(2), None)
