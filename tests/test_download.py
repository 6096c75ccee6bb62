"""The download against a local server that breaks off, serves something else, or tries to leave the folder."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import py7zr
import pytest
from conftest import ROOT

from draem_aitex.cli.main import main
from draem_aitex.data import download
from draem_aitex.errors import InputError

FILES = {
    "Defect_images.7z": ["Defect_images/0001_002_01.png"],
    "NODefect_images.7z": [f"NODefect_images/2608691-202020u/{number}_000_01.png" for number in ("0001", "0004")],
    "Mask_images.7z": ["Mask_images/0001_002_01_mask.png"],
}  # fmt: skip


class Server(BaseHTTPRequestHandler):
    """Serves `archives`; `cut` maps a name to the bytes after which the connection breaks, once."""

    archives, cut, ranges, asked = {}, {}, True, []

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        type(self).asked.append((name, self.headers.get("Range")))
        if name not in self.archives:
            return self.send_error(404)
        data, first = self.archives[name], 0
        if self.ranges and self.headers.get("Range"):
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if first >= len(data):
                return self.send_error(416)
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        self.wfile.write(data[first : self.cut.pop(name, None)])

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """Made-up rolls, packed as AITEX packs its own; returns (base URL, manifest, server class)."""
    source, rows = tmp_path / "source", []
    rng = np.random.default_rng(0)
    Server.archives, Server.cut, Server.ranges, Server.asked = {}, {}, True, []
    for name, paths in FILES.items():
        with py7zr.SevenZipFile(tmp_path / name, "w") as packed:
            for path in paths:
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(source / path), rng.integers(0, 255, (256, 512)).astype(np.uint8))
                packed.write(source / path, path)
                data = (source / path).read_bytes()
                rows.append({"path": path, "bytes": str(len(data)), "sha256": hashlib.sha256(data).hexdigest()})
        Server.archives[name] = (tmp_path / name).read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/files", rows, Server
    server.shutdown()
    server.server_close()


def fetched(site, folder):
    return download.download(folder, site[0], site[1], progress=False)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def packed(tmp_path, entries):
    with py7zr.SevenZipFile(tmp_path / "other.7z", "w") as archive:
        for name, data in entries.items():
            archive.writestr(data, name)
    return (tmp_path / "other.7z").read_bytes()


def test_everything_arrives_and_is_asked_for_once(site, tmp_path):
    warnings = fetched(site, tmp_path / "data")
    assert files(tmp_path / "data") == sorted(path for paths in FILES.values() for path in paths)
    assert len(warnings) == 3 and "another SHA-256" in warnings[0], "these are not AITEX's own archives"
    asked = len(site[2].asked)
    assert fetched(site, tmp_path / "data") == [] and len(site[2].asked) == asked


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(site, tmp_path, ranges):
    site[2].cut["Defect_images.7z"] = 5000
    site[2].ranges = ranges
    said = rf"^{site[0]}/Defect_images.7z: broke off after 5000 of \d+ bytes; run the same command again to go on$"
    with pytest.raises(InputError, match=said):
        fetched(site, tmp_path / "data")
    assert files(tmp_path / "data") == [".Defect_images.7z.part"]
    fetched(site, tmp_path / "data")
    assert ("Defect_images.7z", "bytes=5000-") in site[2].asked
    assert files(tmp_path / "data") == sorted(path for paths in FILES.values() for path in paths)


def test_a_call_cut_off_between_fetching_and_unpacking_goes_on(site, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/.Defect_images.7z.part").write_bytes(site[2].archives["Defect_images.7z"])
    fetched(site, tmp_path / "data")
    assert files(tmp_path / "data") == sorted(path for paths in FILES.values() for path in paths)


def test_a_wrong_file_is_refused_and_forgotten(site, tmp_path):
    good = site[2].archives["Defect_images.7z"]
    other = packed(tmp_path, {"Defect_images/0001_002_01.png": b"no picture"})
    lacking = packed(tmp_path, {"Defect_images/readme.txt": b"hello"})
    for data, said in ((b"<html>sorry</html>", "no readable 7z"), (other, "holds another"), (lacking, "lacks Defect")):
        site[2].archives["Defect_images.7z"] = data
        with pytest.raises(InputError, match=f"^Defect_images.7z: .*{said}") as caught:
            fetched(site, tmp_path / "data")
        assert "\n" not in str(caught.value) and files(tmp_path / "data") == []
    site[2].archives["Defect_images.7z"] = good
    fetched(site, tmp_path / "data")


def test_a_beginning_that_is_no_good_is_fetched_anew(site, tmp_path):
    """Left by a call that was killed, or by another server: shorter than the archive, as long, longer."""
    size = len(site[2].archives["Defect_images.7z"])
    for number, left in enumerate((b"<html>sorry</html>", b"x" * size, b"x" * (size + 100))):
        folder = tmp_path / str(number)
        (folder / ".unpacked.12345.tmp").mkdir(parents=True)
        (folder / ".unpacked.12345.tmp/half").write_bytes(b"half")
        (folder / ".Defect_images.7z.part").write_bytes(left)
        fetched(site, folder)
        assert files(folder) == sorted(path for paths in FILES.values() for path in paths)


def test_a_full_disk_is_named_and_what_has_arrived_stays(site, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(py7zr.SevenZipFile, "extractall", full)
    with pytest.raises(InputError, match=r"data: not written \(No space left on device\); make room"):
        fetched(site, tmp_path / "data")
    monkeypatch.undo()
    part = tmp_path / "data/.Defect_images.7z.part"
    assert part.read_bytes() == site[2].archives["Defect_images.7z"]
    part.write_bytes(part.read_bytes()[:-100])
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({part.stat().st_size + 50},) * 2)"
    url = f"{site[0]}/Defect_images.7z"
    code = f"{limit}\nfrom draem_aitex.data.download import fetch, Path\nfetch({url!r}, Path({str(part)!r}), False)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert f"{part}: not written (File too large)" in done.stderr
    fetched(site, tmp_path / "data")


@pytest.mark.parametrize("name", ["../evil.txt", "Defect_images/../../evil.txt", "/evil.txt"])
def test_nothing_leaves_the_folder(site, tmp_path, name, monkeypatch):
    monkeypatch.setattr(py7zr.py7zr, "get_sanitized_output_path", lambda *a, **k: None, raising=False)
    site[2].archives["Defect_images.7z"] = evil_archive(tmp_path, name)
    with pytest.raises(InputError, match=r"^Defect_images.7z: holds [^ ]+, which leads out of the folder; expected"):
        fetched(site, tmp_path / "inner/data")
    assert not list(tmp_path.rglob("evil.txt")) and not Path("/evil.txt").exists()


def evil_archive(tmp_path, name):
    """py7zr refuses to write such names, so a harmless name of the same length is replaced in the stored header."""
    harmless = "x" * len(name)
    with py7zr.SevenZipFile(tmp_path / "evil.7z", "w") as archive:
        archive.set_encoded_header_mode(False)
        archive.writestr(b"evil", harmless)
    data = (tmp_path / "evil.7z").read_bytes()
    old, new = harmless.encode("utf-16le"), name.encode("utf-16le")
    assert data.count(old) == 1
    header = data.index(old)
    data = data.replace(old, new)
    return with_new_checksums(data, header)


def with_new_checksums(data, _inside):
    """The start header holds the offset, size and CRC of the header (7zFormat.txt, "SignatureHeader")."""
    import struct
    import zlib

    offset, size, _ = struct.unpack("<QQI", data[12:32])
    start = struct.pack("<QQI", offset, size, zlib.crc32(data[32 + offset : 32 + offset + size]))
    return data[:8] + struct.pack("<I", zlib.crc32(start)) + start + data[32:]


def test_a_bomb_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"^Defect_images.7z: unpacks to \d+ bytes; expected 1000 or less"):
        fetched(site, tmp_path / "data")
    assert files(tmp_path / "data") == []


def test_the_command_states_the_licence_first_and_fails_with_one_line(tmp_path, capsys):
    status = main(["download", "--data", str(tmp_path / "data"), "--url", "http://127.0.0.1:9/none"])
    out, error = capsys.readouterr()
    assert status == 2 and "Ask AITEX" in out
    assert error.count("\n") == 1 and "http://127.0.0.1:9/none/Defect_images.7z: cannot be fetched" in error
