"""Baselines on stripes with a planted blob: they learn, find it, repeat themselves, refuse bad input."""

import numpy as np
import pytest
import torch

from draem_aitex.baselines import VAE, MemoryBank, gabor_bank, greedy_coreset
from draem_aitex.errors import InputError

EDGES = (70, 500)


def stripes(seed, height=96, width=512):
    """A twill-like roll with a white margin at the left, as uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cloth = 120 + 40 * np.sin(2 * np.pi * (x + y + rng.uniform(0, 8)) / 8) + rng.normal(0, 6, (height, width))
    cloth[:, : EDGES[0]] = 250
    return cloth.clip(0, 255).astype(np.uint8)


def with_blob(roll, row=50, column=300, radius=9):
    """The roll with a flat grey disc, and the disc's mask."""
    y, x = np.mgrid[: roll.shape[0], : roll.shape[1]]
    mask = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    return np.where(mask, 120, roll).astype(np.uint8), mask


ROLLS = [stripes(seed) for seed in range(4)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_bank(seed=0, **options):
    options = {"bank_size": 200, "pool_size": 1500, **options}
    return MemoryBank(**options).fit(ROLLS, [EDGES] * 4, seeded(seed))


def small_vae(seed=0, steps=60):
    return VAE(size=64, width=8).fit(ROLLS, [EDGES] * 4, seeded(seed), steps=steps, batch=8)


@pytest.fixture(scope="module")
def vae():
    return small_vae(steps=200)


def assert_is_a_map(scores, image):
    assert scores.shape == image.shape and scores.dtype == np.float32
    assert (scores[:, : EDGES[0]] == 0).all() and (scores[:, EDGES[1] :] == 0).all()
    assert (scores[:, EDGES[0] : EDGES[1]] > 0).all() and np.isfinite(scores).all()


@pytest.mark.parametrize("coreset", ["greedy", "random"])
def test_memory_bank_puts_its_maximum_on_the_blob(coreset):
    image, mask = with_blob(stripes(9))
    scores = small_bank(coreset=coreset).predict(image, EDGES)
    assert_is_a_map(scores, image)
    assert mask.flat[scores.argmax()]
    assert scores[mask].mean() > 3 * scores[:, EDGES[0] : EDGES[1]].mean()


def test_vae_learns_to_reconstruct(vae):
    assert len(vae.losses) == 200
    assert np.mean(vae.losses[-20:]) < 0.5 * np.mean(vae.losses[:5])
    image = stripes(9)
    restored = vae.reconstruct(image, EDGES)
    cloth = image[:, slice(*EDGES)] / 255.0
    error = np.abs(restored[:, slice(*EDGES)] - cloth).mean()
    assert error < 0.5 * np.abs(cloth - cloth.mean()).mean()  # better than one flat grey
    inside = np.abs(restored[:, 200:232] - image[:, 200:232] / 255.0).mean()
    assert inside < 1.3 * np.mean(vae.losses[-20:])  # on a roll as on crops: no expectation of a border


def test_vae_map_is_higher_on_the_blob(vae):
    image, mask = with_blob(stripes(9))
    scores = vae.predict(image, EDGES)
    assert_is_a_map(scores, image)
    assert scores[mask].mean() > 1.5 * scores[:, slice(*EDGES)].mean()


def test_vae_stops_when_the_seconds_are_used_up():
    detector = VAE(size=32, width=8).fit(ROLLS, [EDGES] * 4, seeded(), steps=10**6, batch=4, seconds=0.3)
    assert 1 <= len(detector.losses) < 10**4


@pytest.mark.parametrize("make", [small_bank, lambda seed=0: small_vae(seed, steps=3)])
def test_the_generator_decides_and_the_global_state_is_left_alone(make):
    image, _ = with_blob(stripes(9))
    before = torch.get_rng_state()
    first, again, other = (make(seed).predict(image, EDGES) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert (torch.get_rng_state() == before).all()


def test_any_size_and_edges_fit(vae):
    bank = small_bank()
    for height, edges in ((96, (3, 450)), (77, (101, 140)), (33, (0, 512))):
        image = stripes(5)[:height]
        for detector in (bank, vae):
            scores = detector.predict(image, edges)
            assert scores.shape == image.shape
            assert (scores > 0).sum() == height * (edges[1] - edges[0])


def test_names_and_sizes(vae):
    bank = small_bank()
    assert (bank.name, vae.name) == ("Memory bank", "VAE")
    assert bank.bank.shape == (200, 19)
    assert bank.size_bytes == 4 * (200 * 19 + 2 * 19 + bank.filters.numel())
    assert VAE().size_bytes == 0 < vae.size_bytes


def test_gabor_filters_ignore_brightness_and_answer_their_own_wave():
    bank = gabor_bank((4.0, 8.0), 4)
    assert bank.shape == (1 + 2 * 8, 1, 21, 21)
    assert bank[0].sum() == pytest.approx(1, abs=1e-5)
    assert bank[1:].sum((1, 2, 3)).abs().max() < 1e-5
    _, x = torch.meshgrid(*[torch.arange(21.0)] * 2, indexing="ij")
    wave = torch.cos(2 * torch.pi * x / 8)  # wavelength 8, orientation 0: filter 4 of 8
    even, odd = (bank[1:, 0] * wave).sum((1, 2)).chunk(2)
    assert (even**2 + odd**2).argmax() == 4


def test_greedy_coreset_covers_clusters_and_never_repeats():
    clusters = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = (clusters[:, None] + 0.1 * torch.rand(4, 50, 2, generator=seeded())).reshape(-1, 2)
    chosen = greedy_coreset(points, 4, seeded())
    assert sorted((chosen // 50).tolist()) == [0, 1, 2, 3]
    everything = greedy_coreset(torch.zeros(6, 2), 9, seeded())
    assert sorted(everything.tolist()) == list(range(6))


@pytest.mark.parametrize("detector", [VAE(), MemoryBank()])
def test_bad_input_is_named_in_one_line(detector):
    roll = stripes(0)
    cases = [
        (lambda: detector.predict(roll, EDGES), "call fit"),
        (lambda: detector.fit([], [], seeded()), "rolls: found none"),
        (lambda: detector.fit([roll], [], seeded()), "found 0 for 1 rolls"),
        (lambda: detector.fit([roll], [(70, 90)], seeded()), r"rolls\[0\]: found 96 x 20 pixels"),
        (lambda: detector.fit([roll], [(70, 900)], seeded()), r"rolls\[0\]: found edges \(70, 900\)"),
        (lambda: detector.fit([roll / 255], [EDGES], seeded()), "found float64"),
    ]
    for call, expected in cases:
        with pytest.raises(InputError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="size=60"):
        VAE(size=60)
    with pytest.raises(InputError, match="coreset='best'"):
        MemoryBank(coreset="best")
