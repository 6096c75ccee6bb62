"""The `fit` command: one of the earlier approaches, calibrated and judged as a training of DRAEM is."""

import time

import torch

from draem_aitex.baselines.patchcore import PatchCore
from draem_aitex.baselines.vae import VAE
from draem_aitex.cli.commands import check_writable
from draem_aitex.cli.train import calibrated, made, open_split, print_threshold
from draem_aitex.data import rolls
from draem_aitex.errors import InputError
from draem_aitex.training import checkpoint, model_card
from draem_aitex.training.sampler import NormalAugmentation

SWITCHES = ("per_fabric", "no_augmentation", "no_normalisation")


def fit(options):
    """Fit a VAE or a memory bank to the training rolls; the checkpoint is written at the end, whole.

    A fit takes seconds to minutes and is not resumed: after an interruption the same command starts anew.
    """
    check_writable(options.out)
    if options.out.exists():  # what took long to make is not replaced by another kind of detector
        checkpoint.load_checkpoint(options.out, options.detector)
    if not 0 <= options.seed < 2**63:
        raise InputError(f"--seed {options.seed}: expected 0 to 2^63 - 1; give another one")
    detector, arguments = _detector(options)
    collection, fabrics, split, calibration = open_split(options)
    trained = {record.fabric for record in split.train}
    if getattr(options, "per_fabric", False):  # a fabric without training rolls has no bank
        calibration = [roll for roll in calibration if roll.fabric in trained]
        if not calibration:
            raise InputError(f"{collection.root}: no fabric with rolls of both kinds; expected one; add some")
    generator, started = torch.Generator().manual_seed(options.seed), time.perf_counter()
    detector.fit(rolls.load_rolls(split.train), generator, **arguments)
    content = {
        **detector.content(),
        "seed": options.seed,
        "seconds": time.perf_counter() - started,
        "source": collection.source,
        "fabrics": list(detector.fabrics) or fabrics,
        "split": checkpoint.describe_split(split),
    }
    development = [record for record in split.development if detector.judges(record.fabric)]
    content |= calibrated(detector, calibration, development)
    content["made"] = made(_words(options), options.out, detector.device)
    checkpoint.save_checkpoint(options.out, content)
    print("\n".join([f"{options.out}:", *model_card.headline(content)]))
    print_threshold(content)


def _detector(options):
    """The detector that the options describe, and what its `fit` is given besides."""
    if options.detector == "vae":
        names, kind, how = ("error", "beta", "smoothing", "device"), VAE, {"steps": options.steps}
    else:
        names = ("backbone", "per_fabric", "bank_size", "pool_size", "neighbourhood", "smoothing", "device")
        kind, how = PatchCore, {}
    detector = kind(**{name: getattr(options, name) for name in names}, normalised=not options.no_normalisation)
    return detector, {**how, "normal_augmentation": None if options.no_augmentation else NormalAugmentation()}


def _words(options):
    """The command that was given, but for `--out`, with DIR for the folder."""
    names = ("steps", "error", "beta", "backbone", "bank_size", "pool_size", "neighbourhood", "smoothing", "seed")
    given = {"data": options.data and "DIR", **{name: getattr(options, name, None) for name in names}}
    given["fabric"] = " ".join(options.fabric) or None
    words = [f"--{name.replace('_', '-')} {value}" for name, value in given.items() if value is not None]
    words += [f"--{name.replace('_', '-')}" for name in SWITCHES if getattr(options, name, False)]
    return [f"python -m draem_aitex fit {options.detector}", *words]
