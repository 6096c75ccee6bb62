"""TODO."""

import copy
import re

from draem_aitex.errors import InputError, one_line

# Names in the authors' code (VitjanZ/DRAEM, model_unet.py) and here, in both networks. Their levels of the encoder
# count from 1; the decoder of the discriminative network has one level more, "_b", before its first.
PUBLISHED_NAMES = (
    (r"(?:encoder|encoder_segment)\.block(\d)\.", lambda n, deeper: f"encoder.{int(n) - 1}."),
    (r"(?:decoder|decoder_segment)\.up(_b|\d)\.", lambda n, deeper: f"up.{_step_up(n, deeper)}."),
    (r"(?:decoder|decoder_segment)\.db(_b|\d)\.", lambda n, deeper: f"decoder.{_step_up(n, deeper)}."),
    (r"(?:decoder|decoder_segment)\.(fin_out)\.0\.", lambda n, deeper: "head."),
)


def _step_up(name, deeper):
    return 0 if name == "_b" else int(name) - 1 + deeper


def rename_published(weights):
    """A state dict of one of the authors' two networks, under this module's names. Raises for a name it does not know.

    weights: dict of name to tensor; which of the two networks it is of shows in the names.
    """
    deeper = int(any(name.startswith("encoder_segment.") for name in weights))
    renamed = {}
    for name, tensor in weights.items():
        for pattern, ours in PUBLISHED_NAMES:
            if match := re.match(pattern, name):
                renamed[ours(match[1], deeper) + name[match.end() :]] = tensor
                break
        else:
            raise InputError(f"weights: {name!r} is no name of the authors' networks; expected a state dict of theirs")
    return renamed


def load_published_weights(model, reconstructive, discriminative):
    """Fill a `paper` pair with the authors' two state dicts; afterwards it computes what theirs compute.

    reconstructive, discriminative: state dicts of their ReconstructiveSubNetwork and DiscriminativeSubNetwork (their
    files NAME.pckl and NAME_seg.pckl, read with `torch.load(..., weights_only=True)`). Raises `InputError` where names
    or shapes differ.
    """
    filled = copy.deepcopy(model)  # so that weights of which one half does not fit leave the model as it is
    for name, weights in (("reconstructive", reconstructive), ("discriminative", discriminative)):
        try:
            getattr(filled, name).load_state_dict(rename_published(weights))
        except RuntimeError as error:
            raise InputError(
                f"{name}: weights do not fit ({one_line(error, 300)}); expected the authors' for this model"
            ) from None
    model.load_state_dict(filled.state_dict())
