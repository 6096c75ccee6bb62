"""Training in a notebook: one call, one figure that grows in place."""

import time

import torch
from IPython.display import display

from draem_aitex import plots
from draem_aitex.anomalies.augmenter import Augmenter, AugmenterConfig
from draem_aitex.devices import pick_device
from draem_aitex.training import loop
from draem_aitex.training.sampler import CropSampler

SAMPLE_SEED = 12  # of the crop that is kept aside
REDRAW_SECONDS = 2.0


def train(rolls, config, checkpoint=None, device="auto", sample_seed=SAMPLE_SEED, **options):
    """`training.train` with its losses, its rate and what it makes of one fixed sample drawn while it lasts.

    rolls, config, checkpoint, device, options: as there. sample_seed: of the sample, a crop with a made-up defect that
    training does not see again. Stop the cell whenever you like: the result holds the averaged networks so far, and,
    with a checkpoint, the same cell run again goes on. Returns a `training.TrainResult`.
    """
    figure = LiveFigure(fixed_sample(rolls, config, device, sample_seed))
    options = {"log_every": 10, **options}
    result = loop.train_networks(rolls, config, checkpoint, device, on_log=figure.follow, **options)
    figure.draw(result.log, result.model)
    return result


def fixed_sample(rolls, config, device="auto", seed=SAMPLE_SEED):
    """One crop with a made-up defect, by the run's sampler and mix: an `augmenter.AugmentedBatch` of one.

    The same seed gives the same sample.
    """
    device = pick_device(device)
    generator = torch.Generator(device).manual_seed(seed)
    clean = CropSampler(rolls, config.crop, device, config.normal_augmentation)(
        2, generator
    )  # some kinds need other cloth
    mix = AugmenterConfig(clean_share=0.0, pair_share=0.0, weights=config.augmenter.weights)
    return Augmenter(mix)(clean, generator)


class LiveFigure:
    """The figure: loss curves and rate above; crop, reconstruction, true mask and predicted mask of a sample below."""

    def __init__(self, sample):
        self.sample, self.drawn = sample, time.monotonic()
        self.handle = display(plots.plot_training([]), display_id=True)

    def follow(self, trainer):
        """A callback for `training.train`: redraw, every few seconds."""
        if time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.draw(trainer.log, trainer.average)

    def draw(self, log, model):
        """Bring the figure up to date with a log and the averaged networks. Outside a notebook there is none."""
        if self.handle is None:
            return
        with torch.inference_mode():
            reconstruction, logits = model(self.sample.images[:1])
        pictures = {
            f"crop: {self.sample.name(0)}": self.sample.images,
            "reconstruction": reconstruction.clamp(0, 1),
            "true mask": self.sample.masks,
            "predicted mask": torch.sigmoid(logits),
        }
        pictures = {name: picture[0, 0].float().cpu().numpy() for name, picture in pictures.items()}
        self.handle.update(plots.plot_training(log, pictures))
        self.drawn = time.monotonic()
