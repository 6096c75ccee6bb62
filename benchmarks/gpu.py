"""What takes a GPU: the published pair against the authors' own, how near `compact` comes to the card's peak, rolls.

    python benchmarks/gpu.py --peer DIR [--record FILE]

`paper`, ours: the whole step as `draem_aitex train --preset paper --compile` takes it, 8 crops of 256 x 256 pixels; the
authors': their networks, losses and Adam as their script runs them, in float32 on a batch that is on the card already,
with TF32 as PyTorch sets it: on in convolutions, off in matrix products. Ours computes the networks in bfloat16 and the
rest in float32 without TF32. `compact`: operations of the networks in a step, counted, over the time of the step; the
peak is that of a product of two bfloat16 matrices of 8192 x 8192, measured in the same run. Our steps are timed in
blocks of those whose crops are drawn together. Rolls: 32 whole rolls of 256 x 4096 pixels through
`DraemDetector.maps` in bfloat16, the way from and to the host included. Memory: the most that tensors held at once
while one of these was made and ran, in MB of 2^20 bytes.
Medians; simulated fabric. What cannot be measured here, for want of a GPU, a peer, a compiler or memory, is named in
the record as missing. The last line is one JSON object.
"""

import sys
from contextlib import contextmanager

import numpy as np
import torch
from record import block_of_steps, keep, medians, peak_memory, run_speed, speed_parser, training_rolls
from torch.utils.flop_counter import FlopCounterMode
from training import Peer

from draem_aitex.data.rolls import NORMAL, Roll
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.devices import computes_in_bfloat16, memory_errors, pick_device
from draem_aitex.errors import InputError
from draem_aitex.model.draem import build_draem
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.trainer import Trainer

FIGURES = (
    "paper_patches_per_s", "peer_patches_per_s", "patches_per_s_ratio", "paper_memory_mb", "peer_memory_mb",
    "compact_crops_per_s", "compact_steps_per_s", "compact_tflops", "peak_tflops", "compact_share_of_peak",
    "compact_memory_mb", "rolls_per_s", "rolls_memory_mb",
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
        for part in (inference, published, utilisation):
            try:
                with memory_errors("give smaller sizes"):
                    part(options, rolls, device, result)
            except InputError as error:
                print(f"{part.__name__}: {error}")
            keep(options, result)  # should it be stopped, what was measured so far stays
    result["missing"] = [name for name in FIGURES if result[name] is None]
    print(f"simulated fabric, {device}, medians of {options.runs} runs")
    if result["missing"]:
        print(f"not measured here: {', '.join(result['missing'])}")
    return result


def published(options, rolls, device, result):
    """Patches a second of our step of `paper` and of the authors'."""
    config = TrainConfig.of_preset(options.preset, steps=10_000, batch=options.batch, crop=options.size)
    with memory_of(device, result, "paper"):
        trainer = Trainer(rolls, config, device, compiled=device.type == "cuda")
        tasks = {"paper": block_of_steps(trainer)}
        tasks["paper"]()
    if options.peer is not None:
        with memory_of(device, result, "peer"):
            tasks["peer"] = Peer(options.peer, options.batch, device, options.size).step
            tasks["peer"]()
    seconds = medians(tasks, options.runs, device, warm_up=3)
    seconds["paper"] /= trainer.ahead
    result |= {f"{name}_patches_per_s": options.batch / taken for name, taken in seconds.items()}
    if options.peer is not None:
        result["patches_per_s_ratio"] = seconds["peer"] / seconds["paper"]


def utilisation(options, rolls, device, result):
    """Operations a second of a step of `compact`, beside what the card does in a plain product of matrices."""
    config = TrainConfig(steps=10_000)
    with memory_of(device, result, "compact"):
        trainer = Trainer(rolls, config, device, compiled=device.type == "cuda")
        steps = block_of_steps(trainer)
        steps()
    clean, _ = trainer.draw()
    with FlopCounterMode(display=False) as counter:
        outputs = trainer.model(clean)
        sum(output.sum() for output in outputs).backward()
    matrix = torch.ones(options.matrix, options.matrix, dtype=torch.bfloat16, device=device)
    seconds = medians({"steps": steps, "product": lambda: matrix @ matrix}, options.runs, device, warm_up=3)
    a_step = seconds["steps"] / trainer.ahead
    result["compact_steps_per_s"], result["compact_crops_per_s"] = 1 / a_step, config.batch / a_step
    result["compact_tflops"] = counter.get_total_flops() / a_step / 1e12
    result["peak_tflops"] = 2 * options.matrix**3 / seconds["product"] / 1e12
    result["compact_share_of_peak"] = result["compact_tflops"] / result["peak_tflops"]


def inference(options, rolls, device, result):
    """Whole rolls a second, as many at once as the memory bound allows."""
    image = np.random.default_rng(0).integers(0, 255, (256, 4096)).astype(np.uint8)
    rolls = [Roll(str(number), "00", NORMAL, image, (0, 4096), None) for number in range(options.rolls)]
    in_bfloat16 = computes_in_bfloat16(device)
    with memory_of(device, result, "rolls"):
        detector = DraemDetector(build_draem("compact"), device, memory_mb=options.memory_mb, bfloat16=in_bfloat16)
        list(detector.maps(rolls))
    seconds = medians({"rolls": lambda: list(detector.maps(rolls))}, options.runs, device, warm_up=1)
    result["rolls_per_s"] = options.rolls / seconds["rolls"]


@contextmanager
def memory_of(device, result, name):
    """Note the peak of what is made and run inside; on a CPU, to try it out, that of the process."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    yield
    taken = (torch.cuda.max_memory_allocated(device) - before) / 2**20 if device.type == "cuda" else peak_memory()
    result[f"{name}_memory_mb"] = taken


if __name__ == "__main__":
    sys.exit(main())
