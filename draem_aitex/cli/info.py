"""`info`: the card of a checkpoint, as Markdown."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path)


def run(options: argparse.Namespace) -> None:
    from draem_aitex.training import checkpoint, model_card

    print(model_card.card(options.checkpoint.name, checkpoint.load_checkpoint(options.checkpoint)), end="")
