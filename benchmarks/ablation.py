"""What the choices are worth: equal minutes of training, several seeds, judged on development rolls.

    python benchmarks/ablation.py --data data/aitex                  the kinds of synthetic anomalies
    python benchmarks/ablation.py --data data/aitex --of networks    the shape of the `compact` networks
    python benchmarks/ablation.py --data data/aitex --of recipe      what else defines a training

Each group trains for three minutes with three seeds, the cheaper network for more steps. The threshold comes from
the calibration rolls, for a false-positive rate (FPR) of 1 % of normal patches; recalls are those of development rolls'
patches, so that the test rolls stay untouched by any choice made from the table. Every finished run is written to the
record; called again, the script goes on where it stopped. The last line is one JSON object with the groups' means.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from record import add_data, circumstances, means, need_data, write

from draem_aitex.anomalies.augmenter import AugmenterConfig
from draem_aitex.data.aitex import load_aitex
from draem_aitex.data.patcher import extract_patches, patch_maxima
from draem_aitex.data.rolls import load_rolls
from draem_aitex.detectors.draem import DraemDetector
from draem_aitex.errors import InputError
from draem_aitex.evaluation import metrics
from draem_aitex.model.draem import PRESETS
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.loop import train_networks
from draem_aitex.training.sampler import NormalAugmentation

SMALL = 100  # mask pixels; patches with fewer are counted by themselves
BROKEN_PICK = "010"
RESULTS = Path(__file__).parent / "results"
RECORDS = {
    "kinds": RESULTS / "ablation.json",
    "networks": RESULTS / "ablation_networks.json",
    "recipe": RESULTS / "ablation_recipe.json",
}
NETWORKS = {
    "compact": {},
    "plain blocks in both": {"reconstructive": [16, 32, 64], "reconstructive_block": "plain"},
    "residual blocks in both": {"discriminative_block": "residual", "residual": [1, 1, 1, 4]},
}
RECIPE = {
    "default recipe": {},
    "no augmentation": {"normal_augmentation": None},
    "no hard normals": {"normal_augmentation": {"wander_share": 0, "bar_share": 0, "tone": 0}},
    "more slips, fewer spots": {"mix": {"slip": 0.3, "spot": 0.2}},
}


def groups(of="kinds"):
    """Name to settings.

    kinds: weights of the augmenter: the published idea, with its successor, and the default mix whole, without slip,
    without small things. networks: what differs from `compact`. recipe: what differs from the default `TrainConfig`.
    """
    if of != "kinds":
        return {"networks": NETWORKS, "recipe": RECIPE}[of]
    mix = AugmenterConfig().weights

    def without(*kinds):
        return {kind: weight for kind, weight in mix.items() if kind not in kinds}

    return {
        "default mix": mix,
        "default without slip": without("slip"),
        "default without spot and thread": without("spot", "thread"),
        "perlin_texture": {"perlin_texture": 1.0},
        "perlin_texture and cut_paste": {"perlin_texture": 1.0, "cut_paste": 0.5, "cut_paste_scar": 0.5},
    }


def configuration(of, settings, minutes, seed):
    """The training run of a group."""
    if of == "kinds":
        return TrainConfig(minutes=minutes, seed=seed, augmenter=AugmenterConfig(weights=settings))
    if of == "recipe":
        changed = dict(settings)
        mix = {**AugmenterConfig().weights, **changed.pop("mix", {})}
        if isinstance(normal := changed.get("normal_augmentation"), dict):
            changed["normal_augmentation"] = NormalAugmentation(**normal)
        return TrainConfig(minutes=minutes, seed=seed, augmenter=AugmenterConfig(weights=mix), **changed)
    changed = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return TrainConfig(minutes=minutes, seed=seed, preset=replace(PRESETS["compact"], **changed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--of", choices=RECORDS, default="kinds", help="what is varied (default: kinds)")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training a run (default: 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--record", type=Path, help="default: in results, by what is varied")
    options = parser.parse_args()
    try:
        need_data(options)
        record = run_all(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = means(record["runs"])
    print_table(table, record)
    print(json.dumps(table))
    return 0


def run_all(options):
    """Do the runs that the record lacks; returns the record."""
    path, of = options.record or RECORDS[options.of], groups(options.of)
    collection = load_aitex(options.data)
    wanted = {"source": collection.source, "minutes": options.minutes, "groups": of}
    record = open_record(path, wanted, options.of)
    done = {(run["group"], run["seed"]) for run in record["runs"]}
    todo = [(name, seed) for seed in options.seeds for name in of if (name, seed) not in done]
    if todo:
        parts = collection.train, collection.calibration, collection.development
        train_rolls, calibration, development = map(load_rolls, parts)
    for name, seed in todo:
        config = configuration(options.of, of[name], options.minutes, seed)
        result = train_networks(train_rolls, config, quiet=not sys.stderr.isatty())
        if not result.finished:
            raise InputError(f"{name}, seed {seed}: interrupted; its run is not recorded; call again to go on")
        run = {"group": name, "seed": seed, "steps": result.steps, **judge(result.model, calibration, development)}
        record["runs"].append(run)
        write(path, record)
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in run.items()}, flush=True)
    return record


def judge(model, calibration, development):
    """Figures of one model on the development rolls' patches."""
    detector = DraemDetector(model).calibrate(calibration, fpr=0.01)
    thresholds = {rate: detector.calibration.threshold(rate).value for rate in (0.01, 0.05)}
    defective = [roll for roll in development if roll.mask is not None and roll.mask.any()]
    scores, sizes, picks = [], [], []
    for roll, found in zip(defective, detector.maps(defective), strict=True):
        scores.append(patch_maxima(found, roll.edges))
        sizes.append(patch_sums(roll.mask, roll.edges))
        picks.append(np.full(len(scores[-1]), roll.defect == BROKEN_PICK))
    scores, sizes, picks = map(np.concatenate, (scores, sizes, picks))
    normal = sizes == 0
    parts = {"all": ~normal, "small": ~normal & (sizes < SMALL), "broken_pick": ~normal & picks}
    figures = {"normal_patches": int(normal.sum())}
    for part, positive in parts.items():
        figures[f"{part}_patches"] = int(positive.sum())
        judged = normal | positive
        figures[f"{part}_auroc"] = metrics.auroc(positive[judged], scores[judged])
        for rate, threshold in thresholds.items():
            figures[f"{part}_recall_at_{rate:.0%}"] = float((scores[positive] > threshold).mean())
    for rate, threshold in thresholds.items():
        figures[f"false_positives_at_{rate:.0%}"] = int((scores[normal] > threshold).sum())
    return figures


def patch_sums(mask, edges):
    """Mask pixels of each patch of a roll."""
    return extract_patches(mask, edges)[0].sum((1, 2))


def open_record(path, wanted, of):
    """The record so far; refuses to mix runs of another protocol."""
    if not path.exists():
        command = "python benchmarks/ablation.py" + ("" if of == "kinds" else f" --of {of}")
        return {**circumstances(command), **wanted, "runs": []}
    record = json.loads(path.read_text())
    for name, value in wanted.items():
        if record.get(name) != value:
            raise InputError(f"{path}: holds runs with other {name}; give another --record, or move that file away")
    return record


def print_table(table, record):
    columns = ("all_auroc", "all_recall_at_1%", "small_recall_at_1%", "broken_pick_recall_at_1%", "broken_pick_auroc")
    print(f"{record['source']}, {record['minutes']:g} minutes a run, {record['date']}, {record['machine']}")
    print(f"{'group':33}" + "".join(f"{column:>26}" for column in ("runs", *columns)))
    for name, row in table.items():
        print(f"{name:33}{row['runs']:26}" + "".join(f"{row[column]:26.3f}" for column in columns))


if __name__ == "__main__":
    sys.exit(main())
