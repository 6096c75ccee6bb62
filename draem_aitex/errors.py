"""The one error a caller is meant to read: bad input, said in one line."""

import math
from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class InputError(ValueError):
    """Bad input: names the file or argument, what was found, what was expected and what to do.

    The command line prints it as one line and exits with status 2.
    """


def one_line(error: BaseException, longest: int = 200) -> str:
    """What another library's error says, on one line of at most `longest` characters."""
    return " ".join(str(error).split())[:longest]


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, expected: str = "", whole: bool = False
) -> None:
    """Raise `InputError` unless a value is a finite number, or a whole one, from low to high.

    expected: what the message asks for; without it a number that is `low` or more.
    """
    if not isinstance(value, int if whole else int | float) or not low <= value <= high or math.isinf(value):
        least = f"a {'whole ' * whole}number, {low:g} or more"
        raise InputError(f"{name}: {value!r}; expected {expected or least}")


def check_choice(name: str, value: object, known: Collection[object]) -> None:
    """Raise `InputError` for a value that is none of those known."""
    if value not in known:
        raise InputError(f"{name}: {value!r}; expected one of {', '.join(map(str, known))}")


def check_unit(values: "torch.Tensor", name: str) -> None:
    """Raise `InputError` for values of any shape outside [0, 1] or not a number. On CUDA this waits for the device."""
    low, high = (float(bound) for bound in values.aminmax())
    if not (low >= 0 and high <= 1):
        raise InputError(f"{name}: values from {low:g} to {high:g}; expected 0 to 1; divide 8-bit images by 255")


def optional(name: str, purpose: str, packages: str) -> Any:
    """A module that this library does not install. Raises `InputError` where it is missing, with what to install."""
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"{name}: not installed; expected it to {purpose}; run: pip install {packages}") from None
