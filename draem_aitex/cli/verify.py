"""`verify`: compare a folder with AITEX's manifest; status 1 where a file is altered or unknown."""

import argparse
from collections import Counter
from pathlib import Path

from draem_aitex.cli import shared

STATES = ("ok", "missing", "altered", "unknown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")


def run(options: argparse.Namespace) -> int:
    from draem_aitex.data import aitex

    shared.claim(options, [options.json])
    rows = aitex.verify(options.data)
    for row in rows:
        if row["status"] != "ok":
            print(f"{row['status']:8} {row['file']}")
    counts = Counter(row["status"] for row in rows)
    print(f"{options.data}: " + ", ".join(f"{counts[state]} {state}" for state in STATES) + " (of 354 files)")
    if (options.data / aitex.SIMULATED_MARK).is_file():
        print("this folder holds simulated fabric, made by the loom; it is not the AITEX data set")
    table = {**{state: counts[state] for state in STATES}, "files": rows}
    shared.write_results({options.json: shared.as_json(table)})
    return 1 if counts["altered"] or counts["unknown"] else 0
