"""Results reach the disk whole or not at all."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from draem_aitex.errors import InputError, check_type, one_line

FilePath = Path | str


def write_whole(path: FilePath, write: Callable[[BinaryIO], object]) -> None:
    """Write a file atomically: what was there stays until the new one is whole and on the disk.

    write: is called with a binary file. Raises `InputError` where the folder is missing or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise InputError(f"{path}: not written ({one_line(error)}); make room, or choose another place") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: FilePath) -> None:
    """Remove what processes that were killed while they wrote `path` have left beside it."""
    path = Path(path)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def check_file(path: FilePath) -> None:
    """Raise `InputError` unless a path names a regular file: nothing else is read, for nobody knows when it ends."""
    check_type("path", path, str, os.PathLike)
    if any(ord(letter) < 32 for letter in str(path)):
        raise InputError(f"{path}: a control character in its name; expected plain characters; rename it")
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give an existing file") from None
    if not stat.S_ISREG(mode):
        what = "Is a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{path}: cannot be read ({what}); give an existing file")


def sha256(path: FilePath) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
