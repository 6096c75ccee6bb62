"""How far a run has come: a bar with the time left in a notebook or a terminal, plain lines elsewhere."""

import math
import sys
import time

from tqdm.auto import tqdm

from draem_aitex.training import distributed

LINE_SECONDS = 30  # between plain lines


class Progress:
    """A bar or lines about a `trainer.Trainer`, on the first rank alone, and none where `quiet`."""

    def __init__(self, trainer, quiet):
        self.trainer, self.quiet = trainer, quiet or distributed.rank() > 0
        drawn = "ipykernel" in sys.modules or sys.stderr.isatty()
        self.lines = not drawn and not self.quiet
        self.bar = tqdm(
            total=100,
            initial=100 * trainer.progress,
            desc="training",
            disable=self.quiet or self.lines,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}{postfix}",
        )
        self.began, self.started, self.said = trainer.progress, time.monotonic(), time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def update(self):
        """After a step."""
        trainer = self.trainer
        if not self.lines:
            if trainer.log:
                self.bar.set_postfix_str(f"step {trainer.steps}, loss {trainer.log[-1]['loss']:.3f}", refresh=False)
            self.bar.update(min(100 * trainer.progress, 100) - self.bar.n)
        elif time.monotonic() - self.said >= LINE_SECONDS:
            self.said = time.monotonic()
            pace = (trainer.progress - self.began) / (self.said - self.started)
            left = (1 - trainer.progress) / pace / 60 if pace > 0 else math.inf
            loss = f", loss {trainer.log[-1]['loss']:.3f}" if trainer.log else ""
            print(f"step {trainer.steps}, {trainer.progress:.0%}{loss}, about {left:.1f} minutes left", flush=True)
