import json
import subprocess
import sys
import types

import numpy as np
import pytest
from conftest import ROOT
from test_cli import fails_with_one_line

from draem_aitex.cli.main import main
from draem_aitex.detectors.calibration import Threshold
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.detectors.onnx import export
from draem_aitex.errors import InputError
from draem_aitex.model.draem import build_draem
from draem_aitex.model.unet import NetworkConfig
from draem_aitex.training.checkpoint import load_checkpoint, save_checkpoint

MODEL = ROOT / "checkpoints/compact_loom.pt"
SIZES = ((256, 304), (256, 2505), (64, 64), (403, 410), (33, 100), (16, 7), (1, 50), (1, 1))


def runner(path):
    """The file, run by ONNX Runtime on one core."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: nothing to run ONNX with")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def agree(session, detector, fabrics, sizes):
    for height, width in sizes:
        image = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
        for place, code in fabrics:
            (scores,) = session.run(None, {"image": image, "fabric": np.array([place])})
            assert scores.dtype == np.float32 and scores.shape == image.shape
            assert np.abs(scores - detector.predict(image, edges=(0, width), fabric=code).map).max() < 1e-4, (
                height,
                width,
                code,
            )


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="onnx is not installed: nothing to write ONNX with")


def test_the_file_gives_the_detectors_maps_for_any_size_and_fabric(onnx, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    assert main(["export", str(MODEL), str(path)]) == 0
    printed = capsys.readouterr().out
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    assert printed.count("\n") == 1 and f"{path}: ONNX, {size}, calibrated fabrics 00, 01, " in printed
    assert path.stat().st_size < 8e6 and str(ROOT).encode() not in path.read_bytes()
    detector = DraemDetector.load(MODEL, quiet=True)
    session = runner(path)
    texts = session.get_modelmeta().custom_metadata_map
    fabrics = json.loads(texts["fabrics"])
    assert fabrics == list(detector.offsets) and float(texts["threshold"]) == detector.threshold.value
    assert float(texts["wanted_fpr"]) == detector.threshold.wanted
    assert texts["source"] == "simulated fabric" and texts["checkpoint"].startswith("DRAEM, compact, ")
    agree(session, detector, [(-1, None), (0, fabrics[0]), (len(fabrics) - 1, fabrics[-1])], SIZES)
    before = path.read_bytes()
    assert main(["export", str(MODEL), str(path)]) == 0 and path.read_bytes() == before, "the same file again"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("offsets", [{}, {"00": -3.0, "05": 2.0}])
def test_networks_of_the_published_shape_too(onnx, offsets, channels, tmp_path):
    """Two classes, bilinear upsampling, ReLU, as in `paper`, but narrow; on the grid, see `anomaly_map`."""
    config = NetworkConfig(channels=channels, reconstructive=(4, 4, 8), discriminative=(4, 8, 8, 8))
    detector = DraemDetector(build_draem(config, seed=1))
    detector.offsets, detector.threshold = offsets, Threshold(0.5, 0.01, 0.01, 99, 3)
    export(detector, tmp_path / "model.onnx")
    agree(runner(tmp_path / "model.onnx"), detector, [(-1, None), *enumerate(offsets)], SIZES[2:3])


def test_what_cannot_be_exported(onnx, tmp_path, capsys, monkeypatch):
    path = tmp_path / "model.onnx"
    content = load_checkpoint(MODEL)
    unfinished = {name: value for name, value in content.items() if name != "threshold"}
    save_checkpoint(tmp_path / "part.pt", unfinished)
    fails_with_one_line(capsys, ["export", tmp_path / "part.pt", path], "part.pt: no threshold yet", "in Python")
    fails_with_one_line(capsys, ["export", tmp_path / "no.pt", path], "no.pt: no such checkpoint")
    copy = tmp_path / "copy.pt"
    copy.write_bytes(MODEL.read_bytes())
    fails_with_one_line(capsys, ["export", copy, copy], "ends in .onnx")
    assert copy.read_bytes() == MODEL.read_bytes()
    fails_with_one_line(capsys, ["export", MODEL, tmp_path / "no/model.onnx"], "no/model.onnx")
    with pytest.raises(InputError, match="no threshold; expected a calibrated one"):
        export(DraemDetector(build_draem("compact")), path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(MODEL), str(path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: onnx: not installed; expected it to write ONNX files; run: pip install onnx onnxruntime"
    )
    assert not path.exists()


def test_a_failed_export_leaves_the_old_file(onnx, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    detector = DraemDetector.load(MODEL, quiet=True)

    def fail(model, full_check):
        raise RuntimeError("damaged")

    broken = types.SimpleNamespace(check_model=fail)
    monkeypatch.setattr(onnx, "checker", broken)
    with pytest.raises(RuntimeError):
        export(detector, path)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_nobody_else_needs_the_extra():
    code = "import sys, draem_aitex.detectors.onnx, draem_aitex.cli.main as _; assert not 'onnx' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
