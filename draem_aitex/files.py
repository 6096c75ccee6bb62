"""Results reach the disk whole or not at all, and replace nothing that is not a result of this program.

One rule for every file that is written: it is new, empty, or carries this program's mark; it is no input, and no other
result has its name. Links are followed. Who is going to work for long asks first (`claimed`), and `write_together` asks
again.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from draem_aitex.errors import InputError, check_type, one_line

FilePath = Path | str
Writer = Callable[[BinaryIO], object]

MARK = "written by draem_aitex"  # in the first kilobyte of JSON, HTML, PNG and ONNX
_MARKS = (MARK.encode(), b"draem_aitex checkpoint ", b"step,seconds,learning_rate,", b'"command": "python benchmarks/')
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp", re.DOTALL)  # see `temporary_beside`
LONGEST = 255  # bytes of a file's name, on the usual file systems
CACHE = "DRAEM_AITEX_CACHE"  # the environment variable that names the folder for what is made or fetched once


def write_whole(path: FilePath, write: Writer) -> None:
    """`write_together` for a single file."""
    write_together({path: write})


def write_together(contents: Mapping[FilePath, Writer]) -> None:
    """Write files atomically, all or none: what was there stays until every new one is whole and on the disk.

    contents: paths, each with a function that is called with a binary file. Raises `InputError` naming the file: where
    `check_outputs` would, and where the disk is full.
    """
    check_outputs(contents)
    temporaries = {path: temporary_beside(_target(path)) for path in contents}
    try:
        for path, temporary in temporaries.items():
            with open(temporary, "wb") as file:
                contents[path](file)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            os.replace(temporary, _target(path))
    except (OSError, RuntimeError) as error:  # torch's, raised while an OSError was handled
        raise not_written(path, error) from None
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def not_written(path: FilePath, error: BaseException) -> InputError:
    """The error for a file or folder that could not be written, from what the system says."""
    said = (getattr(one, "strerror", None) for one in (error, error.__context__))  # torch's own words have no reason
    reason = next(filter(None, said), None) or one_line(error)
    return InputError(f"{path}: not written ({reason}); make room, or choose another place")


def check_outputs(
    outputs: Iterable[FilePath | None], inputs: Iterable[FilePath] = (), new_folders: bool = False
) -> None:
    """Raise `InputError` naming the file unless every output may be written (the rule above).

    outputs: None among them counts for nothing. new_folders: an output's folder may be missing, for it is going to be
    made.
    """
    read, written = {_target(path) for path in inputs}, set()
    for path in (path for path in outputs if path is not None):
        target = _target(path)
        if target in read:
            raise InputError(f"{path}: the file to write is an input as well; expected another name; choose one")
        if target in written:
            raise InputError(f"{path}: named for two results; expected a name for each; choose another")
        written.add(target)
        if len(os.fsencode(temporary_beside(target).name)) > LONGEST:
            raise InputError(f"{path}: too long a name; expected fewer than {LONGEST - 20} bytes; choose a shorter one")
        if (target.exists() and not target.is_file()) or not is_writable(target.parent, new_folders):
            expected = "expected a file in a folder that exists and can be written to"
            raise InputError(f"{path}: cannot be written; {expected}; choose another name")
        if target.exists() and target.stat().st_size and not is_own(target):
            said = "is there already, and not written by this program"
            raise InputError(f"{path}: {said}; expected a new name; choose another, or move the file away")
    for path in written & {parent for target in written for parent in target.parents}:
        raise InputError(f"{path}: named for a file and for a folder; expected a name for each; rename one")


def is_own(path: FilePath) -> bool:
    """Whether this program wrote a file: its first kilobyte says so, of a map NAME.npy that of NAME.png beside it."""
    path = Path(path)
    marked = path.with_suffix(".png") if path.suffix == ".npy" else path
    if not marked.is_file() or not os.access(marked, os.R_OK):
        return False
    with open(marked, "rb") as file:
        head = file.read(1024)
    return any(mark in head for mark in _MARKS)


def is_writable(folder: FilePath, new: bool = False) -> bool:
    """Whether files can be made in a folder. new: it may be missing, if it can be made."""
    folder = Path(folder)
    while new and not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


@contextmanager
def claimed(outputs: Iterable[FilePath | None], inputs: Iterable[FilePath] = ()) -> Iterator[None]:
    """Check outputs before any work, keep them from other runs, and remove what a killed run has left beside them.

    outputs: None among them counts for nothing. Raises `InputError` where `check_outputs` or `locked` would.
    """
    paths = [path for path in outputs if path is not None]
    check_outputs(paths, inputs)
    with ExitStack() as held:
        for path in paths:
            held.enter_context(locked(path))
        remove_leftovers(paths)
        yield


@contextmanager
def folder(path: FilePath) -> Iterator[None]:
    """Make a folder, and those that it lies in, where they are missing; those that are empty at the end go again."""
    missing = [one for one in (Path(path), *Path(path).parents) if not one.exists()]
    Path(path).mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for one in missing:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


@contextmanager
def locked(path: FilePath, wait: bool = False) -> Iterator[None]:
    """Let no other process in, or thread, that asks for the same file or folder; a run that is killed lets go.

    wait: until the other is done. Without it the other is an `InputError`, as is a place that cannot be written to.
    The lock is a file .NAME.lock beside `path`, gone afterwards.
    """
    from filelock import FileLock, Timeout  # with asyncio: not for commands that only read

    target = _target(path)
    lock = FileLock(target.with_name(f".{target.name}.lock"), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        found = "another run is writing it"
        raise InputError(f"{path}: {found}; expected one at a time; wait for it, or choose another name") from None
    except OSError as error:
        raise not_written(path, error) from None
    try:
        yield
    finally:
        if os.name == "posix":  # elsewhere an open file cannot be removed; filelock sees that the file is another
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def temporary_beside(path: FilePath) -> Path:
    """The name under which a process makes what will be `path`, a file or a folder; `remove_leftovers` knows it."""
    path = Path(path)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(paths: Iterable[FilePath]) -> None:
    """Remove what runs that were killed while they wrote these files or folders have left beside them.

    Only for who holds their locks: it may not be in use. A folder that is missing has nothing left in it.
    """
    targets = {_target(path) for path in paths}
    for folder in {target.parent for target in targets}:
        for left in folder.iterdir() if folder.is_dir() else ():
            match = _TEMPORARY.fullmatch(left.name)
            if match and folder / match[1] in targets:
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left)
                else:
                    left.unlink()


def cache_folders() -> list[Path]:
    """Folders for what this program makes or fetches once, best first.

    The one that `DRAEM_AITEX_CACHE` names; without it `data` of the checkout, if this is one, and the user's own.
    """
    if named := os.environ.get(CACHE):
        return [Path(named)]
    from platformdirs import user_cache_path

    checkout = Path(__file__).resolve().parents[1]
    beside = [checkout / "data"] if (checkout / "pyproject.toml").is_file() else []
    return [*beside, user_cache_path("draem_aitex")]


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


def _target(path: FilePath) -> Path:
    """The file that a name leads to, through links."""
    return Path(os.path.realpath(path))
