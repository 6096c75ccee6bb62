"""A memory bank's two costs: choosing its coreset, and finding nearest neighbours, in PyTorch and with FAISS.

    python benchmarks/neighbours.py

Random vectors; the coreset is 10,000 of 100,000, once for each length of vector; the search is one roll's 16,384
positions of 8 x 8 px in a bank of 10,000, medians of runs taken in turn. `memory_mb` is by how much one search raises
the peak of a process of its own. The last line is one JSON object; a record is written with --record FILE.
"""

import multiprocessing
import sys
import time
from functools import partial

import torch
from record import medians, peak_memory, run_speed, speed_parser

from draem_aitex.baselines.neighbours import searcher
from draem_aitex.baselines.patchcore import greedy_coreset
from draem_aitex.devices import pick_device
from draem_aitex.errors import InputError

LENGTHS = {"fft": 41, "shallow": 192, "resnet50": 1536}  # numbers that these backbones have for a position
POOL, BANK, QUERIES = 100_000, 10_000, 256 * 4096 // 64


def main():
    parser = speed_parser(__doc__)
    parser.set_defaults(device="cpu")
    return run_speed(parser, measure)


def measure(options):
    if pick_device(options.device).type != "cpu" or options.peer is not None:
        raise InputError("--device, --peer: this one compares two searches on the CPU; leave them out")
    result = {}
    for backbone, length in LENGTHS.items():
        generator = torch.Generator().manual_seed(0)
        pool = torch.randn(POOL, length, generator=generator)
        started = time.perf_counter()
        greedy_coreset(pool, BANK, generator)
        seconds = time.perf_counter() - started
        searches = {name: searcher(pool[:BANK], name) for name in ("torch", "faiss")}
        queries = pool[-QUERIES:]
        tasks = {name: partial(search, queries) for name, search in searches.items()}
        taken = medians(tasks, options.runs, torch.device("cpu"))
        largest = (searches["torch"](queries) - searches["faiss"](queries)).abs().max()
        memory = {name: in_a_process(name, length) for name in searches}
        result[backbone] = {
            "length": length,
            "coreset_seconds": seconds,
            "torch_seconds": taken["torch"],
            "faiss_seconds": taken["faiss"],
            "torch_over_faiss": taken["torch"] / taken["faiss"],
            "torch_memory_mb": memory["torch"],
            "faiss_memory_mb": memory["faiss"],
            "largest_difference": float(largest),
        }
        print(f"{backbone}: {result[backbone]}", flush=True)
    return result


def in_a_process(name, length):
    """Peak memory of a fresh process before and after one search: the difference, MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(memory_of, (name, length))


def memory_of(name, length):
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(count, length, generator=generator) for count in (BANK, QUERIES))
    before = peak_memory()
    searcher(bank, name)(queries)
    return peak_memory() - before


if __name__ == "__main__":
    sys.exit(main())
