"""Nearest neighbours in a memory bank, exactly: in PyTorch within a memory bound, or with FAISS."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from draem_aitex.errors import ABOVE_0, InputError, check_choice, check_number

MEMORY_MB = 64  # for the table of distances from some queries to all of the bank


def nearest_distances(queries: Tensor, bank: Tensor, memory_mb: float = MEMORY_MB) -> Tensor:
    """Euclidean distance of each query to the nearest vector of the bank: float32 `(N,)`.

    `|q - b|² = |q|² - 2 q·b + |b|²`, so that a matrix product does the work; as many queries at once as the bound
    allows. Subtracting large numbers costs digits: distances far below the vectors' own lengths are good to about a
    thousandth of these.

    queries: float32 `(N, D)`; bank: float32 `(M, D)`, on the same device; memory_mb: for the table of distances.
    Raises `InputError` where the two differ in D.
    """
    check_number("memory_mb", memory_mb, ABOVE_0, expected="more than 0")
    if not len(bank):
        raise InputError("bank: empty; expected a vector or more; fit the bank anew")
    if queries.shape[1:] != bank.shape[1:]:
        found = f"queries: vectors of {tuple(queries.shape[1:])} numbers, the bank has {tuple(bank.shape[1:])}"
        raise InputError(f"{found}; expected the same features; fit the bank anew")
    squares, rows = (bank**2).sum(1), max(1, int(memory_mb * 2**20 / (4 * len(bank))))
    nearest = [torch.addmm(squares, part, bank.T, alpha=-2).amin(1) for part in queries.split(rows)]
    return (torch.cat(nearest) + (queries**2).sum(1)).clamp_min_(0).sqrt_()


def searcher(bank: Tensor, search: str = "auto") -> Callable[[Tensor], Tensor]:
    """A function from queries float32 `(N, D)` to their distances `(N,)`, see `nearest_distances`.

    search: "torch", or "faiss" for the exact index of FAISS (Johnson, Douze, Jégou: "Billion-scale similarity search
    with GPUs", 2019), on the CPU; "auto" takes FAISS where it is installed and the bank lies on the CPU. Both give the
    same distances. Raises `InputError` for a word that is no search, and where FAISS is wanted and not installed.
    """
    check_choice("search", search, ("auto", "torch", "faiss"))
    installed = find_spec("faiss") is not None
    if search == "faiss" and not installed:
        raise InputError("search: 'faiss' is not installed; expected it; run pip install faiss-cpu, or take 'auto'")
    if search == "torch" or (search == "auto" and (bank.is_cuda or not installed)):
        return lambda queries: nearest_distances(queries, bank)
    import faiss

    index = faiss.IndexFlatL2(bank.shape[1])
    index.add(bank.cpu().numpy())

    def distances(queries: Tensor) -> Tensor:
        squares, _ = index.search(queries.cpu().numpy(), 1)
        return torch.from_numpy(squares[:, 0]).to(queries.device).clamp_min_(0).sqrt_()

    return distances
