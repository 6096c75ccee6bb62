"""Checkpoints: one file with everything that training needs to go on and everything that a user needs to trust it.

Written atomically, read with `weights_only=True`: a checkpoint from a stranger runs no code.
"""

import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from draem_aitex.data.rolls import PARTS, Collection
from draem_aitex.errors import InputError, check_type, one_line
from draem_aitex.files import FilePath, check_file, sha256, write_whole
from draem_aitex.model.draem import DRAEM
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.schema import SCHEMAS, conform

HERE = Path(__file__).parents[1]
SHIPPED = HERE / "shipped" if (HERE / "shipped").is_dir() else HERE.parent / "checkpoints"  # in a wheel; else beside us
FORMAT, BEFORE = "draem_aitex checkpoint 5", "draem_aitex checkpoint 4"
RENAMED = {
    "fabric_levels": "fabric_offsets", "levelled": "normalised", "variation": "normal_augmentation",
    "spread": "deviation",
}  # fmt: skip


def checkpoint_file(path: FilePath) -> Path:
    """The file that a checkpoint is in: the one that is named, or a shipped one of that name."""
    check_type("path", path, str, os.PathLike)
    shipped = SHIPPED / f"{path}.pt"
    return shipped if not os.path.exists(path) and shipped.is_file() else Path(path)


def save_checkpoint(path: FilePath, content: dict[str, Any]) -> None:
    """Write `content`, a dict of tensors and plain values, atomically: the old file stays until the new one is whole.

    Raises `InputError` where the folder is missing or the disk is full.
    """
    write_whole(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def load_checkpoint(path: FilePath, detector: str | None = None) -> dict[str, Any]:
    """Read a checkpoint, on the CPU: a dict with `format`, `detector`, and what that detector keeps (`schema.SCHEMAS`).

    detector: the kind that is wanted, "draem" say; None takes any. Raises `InputError` for a file that is missing, no
    checkpoint, damaged, of another version, or of another detector, and for one that lacks a field or holds one of
    another type or out of its range.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such checkpoint; make one first (python -m draem_aitex train --out {path})")
    check_file(path)
    try:
        with open(path, "rb") as file:
            _check_archive(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except Exception:  # torch raises a dozen types here, for one cause: this is no readable checkpoint
        raise InputError(
            f"{path}: not a readable checkpoint; expected a whole file of draem_aitex train or fit"
        ) from None
    content = content if isinstance(content, dict) else {}
    if content.get("format") == BEFORE:
        content = _in_todays_words(content)
    if (found := content.get("format", "another program's file")) != FORMAT:
        raise InputError(f"{path}: not a checkpoint of this version (found {found!r}); expected {FORMAT!r}; train anew")
    kind = content.get("detector")
    if not isinstance(kind, str) or kind not in SCHEMAS:
        raise InputError(f"{path}: holds a detector {kind!r}; expected one of {', '.join(SCHEMAS)}; make it anew")
    if detector not in (None, kind):
        raise InputError(f"{path}: holds a detector {kind!r}; expected {detector!r}; give another file")
    try:
        conform(content, SCHEMAS[kind])
    except InputError as error:
        raise InputError(f"{path}: {error}; get the file anew, or train or fit it anew") from None
    return content


def _check_archive(file):
    """Raise an exception unless a file is a ZIP archive whose checksums hold and which no reading makes larger."""
    with zipfile.ZipFile(file) as archive:
        if archive.testzip() is not None or any(entry.compress_type for entry in archive.infolist()):
            raise zipfile.BadZipFile  # a checksum that does not hold, or an entry not stored as it is
    file.seek(0)


def _in_todays_words(value):
    """A checkpoint of format 4 as one of today: the same content, some of it under another name."""
    if not isinstance(value, dict):
        return FORMAT if isinstance(value, str) and value == BEFORE else value
    return {RENAMED.get(key, key): _in_todays_words(item) for key, item in value.items()}


def load_model(content: dict[str, Any], name: FilePath = "checkpoint") -> DRAEM:
    """The averaged (EMA) networks of a checkpoint, in evaluation mode, on the CPU.

    name: of the file, for the `InputError` where the weights are not those of the networks that it names.
    """
    try:
        with torch.device("meta"):  # no memory is taken but for weights that are there
            model = DRAEM(NetworkConfig(**content["network"]))
        model.load_state_dict(content["weights"], assign=True)
    except (TypeError, RuntimeError, InputError) as error:
        said = f"{name}: weights of another architecture ({one_line(error)})"
        raise InputError(f"{said}; expected those of the networks it names; train anew") from None
    return model.eval()


def network_content(model: DRAEM) -> dict[str, Any]:
    """The part of a checkpoint that `load_model` needs: a copy, on the host."""
    return {"detector": "draem", "network": asdict(model.config), "weights": on_host(dict(model.state_dict()))}


def on_host(value: Any) -> Any:
    """A copy of a state dict, or any nest of dicts, lists and tensors, with its tensors on the host."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    return [on_host(item) for item in value] if isinstance(value, list) else value


def describe_split(collection: Collection) -> dict[str, dict[str, str]]:
    """A split as a checkpoint keeps it: for each part the file names with their SHA-256."""
    return {part: {record.name: sha256(record.path) for record in getattr(collection, part)} for part in PARTS}
