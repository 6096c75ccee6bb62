"""All detectors by the word that a checkpoint has for them."""

from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.detectors.base import opened
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError

DETECTORS = {detector.kind: detector for detector in (DraemDetector, VAE, PatchCore)}


def load_detector(path, device="cpu", quiet=False, bfloat16=False):
    """The detector of a checkpoint file, whichever it holds, and the file's content: `(detector, content)`.

    Prints what it is, unless `quiet`. bfloat16: compute in sixteen bits, which DRAEM alone does. Raises `InputError` as
    `checkpoint.load_checkpoint`, and for a file that does not fit the detector that it names.
    """
    content = opened(path, quiet)
    kind = content["detector"]
    if bfloat16 and kind != DraemDetector.kind:
        raise InputError(f"bfloat16: {path} holds {DETECTORS[kind].name}; expected DRAEM for it; leave the option out")
    given = {"bfloat16": True} if bfloat16 else {}
    return DETECTORS[kind].from_content(content, path, device, **given), content
