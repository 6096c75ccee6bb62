"""Several processes, one run: what the ranks of a `torchrun` job need to tell each other.

A single process is a job of one rank; then nothing here talks to anyone. Gradients go through NCCL on CUDA and through
gloo on CPUs. Everything else, Python objects and waiting, goes through a gloo group of its own, in which a rank may
wait for hours: for the first one, which prepares the data before a run and calibrates after it.
"""

import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import distributed

from draem_aitex.devices import pick_device
from draem_aitex.errors import InputError

Result = TypeVar("Result")
Item = TypeVar("Item")
PATIENCE = datetime.timedelta(hours=24)  # of a rank that waits for another; torchrun ends it if the other dies
_host_group: Any = None  # for objects and waiting; None is the group of everything


class SharedError(InputError):
    """Bad input that all ranks have met: the first one alone prints it."""

    shared = True


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def count() -> int:
    """How many processes work together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@contextmanager
def joined(name: str = "auto") -> Iterator[torch.device]:
    """Join the job that `torchrun` started, if it did; gives this rank's device. At the end all ranks wait for all.

    name: "auto", "cpu" or "cuda". CUDA ranks get a card each. Raises `InputError` where there is no card for a rank.
    """
    global _host_group
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield pick_device(name)
        return
    if missing := [variable for variable in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if variable not in os.environ]:
        raise InputError(f"WORLD_SIZE is set, but {missing[0]} is not; expected both or none; start it with torchrun")
    if name.startswith("cuda:"):
        raise InputError(f"device: {name!r} for several processes; expected cuda, which gives each a card of its own")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # before any of them is touched
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _host_group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield device
    except SharedError:  # but after no other error: it would wait for the others, who wait for this one
        _leave()
        raise
    _leave()


def _leave() -> None:
    """Wait for all ranks and take the job apart; an exit with a job that stands can end in an abort."""
    global _host_group
    distributed.barrier(_host_group)
    _host_group = None
    distributed.destroy_process_group()


def from_first(value: Result) -> Result:
    """The first rank's value, on every rank. A plain Python value."""
    return gathered(value)[0]


def in_turn(work: Callable[[], Result]) -> Result:
    """Do something on the first rank before the others do it; bad input that the first meets is raised on all."""
    first: list[Result] = []
    on_first(lambda: first.append(work()))
    return first[0] if first else work()


def on_first(work: Callable[[], Result]) -> Result:
    """What `work` gives on the first rank, for which the others wait; bad input that it meets is raised on all."""
    return on_all(lambda: work() if rank() == 0 else None)[0]  # type: ignore[return-value]  # the first rank's own


def on_all(work: Callable[[], Result]) -> list[Result]:
    """What each rank's `work` gives, see `gathered`; bad input that one of them meets is raised on all."""
    found = problem = None
    try:
        found = work()
    except InputError as error:
        problem = str(error)
    everyone = gathered((found, problem))
    for _, problem in everyone:
        if problem is not None:
            raise SharedError(problem)
    return [found for found, _ in everyone]  # type: ignore[misc]  # None only where there is a problem


def share(items: Sequence[Item]) -> Sequence[Item]:
    """What this rank has to do of all: its part of a sequence; the ranks' parts, one behind the other, are all."""
    first, end = (len(items) * part // count() for part in (rank(), rank() + 1))
    return items[first:end]


def gathered(value: Result) -> list[Result]:
    """Every rank's value, in a list, on every rank. What pickle takes, or a small tensor on the CPU."""
    everyone = [value] * count()
    if count() > 1:
        distributed.all_gather_object(everyone, value, group=_host_group)
    return everyone
