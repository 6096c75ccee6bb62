"""The reconstructive and the discriminative network, their losses, and the published weights (notebook 04)."""
