"""Two questions about the first network: when does it leave anomalies out, and what is that worth to the second?

    python benchmarks/reconstruction.py                         how much of an anomaly it hands on, as training goes on
    python benchmarks/reconstruction.py --of second             second networks trained with and without it, simulated
    python benchmarks/reconstruction.py --of second --data DIR  the same on AITEX

Removal: the reconstructive network alone and in the pair, with other weights of L1 under the masks, judged on crops
of calibration rolls. Second: the shipped reconstructive network stays as it is; discriminative networks are trained
from nothing beside it, given its reconstruction, plain grey, or the image once more; three seeds, equal steps. They are
judged on development rolls (simulated fabric: on the defective rolls of another seed, for the set's own are ten). Every
finished run is written to the record; called again, the script goes on where it stopped. The last line is one JSON
object.
"""

import argparse
import json
import sys
from pathlib import Path
from unittest import mock

import torch
from record import circumstances, means, write
from torch import nn

from draem_aitex import evaluate, load_aitex, load_detector, load_simulated
from draem_aitex.anomalies.augmenter import Augmenter, AugmenterConfig
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.model import losses
from draem_aitex.training import trainer
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import CropSampler, NormalAugmentation

RESULTS = Path(__file__).parent / "results"
BATCH = 8
MOMENTS = (250, 500, 1000, 2000, 3000)  # steps after which removal is judged
KINDS = ("spot", "stain", "hole", "thread", "slip", "cut_paste")
REMOVAL = {  # weight of L1 under the masks, and whether the second network trains along
    "alone, weight 1": (1.0, False),
    "alone, weight 10": (10.0, False),
    "pair, weight 10": (10.0, True),
}
SECOND = ("its reconstruction", "grey", "the image twice")
FIGURES = {
    "patch_auroc": "auroc", "patch_ap": "ap", "patch_recall": "recall", "patch_fpr": "fpr", "hits": "hits",
    "defects": "defects", "pixel_auroc": "pixel_auroc", "pixel_ap": "pixel_ap",
}  # fmt: skip


def removal_run(group, seed, data, steps):
    """What the reconstructive network hands on of each kind, moment by moment."""
    weight, in_pair = REMOVAL[group]
    run = trainer.Trainer(load_rolls(data.train), configuration(data, steps, seed), "cpu")
    run.model.discriminative.requires_grad_(in_pair)
    normal = CropSampler(load_rolls(data.calibration), 128, "cpu")(128, torch.Generator().manual_seed(5))
    corrupted = {kind: of_one_kind(kind, normal) for kind in KINDS}

    def weighted(x, y, mask):
        return losses.reconstruction_loss(x, y, mask, removal=weight)

    moments = []
    with mock.patch.object(trainer, "reconstruction_loss", weighted):
        for _ in range(steps):
            run.step()
            if run.steps in MOMENTS or run.steps == steps:
                moments.append({"steps": run.steps, **handed_on(run.average.reconstructive, normal, corrupted)})
    return {"moments": moments}


def of_one_kind(kind, normal):
    """Corrupted crops and masks, one anomaly of this kind in each."""
    alone = AugmenterConfig(clean_share=0, pair_share=0, weights={kind: 1.0})
    batch = Augmenter(alone)(normal, torch.Generator().manual_seed(7))
    return batch.images, batch.masks


@torch.no_grad()
def handed_on(network, normal, corrupted):
    """SSIM loss on normal crops, and of each kind the part of the anomaly's contrast that the reconstruction has."""
    plain = network(normal)
    row = {"ssim": float(losses.ssim_loss(plain, normal))}
    for kind, (images, masks) in corrupted.items():
        change = (images - normal) * masks
        row[kind] = float(((network(images) - plain) * change).sum() / (change**2).sum())
    return row


class Instead(nn.Module):
    """Stands where the reconstructive network stood and gives its reconstruction, grey, or its input."""

    def __init__(self, network, what):
        super().__init__()
        self.network, self.what, self.head = network.eval().requires_grad_(False), what, network.head

    def forward(self, images):
        if self.what == "grey":
            return torch.full_like(images, 0.5)
        return images if self.what == "the image twice" else self.network(images)


def second_run(group, seed, data, steps):
    """Development figures of a discriminative network trained with one of the three as its first input."""
    shipped = load_detector("compact_aitex" if data.source == "AITEX" else "compact_loom", "cpu", quiet=True).model
    run = trainer.Trainer(load_rolls(data.train), configuration(data, steps, seed), "cpu")
    for model in (run.model, run.average):
        model.reconstructive = Instead(shipped.reconstructive, group)
    for _ in range(steps):
        run.step()
    detector = DraemDetector(run.average).calibrate(data)
    judged = data.development if data.source == "AITEX" else load_simulated(seed=1).records
    figures = evaluate(detector, [record for record in judged if record.defect != "000"], quiet=True).figures()
    return {name: figures[key] for key, name in FIGURES.items()}


def configuration(data, steps, seed):
    """The default training with few crops a step; simulated crops are not augmented, for a fabric's rolls are alike."""
    normal = NormalAugmentation() if data.source == "AITEX" else None
    return TrainConfig(steps=steps, batch=BATCH, seed=seed, normal_augmentation=normal)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="AITEX folder, for --of second (default: simulated fabric)")
    parser.add_argument("--of", choices=("removal", "second"), default="removal", help="default: removal")
    parser.add_argument("--steps", type=int, default=3000, help="of training a run (default: 3000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--record", type=Path, help="default: in results, by question and data")
    options = parser.parse_args()
    try:
        record = run_all(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(means([last(run) for run in record["runs"]])))
    return 0


def run_all(options):
    """Do the runs that the record lacks; returns the record."""
    data = load_aitex(options.data) if options.of == "second" and options.data else load_simulated()
    run, groups = (removal_run, REMOVAL) if options.of == "removal" else (second_run, SECOND)
    which = "aitex" if data.source == "AITEX" else "loom"
    path = options.record or RESULTS / f"reconstruction_{options.of}_{which}.json"
    command = f"python benchmarks/reconstruction.py --of {options.of}" + " --data DIR" * (data.source == "AITEX")
    fresh = {**circumstances(f"{command} --steps {options.steps}"), "source": data.source}
    record = json.loads(path.read_text()) if path.exists() else {**fresh, "steps": options.steps, "runs": []}
    if (record["source"], record["steps"]) != (data.source, options.steps):
        raise InputError(f"{path}: holds runs of other data or steps; give another --record, or move that file away")
    done = {(made["group"], made["seed"]) for made in record["runs"]}
    for group, seed in [(group, seed) for seed in options.seeds for group in groups if (group, seed) not in done]:
        made = {"group": group, "seed": seed, **run(group, seed, data, options.steps)}
        record["runs"].append(made)
        write(path, record)
        print(made, flush=True)
    return record


def last(run):
    """A run with the figures of its last moment in place of all moments."""
    return {**{key: value for key, value in run.items() if key != "moments"}, **run.get("moments", [{}])[-1]}


if __name__ == "__main__":
    sys.exit(main())
