"""How many whole rolls a second, and in how much memory; beside the authors' networks, patch by patch.

    python benchmarks/inference.py [--peer DIR]

Ours is `predict(roll).map` with the shipped checkpoint on all of a simulated roll of 256 x 4096 pixels: from grey
levels to the normalised map, in float32 and in bfloat16 where the processor computes in it (`rolls_per_s` is the faster
of the two). DIR is a checkout of VitjanZ/DRAEM; its two networks see the same roll as sixteen patches of 256 x 256, one
at a time as its test script does, in float32, without gradients, the softmax included and nothing else. Medians; the
peer runs after ours. `inspect_ratio` is the time that the command `inspect` takes from image files to maps, overlays
and verdicts on the disk, divided by that of `predict(roll).map` on the same rolls in memory, both in the precision that
it chooses, with the checkpoint loaded. `peak_memory_mb` is the most that the process held up to then: Python, PyTorch,
rolls and networks. The last line is one JSON object; a record is written with --record FILE.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import load_peer, medians, peak_memory, run_speed, speed_parser

from draem_aitex import load_detector
from draem_aitex.data.rolls import NORMAL, Roll, roll_of_file
from draem_aitex.detectors.inspection import inspected
from draem_aitex.devices import computes_in_bfloat16, pick_device
from draem_aitex.simulation import loom

PATCH, PATCHES = 256, 16
CHECKPOINT = "compact_loom"


def main():
    parser = speed_parser(__doc__)
    parser.add_argument("--peer-runs", type=int, default=3, help="patches of the peer whose median counts (default: 3)")
    parser.add_argument("--images", type=int, default=24, help="rolls that inspect is given at once (default: 24)")
    return run_speed(parser, measure)


def measure(options):
    device = pick_device(options.device)
    image, _ = loom.simulate_roll("01", generator=np.random.default_rng(0), width=PATCH * PATCHES)
    roll = Roll("roll", "01", NORMAL, image, (0, image.shape[1]), None)
    precisions = ["float32"] + (["bfloat16"] if computes_in_bfloat16(device) else [])
    tasks = {}
    for precision in precisions:
        detector = load_detector(CHECKPOINT, device, quiet=True, bfloat16=precision == "bfloat16")
        tasks[precision] = lambda detector=detector: detector.predict(roll).map
    seconds = medians(tasks, options.runs, device)
    result = {
        "rolls_per_s": 1 / min(seconds.values()),
        "peer_rolls_per_s": None,
        "rolls_per_s_ratio": None,
        "inspect_ratio": _inspect_ratio(image, options, device),
        "peak_memory_mb": peak_memory(),
        **{f"rolls_per_s_{precision}": 1 / seconds[precision] for precision in precisions},
    }
    if options.peer is not None:
        taken = medians({"patch": _peer(options.peer, device)}, options.peer_runs, device, warm_up=1)
        result["peer_rolls_per_s"] = 1 / (PATCHES * taken["patch"])
        result["rolls_per_s_ratio"] = result["rolls_per_s"] / result["peer_rolls_per_s"]
    print(f"simulated fabric, {device}, medians of {options.runs} runs; the peer of {options.peer_runs} patches")
    for precision in precisions:
        print(f"{precision}: {1 / seconds[precision]:.1f} rolls a second")
    print(f"inspect takes {result['inspect_ratio']:.2f} times as long as the networks")
    return result


def _inspect_ratio(image, options, device):
    """The time of `inspect` on image files, divided by that of the networks on the rolls in them."""
    detector = load_detector(CHECKPOINT, device, quiet=True, bfloat16=None)
    with tempfile.TemporaryDirectory() as folder:
        names = {Path(folder, f"{index}.png"): Path(f"{index}") for index in range(options.images)}
        for index, path in enumerate(names):
            Image.fromarray(np.roll(image, 8 * index, axis=0)).save(path)
        rolls = [roll_of_file(path, "01")[0] for path in names]
        tasks = {
            "networks": lambda: [detector.predict(roll).map for roll in rolls],
            "inspect": lambda: list(inspected(detector, names.items(), Path(folder, "out"), "01")),
        }
        seconds = medians(tasks, options.runs, device, warm_up=1)
    return seconds["inspect"] / seconds["networks"]


def _peer(folder, device):
    """The authors' networks on one patch."""
    networks = load_peer(folder, "model_unet.py")
    with torch.random.fork_rng():
        reconstructive = networks.ReconstructiveSubNetwork(in_channels=3, out_channels=3).to(device).eval()
        discriminative = networks.DiscriminativeSubNetwork(in_channels=6, out_channels=2).to(device).eval()
    patch = torch.rand(1, 3, PATCH, PATCH, generator=torch.Generator(device).manual_seed(0), device=device)

    @torch.inference_mode()
    def score():
        return torch.softmax(discriminative(torch.cat([reconstructive(patch), patch], dim=1)), dim=1)

    return score


if __name__ == "__main__":
    sys.exit(main())
