"""The baselines of notebook 01 on simulated rolls, given more and more until more does not help.

    python benchmarks/introduction.py

The autoencoder is trained for 500, 1,000 and 2,000 steps, the bank keeps 500 and 2,000 vectors. Nothing is chosen:
every row is judged on the test rolls, once, without score normalisation, by figures that know no threshold. Crops are
not augmented. `losses` is the mean over each 50 steps. All of it runs on the CPU; every finished row is written to the
record, and called again, the script goes on where it stopped. The last line is one JSON object.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from baselines import SEED, open_record
from record import write

from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.calibration import Threshold
from draem_aitex.errors import InputError
from draem_aitex.evaluation.evaluator import evaluate
from draem_aitex.evaluation.text_table import without_nan
from draem_aitex.files import check_outputs
from draem_aitex.simulation.loom import load_simulated

RECORD = Path(__file__).parent / "results" / "introduction.json"
EVERY = 50  # steps
ANY = Threshold(0.5, 0.5, 0.5, 1, 1)  # asked for, and without effect on the figures below
FIGURES = ("patch_auroc", "patch_auroc_mean_of_fabrics", "patch_ap", "patches", "positive_patches", "n_test_rolls")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE")
    options = parser.parse_args()
    try:
        check_outputs([options.record])
        record = run_all(load_simulated(), options.record)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, row in record["rows"].items():
        print(f"{name:28} AUROC {row['patch_auroc']:.3f}, AP {row['patch_ap']:.3f}")
    print(json.dumps(record["rows"]))
    return 0


def rows():
    """Name of each row to its detector and the arguments of its fit."""
    autoencoders = {f"VAE, {steps:,} steps": (VAE(normalised=False), {"steps": steps}) for steps in (500, 1000, 2000)}
    banks = {size: PatchCore(bank_size=size, normalised=False) for size in (500, 2000)}
    return autoencoders | {f"PatchCore, fft, {size:,} vectors": (bank, {}) for size, bank in banks.items()}


def run_all(collection, path):
    """Measure the rows that the record lacks; returns the record."""
    record = open_record(path, collection.source, "python benchmarks/introduction.py")
    train = load_rolls(collection.train)
    for name, (detector, how) in rows().items():
        if name in record["rows"]:
            continue
        detector.fit(train, torch.Generator().manual_seed(SEED), **how)
        figures = evaluate(detector, collection.test, threshold=ANY, quiet=True).figures()
        row = {name: figures[name] for name in FIGURES} | {"what": detector.what, "bytes": detector.size_bytes}
        if isinstance(detector, VAE):
            row["losses"] = np.reshape(detector.losses, (-1, EVERY)).mean(1).tolist()
        record["rows"][name] = without_nan(row)
        write(path, record)
    return record


if __name__ == "__main__":
    sys.exit(main())
