"""The live view: one figure in a notebook that shows losses and one sample while training lasts."""

import dataclasses
import time

import torch
from IPython.display import display

from draem_aitex import charts
from draem_aitex.anomalies.augmenter import AugmentedBatch, AugmenterConfig
from draem_aitex.data.rolls import Roll
from draem_aitex.devices import Device, pick_device
from draem_aitex.model.draem import DRAEM
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import CropSampler
from draem_aitex.training.trainer import Trainer

REDRAW_SECONDS = 2.0


def fixed_sample(rolls: list[Roll], config: TrainConfig, device: Device = "auto", seed: int = 12) -> AugmentedBatch:
    """Two crops, drawn as the run draws them, the first with a synthetic anomaly; the same seed gives the same.

    Two, for some kinds take a piece of another crop. `LiveFigure` shows the first.
    """
    device = pick_device(device)
    generator = torch.Generator(device).manual_seed(seed)
    clean = CropSampler(rolls, config.crop, device, config.normal_augmentation, config.network.channels)(2, generator)
    mix = config.augmenter
    if isinstance(mix, AugmenterConfig):
        mix = dataclasses.replace(mix, clean_share=0.0, pair_share=0.0)
    augment = mix.build()
    while not (sample := augment(clean, generator)).corrupted[0]:  # the published mix leaves half of the crops alone
        continue
    return sample


class LiveFigure:
    """Losses and learning rate; below them crop, reconstruction, ground-truth mask and predicted mask of a sample.

    Give `follow` to `train_networks` as `on_log`, and call `draw` with its result. sample: of `fixed_sample`.
    """

    def __init__(self, sample: AugmentedBatch) -> None:
        self.sample, self.drawn = sample, time.monotonic()
        self.handle = display(charts.plot_training([]), display_id=True)

    def follow(self, trainer: Trainer) -> None:
        """Redraw, every few seconds."""
        if time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.draw(trainer.log, trainer.average)

    def draw(self, log: list[dict[str, float]], model: DRAEM) -> None:
        """Bring the figure up to date with a log and the averaged networks. Outside a notebook there is none."""
        if self.handle is None:
            return
        with torch.inference_mode():
            reconstruction, logits = model(self.sample.images[:1])
        images = {f"crop: {self.sample.name(0)}": self.sample.images, "reconstruction": reconstruction.clamp(0, 1)}
        images |= {"ground-truth mask": self.sample.masks, "predicted mask": torch.sigmoid(logits)}
        images = {name: image[0, 0].float().cpu().numpy() for name, image in images.items()}
        self.handle.update(charts.plot_training(log, images))
        self.drawn = time.monotonic()
