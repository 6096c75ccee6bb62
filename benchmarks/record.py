"""What the benchmarks share: options, medians of runs taken in turn, the peer's modules, records with circumstances."""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import resource
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

from draem_aitex import devices
from draem_aitex.data.rolls import load_rolls
from draem_aitex.errors import InputError
from draem_aitex.files import check_outputs, write_whole
from draem_aitex.simulation.loom import load_simulated

ROOT = Path(__file__).resolve().parent.parent


def circumstances(command, device="cpu"):
    """Command, machine, versions, precision of training and date of a run."""
    device = devices.pick_device(device)
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": devices.describe(device),
        "precision": "bfloat16" if devices.computes_in_bfloat16(device) else "float32",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(path, record):
    """Write a record as JSON, atomically."""
    write_whole(path, lambda file: file.write((json.dumps(record, indent=1) + "\n").encode()))


def means(runs):
    """Group to the means of its runs' figures, and how many runs they are of."""
    table = {}
    for name in dict.fromkeys(run["group"] for run in runs):
        of_group = [run for run in runs if run["group"] == name]
        keys = [key for key in of_group[0] if key not in ("group", "seed")]
        table[name] = {"runs": len(of_group)} | {key: float(np.mean([run[key] for run in of_group])) for key in keys}
    return table


def training_rolls():
    """The simulated set's training rolls, on which speeds are measured."""
    return load_rolls(load_simulated().train)


def add_data(parser):
    """The option that names the folder of real rolls."""
    parser.add_argument("--data", type=Path, default=os.environ.get("AITEX_DIR"), help="AITEX folder (or AITEX_DIR)")


def need_data(options):
    """Raise `InputError` where no folder of rolls is named."""
    if options.data is None:
        raise InputError("--data: not given and AITEX_DIR not set; expected an AITEX folder; give one")


def speed_parser(description):
    """The options that benchmarks of speed have in common."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="a checkout of VitjanZ/DRAEM")
    parser.add_argument("--runs", type=int, default=15, help="runs whose median counts (default: 15)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the result there as well")
    return parser


def run_speed(parser, measure):
    """Measure with the given options, print the result as the last line; bad input is one line and status 2."""
    options = parser.parse_args()
    try:
        for name, value in vars(options).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
        check_outputs([options.record])
        result = measure(options)
        keep(options, result)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


def keep(options, result):
    """Write a result with its circumstances to the record, if one is wanted."""
    if options.record is not None:
        write(options.record, {**circumstances("python " + shlex.join(sys.argv), options.device), **result})


def block_of_steps(trainer):
    """As many steps as a trainer draws crops for in one call: on CUDA one step in eight has that to do for all."""
    return lambda: [trainer.step() for _ in range(trainer.ahead)]


def medians(tasks, runs, device, warm_up=2):
    """Median seconds of each task; the tasks take turns, so that a slow moment of the machine meets all of them."""
    times = {name: [] for name in tasks}
    for run in range(runs + warm_up):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if run >= warm_up:
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def peak_memory():
    """Most memory the process has held so far, in MB of 2^20 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux: there getrusage may give the peak of the process that started this one
        return (
            next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 2**10
        )
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def load_peer(folder, name):
    """A module of the peer, from its file alone."""
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected --peer to be a checkout of VitjanZ/DRAEM")
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
