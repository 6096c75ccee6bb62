"""`download`: licence position first, then the archives; ends with the same check as `verify`."""

import argparse
from collections import Counter
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where it goes, such as data/aitex")
    parser.add_argument("--url", default=None, metavar="BASE", help="another place that holds the three archives")


def run(options: argparse.Namespace) -> None:
    from draem_aitex.data import aitex, download

    print(download.LICENCE)
    for warning in download.download(options.data, options.url or download.BASE):
        print(f"note: {warning}")
    counts = Counter(row["status"] for row in aitex.verify(options.data))
    print(f"{options.data}: {counts['ok']} of 354 files of AITEX, {counts['altered']} altered")
