import dataclasses

import pytest
import torch

from draem_aitex import aitex, training
from draem_aitex.checkpoint import FORMAT, load_checkpoint, load_model, save_checkpoint
from draem_aitex.errors import InputError
from draem_aitex.fabric import load_rolls
from draem_aitex.networks import NetworkConfig
from draem_aitex.sampler import EDGE_SHARE, CropSampler


@pytest.fixture(scope="module")
def rolls(small_set):
    return load_rolls(aitex.split_records(aitex.scan(small_set).records).train)


def config(**changes):
    return training.TrainConfig(**{"steps": 4, "batch": 2, "crop": 64, **changes})


def weights(result):
    return torch.cat([parameter.flatten() for parameter in result.model.parameters()])


def test_crops_lie_on_the_fabric(rolls):
    sampler = CropSampler(rolls, 64)
    crops = sampler(256, torch.Generator().manual_seed(0))
    assert crops.shape == (256, 1, 64, 64) and crops.dtype == torch.float32
    assert crops.max() <= 1 and (crops > 0.98).float().mean() < 0.01, "no backlight"
    again = sampler(256, torch.Generator().manual_seed(0))
    assert torch.equal(crops, again)


def test_crops_do_not_cross_from_roll_to_roll(rolls):
    dark, light = (dataclasses.replace(roll, image=roll.image * 0 + tone) for roll, tone in zip(rolls, (10, 200)))  # noqa: B905
    crops = CropSampler([dark, light], 64)(512, torch.Generator().manual_seed(1))
    spread = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    assert spread.max() == 0 and len(crops.unique()) == 2


def test_the_fabrics_first_column_is_seen_often(rolls):
    """A column that training never shows is an anomaly to the model, and the outermost would never be shown."""
    columns = torch.arange(rolls[0].image.shape[1]) % 251  # each column has a grey of its own, for 251 columns
    stamped = dataclasses.replace(rolls[0], image=columns.byte().expand(rolls[0].image.shape).numpy(), edges=(0, 2000))
    crops = CropSampler([stamped], 64)(4096, torch.Generator().manual_seed(0))
    first = (crops[:, 0, 0, 0] * 255).round()
    second = (crops[:, 0, 0, 1] * 255).round()
    at_edge = (first == 0) & (second == 1)
    assert abs(at_edge.float().mean() - EDGE_SHARE / 2) < 0.02  # half of them, and a few by chance


def test_training_learns(rolls):
    result = training.train(rolls, config(steps=40, learning_rate=3e-3), quiet=True, log_every=1)
    losses = [row["loss"] for row in result.log]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert list(result.log[0])[3:] == ["loss", "l1", "ssim", "fft", "bce", "focal"]


def test_the_papers_layout_trains_resumes_and_comes_back(rolls, tmp_path):
    """Two classes, bilinear upsampling, networks of different depth: the published settings, with narrow widths."""
    narrow = NetworkConfig(reconstructive=(4, 8), discriminative=(4, 8, 8))
    path = tmp_path / "narrow.pt"
    first = training.train(rolls, config(preset=narrow), path, quiet=True)
    again = training.train(rolls, config(preset=narrow), path, quiet=True)
    assert first.finished and again.steps == first.steps == 4
    model, images = load_model(load_checkpoint(path)), torch.rand(1, 1, 64, 64, generator=torch.Generator())
    assert model.config == narrow and torch.allclose(model(images)[1], first.model(images)[1], atol=1e-5)
    other = NetworkConfig(reconstructive=(4, 4), discriminative=(4, 8))
    with pytest.raises(InputError, match=r"another config \(preset\)"):
        training.train(rolls, config(preset=other), path, quiet=True)


def test_same_seed_same_weights(rolls):
    first, second = (weights(training.train(rolls, config(), quiet=True)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, weights(training.train(rolls, config(seed=1), quiet=True)))


def test_interrupted_and_resumed_is_the_same_run(rolls, tmp_path):
    whole = training.train(rolls, config(steps=6), tmp_path / "whole.pt", quiet=True)

    def stop(log):
        if log[-1]["step"] == 3:
            raise KeyboardInterrupt

    path = tmp_path / "parts.pt"
    part = training.train(rolls, config(steps=6), path, quiet=True, log_every=1, on_log=stop)
    assert not part.finished and part.steps == 3 and not load_checkpoint(path)["finished"]
    rest = training.train(rolls, config(steps=6), path, quiet=True)
    assert rest.finished and rest.steps == 6
    assert torch.equal(weights(whole), weights(rest))
    loaded = load_model(load_checkpoint(path))
    assert torch.equal(weights(whole), torch.cat([parameter.flatten() for parameter in loaded.parameters()]))


def test_another_config_or_split_is_refused_and_the_file_stays(rolls, tmp_path):
    path = tmp_path / "model.pt"
    training.train(rolls, config(), path, extra={"split": {"train": {"a": "1"}}}, quiet=True)
    before = path.read_bytes()
    with pytest.raises(InputError, match="seed: found 0, given 7"):
        training.train(rolls, config(seed=7), path, extra={"split": {"train": {"a": "1"}}}, quiet=True)
    with pytest.raises(InputError, match="another split"):
        training.train(rolls, config(), path, extra={"split": {"train": {"a": "2"}}}, quiet=True)
    assert path.read_bytes() == before


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(rolls, tmp_path, monkeypatch):
    path = tmp_path / "model.pt"

    def explode(trainer):
        trainer.steps += 1
        return {"loss": torch.tensor(float("nan"))}

    monkeypatch.setattr(training.Trainer, "step", explode)
    save_checkpoint(tmp_path / "other.pt", {"x": 1})
    with pytest.raises(InputError, match="loss of nan at step 1"):
        training.train(rolls, config(), path, quiet=True, log_every=1)
    assert not path.exists()


def test_schedule_climbs_and_falls():
    factors = [training.learning_rate_factor(progress / 100, 0.05) for progress in range(101)]
    assert factors[0] == pytest.approx(0.01) and max(factors) == pytest.approx(1, abs=1e-3)
    assert factors.index(max(factors)) == 5 and factors[100] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "expected one of the two"),
        ({"minutes": 1.0}, "expected one of the two"),
        ({"steps": 0}, "more than 0"),
        ({"preset": "huge"}, "'huge'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_bad_rolls(rolls):
    with pytest.raises(InputError, match="none given"):
        training.train([], config(), quiet=True)
    with pytest.raises(InputError, match="expected 512 x 512"):
        CropSampler(rolls, 512)


def test_bad_checkpoints(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    torch.save({"format": "draem_aitex checkpoint 0"}, tmp_path / "old.pt")
    expected = (("text.pt", "not a readable"), ("other.pt", "not a checkpoint of this"), ("old.pt", "checkpoint 0"))
    for name, found in expected:
        with pytest.raises(InputError, match=found):
            load_checkpoint(tmp_path / name)


def test_pickled_code_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"format": FORMAT, "weights": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_device_that_is_not_there():
    with pytest.raises(InputError, match="'warp'"):
        training.pick_device("warp")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_training_on_cuda(rolls):
    result = training.train(rolls, config(steps=10), device="cuda", quiet=True)
    assert result.finished and next(result.model.parameters()).is_cuda
