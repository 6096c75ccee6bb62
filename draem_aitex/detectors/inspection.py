"""Image files, judged one after the other: of each a map and an overlay on the disk, and a record of plain values.

The networks never wait for a file: while they look at one image the next one is read, and the last one drawn and
written, in threads.
"""

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from draem_aitex import files
from draem_aitex.data.rolls import Roll, roll_of_file
from draem_aitex.detectors.base import Detector
from draem_aitex.detectors.regions import Prediction
from draem_aitex.devices import give_memory_back
from draem_aitex.errors import InputError

Named = tuple[Path, Path]  # an image's file, and the name of its results, a path in the folder of all results
Found = tuple[Prediction, str, list[str]] | InputError  # with fabric and notes; or why nothing could be found


def results_of(out: Path, name: Path) -> tuple[Path, Path]:
    """Where the overlay and the map of an image go, by the name of its results."""
    return out / f"{name}.png", out / f"{name}.npy"


def inspected(
    detector: Detector, images: Iterable[Named], out: Path, fabric: str | None = None
) -> Generator[dict[str, Any], None, None]:
    """Judge images and write their maps and overlays: the record of each, in their order, once they are written.

    images: files with the names of their results; out: the folder that these go to; fabric: of all images, where their
    names do not say it. An image that cannot be judged has a record with `path` and `error` alone. Raises `InputError`
    where results cannot be written.
    """
    with ThreadPoolExecutor(2) as threads:
        read = ahead(threads, partial(load, detector, fabric), images)
        for _, outcome in ahead(threads, partial(keep, out), judged(detector, read)):
            yield outcome.result()


def ahead(threads: Executor, work: Callable[..., Any], items: Iterable[Any]) -> Iterator[tuple[Any, Future]]:
    """Each item and the future of `work(*item)`, in their order: the next one is worked on while one is used."""
    waiting: deque[tuple[Any, Future]] = deque()
    for item in items:
        waiting.append((item, threads.submit(work, *item)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def load(detector: Detector, fabric: str | None, path: Path, name: Path) -> tuple[Roll, list[str]]:
    """An image file as a roll, and notes. Raises `InputError` where the detector cannot judge it."""
    roll, notes = roll_of_file(path, fabric, reading=detector.reading)
    detector.check(roll, str(path))
    return roll, notes


def judged(detector: Detector, read: Iterable[tuple[Named, Future]]) -> Iterator[tuple[Path, Path, Found]]:
    """Each image, the name of its results, and what is found. read: images with the futures of what `load` gives."""
    shape: tuple[int, ...] = ()
    for (path, name), future in read:
        found: Found
        try:
            roll, notes = future.result()
            if roll.image.shape != shape:  # what was freed fits another image of that shape, and no other
                give_memory_back()
            shape = roll.image.shape
            named = roll.fabric if detector.is_calibrated(roll.fabric) or detector.fabrics else ""
            found = detector.predict(roll, fabric=named), roll.fabric, notes
        except InputError as error:
            found = error
        yield path, name, found


def keep(out: Path, path: Path, name: Path, found: Found) -> dict[str, Any]:
    """Write an image's overlay and map, and return its record."""
    if isinstance(found, InputError):
        return {"path": str(path), "error": str(found)}
    result, fabric, notes = found
    overlay, scores = results_of(out, name)
    overlay.parent.mkdir(parents=True, exist_ok=True)
    files.write_together({overlay: png(result.overlay), scores: partial(np.save, arr=result.map)})
    return {
        "path": str(path), "score": result.score, "threshold": result.threshold,
        "verdict": "defective" if result.is_defective else "normal", "fabric": fabric or None,
        "normalised": result.normalised, "edges": list(result.edges), "regions": result.regions, "notes": notes,
    }  # fmt: skip


def png(rgb: np.ndarray) -> files.Writer:
    """What writes an image, uint8 `(H, W, 3)`, RGB, as PNG, marked as this program's.

    It is packed fast rather than small: threads do not repeat to the grey level, so looking for repeats gains little.
    """
    fast = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
    _, packed = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), fast)
    text = b"tEXtSoftware\0" + files.MARK.encode()
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    data, head = packed.tobytes(), 33  # bytes of signature and header, which come first
    return lambda file: file.writelines([data[:head], chunk, data[head:]])
