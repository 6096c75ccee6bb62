"""A detector as one ONNX file, which needs neither PyTorch nor this library: grey levels in, anomaly map out."""

import io
import json
import warnings

import numpy as np
import torch
from torch import nn

from draem_aitex.card import headline
from draem_aitex.errors import InputError
from draem_aitex.files import write_whole
from draem_aitex.inference import FLOOR

OPSET = 17  # of ONNX; read by ONNX Runtime 1.12 (2022) and newer


class WholePicture(nn.Module):
    """`DraemDetector.predict` for the fabric part of a picture, in operations that ONNX has.

    image: uint8 `(H, W)`, grey levels, any H and W; fabric: int64 `(1,)`, the place of the picture's fabric in the list
    of calibrated fabrics, -1 for any other. Returns float32 `(H, W)` from 1e-6 to 1. The picture is seen in one pass.
    """

    def __init__(self, detector):
        super().__init__()
        self.model = detector.model
        levels = list(detector.levels.values())
        factors = [float(np.exp(np.median(levels) - level)) for level in levels]
        self.register_buffer("factors", torch.tensor([*factors, 1.0]))  # the last one is that of place -1

    def forward(self, image, fabric):
        height, width = image.shape
        config = self.model.config
        rows, columns = mirrored(height, config.multiple), mirrored(width, config.multiple)
        padded = (image[None, None].float() / 255).index_select(2, rows).index_select(3, columns)
        reconstruction = self.model.reconstructive(padded)
        logits = self.model.discriminative(torch.cat([reconstruction, padded], dim=1))[0, :, :height, :width]
        scores = torch.sigmoid(logits[1] - logits[0] if config.classes == 2 else logits[0]).clamp_min(FLOOR)
        factor = self.factors[fabric]
        return (scores * factor / (1 + scores * (factor - 1))).clamp(FLOOR, 1)


def mirrored(side, multiple):
    """The indices of `networks.mirror_to_multiple` for one side, written so that a traced side stays variable."""
    period = 2 * (side - 1) + (side == 1)
    index = torch.arange(side + -side % multiple) % period
    return torch.minimum(index, period - index)


def export(detector, content, path):
    """Write a detector as ONNX, atomically; what a user must know goes into the file's metadata. Returns its bytes.

    detector, content: of `DraemDetector.load`, on the CPU, its training finished. The metadata are texts: `threshold`,
    `wanted_false_alarm_rate`, `fabrics` (a JSON list, in the order of the input `fabric`), `pixels`, `source`,
    `checkpoint`. Raises `InputError` where the package onnx is missing or the networks take colour.
    """
    onnx = _onnx()
    if detector.model.config.channels != 1:
        raise InputError(f"networks of {detector.model.config.channels} channels; expected 1, grey; train such ones")
    threshold = content["threshold"]
    model = onnx.load_from_string(_traced(WholePicture(detector).eval()))
    model.doc_string = "DRAEM, a detector of fabric defects. A pixel scores the probability of a defect."
    texts = {
        "threshold": repr(threshold["value"]),
        "wanted_false_alarm_rate": repr(threshold["wanted"]),
        "fabrics": json.dumps(list(detector.levels)),
        "pixels": "image: uint8 (H, W), grey, 0 black, 255 white, the fabric alone without what lies beside it; "
        "fabric: int64 (1,), its place in fabrics, -1 for another; "
        "anomaly_map: float32 (H, W), 1e-6 to 1, defective above threshold",
        "source": content.get("source", "rolls of your own"),
        "checkpoint": "; ".join(headline(content)),
    }
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    write_whole(path, lambda file: file.write(data))
    return len(data)


def _onnx():
    try:
        import onnx
    except ImportError:
        raise InputError(
            "onnx: not installed; expected it to write ONNX files; run: pip install onnx onnxruntime"
        ) from None
    return onnx


def _traced(model):
    """By PyTorch's older exporter, which traces: its successor would need one more package, onnxscript."""
    buffer = io.BytesIO()
    example = torch.zeros(40, 52, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    sides = {0: "height", 1: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it says that it is the older one
        torch.onnx.export(
            model,
            example,
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image", "fabric"],
            output_names=["anomaly_map"],
            dynamic_axes={"image": sides, "anomaly_map": sides},
        )
    return buffer.getvalue()
