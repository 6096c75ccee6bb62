import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from draem_aitex.data import aitex
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import EDGE_SHARE, CropSampler, NormalAugmentation

# nothing of it
STILL = NormalAugmentation(0, (1, 1), wander_share=0, bar_share=0, tone=0, contrast=1, brightness=0)


@pytest.fixture(scope="module")
def rolls(small_set):
    return load_rolls(aitex.load_aitex(small_set).train)


def of_image(roll, image):
    return replace(roll, image=image.byte().numpy(), edges=(0, image.shape[1]))


def test_crops_lie_on_the_fabric(rolls):
    sampler = CropSampler(rolls, 64)
    crops = sampler(256, torch.Generator().manual_seed(0))
    assert crops.shape == (256, 1, 64, 64) and crops.dtype == torch.float32
    assert crops.max() <= 1 and (crops > 0.98).float().mean() < 0.01, "no backlight"
    again = sampler(256, torch.Generator().manual_seed(0))
    assert torch.equal(crops, again)


def test_crops_do_not_cross_from_roll_to_roll(rolls):
    dark, light = (replace(roll, image=roll.image * 0 + tone) for roll, tone in zip(rolls, (10, 200)))  # noqa: B905
    crops = CropSampler([dark, light], 64)(512, torch.Generator().manual_seed(1))
    contrast = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    assert contrast.max() == 0 and len(crops.unique()) == 2


def test_the_fabrics_first_column_is_seen_often(rolls):
    """A column that training never shows is an anomaly to the model, and the outermost would never be shown."""
    columns = torch.arange(rolls[0].image.shape[1]) % 251  # each column has a grey of its own, for 251 columns
    stamped = replace(rolls[0], image=columns.byte().expand(rolls[0].image.shape).numpy(), edges=(0, 2000))
    crops = CropSampler([stamped], 64)(4096, torch.Generator().manual_seed(0))
    first = (crops[:, 0, 0, 0] * 255).round()
    second = (crops[:, 0, 0, 1] * 255).round()
    at_edge = (first == 0) & (second == 1)
    assert abs(at_edge.float().mean() - EDGE_SHARE / 2) < 0.02  # half of them, and a few by chance


def ramps(roll, **changes):
    """Displacements (down, across) of crops in px, read off rolls whose grey level is the row and the column."""
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(250), indexing="ij")
    found = []
    for ramp in (rows, columns):
        crops = CropSampler([of_image(roll, ramp)], 128, normal_augmentation=replace(STILL, **changes))
        found.append(crops(64, torch.Generator().manual_seed(0))[:, 0] * 255)
    down, across = found
    return down - down[:, :1, :1] - torch.arange(128)[:, None], across - across[:, :1, :1] - torch.arange(128)


def test_threads_wander_smoothly_and_not_at_the_border(rolls):
    for moved in ramps(rolls[0], wander_share=1.0, wander=3.0):
        assert moved[:, [0, -1]].abs().max() < 1e-2 and moved[:, :, [0, -1]].abs().max() < 1e-2
        assert 0.8 < moved[:, 20:-20, 20:-20].std() < 1.8, "N(0, u), u uniform from 0 to 3"
        assert max(moved.diff(dim=axis).abs().max() for axis in (1, 2)) < 1, "no step, which would be a slip"
    few = ramps(rolls[0], wander_share=0.5)[0].abs().amax((1, 2)) > 0.05
    assert 0.3 < few.float().mean() < 0.7


def test_bars_have_another_density_across_the_whole_width(rolls):
    down, across = ramps(rolls[0], bar_share=1.0, density=1.4)
    assert across.abs().max() < 1e-2 and (down - down[:, :, :1]).abs().max() < 1e-2
    steps = 1 + down[:, :, 0].diff(dim=1)  # rows of the roll from one row of a crop to the next
    assert 0.6 < steps.min() < 0.8 and 1.3 < steps.max() < 1.5
    in_bar = ((steps - 1).abs() > 0.02).sum(1)
    assert in_bar.max() <= 62 and in_bar.float().mean() > 15


def test_tone_changes_slowly(rolls):
    grey = of_image(rolls[0], torch.full((256, 300), 128))
    crops = CropSampler([grey], 128, normal_augmentation=replace(STILL, tone=0.1))(64, torch.Generator().manual_seed(0))
    assert 0.02 < (crops / (128 / 255)).std() < 0.1 and max(crops.diff(dim=axis).abs().max() for axis in (2, 3)) < 0.02


def test_stretched_crops_have_other_pitches(rolls):
    """Weft threads 8 rows apart, seen at 0.5 rows a row, are 16 rows apart."""
    stripes = (100 + 60 * torch.cos(2 * torch.pi * torch.arange(256.0) / 8))[:, None].expand(256, 600)
    roll = of_image(rolls[0], stripes)
    for stretch in (0.5, 1.0, 1.6):
        normal_augmentation = replace(STILL, share=1.0, stretch=(stretch, stretch))
        crops = CropSampler([roll], 128, normal_augmentation=normal_augmentation)(4, torch.Generator().manual_seed(0))
        spectrum = torch.fft.rfft(crops[:, 0, :, 0] - crops[:, 0, :, 0].mean(1, keepdim=True), n=1024).abs()
        assert (spectrum.argmax(1) / 1024 - stretch / 8).abs().max() < 0.004


