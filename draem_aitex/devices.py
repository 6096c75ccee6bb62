"""Which machine this is: a figure of speed or of training says where it was taken."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from draem_aitex.errors import InputError


def pick_device(name="auto"):
    """ "auto" is CUDA where there is one, else the CPU. Raises `InputError` for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"device: {str(name)!r} is not available here; expected auto, cpu or cuda")
    return device


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn `torch.OutOfMemoryError` into an `InputError`.

    advice: what did not fit and what to do, such as "batch: 32 crops; give a smaller batch".
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(f"the device's memory is too small for this; {advice}") from None


def computes_in_bfloat16(device):
    """Whether the device has instructions for bfloat16; without them it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


def processor():
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe(device):
    """The machine in words: its GPU, if that computes, processor, cores and threads in use."""
    accelerator = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{accelerator}{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
