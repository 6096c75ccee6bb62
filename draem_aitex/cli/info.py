"""`info`: the card of a checkpoint, as Markdown."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a file, or a shipped one: compact_aitex, compact_loom")


def run(options: argparse.Namespace) -> None:
    from draem_aitex.training import checkpoint, model_card

    path = checkpoint.checkpoint_file(options.checkpoint)
    print(model_card.card(path.name, checkpoint.load_checkpoint(path)), end="")
