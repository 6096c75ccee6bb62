"""Code for CUDA, run on a machine without one: everything on the right device, and nothing waits. See fake_cuda.py."""

import numpy as np
import pytest
import torch
from fake_cuda import Wait, WrongDevice, fake_cuda
from fake_cuda import backward as fake_backward
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError
from torch.utils._pytree import tree_leaves

from draem_aitex.anomalies.augmenter import Augmenter
from draem_aitex.baselines import backbones
from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.model.draem import build_draem
from draem_aitex.training import live
from draem_aitex.training import trainer as trainer_module
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import CropSampler, NormalAugmentation
from draem_aitex.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
DEVICE = "cuda:0"
RANGE = 2  # values that the augmenter reads once, of its first batch: the least and the greatest


@pytest.fixture
def cuda(monkeypatch):
    with fake_cuda(monkeypatch) as cuda:
        yield cuda


@pytest.fixture(scope="module")
def rolls():
    """Two fabrics, two rolls each, noise."""
    images = np.random.default_rng(0).integers(0, 256, (4, 256, 800), dtype=np.uint8)
    return [Roll(f"roll {n}", f"0{n % 2}", "000", image, (10, 778), None) for n, image in enumerate(images)]


def seeded(device=DEVICE):
    return torch.Generator(device).manual_seed(0)


def at_home(*tensors):
    assert all(tensor.device == torch.device(DEVICE) for tensor in tensors)


