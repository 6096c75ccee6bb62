"""The two approaches before DRAEM, measured beside it: a variational autoencoder and a memory bank.

Both learn from defect-free rolls alone and have the interface of every `Detector`.
"""

from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE

__all__ = ["VAE", "PatchCore"]
