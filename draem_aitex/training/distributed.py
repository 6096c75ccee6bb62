"""Several processes, one run: what the ranks of a `torchrun` job need to tell each other.

A single process is a job of one rank; then nothing here talks to anyone.
"""

import os
from contextlib import contextmanager

import torch
from torch import distributed

from draem_aitex.devices import pick_device
from draem_aitex.errors import InputError


def rank():
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def count():
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@contextmanager
def joined(name):
    """Join the job that `torchrun` started, if it did; gives this rank's device.

    name: "auto", "cpu" or "cuda". CUDA ranks get a card each and talk through NCCL, CPU ranks through gloo. Raises
    `InputError` where there is no card for a rank.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield pick_device(name)
        return
    missing = [variable for variable in ("RANK", "LOCAL_RANK", "MASTER_ADDR") if variable not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is set, but {missing[0]} is not; expected both or none; start it with torchrun")
    if name.startswith("cuda:"):
        raise InputError(f"device: {name!r} for several processes; expected cuda, which gives each a card of its own")
    if name == "cuda" or (name == "auto" and torch.cuda.is_available()):
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # before any of them is touched
    device = pick_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield device
    distributed.destroy_process_group()  # not after an error: it would wait for the others, who wait for this one


def from_first(value):
    """The first rank's value, on every rank. A plain Python value."""
    if count() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def in_turn(work):
    """Do something on the first rank before the others do it; bad input that the first meets is raised on all."""
    problem = None
    if rank() == 0:
        try:
            result = work()
        except InputError as error:
            problem = str(error)
    problem = from_first(problem)
    if problem is not None:
        raise InputError(problem)
    return result if rank() == 0 else work()


def gathered(tensor):
    """Every rank's tensor, in a list, on every rank. A small tensor on the CPU."""
    if count() == 1:
        return [tensor]
    everyone = [None] * count()
    distributed.all_gather_object(everyone, tensor)
    return everyone
