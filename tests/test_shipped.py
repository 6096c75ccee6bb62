"""The shipped networks do what the course says of them: threads are reconstructed, anomalies are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from draem_aitex import load_detector, load_simulated
from draem_aitex.anomalies.augmenter import Augmenter
from draem_aitex.data.rolls import load_rolls
from draem_aitex.model import draem, losses
from draem_aitex.training.sampler import CropSampler

CROP = 128


@pytest.fixture(scope="module")
def model():
    return load_detector("compact_loom", "cpu", quiet=True).model


@pytest.fixture(scope="module")
def rolls():
    """Calibration rolls: normal, and not trained on."""
    return load_rolls(load_simulated().calibration[::3])


def test_the_shipped_networks_are_those_of_the_preset():
    for name in ("compact_loom", "compact_aitex"):
        assert load_detector(name, quiet=True).model.config == draem.PRESETS["compact"]


@torch.no_grad()
def test_threads_are_reconstructed_and_anomalies_are_not(model, rolls):
    generator = torch.Generator().manual_seed(0)
    normal = CropSampler(rolls, CROP, "cpu")(64, generator)
    batch = Augmenter()(normal, generator)
    assert losses.ssim_loss(model(normal)[0], normal) < 0.25
    left = ((model(batch.images)[0] - normal).abs() * batch.masks).sum()
    assert left < 0.55 * ((batch.images - normal).abs() * batch.masks).sum(), "a copy would have 1"


@torch.no_grad()
def test_a_whole_roll_is_seen_as_its_crops_are(model, rolls):
    """Trained on crops in which every position lies near a border, run on rolls in which hardly one does."""
    whole_error, crop_error, whole_top, crop_top = [], [], [], []
    for roll in rolls:
        start = roll.edges[0] + CROP
        image = torch.from_numpy(roll.image[:, start : start + 14 * CROP])[None, None] / 255
        crops = image[0, 0].unfold(0, CROP, CROP).unfold(1, CROP, CROP).reshape(-1, 1, CROP, CROP)
        for given, errors, tops in ((image, whole_error, whole_top), (crops, crop_error, crop_top)):
            reconstruction, logits = model(given)
            errors.append((reconstruction - given).abs().mean())
            tops.append(logits.flatten().quantile(0.999))
    assert torch.stack(whole_error).mean() < 1.2 * torch.stack(crop_error).mean()
    assert (torch.stack(whole_top).mean() - torch.stack(crop_top).mean()).abs() < 1.0, "logits"


def within_the_stated_bound(name, records):
    """On 2048 columns of each roll; as `DraemDetector` and docs/command_line.md say."""
    full, half = (load_detector(name, "cpu", quiet=True, bfloat16=bits) for bits in (False, True))
    for roll in load_rolls(records):
        start = roll.edges[0] + CROP
        roll = replace(roll, image=roll.image[:, start : start + 2048], edges=(0, 2048))
        one, other = full.predict(roll), half.predict(roll)
        assert abs(one.score - other.score) < 0.03 and 0 < np.abs(one.map - other.map).max() < 0.15, roll.name


def test_sixteen_bits_change_scores_within_the_stated_bound():
    within_the_stated_bound("compact_loom", load_simulated().calibration[::4])


def test_sixteen_bits_change_scores_of_real_rolls_within_the_stated_bound(real):
    within_the_stated_bound("compact_aitex", real.calibration[::6])
