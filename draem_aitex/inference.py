"""Whole rolls in one pass: a roll's picture becomes an anomaly map of the same size, without seams."""

import numpy as np
import torch
from torch.nn import functional as F

from draem_aitex.checkpoint import load_checkpoint, load_model
from draem_aitex.errors import InputError

WIDTH_STEP = 512  # columns; a few widths instead of one a roll, or the convolutions' buffers pile up
FLOOR = 1e-6  # smallest score on fabric; 0 is kept for "no fabric here"


@torch.inference_mode()
def anomaly_map(model, image, edges):
    """Score every pixel of a roll's fabric, in one pass over all of it.

    The networks are fully convolutional: trained on crops, they take a whole roll. They see the fabric alone, without
    what lies to its left.

    image: uint8 `(H, W)`; edges: `(start, end)` in columns. Returns float32 `(H, W)`: the probability of a defect,
    exactly 0 outside the fabric, from 1e-6 to 1 on it.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise InputError(f"image: {image.dtype} of shape {image.shape}; expected uint8 (H, W); convert it to grey")
    start, end = edges
    device = next(model.parameters()).device
    fabric = torch.from_numpy(np.ascontiguousarray(image[:, start:end])).to(device)
    pictures = fabric[None, None].float() / 255
    padding = min(-(end - start) % WIDTH_STEP, end - start - 1)
    _, logits = model(F.pad(pictures, (0, padding, 0, 0), mode="reflect"))
    scores = np.zeros(image.shape, np.float32)
    scores[:, start:end] = torch.sigmoid(logits[0, 0, :, : end - start].float()).clamp_min(FLOOR).cpu().numpy()
    return scores


class DraemDetector:
    """DRAEM with the interface every detector has: `name` and `predict(image, edges)`."""

    name = "DRAEM"

    def __init__(self, model):
        self.model = model.eval()

    @classmethod
    def load(cls, path, device="cpu"):
        """The detector of a checkpoint file, and the file's content: `(detector, content)`."""
        content = load_checkpoint(path)
        return cls(load_model(content).to(device)), content

    @property
    def size_bytes(self):
        """Memory of the weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.model.state_dict().values())

    def predict(self, image, edges):
        """Anomaly map of a roll: float32 `(H, W)`, see `anomaly_map`."""
        return anomaly_map(self.model, image, edges)
