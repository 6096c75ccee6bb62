"""CONTRIBUTING.md, "Add to it": one of each is added here, by one function or class and one line, and then used.

What is added goes through the registries that the package itself fills, and is taken out again.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F

from draem_aitex import evaluate, load_aitex, load_detector, workflow
from draem_aitex.anomalies import kinds
from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.baselines import backbones
from draem_aitex.baselines.baseline import Baseline
from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.cli.main import main
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError
from draem_aitex.model import losses
from draem_aitex.simulation import fabrics, loom
from draem_aitex.training import checkpoint, loop, schema
from draem_aitex.training.config import TrainConfig

REGISTRIES = (
    losses.PARTS, losses.RECONSTRUCTION_WEIGHTS, losses.SEGMENTATION_WEIGHTS, kinds.KINDS, backbones.BACKBONES,
    fabrics.WEAVES, fabrics.FABRICS, workflow.DETECTORS, schema.SCHEMAS,
)  # fmt: skip


@pytest.fixture(autouse=True)
def registries_as_they_were():
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def data(small_set):
    return load_aitex(small_set)


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("what", ["a loss", "a kind of synthetic anomaly", "a backbone", "a weave", "a detector"])
def test_contributing_says_how(what):
    rows = (ROOT / "CONTRIBUTING.md").read_text().split("\n## Add to it\n")[1].split("\n## ")[0].splitlines()
    (row,) = (row for row in rows if row.startswith(f"| {what} |"))
    (module,) = {cell for cell in row.split("`") if cell.startswith("draem_aitex/")}
    assert (ROOT / module).is_file()


def test_a_loss(data, tmp_path):
    """One for each sum: they are in the total, in the log, and in the file of it."""

    @losses.part(losses.RECONSTRUCTION_WEIGHTS, 0.2)
    def edges_loss(reconstruction, target):
        return F.l1_loss(reconstruction.diff(), target.diff())

    @losses.part(losses.SEGMENTATION_WEIGHTS, 2.0)
    def share_loss(logits, mask, weight=None):
        return (logits.sigmoid().mean() - mask.mean()).abs()

    x, y = torch.rand(2, 2, 1, 16, 16, generator=seeded())
    total = 0.56 * losses.l1_loss(x, y) + 0.14 * losses.ssim_loss(x, y) + 0.3 * losses.fft_loss(x, y)
    assert torch.allclose(losses.reconstruction_loss(x, y).total, total + 0.2 * edges_loss(x, y))
    config = TrainConfig(steps=2, batch=2, crop=128)
    (row, _) = loop.train_networks(load_rolls(data.train), config, tmp_path / "a.pt", quiet=True, log_every=1).log
    weights = {**losses.RECONSTRUCTION_WEIGHTS, **losses.SEGMENTATION_WEIGHTS}
    assert set(weights) == {"l1", "ssim", "fft", "edges", "bce", "focal", "share"}
    assert row["loss"] == pytest.approx(sum(weight * row[name] for name, weight in weights.items()), rel=1e-5)
    assert {"edges", "share"} <= set(loop.log_of(tmp_path / "a.pt").read_text().splitlines()[0].split(","))


def test_a_kind_of_synthetic_anomaly(data, tmp_path):
    """It is mixed with the others, keeps the promises of every kind, and has a name in a training's configuration."""

    @kinds.kind
    def stripe(images, fabric, severity, generator):
        masks = torch.zeros_like(fabric)
        masks[..., 20:26] = 1
        return images - masks * (0.3 + 0.3 * severity), masks

    augmenter = AugmenterConfig(weights={"stripe": 1.0, "spot": 0.0}, clean_share=0, pair_share=0).build()
    normal = torch.rand(4, 1, 64, 64, generator=seeded()) * 0.2 + 0.6
    batch = augmenter(normal, seeded())
    assert batch.name(0) == "stripe" and batch.masks.sum() == 4 * 6 * 64
    assert torch.equal(batch.images * (1 - batch.masks), normal * (1 - batch.masks))
    with pytest.raises(InputError, match="severity: values from 2"):
        stripe(normal, torch.ones_like(normal), torch.full((4,), 2.0), seeded())
    train = ["train", "--data", data.root, "--out", tmp_path / "a.pt", "--steps", "1", "--mix", "stripe=5"]
    assert main([str(word) for word in train]) == 0
    kept = checkpoint.load_checkpoint(tmp_path / "a.pt")["config"]["augmenter"]["weights"]
    assert kept["stripe"] == 5 and kept["spot"] == AugmenterConfig().weights["spot"]


