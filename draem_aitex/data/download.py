"""Downloading AITEX: three archives, resumed, checked, unpacked where nothing can leave the folder.

Nothing is fetched by other modules. The archives' hashes are second-hand (one source), so a difference is a warning;
what decides is every single file's hash in the manifest. 7z is read by py7zr, an optional extra.
"""

import errno
import os
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from draem_aitex.data.aitex import TABLES, read_manifest
from draem_aitex.errors import InputError, one_line, optional
from draem_aitex.files import FilePath, locked, not_written, remove_leftovers, sha256, temporary_beside

BASE = "https://www.aitex.es/wp-content/uploads/2019/07/"
ARCHIVES: dict[str, str] = TABLES["archives"]  # name to SHA-256
LICENCE = (
    "AITEX states no terms of use for these images; others claim CC0, CC BY and non-commercial, contradicting each "
    "other. Ask AITEX before you publish one, and cite doi 10.2478/aut-2019-0035."
)
MOST_BYTES = 2 * 1024**3  # unpacked; the real archives hold less than a tenth of that
MOST_FETCHED = 2**30  # bytes of one archive; all files of AITEX together have a ninth of that
UNPACKED = "unpacked"  # where an archive is unpacked before its files are moved to their places
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)  # no room, or none for us
TIMEOUT = 30  # seconds without a byte


def download(
    folder: FilePath, base: str = BASE, manifest: list[dict[str, str]] | None = None, progress: bool = True
) -> list[str]:
    """Fetch, check and unpack the three archives into `folder`; an interrupted call goes on where it stopped.

    folder: new, or of an interrupted call, or an AITEX folder that lacks something; files that are there stay. base:
    URL of the folder that holds the archives. manifest: rows as `aitex.read_manifest` gives them.

    Returns warnings, a list of sentences. Raises `InputError` naming the URL or file where a transfer breaks off, where
    what arrived is no 7z archive or not AITEX's, where it would leave the folder or be larger than 2 GB.
    """
    py7zr = optional("py7zr", "unpack 7z archives", "py7zr")
    folder = Path(folder)
    rows = {row["path"]: row["sha256"] for row in (read_manifest() if manifest is None else manifest)}
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file; expected a folder for the rolls; choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error) from None
    warnings = []
    with locked(folder / "download"):
        remove_leftovers([folder / UNPACKED])
        for name, expected in ARCHIVES.items():
            wanted = {path: digest for path, digest in rows.items() if path.startswith(name.removesuffix(".7z") + "/")}
            if all((folder / path).is_file() for path in wanted):
                continue
            if _get(py7zr, base.rstrip("/") + "/" + name, folder, wanted, progress) != expected:
                warnings.append(f"{name}: another SHA-256 than reported elsewhere; its files are checked one by one")
    return warnings


def _get(py7zr, url, folder, wanted, progress):
    """Fetch and unpack one archive; returns its SHA-256. What an earlier call began and is no good is fetched anew."""
    name = url.rsplit("/", 1)[-1]
    part = folder / f".{name}.part"
    begun = part.exists()
    fetch(url, part, progress)
    digest = sha256(part)
    try:
        _unpack(py7zr, part, folder, wanted)
    except Exception as error:  # py7zr raises a dozen types where an archive is damaged
        if getattr(error, "errno", None) in DISK:  # what has arrived is not to blame, and stays
            raise not_written(folder, error) from None
        part.unlink()  # or the next call would resume it
        if begun:
            return _get(py7zr, url, folder, wanted, progress)
        readable = isinstance(error, InputError)
        found = error if readable else f"is no readable 7z archive ({one_line(error)}); expected one of AITEX's"
        raise InputError(f"{name}: {found}; check --url and run again") from None
    part.unlink()
    return digest


def fetch(url: str, part: Path, progress: bool = True) -> None:
    """Fetch a URL into the file `part`, after the bytes that are there already.

    A server that ignores the range sends everything, and the file starts anew. Raises `InputError` naming the URL; the
    bytes that arrived stay for the next call.
    """
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url}: expected http:// or https:// at its beginning; check --url")
    have = part.stat().st_size if part.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            start = have if answer.status == 206 else 0
            total = start + int(answer.headers.get("Content-Length") or 0)
            bar = {"total": total or None, "initial": start, "desc": url.rsplit("/", 1)[-1], "disable": not progress}
            with tqdm.wrapattr(answer, "read", **bar) as stream:
                _save(stream, part, "ab" if start else "wb")
    except InputError:
        raise
    except (OSError, ValueError, HTTPException) as error:
        if have and getattr(error, "code", None) == 416:  # the last call was cut off after the last byte
            return
        raise InputError(f"{url}: cannot be fetched ({one_line(error)}); check the connection and --url") from None
    if not part.exists():
        raise InputError(f"{url}: nothing has come; expected an archive; check --url")
    if (arrived := part.stat().st_size) < total:
        raise InputError(f"{url}: broke off after {arrived} of {total} bytes; run the same command again to go on")


def _save(stream, path, mode):
    """Copy a stream into a file, block by block: what arrives is there, whatever happens then."""
    while block := stream.read(2**16):
        if mode == "ab" and path.stat().st_size > MOST_FETCHED:  # a server may never end
            raise InputError(f"{path}: more than {MOST_FETCHED} bytes have come; expected fewer; check --url")
        try:
            with open(path, mode) as file:
                file.write(block)
        except OSError as error:
            raise not_written(path, error) from None
        mode = "ab"


def _unpack(py7zr, archive, folder, wanted):
    """Unpack beside, check every file, then move the new ones in: the folder never holds half a file."""
    place = temporary_beside(folder / UNPACKED)
    try:
        _unpack_into(place, py7zr, archive, folder, wanted)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _unpack_into(place, py7zr, archive, folder, wanted):
    with py7zr.SevenZipFile(archive) as packed:
        for entry in packed.list():
            path = PurePosixPath(entry.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or entry.is_symlink:
                raise InputError(f"holds {entry.filename}, which leads out of the folder; expected plain files")
        if (size := packed.archiveinfo().uncompressed) > MOST_BYTES:
            raise InputError(f"unpacks to {size} bytes; expected {MOST_BYTES} or less")
        packed.extractall(place)
        found = {path.name: path for path in place.rglob("*") if path.is_file()}
        for target, digest in wanted.items():
            path = found.get(PurePosixPath(target).name)
            if path is None or sha256(path) != digest:
                problem = "lacks" if path is None else "holds another"
                raise InputError(f"{problem} {target}; expected AITEX's archive")
        for target in wanted:
            if not (folder / target).exists():
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                os.replace(found[PurePosixPath(target).name], folder / target)