FAULTS = {  # what the harness must find; y lies on the device, x on the host
    "item": (Wait, lambda x, y: y.sum().item()),
    "float": (Wait, lambda x, y: float(y.sum())),
    "bool": (Wait, lambda x, y: bool((y > 0).all())),
    "tolist": (Wait, lambda x, y: y.tolist()),
    "to the host": (Wait, lambda x, y: y.cpu()),
    "into the host's memory": (Wait, lambda x, y: x.copy_(y)),
    "a mask as an index": (Wait, lambda x, y: y[y > 0]),
    "a mask that is written to": (Wait, lambda x, y: y.__setitem__(y > 0, 1.0)),
    "two devices": (FakeTensorDeviceMismatchError, lambda x, y: x + y),
    "generator on the host": (WrongDevice, lambda x, y: torch.rand(3, generator=seeded("cpu"), device=DEVICE)),
    "generator on the device": (WrongDevice, lambda x, y: torch.rand(3, generator=seeded())),
    "permutation": (WrongDevice, lambda x, y: torch.randperm(3, generator=seeded("cpu"), device=DEVICE)),
    "in place": (WrongDevice, lambda x, y: y.uniform_(generator=seeded("cpu"))),
    "no generator": (WrongDevice, lambda x, y: torch.rand(3, device=DEVICE)),
    "no generator, hidden": (WrongDevice, lambda x, y: torch.nn.functional.dropout(y)),
}
UPLOADS = {
    "to the device": lambda x, y: x.to(DEVICE),
    "a list": lambda x, y: torch.tensor([1, 2], device=DEVICE),
    "indices on the host": lambda x, y: y[torch.tensor([0, 1])],
    "indices in a list": lambda x, y: y[[0, 1]],
    "into the device's memory": lambda x, y: y.copy_(x),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_harness_finds_a_fault(cuda, name):
    error, fault = FAULTS[name]
    with pytest.raises(error):
        fault(torch.ones(3), torch.ones(3, device=DEVICE))


@pytest.mark.parametrize("name", UPLOADS)
def test_the_harness_finds_a_copy_from_the_host(cuda, name):
    pair = torch.ones(3), torch.ones(3, device=DEVICE)
    UPLOADS[name](*pair)
    with cuda.strict(), pytest.raises(Wait):
        UPLOADS[name](*pair)


def test_the_harness_lets_through_what_is_right(cuda):
    x, y = torch.rand(3, generator=seeded("cpu")), torch.rand(3, generator=seeded(), device=DEVICE)
    with cuda.strict():
        y[1:] = 2.0
        at_home(y * 2, y * torch.tensor(2.0), y[torch.arange(2, device=DEVICE)], torch.where(y > 0, y, 0.0))
    assert float(x.sum()) > 0 and x.tolist() and cuda.reads == 0, "the host's tensors are real"
    with cuda.allow(reads=2):
        assert float(y.sum()) == 1 and y.cpu().numpy().shape == (3,)
        with pytest.raises(Wait):
            y.sum().item()


def test_sampler_and_augmenter(cuda, rolls):
    generator = seeded()
    sampler, augmenter = CropSampler(rolls, 64, DEVICE, NormalAugmentation()), Augmenter()
    with cuda.allow(RANGE):
        augmenter(sampler(32, generator), generator)
    with cuda.strict():
        crops = sampler(32, generator)
        batch = augmenter(crops, generator)
    at_home(crops, batch.images, batch.masks, batch.kinds, batch.severity)


@pytest.fixture
def trainer(cuda, rolls):
    """Past its first steps: they read the range of the first batch and copy weights into their averages."""
    trainer = Trainer(rolls, TrainConfig(steps=100, batch=4, crop=64), DEVICE)
    with cuda.allow(RANGE):
        run_block(trainer)
    return trainer


def run_block(trainer):
    """As many steps as are drawn in one call."""
    return [trainer.step() for _ in range(trainer.ahead)][-1]


def test_a_training_step(cuda, trainer):
    with cuda.strict():
        losses = run_block(trainer)
    at_home(*losses.values(), *trainer.average.state_dict().values(), trainer.all_finite)
    for weight in trainer.model.parameters():
        at_home(weight, weight.grad, trainer.optimizer.state[weight]["exp_avg"])
    assert trainer.steps == 2 * trainer.ahead > 2 and cuda.reads == RANGE


def test_a_training_step_of_the_published_networks(cuda, rolls):
    trainer = Trainer(rolls, TrainConfig.of_preset("paper", steps=100, batch=2, crop=64), DEVICE)
    with cuda.allow(RANGE):
        run_block(trainer)
    with cuda.strict():
        at_home(*run_block(trainer).values())


def test_a_runs_state_comes_to_the_host_and_goes_back(cuda, trainer):
    """Every tensor of a checkpoint is on the host; restored, every one is on the device."""
    with cuda.allow(1000):
        state = trainer.state(finished=False)
    tensors = [x for x in tree_leaves(state) if isinstance(x, torch.Tensor)]
    assert len(tensors) > 100 and all(tensor.device.type == "cpu" for tensor in tensors)
    trainer.restore(state)
    at_home(*trainer.model.state_dict().values(), *trainer.average.state_dict().values())
    at_home(*(state["exp_avg"] for state in trainer.optimizer.state.values()))
    run_block(trainer)


def _crops_by_indices_on_the_host(trainer, monkeypatch):
    trainer.sampler.first = torch.zeros(4, dtype=torch.long)


def _draws_by_a_generator_on_the_host(trainer, monkeypatch):
    trainer.generator = seeded("cpu")


def _reads_the_loss(trainer, monkeypatch):
    right = trainer_module.segmentation_loss
    monkeypatch.setattr(trainer_module, "segmentation_loss", lambda *pair: (right(*pair), float(pair[1].sum()))[0])


def _compares_with_a_tensor_on_the_host(trainer, monkeypatch):
    right = trainer_module.reconstruction_loss
    monkeypatch.setattr(
        trainer_module, "reconstruction_loss", lambda x, y, mask: right(x, y + torch.ones(1, 1, 1, 64), mask)
    )


def _reads_after_the_step(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "optimizer_step", lambda: trainer.all_finite.item())


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FakeTensorDeviceMismatchError, _crops_by_indices_on_the_host),
        (InputError, _draws_by_a_generator_on_the_host),
        (Wait, _reads_the_loss),
        (FakeTensorDeviceMismatchError, _compares_with_a_tensor_on_the_host),
        (Wait, _reads_after_the_step),
    ],
)
def test_a_training_step_with_a_fault_is_found(cuda, trainer, monkeypatch, error, fault):
    fault(trainer, monkeypatch)
    with pytest.raises(error):
        run_block(trainer)