def test_a_backbone(data, tmp_path):
    """A bank is filled with what it sees, judges, and comes back from its file."""

    class Steps(backbones.Backbone):
        margin, channels = 8, 2

        def forward(self, images):
            down, across = F.pad(images.diff(dim=2), (0, 0, 0, 1)), F.pad(images.diff(dim=3), (0, 1))
            return [F.avg_pool2d(torch.cat([down, across], 1).abs(), self.stride)]

    backbones.BACKBONES["steps"] = lambda pretrained: Steps()
    bank = PatchCore("steps", bank_size=20, pool_size=200, device="cpu")
    workflow.fit(bank, data).save(tmp_path / "bank.pt")
    again, roll = load_detector(tmp_path / "bank.pt", device="cpu", quiet=True), load_rolls(data.test)[0]
    assert "backbone steps" in again.what and again.banks["all fabrics"].vectors.shape == (20, 2)
    assert np.array_equal(again.predict(roll).map, bank.predict(roll).map)


def test_a_weave():
    """Satin: five picks make a repeat where those of plain weave are two, so its strongest wave is 5 / 2 as long."""
    fabrics.WEAVES["satin"] = [[int((2 * pick - end) % 5 > 0) for end in range(5)] for pick in range(5)]
    plain = replace(fabrics.FABRICS["00"], strengths={(1, 1): 0.3}, turns={}, pick_slope=0.0, wander=0.1)
    fabrics.FABRICS |= {"97": plain, "98": replace(plain, weave=fabrics.WEAVES["satin"])}
    for fabric, picks in (("97", 2), ("98", 5)):
        image, _ = loom.simulate_roll(fabric, generator=np.random.default_rng(0), width=1024)
        cloth = image[:, -512:] - image[:, -512:].mean()
        power = np.abs(np.fft.rfft2(cloth * np.hanning(256)[:, None] * np.hanning(512)))
        row, column = np.unravel_index(power.argmax(), power.shape)
        assert min(row, 256 - row) / 256 == pytest.approx(1 / (picks * plain.recordings[0].pick_pitch), rel=0.1)
        assert column / 512 == pytest.approx(1 / (picks * plain.end_pitch), rel=0.1)


def test_a_detector(data, tmp_path, capsys):
    """Fitted, calibrated and judged as the others are; every command takes its file, which is checked like theirs."""

    @dataclass(eq=False)
    class Brightness(Baseline):
        """How far a pixel is from the mean grey of the normal rolls, in their standard deviations."""

        name, kind = "Brightness", "brightness"
        size_bytes = 0
        what = "Brightness, two numbers"

        def fit(self, rolls, generator):
            with self._fitting(generator, "give fewer rolls"):
                grey = torch.cat([torch.from_numpy(roll.image[:, slice(*roll.edges)]).flatten() for roll in rolls])
                self.normal, self.size_bytes = torch.stack([(grey / 255).mean(), (grey / 255).std()]), 8
            return self

        def _oddness(self, pixels, fabric):
            return (pixels - self.normal[0]).abs(), 3 * self.normal[1]

        def _state(self):
            return {"normal": self.normal}

        def _restore(self, state):
            self.normal, self.size_bytes = state["normal"], 8

    workflow.DETECTORS["brightness"] = Brightness
    detector = workflow.fit(Brightness(smoothing=2, device="cpu"), data)
    detector.save(path := tmp_path / "brightness.pt")
    again = load_detector(path, device="cpu", quiet=True)
    assert isinstance(again, Brightness) and again.smoothing == 2 and again.threshold == detector.threshold
    assert evaluate(again, data.test, quiet=True).figures()["patches"] > 0
    for words in (["info", path], ["evaluate", "--data", data.root, "--checkpoint", path]):
        assert main([str(word) for word in words]) == 0
    assert "Brightness, two numbers" in capsys.readouterr().out
    content = checkpoint.load_checkpoint(path)
    for state in ({"normal": torch.tensor([0.5, float("nan")])}, {"normal": {"all": {"too": "deep"}}}):
        checkpoint.save_checkpoint(path, {**content, "state": state})
        with pytest.raises(InputError, match="state.normal: .* expected"):
            load_detector(path)
