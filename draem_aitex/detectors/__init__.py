"""From weights to a detector: whole rolls, score normalisation, threshold, regions, ONNX (notebook 06)."""
