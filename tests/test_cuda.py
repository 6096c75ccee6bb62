"""On a CUDA device: what it computes is what the CPU computes, and nothing waits. Without one all is skipped.

What can be said without a device, and it is much, is in test_fake_cuda.py.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

import draem_aitex
from draem_aitex import InputError
from draem_aitex.anomalies.augmenter import Augmenter
from draem_aitex.baselines.patchcore import PatchCore, greedy_coreset
from draem_aitex.baselines.vae import VAE
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.devices import memory_errors
from draem_aitex.training import live, loop
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import CropSampler, NormalAugmentation
from draem_aitex.training.trainer import Trainer, precision

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def config(steps=10, **changes):
    return TrainConfig(**{"steps": steps, "batch": 4, "crop": 64, **changes})


def seeded(device=DEVICE):
    return torch.Generator(device).manual_seed(0)


@pytest.fixture(scope="module")
def rolls(small_set):
    return load_rolls(draem_aitex.load_aitex(small_set).train)


@contextmanager
def nothing_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run_block(trainer):
    """As many steps as are drawn in one call."""
    return [trainer.step() for _ in range(trainer.ahead)]


def test_sampler_and_augmenter_do_not_wait(rolls):
    generator, sampler, augmenter = seeded(), CropSampler(rolls, 64, DEVICE, NormalAugmentation()), Augmenter()
    augmenter(sampler(64, generator), generator)
    with nothing_waits():
        batch = augmenter(sampler(64, generator), generator)
    assert batch.corrupted.any() and batch.images.is_cuda


def test_a_step_does_not_wait(rolls):
    trainer = Trainer(rolls, config(), DEVICE)
    run_block(trainer)
    with nothing_waits():
        losses = run_block(trainer)
    assert all(torch.isfinite(row["loss"]) for row in losses) and trainer.all_finite


def test_a_training_ends_with_networks_on_the_device(rolls):
    result = loop.train_networks(rolls, config(), device=DEVICE, quiet=True)
    assert result.finished and result.steps == 10 and next(result.model.parameters()).is_cuda


def test_crops_of_several_steps_are_one_batch_cut_up(rolls):
    trainer, generator = Trainer(rolls, config(), DEVICE, ahead=3), seeded()
    sampler = CropSampler(rolls, 64, DEVICE, config().normal_augmentation)
    for _ in range(2):
        clean = sampler(12, generator)
        batch = Augmenter()(clean, generator)
        for part in range(3):
            found_clean, found = trainer.draw()
            mine = slice(4 * part, 4 * part + 4)
            assert torch.equal(found_clean, clean[mine]) and torch.equal(found.images, batch.images[mine])
            assert torch.equal(found.masks, batch.masks[mine]) and torch.equal(found.kinds, batch.kinds[mine])
            trainer.steps += 1


@pytest.mark.parametrize("steps", [3, 5])
def test_a_run_resumed_within_crops_of_several_steps_draws_them_again(rolls, steps):
    trainer, resumed = Trainer(rolls, config(), DEVICE, ahead=3), Trainer(rolls, config(), DEVICE, ahead=3)
    for _ in range(steps):
        trainer.step()
    resumed.restore(trainer.state(finished=False))
    for (clean, batch), (clean_again, batch_again) in [(trainer.draw(), resumed.draw())]:
        assert torch.equal(clean, clean_again) and torch.equal(batch.images, batch_again.images)


def test_gradients_are_the_cpus(rolls):
    """In float32, on the same corrupted batch."""
    on_cpu, on_cuda = (Trainer(rolls, config(precision="float32"), device) for device in ("cpu", DEVICE))
    clean, batch = on_cpu.draw()
    losses = on_cpu.backward(clean, batch)
    moved = SimpleNamespace(images=batch.images.to(DEVICE), masks=batch.masks.to(DEVICE))
    losses_again = on_cuda.backward(clean.to(DEVICE), moved)
    for name, loss in losses.items():
        assert float(losses_again[name]) == pytest.approx(float(loss), rel=1e-4), name
    expected, found = (
        torch.cat([weight.grad.cpu().flatten() for weight in trainer.model.parameters()])
        for trainer in (on_cpu, on_cuda)
    )
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_float32_means_float32():
    """TF32 keeps ten bits of the mantissa: a long sum would be off by some 1e-4 of its size, here by 1e-6."""
    images = torch.rand(1, 512, 32, 32, generator=seeded(), device=DEVICE)
    weights = torch.rand(64, 512, 3, 3, generator=seeded(), device=DEVICE)
    exact = torch.nn.functional.conv2d(images.double(), weights.double())
    before = torch.backends.cudnn.allow_tf32
    with precision(torch.device(DEVICE), "float32"):
        found = torch.nn.functional.conv2d(images, weights)
        product = weights[:, :, 0, 0] @ images[0, :, 0]
    assert torch.backends.cudnn.allow_tf32 == before and found.dtype == torch.float32
    assert float(((found - exact) / exact).abs().max()) < 1e-5
    exact = weights[:, :, 0, 0].double() @ images[0, :, 0].double()
    assert float(((product - exact) / exact).abs().max()) < 1e-5


@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-3), (True, 0.3)])
@pytest.mark.parametrize("memory_mb", [512, 24])
def test_maps_are_the_cpus(small_set, bfloat16, tolerance, memory_mb):
    """With 24 MB in several tiles."""
    path = ROOT / "checkpoints" / "compact_loom.pt"
    rolls = load_rolls(draem_aitex.load_aitex(small_set).test)[:2]
    on_cpu = DraemDetector.load(path, "cpu", quiet=True)
    on_cuda = DraemDetector.load(path, DEVICE, quiet=True, bfloat16=bfloat16, memory_mb=memory_mb)
    for expected, found in zip(on_cpu.maps(rolls), on_cuda.maps(rolls), strict=True):
        assert found.dtype == np.float32 and np.abs(expected - found).max() < tolerance
        assert np.abs(expected - found).mean() < tolerance / 10 and np.array_equal(found == 0, expected == 0)


def test_a_prediction_is_the_cpus(small_set):
    roll = load_rolls(draem_aitex.load_aitex(small_set).test)[0]
    expected, found = (
        draem_aitex.load_detector("compact_loom", device, quiet=True).predict(roll) for device in ("cpu", DEVICE)
    )
    assert found.score == pytest.approx(expected.score, abs=1e-3) and found.threshold == expected.threshold
    assert found.is_defective == expected.is_defective and found.edges == expected.edges


def test_the_autoencoder_is_the_cpus(rolls):
    """A few steps from the same weights, on the same crops, with the same noise."""
    detectors = [VAE(size=32, device=device).fit(rolls, seeded("cpu"), steps=5, batch=8) for device in ("cpu", DEVICE)]
    assert next(detectors[1].network.parameters()).is_cuda
    assert detectors[1].losses == pytest.approx(detectors[0].losses, rel=0.01)
    expected, found = (detector.raw_map(rolls[0].image, rolls[0].edges) for detector in detectors)
    assert np.abs(expected - found).max() < 0.02


@pytest.mark.parametrize("backbone", ["fft", "shallow"])
def test_the_memory_bank_is_the_cpus(rolls, backbone):
    """Vectors chosen at random are the same ones; `shallow` without training."""
    options = {"bank_size": 100, "pool_size": 1000, "coreset": "random", "learn_steps": 0}
    detectors = [PatchCore(backbone, **options, device=d).fit(rolls, seeded("cpu")) for d in ("cpu", DEVICE)]
    (expected,), (found,) = (detector.banks.values() for detector in detectors)
    assert all(tensor.is_cuda for tensor in found)
    assert torch.allclose(expected.vectors, found.vectors.cpu(), rtol=0.02, atol=0.02)
    assert float(found.radius) == pytest.approx(float(expected.radius), rel=0.02)
    expected, found = (detector.raw_map(rolls[0].image, rolls[0].edges) for detector in detectors)
    assert np.abs(expected - found).max() < 0.02


def test_the_coreset_is_the_cpus(rolls):
    """Whole numbers have exact distances, so that nothing is left to rounding but equals, of which there are none."""
    points = torch.randperm(4000, generator=seeded("cpu"))[:2000, None].float() ** 2
    generators = seeded("cpu"), seeded("cpu")
    expected = greedy_coreset(points, 20, generators[0])
    assert greedy_coreset(points.to(DEVICE), 20, generators[1]).tolist() == expected.tolist()


def test_the_live_view(rolls, monkeypatch):
    shown = []
    monkeypatch.setattr(live, "display", lambda figure, display_id: SimpleNamespace(update=shown.append))
    sample = live.fixed_sample(rolls, config(), DEVICE)
    figure = live.LiveFigure(sample)
    result = loop.train_networks(rolls, config(), device=DEVICE, quiet=True, log_every=5)
    figure.draw(result.log, result.model)
    assert sample.images.is_cuda and len(shown) == 1


def test_a_run_goes_from_the_cpu_to_the_device_and_back(rolls, tmp_path):
    path = tmp_path / "model.pt"
    for device, steps in (("cpu", 2), (DEVICE, 4), ("cpu", 6)):
        trainer = Trainer(rolls, config(steps=6), device)
        if path.exists():
            content = load_checkpoint(path)
            trainer.restore(content)
            assert trainer.steps == steps - 2
            for name, tensor in trainer.model.state_dict().items():
                assert torch.equal(tensor.cpu(), content["training"]["model"][name])
        while trainer.steps < steps:
            trainer.step()
        trainer.check()
        save_checkpoint(path, trainer.state(finished=steps == 6))
        assert all(tensor.device.type == "cpu" for tensor in load_checkpoint(path)["weights"].values())
    expected, found = (
        draem_aitex.load_detector(path, device, quiet=True).raw_map(rolls[0].image, rolls[0].edges)
        for device in ("cpu", DEVICE)
    )
    assert np.abs(expected - found).max() < 1e-3


def test_the_public_names_on_the_device(small_set, tmp_path):
    data = draem_aitex.load_aitex(small_set)
    detector = draem_aitex.train(data, config(), device=DEVICE, quiet=True)
    detector.save(tmp_path / "mine.pt")
    again = draem_aitex.load_detector(tmp_path / "mine.pt", DEVICE, quiet=True)
    record = data.test[0]
    assert np.abs(detector.predict(record).map - again.predict(record).map).max() < 1e-3
    assert draem_aitex.evaluate(again, data.test[:2], quiet=True).figures()


def test_too_little_memory_is_bad_input():
    with pytest.raises(InputError, match="give a smaller batch"), memory_errors("give a smaller batch"):
        torch.empty(2**46, device=DEVICE)
