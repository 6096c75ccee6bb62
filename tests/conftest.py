import os
import shutil
from pathlib import Path

import pytest
import torch

from draem_aitex.cli.main import main
from draem_aitex.data import aitex
from draem_aitex.simulation import loom

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def global_random_state_untouched():
    """Every random function takes a generator: no test may find torch's global state moved."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "torch's global random state was used"


@pytest.fixture(scope="session")
def simulated():
    """The embedded simulated set, made once."""
    return loom.ensure_simulated()


@pytest.fixture(scope="session")
def small_set(simulated, tmp_path_factory):
    """Fabric 01 with 2 training, 1 calibration and 1 test roll, and a few defective ones, in the same layout."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(simulated / aitex.SIMULATED_MARK, folder)
    records = [record for record in aitex.load_aitex(simulated).records if record.fabric == "01"]
    normal = [record for record in records if record.is_normal and record.number in (1, 2, 4, 9)]
    for record in normal + [record for record in records if not record.is_normal][:4]:
        for path in (record.path, *record.masks):
            target = folder / path.relative_to(simulated)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


@pytest.fixture(scope="session")
def checkpoint(small_set, tmp_path_factory):
    """A finished, hardly trained checkpoint of the small set."""
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    assert main(["train", "--data", str(small_set), "--out", str(path), "--steps", "3"]) == 0
    return path


@pytest.fixture(scope="session")
def real():
    """Records of the real rolls in AITEX_DIR; skips where it is not set."""
    folder = os.environ.get("AITEX_DIR")
    if not folder:
        pytest.skip("AITEX_DIR is not set: no real rolls to test on")
    return aitex.load_aitex(folder)
