"""Synthetic anomalies: Perlin noise, the kinds of anomaly, the augmenter that mixes them (notebook 03)."""
