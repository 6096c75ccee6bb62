"""The authors' published weights (VitjanZ/DRAEM): their names translated, and a `paper` pair filled with them."""

import copy
import re
from collections.abc import Mapping

from torch import Tensor

from draem_aitex.errors import InputError, one_line
from draem_aitex.model.draem import DRAEM

# A name in the authors' model_unet.py, in either network: block1 is the first level of the encoder, up1 and db1 the
# first step of the decoder (in the discriminative network the second, after up_b and db_b), fin_out the last layer.
AUTHORS_NAME = re.compile(r"(?:en|de)coder(?:_segment)?\.(?:(block|up|db)(_b|\d)|fin_out\.0)\.(.+)")
Weights = Mapping[str, Tensor]  # a state dict
OUR_LISTS = {"block": "encoder", "up": "up", "db": "decoder"}


def rename_published(weights: Weights) -> dict[str, Tensor]:
    """A state dict of one of the authors' two networks, under the names of `unet.UNet`.

    weights: their state dict; its names show which of the two networks it belongs to. Raises `InputError` for a name
    that theirs do not have.
    """
    first = int(not any(name.startswith("encoder_segment.") for name in weights))  # step of the decoder that is 1 there
    renamed = {}
    for name, tensor in weights.items():
        if (match := AUTHORS_NAME.fullmatch(name)) is None:
            raise InputError(f"weights: {name!r} is no name of the authors' networks; expected a state dict of theirs")
        part, step, rest = match.groups()
        if part is None:
            renamed[f"head.{rest}"] = tensor
        else:
            index = 0 if step == "_b" else int(step) - (1 if part == "block" else first)
            renamed[f"{OUR_LISTS[part]}.{index}.{rest}"] = tensor
    return renamed


def load_published_weights(model: DRAEM, reconstructive: Weights, discriminative: Weights) -> None:
    """Fill a `paper` pair with the authors' two state dicts; afterwards it computes what theirs compute.

    model: `build_draem("paper", channels=3)`; their networks see colour images. Left as it is if one half does not fit.
    reconstructive, discriminative: state dicts of their ReconstructiveSubNetwork and DiscriminativeSubNetwork (their
    files NAME.pckl and NAME_seg.pckl, read with `torch.load(..., weights_only=True)`).

    Raises `InputError` where names or shapes differ.
    """
    filled = copy.deepcopy(model)
    for name, weights in (("reconstructive", reconstructive), ("discriminative", discriminative)):
        try:
            getattr(filled, name).load_state_dict(rename_published(weights))
        except RuntimeError as error:
            why = f"weights do not fit ({one_line(error, 300)})"
            raise InputError(f'{name}: {why}; expected theirs, and build_draem("paper", channels=3)') from None
    model.load_state_dict(filled.state_dict())
