import pytest
import torch

from draem_aitex.data import aitex
from draem_aitex.data.rolls import load_rolls
from draem_aitex.training import live, loop
from draem_aitex.training.checkpoint import load_checkpoint
from draem_aitex.training.config import TrainConfig


@pytest.fixture(scope="module")
def rolls(small_set):
    return load_rolls(aitex.load_aitex(small_set).train)


class Display:
    """Stands in for a notebook's display: what was shown, in order."""

    def __init__(self, monkeypatch):
        self.figures = []
        monkeypatch.setattr(live, "display", self)

    def __call__(self, figure, display_id):
        self.figures.append(figure)
        return self

    def update(self, figure):
        self.figures.append(figure)

    def images(self):
        return {axis.get_title(): axis.images[0].get_array() for axis in self.figures[-1].axes if axis.images}


def watched(rolls, config, *arguments, **options):
    """Train with a live figure, as `draem_aitex.train` does."""
    figure = live.LiveFigure(live.fixed_sample(rolls, config))
    options = {"log_every": 10, "quiet": True, **options}
    result = loop.train_networks(rolls, config, *arguments, on_log=figure.follow, **options)
    figure.draw(result.log, result.model)
    return result


def test_one_figure_is_drawn_and_brought_up_to_date(rolls, tmp_path, monkeypatch):
    shown, config = Display(monkeypatch), TrainConfig(steps=30, batch=2, crop=64)
    monkeypatch.setattr(live, "REDRAW_SECONDS", 0)
    result = watched(rolls, config, tmp_path / "model.pt")
    assert result.finished and len(shown.figures) == 5, "empty, at 10, 20 and 30 steps, and at the end"
    curves = shown.figures[-1].axes[0].lines[0]
    assert list(curves.get_xdata()) == [10, 20, 30]
    sample = live.fixed_sample(rolls, config)
    with torch.inference_mode():
        reconstruction, logits = result.model(sample.images[:1])
    images = shown.images()
    assert torch.allclose(torch.tensor(images["reconstruction"]), reconstruction[0, 0].clamp(0, 1), atol=1e-6)
    assert torch.allclose(torch.tensor(images["predicted mask"]), logits[0, 0].sigmoid(), atol=1e-6)
    assert images["ground-truth mask"].max() == 1 and f"crop: {sample.name(0)}" in images


def test_the_sample_is_fixed_and_training_does_not_notice_it(rolls, monkeypatch):
    shown = Display(monkeypatch)
    config = TrainConfig(steps=3, batch=2, crop=64)
    first, second = live.fixed_sample(rolls, config), live.fixed_sample(rolls, config)
    assert torch.equal(first.images, second.images) and first.corrupted[0]
    monkeypatch.setattr(live, "REDRAW_SECONDS", 0)
    seen = watched(rolls, config, log_every=1).model.state_dict()
    alone = loop.train_networks(rolls, config, quiet=True).model.state_dict()
    assert len(shown.figures) == 5 and all(torch.equal(value, alone[name]) for name, value in seen.items())


def test_outside_a_notebook_it_trains_without_a_figure(rolls, capsys):
    assert watched(rolls, TrainConfig(steps=2, batch=2, crop=64), log_every=1).finished


def test_a_stopped_cell_run_again_goes_on(rolls, tmp_path, monkeypatch):
    shown, config = Display(monkeypatch), TrainConfig(steps=20, batch=2, crop=64)
    path = tmp_path / "model.pt"

    def stop(figure, trainer):
        if trainer.steps == 10:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(live.LiveFigure, "follow", stop)
        part = watched(rolls, config, path)
    assert not part.finished and part.steps == 10 and len(shown.figures) == 2
    assert not load_checkpoint(path)["finished"]
    again = watched(rolls, config, path)
    assert again.finished and [row["step"] for row in again.log] == [10, 20]
