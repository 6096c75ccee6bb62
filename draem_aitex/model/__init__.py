"""The reconstructive and the discriminative network, their losses, published weights (notebook 04)."""
