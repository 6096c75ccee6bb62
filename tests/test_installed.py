"""Installed by pip into another environment, and in a checkout that nobody may write to: used from any folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from conftest import ROOT
from PIL import Image

import draem_aitex
from draem_aitex import load_aitex
from draem_aitex.data.images import read_image

SNIPPET = re.search(
    r"```python\n(.*?)```", (ROOT / "README.md").read_text().split("\n## Use the library\n")[1], re.DOTALL
)[1]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is made of."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT / "draem_aitex", source / "draem_aitex", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "checkpoints").mkdir()
    shutil.copytree(ROOT / "benchmarks/results", source / "benchmarks/results")
    pages = (ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE.txt"))
    for path in (*ROOT.glob("checkpoints/compact_*"), *pages):
        shutil.copy(path, source / path.relative_to(ROOT))
    build = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", place)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *build, source)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment of its own with the wheel in it; the libraries come from the one that runs the tests."""
    environment = tmp_path_factory.mktemp("installed") / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    install = ("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", *install)
    packages = next(environment.glob("lib/python3*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, packages


def test_the_wheels_content(wheel):
    """The package with its data files, the records that notebooks read, both checkpoints with their cards: no more."""
    version = draem_aitex.__version__
    assert wheel.name == f"draem_aitex-{version}-py3-none-any.whl" and wheel.stat().st_size < 20e6
    package = {path for path in (ROOT / "draem_aitex").rglob("*.*") if path.suffix in (".py", ".j2", ".json", ".csv")}
    wanted = {path.relative_to(ROOT).as_posix() for path in package}
    wanted |= {f"draem_aitex/records/{path.name}" for path in ROOT.glob("benchmarks/results/*.json")}
    wanted |= {f"draem_aitex/shipped/compact_{name}" for name in ("aitex.pt", "aitex.md", "loom.pt", "loom.md")}
    about = f"draem_aitex-{version}.dist-info"
    wanted |= {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE.txt")}
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == wanted
        metadata = archive.read(f"{about}/METADATA").decode()
    assert f"\nVersion: {version}\n" in metadata and "\nRequires-Python: >=3.11\n" in metadata
    assert "\nRequires-Dist: torch>=" in metadata and "\n# draem_aitex\n" in metadata


def test_readmes_snippet_runs_outside_the_checkout(installed, simulated, tmp_path):
    """As printed, but for a training cut short, in a folder that holds nothing but some.jpg."""
    python, packages = installed
    work, cache, before = tmp_path / "work", tmp_path / "cache", contents(packages)
    work.mkdir()
    Image.fromarray(read_image(load_aitex(simulated).test[-1].path)).save(work / "some.jpg")
    assert len([line for line in SNIPPET.splitlines() if line.strip()]) < 10
    assert re.findall(r"^(?:from|import) (\S+)", SNIPPET, re.MULTILINE) == ["draem_aitex"]
    assert "minutes=2" in SNIPPET and "some.jpg" in SNIPPET
    home = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    printed = run(python, "-I", "-c", SNIPPET.replace("minutes=2", "steps=2"), cwd=work, env=home)
    assert "(256, 4096)" in printed and "patch AUROC" in printed and "simulated fabric" in printed
    assert {path.name for path in work.iterdir()} == {"some.jpg", "mine.pt"}
    assert contents(packages) == before, "nothing is written where the package lies"
    if sys.platform == "linux":
        assert (cache / "draem_aitex/simulated/simulated.json").is_file()


def test_shipped_checkpoints_and_data_files_come_along(installed, tmp_path):
    python, packages = installed
    for name in ("compact_aitex", "compact_loom"):
        printed = run(python, "-I", "-m", "draem_aitex", "info", name, cwd=tmp_path)
        assert printed.startswith(f"# {name}.pt\n")
    code = (
        "import draem_aitex; from draem_aitex.data.aitex import read_manifest as read; print(len(read()), draem_aitex)"
    )
    printed = run(python, "-I", "-c", code, cwd=tmp_path)
    assert printed.startswith("354 ") and str(packages / "draem_aitex/__init__.py") in printed


def read_only(folder, *command, **options):
    """Run a command to which a folder is mounted read-only, in a name space of its own."""
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    able = shutil.which("unshare") and subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True)
    if not able or able.returncode:
        pytest.skip("needs a user who may mount")
    return run("unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command, **options)


def test_a_checkout_and_data_that_may_not_be_written_to(small_set, tmp_path):
    home = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    home.pop("DRAEM_AITEX_CACHE", None)
    code = "from draem_aitex.simulation import loom; print(loom._default_folder(seed=77))"
    assert (
        read_only(ROOT, sys.executable, "-c", code, env=home, cwd=tmp_path)
        == f"{tmp_path / 'cache/draem_aitex/simulated'}\n"
    )
    train = ("train", "--data", small_set, "--steps", "1", "--out", tmp_path / "x.pt")
    read_only(small_set, sys.executable, "-m", "draem_aitex", *train, env=home, cwd=tmp_path)
    evaluate = ("evaluate", "--data", small_set, "--checkpoint", "x.pt", "--json", "f.json", "--report", "r.html")
    read_only(small_set, sys.executable, "-m", "draem_aitex", *evaluate, env=home, cwd=tmp_path)
    assert (tmp_path / "r.html").is_file()
