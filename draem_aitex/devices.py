"""Devices: which one to compute on, what it can do, and the machine in words for figures of speed and of training."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from draem_aitex.errors import InputError

ALLOCATION = ("can't allocate memory", "Storage size calculation overflowed", "numel: integer multiplication overflow")
Device = str | torch.device  # "auto", "cpu", "cuda", "cuda:1", …


def pick_device(name: Device = "auto") -> torch.device:
    """The device to compute on: "auto" is CUDA where there is one, else the CPU.

    Apple's MPS is neither chosen nor accepted: nothing of this library was ever run on it. Raises `InputError` for it,
    and for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type in ("cpu", "cuda"):
            torch.empty(1, device=device)
            return device
    except (RuntimeError, AssertionError, TypeError):
        pass
    why = "is not used, for nothing here was ever run on it" if str(name).startswith("mps") else "is not available here"
    raise InputError(f"device: {str(name)!r} {why}; expected auto, cpu or cuda")


@contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn the error of an allocation that fails, on a GPU or on the host, into an `InputError`.

    advice: what did not fit and what to do, such as "batch: 32 crops; give a smaller batch".
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # `torch.OutOfMemoryError` is one of the latter
        on_host = isinstance(error, MemoryError) or any(words in str(error) for words in ALLOCATION)
        if not on_host and not isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(f"the device's memory is too small for this; {advice}") from None


def check_generator(generator: torch.Generator, device: str = "cpu") -> None:
    """Raise `InputError` for what is no random generator on this kind of device."""
    if not isinstance(generator, torch.Generator) or generator.device.type != device:
        found = getattr(generator, "device", type(generator).__name__)
        raise InputError(f"generator: {found}; expected a torch.Generator on {device}; make one there")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it would be slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe(device: torch.device) -> str:
    """The machine in words: its GPU, if that computes, processor, cores and threads in use."""
    accelerator = f"{torch.cuda.get_device_name(device)}, " if device.type == "cuda" else ""
    return f"{accelerator}{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def give_memory_back() -> None:
    """Have the C library return to the system what it keeps of freed memory.

    glibc keeps most of it in pieces, and with images of ever other sizes the pieces fit ever less: after 200 images a
    process had 1,921 MB and, with this, 776. Other libraries keep less and have no such call.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