def test_augmentation_keeps_unstretched_crops_and_moves_tones(rolls):
    image = torch.randint(60, 180, (256, 700), generator=torch.Generator().manual_seed(0))
    roll = of_image(rolls[0], image)
    crops = CropSampler([roll], 64, normal_augmentation=STILL)(8, torch.Generator().manual_seed(0))
    every = image.float().div(255).unfold(0, 64, 1).unfold(1, 64, 1)
    for crop in crops[:, 0]:
        assert (every[..., 0, :] - crop[0]).abs().amax(-1).min() < 1e-4, "a piece of the roll, to the pixel"
    light = replace(STILL, contrast=1.3, brightness=0.08)
    moved = CropSampler([roll], 64, normal_augmentation=light)(64, torch.Generator().manual_seed(0))
    deviation, mean = moved.std((1, 2, 3)), moved.mean((1, 2, 3))
    assert 1.3 < deviation.max() / deviation.min() <= 1.3**2 * 1.1 and 0.08 < mean.max() - mean.min() < 0.17
    assert moved.min() >= 0 and moved.max() <= 1


def test_a_low_roll_is_not_stretched_beyond_its_rows(rolls):
    """70 rows hold a crop of 64 rows stretched by 69 / 63: a range beyond that is cut off, and that is said."""
    roll = of_image(rolls[0], torch.arange(70)[:, None].expand(70, 200))
    most = 69 / 63
    normal_augmentation = replace(STILL, share=1.0, stretch=(most, 1.5))
    with pytest.warns(UserWarning, match="up to 1.5 was asked for; crops of 64 .* 70 rows can have 1.1 at most"):
        sampler = CropSampler([roll], 64, normal_augmentation=normal_augmentation)
    crops = sampler(8, torch.Generator().manual_seed(0)) * 255
    assert crops[:, 0, 0].max() < 1e-3 and (crops[:, 0, -1] - 69).abs().max() < 1e-3, "from the first row to the last"


def test_a_stretch_that_would_repeat_rows_is_refused(rolls):
    roll = of_image(rolls[0], torch.arange(70)[:, None].expand(70, 200))
    with pytest.raises(InputError, match="stretch: from 1.5; .* can have 1.1 at most"):
        CropSampler([roll], 64, normal_augmentation=NormalAugmentation(stretch=(1.5, 1.6)))


def test_the_published_crops_have_the_stretch_that_they_can_have(rolls):
    """256 pixels of 256 rows: none above 1. The recipe says so, and draws what was drawn when the range was cut off."""
    recipe = TrainConfig.of_preset("paper", steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = CropSampler(rolls, recipe.crop, normal_augmentation=recipe.normal_augmentation)
    with pytest.warns(UserWarning, match="up to 1.9 was asked for"):
        cut_off = CropSampler(rolls, recipe.crop, normal_augmentation=NormalAugmentation())
    first, second = (one(4, torch.Generator().manual_seed(0)) for one in (sampler, cut_off))
    assert torch.equal(first, second)


def test_crops_in_colour_are_grey_three_times(rolls):
    for augmentation in (None, NormalAugmentation()):
        grey, colour = (
            CropSampler(rolls, 64, normal_augmentation=augmentation, channels=channels)(
                2, torch.Generator().manual_seed(0)
            )
            for channels in (1, 3)
        )
        assert colour.shape == (2, 3, 64, 64) and torch.equal(colour, grey.expand(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 1.5}, "share: 1.5"),
        ({"stretch": (2, 1)}, "smaller first"),
        ({"stretch": (0, 1)}, "above 0"),
        ({"contrast": 0.5}, "contrast: 0.5; expected a factor of 1 or more"),
        ({"density": 0.5}, "density: 0.5; expected a factor of 1 or more"),
        ({"wander_share": -1}, "wander_share: -1"),
        ({"bar_share": 2}, "bar_share: 2"),
        ({"wander": -1}, "wander: -1; expected 0 pixels or more"),
        ({"tone": 2}, "tone: 2; expected a part from 0 to 1"),
        ({"brightness": 2}, "an offset from 0 to 1"),
    ],
)
def test_bad_augmentations(changes, message):
    with pytest.raises(InputError, match=message):
        NormalAugmentation(**changes)


def test_bad_rolls(rolls):
    with pytest.raises(InputError, match="none given"):
        CropSampler([], 64)
    colour = [replace(rolls[0], image=np.repeat(rolls[0].image[..., None], 3, axis=2))]
    with pytest.raises(InputError, match="images of 3 channels for networks of 1; .* channels=1"):
        CropSampler(colour, 64)
    with pytest.raises(InputError, match="images of 1 and 3 channels"):
        CropSampler([*rolls, *colour], 64, channels=3)
