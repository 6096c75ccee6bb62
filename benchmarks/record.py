"""What the benchmarks share: medians of runs taken in turn, a peer's module, and the record with its circumstances."""

import datetime
import importlib.util
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from draem_aitex.errors import InputError


def circumstances(command):
    """Command, machine, versions and date of a run."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def processor():
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else []  # fmt: skip
    return names[0] if names else platform.processor() or platform.machine()


def write(path, record):
    """Write a record as JSON, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(temporary, path)


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


def load_peer(folder, name):
    """A module of the peer, from its file alone."""
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected --peer to be a checkout of VitjanZ/DRAEM")
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
