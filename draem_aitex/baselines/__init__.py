"""The two approaches before DRAEM, measured beside it: a variational autoencoder and a memory bank (notebook 01)."""