def test_the_live_views_sample(cuda, rolls):
    with cuda.allow(RANGE + 1):  # whether the first crop is corrupted
        sample = live.fixed_sample(rolls, TrainConfig(steps=1, crop=64), DEVICE)
    at_home(sample.images, sample.masks)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_inference(cuda, rolls, bfloat16):
    """A map is read tile by tile, and nothing else is: one read a roll here, however many there are."""
    detector = DraemDetector(build_draem("compact"), DEVICE, bfloat16=bfloat16)
    at_home(*detector.model.state_dict().values())
    with cuda.allow(len(rolls)):
        maps = list(detector.raw_maps(rolls))
    assert cuda.reads == len(rolls)
    for found, roll in zip(maps, rolls, strict=True):
        assert found.shape == roll.image.shape and not found[:, : roll.edges[0]].any()


def test_a_detector_of_a_trained_network(cuda, rolls, trainer):
    """The weights are read once for `save`; then a threshold of calibration rolls is on the host."""
    with cuda.allow(len(trainer.average.state_dict()) + len(rolls)):
        detector = DraemDetector(trainer.average, DEVICE)
        detector.raw_patch_scores(rolls)
    at_home(*detector.model.state_dict().values())


def reads_of(cuda, work):
    """How many values a piece of work reads."""
    before = cuda.reads
    with cuda.allow(1000):
        work()
    return cuda.reads - before


def test_the_autoencoder(cuda, rolls):
    """Losses are read at the end, not step by step; then one map a roll."""
    detector = VAE(size=32, device=DEVICE)
    few, many = (reads_of(cuda, lambda n=n: detector.fit(rolls, seeded("cpu"), steps=n, batch=4)) for n in (2, 20))
    assert few == many <= 2
    at_home(*detector.network.state_dict().values())
    assert reads_of(cuda, lambda: list(detector.raw_maps(rolls))) == len(rolls)


@pytest.mark.parametrize(("backbone", "most"), [("fft", 1), ("shallow", 1 + 6 * backbones.SETTLING)])
def test_the_memory_bank(cuda, rolls, backbone, most):
    """The coreset is chosen and a backbone trained without a look at a number; then one map a roll.

    `shallow`: PyTorch's batch norms read their counters while they settle.
    """
    reads = []
    for size in (5, 50):
        detector = PatchCore(backbone, bank_size=size, pool_size=500, learn_steps=size // 5, device=DEVICE)
        reads.append(reads_of(cuda, lambda detector=detector: detector.fit(rolls, seeded("cpu"))))
    assert reads[0] == reads[1] <= most
    at_home(*detector.network.state_dict().values(), *(tensor for bank in detector.banks.values() for tensor in bank))
    assert reads_of(cuda, lambda: list(detector.raw_maps(rolls))) == len(rolls)


def test_the_steps_backward_is_pytorchs():
    """`fake_cuda` walks the graph itself: on real tensors it must give PyTorch's gradients."""
    model = build_draem("compact")
    image = torch.rand(2, 1, 64, 64, generator=seeded("cpu"))
    gradients = []
    for backward in (torch.Tensor.backward, fake_backward):
        model.zero_grad()
        reconstruction, logits = model(image)
        backward(((reconstruction - image) ** 2).mean() + (logits * reconstruction).mean())
        gradients.append([weight.grad for weight in model.parameters()])
    for expected, found in zip(*gradients, strict=True):
        assert torch.allclose(expected, found, rtol=1e-4, atol=1e-7)
