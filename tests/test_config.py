import pytest

from draem_aitex.errors import InputError
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.config import TrainConfig, cosine_factor, milestones


def test_cosine_climbs_and_falls():
    factors = [cosine_factor(progress / 100, 0.05) for progress in range(101)]
    assert factors[0] == pytest.approx(0.01) and max(factors) == pytest.approx(1, abs=1e-3)
    assert factors.index(max(factors)) == 5 and factors[100] == pytest.approx(0.01)
    config = TrainConfig(steps=100)
    assert [config.learning_rate_at(step, step / 100) for step in (0, 5, 100)] == pytest.approx([2e-5, 2e-3, 2e-5])


@pytest.mark.parametrize("steps", [1, 7, 10, 33, 700, 5001])
def test_published_schedule_drops_twice_whatever_the_number_of_steps(steps):
    """The authors' float milestones never come up where 0.8 or 0.9 times the number is no whole one."""
    first, second = milestones(steps)
    assert isinstance(first, int) and first == 8 * steps // 10 and second == 9 * steps // 10
    config = TrainConfig.of_preset("paper", steps=steps)
    rates = [config.learning_rate_at(step, step / steps) for step in range(steps)]
    wanted = [1e-4 * (0.04 if step >= second else 0.2 if step >= first else 1) for step in range(steps)]
    assert rates == pytest.approx(wanted)


def test_published_schedule_by_the_clock():
    config = TrainConfig.of_preset("paper", minutes=1)
    assert [config.learning_rate_at(0, part) for part in (0.79, 0.81, 0.91)] == pytest.approx([1e-4, 2e-5, 4e-6])


def test_presets_have_their_recipes():
    paper, compact = TrainConfig.of_preset("paper", steps=5), TrainConfig.of_preset("compact", steps=5, batch=4)
    assert (paper.batch, paper.crop, paper.learning_rate, paper.weight_decay) == (8, 256, 1e-4, 0)
    assert compact == TrainConfig(steps=5, batch=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "expected one of the two"),
        ({"minutes": 1.0}, "expected one of the two"),
        ({"steps": 0}, "steps: 0; expected a whole number, 1 or more"),
        ({"steps": None, "minutes": 0.0}, "minutes: 0.0; expected a number above 0"),
        ({"steps": None, "minutes": float("inf")}, "minutes: inf"),
        ({"crop": 8}, "crop: 8; expected a whole number, 32 or more, for these networks"),
        ({"crop": "64"}, "crop: '64'"),
        ({"ema_decay": "most"}, "ema_decay: 'most'"),
        ({"seed": -1}, "seed: -1"),
        ({"steps": 2.5}, "steps: 2.5; expected a whole number"),
        ({"batch": 0}, "batch: 0; expected a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"warm_up": 1.0}, "warm_up: 1.0"),
        ({"schedule": "linear"}, "'linear'; expected one of cosine, steps"),
        ({"precision": "float8"}, "'float8'; expected one of auto, float32"),
        ({"preset": "huge"}, "'huge'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**{"steps": 4, **changes})


def test_networks_and_augmentation_of_your_own():
    narrow = NetworkConfig(channels=3, reconstructive=(4, 8), discriminative=(4, 8))
    assert TrainConfig(steps=1, preset=narrow, crop=8).network == narrow
    assert TrainConfig.of_preset("paper", steps=1).normal_augmentation.stretch == (0.3, 1.0)
