"""Synthetic anomalies on whole images: what a detector is judged on where nobody has a real defect."""

from dataclasses import replace

import numpy as np
import torch

from draem_aitex.anomalies.augmenter import Augmenter, AugmenterConfig
from draem_aitex.data.rolls import SYNTHETIC, Roll, grey_levels

TRIES = 50  # a kind that could not be seen leaves an image as it is, and another one is drawn


def with_anomaly(roll: Roll, seed: int) -> Roll:
    """A normal roll with one synthetic anomaly of the mix that suits it, and its mask; the same seed gives the same.

    Its defect is "synthetic". An image on which no anomaly could be seen comes back as it is: normal.
    """
    config, _ = AugmenterConfig.for_images([grey_levels(roll.image)])
    augment = Augmenter(replace(config, clean_share=0.0, pair_share=0.0))
    generator = torch.Generator().manual_seed(seed)
    planes = roll.image.reshape(*roll.image.shape[:2], -1).transpose(2, 0, 1)
    images = torch.from_numpy(np.ascontiguousarray(planes))[None].float() / 255
    for _ in range(TRIES):
        if (found := augment(images, generator)).corrupted[0]:
            break
    else:
        return roll
    image = (255 * found.images[0]).round().byte().numpy().transpose(1, 2, 0).reshape(roll.image.shape)
    return replace(roll, image=image, mask=found.masks[0, 0].numpy() > 0, defect=SYNTHETIC)
