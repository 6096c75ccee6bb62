"""The one error a caller is meant to read: bad input, said in one line."""

import math
from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


ABOVE_0, BELOW_1 = math.nextafter(0, 1), math.nextafter(1, 0)  # bounds for `check_number`


class InputError(ValueError):
    """Bad input: names the file or argument, what was found, what was expected and what to do.

    The command line prints it as one line and exits with status 2. What would break the line, or could not be printed,
    as may stand in names of files, is written as Python writes it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text on one line: what would break the line, or could not be printed, is written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException, longest: int = 200) -> str:
    """What another library's error says, on one line of at most `longest` characters."""
    return " ".join(str(error).split())[:longest]


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, expected: str = "", whole: bool = False
) -> None:
    """Raise `InputError` unless a value is a finite number, or a whole one, from low to high.

    expected: what the message asks for; without it a number from `low` to `high`.
    """
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value == math.inf:
        least = f"a {'whole ' * whole}number, {low:g} {'or more' if high == math.inf else f'to {high:g}'}"
        raise InputError(f"{name}: {value!r}; expected {expected or least}")


def check_seed(seed: Any) -> None:
    """Raise `InputError` for a seed that is no whole number from 0 to below 2^62, which every generator takes."""
    check_number("seed", seed, 0, 2**62 - 1, "a whole number from 0 to below 2^62", whole=True)


def check_type(name: str, value: Any, *wanted: type) -> None:
    """Raise `InputError` for a value that is of none of the types wanted."""
    if not isinstance(value, wanted):
        names = " or ".join(kind.__name__ for kind in wanted)
        raise InputError(f"{name}: a {type(value).__name__}; expected {names}; give one")


def check_choice(name: str, value: object, known: Collection[object]) -> None:
    """Raise `InputError` for a value that is none of those known."""
    if type(value) not in map(type, known) or value not in known:
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
