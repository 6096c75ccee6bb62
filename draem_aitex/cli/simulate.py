"""`simulate`: write a simulated set; refuses a folder that is not empty."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> None:
    from draem_aitex.simulation import loom

    loom.simulate(options.out, seed=options.seed, progress=True)
    print(f"simulated fabric (not AITEX), seed {options.seed}: {options.out}")
