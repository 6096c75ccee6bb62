"""How fast synthetic anomalies are made: crops a second, sampling included, beside the authors' Perlin noise alone.

    python benchmarks/augmenter.py [--peer DIR]

DIR is a checkout of VitjanZ/DRAEM. Of its generator the noise function imports without imgaug, which no longer installs
beside today's NumPy; only that is timed, on 256 x 256 pixels as there, and the rest of its generator counts as free.
Simulated fabric, crops of 128 x 128, medians of several runs taken in turn. The last line is one JSON object; a record
is written with --record FILE.
"""

import sys

import torch
from record import block_of_steps, load_peer, medians, run_speed, speed_parser, training_rolls

from draem_aitex.anomalies.augmenter import Augmenter
from draem_aitex.anomalies.perlin import perlin_noise
from draem_aitex.devices import pick_device
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import CropSampler
from draem_aitex.training.trainer import Trainer

CROP, PEER_SIZE = 128, 256  # pixels


def main():
    parser = speed_parser(__doc__)
    parser.add_argument("--batch", type=int, default=128, help="crops made at once (default: 128)")
    return run_speed(parser, measure)


def measure(options):
    device = pick_device(options.device)
    peer = load_peer(options.peer, "perlin.py").rand_perlin_2d_np if options.peer else None
    if peer is not None:
        print("peer: rand_perlin_2d_np of perlin.py is timed; data_loader.py is not, it needs imgaug")
    rolls = training_rolls()
    generator = torch.Generator(device).manual_seed(0)
    sampler, augmenter = CropSampler(rolls, CROP, device), Augmenter()
    trainer = Trainer(rolls, TrainConfig(steps=10_000), device)
    size = trainer.config.batch
    lattices = 2 ** torch.randint(0, 6, (32, 2), generator=torch.Generator().manual_seed(0))
    tasks = {
        "mix": lambda: augmenter(sampler(options.batch, generator), generator),
        "mix_at_training_batch": lambda: augmenter(sampler(size * trainer.ahead, generator), generator),
        "training_steps": block_of_steps(trainer),
        "perlin": lambda: perlin_noise((PEER_SIZE, PEER_SIZE), lattices.to(device), generator, 32),
    }
    if peer is not None:
        tasks["peer_perlin"] = lambda: [peer((PEER_SIZE, PEER_SIZE), pair) for pair in lattices.tolist()]
    seconds = medians(tasks, options.runs, device)
    crops = options.batch / seconds["mix"]
    result = {
        "crops_per_s": crops,
        "pixels_per_s": crops * CROP**2,
        "batch": options.batch,
        "share_of_a_training_step": seconds["mix_at_training_batch"] / seconds["training_steps"],
        "perlin_pixels_per_s": len(lattices) * PEER_SIZE**2 / seconds["perlin"],
        "peer_perlin_pixels_per_s": None,
        "pixels_per_s_ratio": None,
    }
    if peer is not None:
        result["peer_perlin_pixels_per_s"] = len(lattices) * PEER_SIZE**2 / seconds["peer_perlin"]
        result["pixels_per_s_ratio"] = result["pixels_per_s"] / result["peer_perlin_pixels_per_s"]
    print(f"simulated fabric, {device}, medians of {options.runs} runs in turn")
    print(
        f"default mix, sampling included: {crops:,.0f} crops of {CROP} x {CROP} a second in batches of {options.batch}"
    )
    print(f"its share of a training step of {size} crops: {result['share_of_a_training_step']:.1%}")
    return result


if __name__ == "__main__":
    sys.exit(main())
