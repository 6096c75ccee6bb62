"""Synthetic anomalies: Perlin noise, the kinds of anomaly, two augmenters that corrupt images (notebook 03)."""
