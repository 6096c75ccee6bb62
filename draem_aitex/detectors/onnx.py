"""DRAEM as one ONNX file, which needs neither PyTorch nor this library: grey levels in, anomaly map out."""

import io
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from draem_aitex.detectors.calibration import FLOOR
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.detectors.tiling import smallest_tile
from draem_aitex.errors import InputError, check_type, optional
from draem_aitex.files import MARK, FilePath, write_whole

OPSET = 17  # of ONNX; read by ONNX Runtime 1.12 (2022) and newer


class WholeImage(nn.Module):
    """`Detector.maps` for the fabric part of an image, in operations that ONNX has.

    image: uint8 `(H, W)`, grey levels, any H and W, or `(H, W, 3)`, RGB, of a detector of colour; fabric: int64 `(1,)`,
    the number of the image's fabric in the list of calibrated fabrics, -1 for any other. Returns float32 `(H, W)` from
    1e-6 to 1. What lies on the poolings' grid is seen in one pass, rows and columns left over at the end by passes that
    end with the image (`tiling.tiles`).

    The exporter follows one example and writes down what was done with its sides; so there are sums here and no ifs.
    """

    factors: torch.Tensor

    def __init__(self, detector: DraemDetector) -> None:
        super().__init__()
        self.model = detector.model
        config, self.colour = self.model.config, detector.reading.channels == 3
        self.multiple, self.last = config.multiple, smallest_tile(config.receptive_field, config.multiple)
        offsets = list(detector.offsets.values())
        factors = [float(np.exp(np.median(offsets) - offset)) for offset in offsets]
        self.register_buffer("factors", torch.tensor([*factors, 1.0]))  # the last one is that of number -1

    def forward(self, image: torch.Tensor, fabric: torch.Tensor) -> torch.Tensor:
        planes = image.permute(2, 0, 1)[None] if self.colour else image[None, None]
        height, width = planes.shape[2:]
        rows, columns = (self._mirrored(side) for side in (height, width))
        padded = (planes.float() / 255).index_select(2, rows).index_select(3, columns)
        padded = padded.expand(-1, self.model.config.channels, -1, -1)
        scores = self._both_ends(padded, 2, lambda part: self._both_ends(part, 3, self._score))
        scores = scores[0, 0, :height, :width]
        factor = self.factors[fabric]
        return (scores * factor / (1 + scores * (factor - 1))).clamp(FLOOR, 1)

    def _score(self, part: torch.Tensor) -> torch.Tensor:
        """Scores `(1, 1, H, W)` of a part whose sides lie on the grid."""
        reconstruction = self.model.reconstructive(part)
        logits = self.model.discriminative(torch.cat([reconstruction, part], dim=1))
        logits = logits[:, 1:] - logits[:, :1] if self.model.config.classes == 2 else logits
        return torch.sigmoid(logits).clamp_min(FLOOR)

    def _both_ends(self, image: torch.Tensor, axis: int, score: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Score what fills the grid from the beginning and, beside it, a tile that ends with the image."""
        side = image.shape[axis]
        whole, over = side - side % self.multiple, side % self.multiple > 0
        last = whole + (self.last - whole) * (self.last < whole)
        last = last * over + self.multiple * (side % self.multiple == 0)  # nothing left over: a small one, not used
        cut = (whole + side - last) // 2 * over + side * (side % self.multiple == 0)
        head = score(image.narrow(axis, 0, whole)).narrow(axis, 0, cut)
        tail = score(image.narrow(axis, side - last, last)).narrow(axis, cut - (side - last), side - cut)
        return torch.cat([head, tail], dim=axis)

    def _mirrored(self, side: int) -> torch.Tensor:
        """Indices of a side, mirrored until it fills the grid once: what `model.draem.mirror_to_multiple` does."""
        length = side + (self.multiple - side) * (side < self.multiple)
        period = 2 * (side - 1) + (side == 1)
        index = torch.arange(length) % period
        return torch.minimum(index, period - index)


def export(detector: DraemDetector, path: FilePath) -> int:
    """Write a calibrated detector as ONNX, atomically; what a user must know goes into the file's metadata.

    detector: on the CPU. The metadata are texts: `threshold`, `wanted_fpr`, `fabrics` (a JSON list, in the order of the
    input `fabric`), `pixels`, `source`, `checkpoint`. Returns the file's bytes. Raises `InputError` where the package
    onnx is missing or the detector has no threshold.
    """
    onnx = optional("onnx", "write ONNX files", "onnx onnxruntime")
    check_type("detector", detector, DraemDetector)
    if detector.threshold is None:
        raise InputError("detector: no threshold; expected a calibrated one; call its calibrate(data) first")
    model = onnx.load_from_string(_traced(WholeImage(detector).eval()))
    model.producer_name = MARK
    model.doc_string = "DRAEM, a detector of fabric defects. A pixel scores the probability of a defect."
    shape = "(H, W, 3), RGB" if detector.reading.channels == 3 else "(H, W), grey"
    texts = {
        "threshold": repr(detector.threshold.value), "wanted_fpr": repr(detector.threshold.wanted),
        "fabrics": json.dumps(list(detector.offsets)), "checkpoint": str(detector).replace("\n", "; "),
        "pixels": f"image: uint8 {shape}, 0 black, 255 white, the fabric alone without what lies beside it; "
        "fabric: int64 (1,), its number in fabrics, -1 for another; "
        "anomaly_map: float32 (H, W), 1e-6 to 1, defective above threshold",
        "source": detector.about.get("source", "rolls of your own"),
    }  # fmt: skip
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    write_whole(path, lambda file: file.write(data))
    return len(data)


def _traced(model: WholeImage) -> bytes:
    """By PyTorch's older exporter, which traces: its successor would need one more package, onnxscript."""
    buffer = io.BytesIO()
    planes = (3,) if model.colour else ()
    example = torch.zeros(40, 52, *planes, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    sides = {0: "height", 1: "width"}
    names: dict[str, Any] = {"input_names": ["image", "fabric"], "output_names": ["anomaly_map"]}
    names["dynamic_axes"] = {"image": sides, "anomaly_map": sides}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it says that it is the older one
        torch.onnx.export(model, example, buffer, dynamo=False, opset_version=OPSET, **names)  # type: ignore[arg-type]
    return buffer.getvalue()
