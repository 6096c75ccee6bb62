"""One rule for what is written: whole or not at all, over nothing that is not this program's, by one run at a time."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from conftest import ROOT

from draem_aitex import files
from draem_aitex.baselines import backbones
from draem_aitex.errors import InputError


def writes(data):
    return lambda file: file.write(data)


OWN = writes(files.MARK.encode())


def test_new_empty_and_own_files_are_written_and_no_others(tmp_path):
    path = tmp_path / "a.json"
    files.write_whole(path, OWN)
    files.write_whole(path, OWN)
    path.write_bytes(b"")
    files.write_whole(path, OWN)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match="a.json: is there already, and not written by this program"):
        files.write_whole(path, OWN)
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]


def test_a_map_is_known_by_its_overlay(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"mine")
    assert not files.is_own(tmp_path / "a.npy")
    files.write_whole(tmp_path / "a.png", OWN)
    assert files.is_own(tmp_path / "a.npy")


def test_links_are_followed(tmp_path):
    """A link stays one; what it leads to is judged and written."""
    mine, link = tmp_path / "mine.txt", tmp_path / "link.json"
    mine.write_text("mine")
    link.symlink_to(mine)
    with pytest.raises(InputError, match="not written by this program"):
        files.write_whole(link, OWN)
    mine.unlink()
    files.write_whole(link, OWN)
    assert link.is_symlink() and files.is_own(mine)
    with pytest.raises(InputError, match="is an input as well"):
        files.check_outputs([link], [tmp_path / "." / "mine.txt"])
    with pytest.raises(InputError, match="named for two results"):
        files.check_outputs([link, mine])


def test_what_is_no_plain_file_in_a_folder_that_can_be_written_to_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "none/a.json", "pipe/a.json"):
        with pytest.raises(InputError, match=f"{name}: cannot be written"):
            files.check_outputs([tmp_path / name])
    files.check_outputs([tmp_path / "none/below/a.json", None], new_folders=True)
    assert not (tmp_path / "none").exists()


def test_several_files_are_written_together_or_not_at_all(tmp_path):
    first, second = tmp_path / "a.json", tmp_path / "b.html"
    files.write_whole(first, writes(b"<old>" + files.MARK.encode()))
    before = first.read_bytes()

    def fails(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"b\.html: not written \(No space left on device\); make room"):
        files.write_together({first: OWN, second: fails})
    assert first.read_bytes() == before and list(tmp_path.iterdir()) == [first]


def test_one_run_at_a_time(tmp_path):
    path = tmp_path / "a.json"
    with files.claimed([path]):
        with pytest.raises(InputError, match="a.json: another run is writing it"):
            with files.claimed([tmp_path / "b.html", path]):
                pass
        code = f"from draem_aitex import files\nwith files.claimed([{str(path)!r}]): pass"
        other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert "another run is writing it" in other.stderr
    with files.claimed([path]):
        pass
    assert not list(tmp_path.iterdir())


def test_who_waits_comes_next(tmp_path):
    order = []

    def second():
        with files.locked(tmp_path / "set", wait=True):
            order.append("second")

    with files.locked(tmp_path / "set"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_killed_run_blocks_nobody_and_its_leftovers_go(tmp_path):
    """Killed while it holds the lock and has half a file: what the next run finds is as if it had not been."""
    path = tmp_path / "a[1].json"  # a name with a pattern in it
    code = f"""
import os, signal
from draem_aitex import files
with files.claimed([{str(path)!r}]):
    files.write_whole({str(path)!r}, lambda file: file.write(b"half") and os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 2
    others = [tmp_path / name for name in (".b.json.7.tmp", ".a[1].json.old.tmp", ".a[1].json")]
    for other in others:
        other.write_text("of somebody else")
    with files.claimed([path]):
        pass
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_the_cache_is_where_the_variable_says_else_beside_the_checkout_or_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(files.CACHE, raising=False)
    assert files.cache_folders()[0] == ROOT / "data"
    if sys.platform == "linux":
        assert files.cache_folders()[1] == tmp_path / "draem_aitex"
    monkeypatch.setenv(files.CACHE, str(tmp_path / "elsewhere"))
    assert files.cache_folders() == [tmp_path / "elsewhere"]


def test_weights_are_fetched_into_the_cache_that_is_named(tmp_path, monkeypatch):
    usual = torch.hub.get_dir()
    monkeypatch.setenv(files.CACHE, str(tmp_path))
    with backbones._fetching("resnet50", "its weights", "https://example.org"):
        assert torch.hub.get_dir() == str(tmp_path / "torch")
    assert torch.hub.get_dir() == usual
