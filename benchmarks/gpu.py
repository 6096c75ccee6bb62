"""What takes a GPU: the published pair against the authors' own, how near `compact` comes to the card's peak, rolls.

    python benchmarks/gpu.py --peer DIR [--record FILE]

`paper`, ours: the whole step as `draem_aitex train --preset paper --compile` takes it, 8 crops of 256 x 256 pixels; the
authors': their networks, losses and Adam as their script runs them, on a batch that is on the card already. TF32 is as
PyTorch sets it for both: on in convolutions, off in matrix products. `compact`: operations of the networks in a step,
counted, over the time of the step; the peak is that of a product of two bfloat16 matrices of 8192 x 8192, measured in
the same run. Rolls: 32 whole rolls of 256 x 4096 pixels through `DraemDetector.predict_rolls` in bfloat16, the way from
and to the host included.
Medians; simulated fabric. Without a GPU nothing is measured: the record then names the figures that are missing. The
last line is one JSON object.
"""

import sys

import numpy as np
import torch
from record import medians, run_speed, speed_parser, training_rolls
from torch.utils.flop_counter import FlopCounterMode
from training import Peer

from draem_aitex.data.rolls import Roll
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.devices import computes_in_bfloat16, pick_device
from draem_aitex.model.draem import build_draem
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.trainer import Trainer

FIGURES = (
    "paper_patches_per_s", "peer_patches_per_s", "patches_per_s_ratio", "compact_crops_per_s", "compact_tflops",
    "peak_tflops", "compact_share_of_peak", "rolls_per_s",
)  # fmt: skip


def main():
    parser = speed_parser(__doc__)
    parser.set_defaults(device="auto")
    parser.add_argument("--preset", default="paper", help="what is set against the authors' networks (default: paper)")
    parser.add_argument("--batch", type=int, default=8, help="patches a step of either (default: 8)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side of them (default: 256)")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the matrices of the peak (default: 8192)")
    parser.add_argument("--rolls", type=int, default=32, help="whole rolls to be judged (default: 32)")
    parser.add_argument("--memory-mb", type=int, default=16_384, help="bound of the detector (default: 16384)")
    parser.add_argument("--on-cpu", action="store_true", help="run it on a CPU all the same, to try it out")
    return run_speed(parser, measure)


def measure(options):
    device = pick_device("cpu" if options.on_cpu else options.device)
    result = dict.fromkeys(FIGURES)
    if device.type == "cuda" or options.on_cpu:
        rolls = training_rolls()
        result |= published(options, rolls, device) | utilisation(options, rolls, device) | inference(options, device)
    result["missing"] = [name for name in FIGURES if result[name] is None]
    print(f"simulated fabric, {device}, medians of {options.runs} runs")
    if result["missing"]:
        print(f"not measured here: {', '.join(result['missing'])}")
    return result


def published(options, rolls, device):
    """Patches a second of our step of `paper` and of the authors'."""
    config = TrainConfig.of_preset(options.preset, steps=10_000, batch=options.batch, crop=options.size)
    trainer = Trainer(rolls, config, device, compiled=device.type == "cuda")
    tasks = {"paper": trainer.step}
    if options.peer is not None:
        tasks["peer"] = Peer(options.peer, options.batch, device, options.size).step
    seconds = medians(tasks, options.runs, device, warm_up=5)
    result = {f"{name}_patches_per_s": options.batch / taken for name, taken in seconds.items()}
    if options.peer is not None:
        result["patches_per_s_ratio"] = seconds["peer"] / seconds["paper"]
    return result


def utilisation(options, rolls, device):
    """Operations a second of a step of `compact`, beside what the card does in a plain product of matrices."""
    config = TrainConfig(steps=10_000)
    trainer = Trainer(rolls, config, device, compiled=device.type == "cuda")
    clean = trainer.sampler(config.batch, trainer.generator)
    with FlopCounterMode(display=False) as counter:
        outputs = trainer.model(clean)
        sum(output.sum() for output in outputs).backward()
    matrix = torch.ones(options.matrix, options.matrix, dtype=torch.bfloat16, device=device)
    seconds = medians({"step": trainer.step, "product": lambda: matrix @ matrix}, options.runs, device, warm_up=5)
    achieved = counter.get_total_flops() / seconds["step"] / 1e12
    peak = 2 * options.matrix**3 / seconds["product"] / 1e12
    return {
        "compact_crops_per_s": config.batch / seconds["step"],
        "compact_tflops": achieved,
        "peak_tflops": peak,
        "compact_share_of_peak": achieved / peak,
    }


def inference(options, device):
    """Whole rolls a second, as many at once as the memory bound allows."""
    model = build_draem("compact").to(device)
    detector = DraemDetector(model, memory_mb=options.memory_mb, bfloat16=computes_in_bfloat16(device))
    image = np.random.default_rng(0).integers(0, 255, (256, 4096)).astype(np.uint8)
    rolls = [Roll(str(number), "00", "000", image, (0, 4096), None) for number in range(options.rolls)]
    seconds = medians({"rolls": lambda: list(detector.predict_rolls(rolls))}, options.runs, device, warm_up=2)
    return {"rolls_per_s": options.rolls / seconds["rolls"]}


if __name__ == "__main__":
    sys.exit(main())
