"""The benchmarks: what they measure is theirs to say; that they run, resume, refuse and end in JSON is tested here."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_baselines import as_roll, seeded, small_bank, stripes, with_blob

from draem_aitex.anomalies.kinds import KINDS
from draem_aitex.baselines.backbones import BACKBONES
from draem_aitex.baselines.vae import VAE
from draem_aitex.data import aitex, patcher
from draem_aitex.data.rolls import load_rolls
from draem_aitex.evaluation import metrics
from draem_aitex.model.draem import build_draem
from draem_aitex.training.checkpoint import load_checkpoint, load_model
from draem_aitex.training.config import TrainConfig
from draem_aitex.training.sampler import NormalAugmentation
from draem_aitex.training.trainer import Trainer

sys.path.insert(0, str(ROOT / "benchmarks"))
import ablation  # noqa: E402
import augmenter  # noqa: E402
import baselines  # noqa: E402
import gpu  # noqa: E402
import inference  # noqa: E402
import introduction  # noqa: E402
import neighbours  # noqa: E402
import reconstruction  # noqa: E402
import record  # noqa: E402
import scores  # noqa: E402
import training  # noqa: E402

KEYS = {  # of the last line, on which others depend
    "augmenter": "crops_per_s pixels_per_s batch share_of_a_training_step perlin_pixels_per_s peer_perlin_pixels_per_s "
    "pixels_per_s_ratio",
    "training": "preset batch crop pixels_per_s peer_pixels_per_s pixels_per_s_ratio network_share losses_share "
    "augmenter_share",
    "inference": "rolls_per_s peer_rolls_per_s rolls_per_s_ratio inspect_ratio peak_memory_mb rolls_per_s_float32",
}


def run(monkeypatch, capsys, module, *arguments):
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{module.__name__}.py", *map(str, arguments)])
    status = module.main()
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err


def test_the_ablation_resumes_and_refuses_other_protocols(monkeypatch, capsys, small_set, tmp_path):
    trained = []

    def train_networks(rolls, config, quiet):
        trained.append((sorted(config.augmenter.weights), config.seed, config.minutes))
        return SimpleNamespace(model=None, steps=7, finished=True)

    figures = ("all_auroc", "all_recall_at_1%", "small_recall_at_1%", "broken_pick_recall_at_1%", "broken_pick_auroc")
    monkeypatch.setattr(ablation, "train_networks", train_networks)
    monkeypatch.setattr(ablation, "judge", lambda *_: dict.fromkeys(figures, 0.5))
    record = tmp_path / "record.json"
    data = ("--data", small_set, "--record", record)
    assert run(monkeypatch, capsys, ablation, *data, "--seeds", 0)[0] == 0 and len(trained) == 5
    status, lines, _ = run(monkeypatch, capsys, ablation, *data, "--seeds", 0, 1)
    assert status == 0 and len(trained) == 10 and {seed for _, seed, _ in trained[5:]} == {1}
    means = json.loads(lines[-1])
    assert list(means) == list(ablation.groups()) and means["default mix"]["runs"] == 2
    written = record.read_bytes()
    assert json.loads(written)["source"] == "simulated fabric"
    status, _, error = run(monkeypatch, capsys, ablation, *data, "--minutes", 9)
    assert status == 2 and "holds runs with other minutes" in error and record.read_bytes() == written
    monkeypatch.delenv("AITEX_DIR", raising=False)
    assert run(monkeypatch, capsys, ablation, "--record", record)[0] == 2


def test_the_ablations_groups_differ_in_what_they_say():
    groups = ablation.groups()
    assert len(groups) == 5 and set(groups["default mix"]) == set(KINDS)
    assert set(groups["default mix"]) - set(groups["default without slip"]) == {"slip"}


def test_the_ablations_figures(small_set, checkpoint):
    """Counted by hand on the small set: patches by their mask pixels, recalls as shares of them."""
    records = aitex.load_aitex(small_set).records
    normal = load_rolls([record for record in records if record.is_normal])
    defective = load_rolls([record for record in records if not record.is_normal])
    figures = ablation.judge(
        load_model(load_checkpoint(checkpoint), "model.pt"), normal * 2, defective
    )  # 1 % takes 99 patches
    sums = np.concatenate([ablation.patch_sums(roll.mask, roll.edges) for roll in defective])
    hit = np.concatenate([patcher.patch_maxima(roll.mask, roll.edges) for roll in defective])
    assert np.array_equal(sums > 0, hit)
    assert figures["all_patches"] == hit.sum() and figures["normal_patches"] == (~hit).sum()
    assert figures["small_patches"] == ((sums > 0) & (sums < 100)).sum()
    assert 0 <= figures["all_auroc"] <= 1 and 0 <= figures["all_recall_at_1%"] <= figures["all_recall_at_5%"] <= 1


def test_the_reconstructions_questions_resume_and_refuse_other_steps(monkeypatch, capsys, tmp_path):
    made, record = [], tmp_path / "record.json"

    def removal_run(group, seed, data, steps):
        made.append((group, seed))
        return {"moments": [{"steps": steps, "spot": 0.5 + 0.25 * seed}]}

    monkeypatch.setattr(reconstruction, "removal_run", removal_run)
    few = ("--record", record, "--steps", 5)
    assert run(monkeypatch, capsys, reconstruction, *few, "--seeds", 0)[0] == 0
    status, lines, _ = run(monkeypatch, capsys, reconstruction, *few, "--seeds", 0, 1)
    assert status == 0 and made == [(group, seed) for seed in (0, 1) for group in reconstruction.REMOVAL]
    assert json.loads(lines[-1])["alone, weight 1"] == {"steps": 5, "spot": 0.625, "runs": 2}
    assert json.loads(record.read_text())["command"].endswith("reconstruction.py --of removal --steps 5")
    status, _, error = run(monkeypatch, capsys, reconstruction, "--record", record, "--steps", 6)
    assert status == 2 and "holds runs of other data or steps" in error


def test_a_copy_hands_all_of_an_anomaly_on_and_grey_none():
    normal = 0.2 + 0.6 * torch.rand(2, 1, 128, 128, generator=seeded(0))
    corrupted = {kind: reconstruction.of_one_kind(kind, normal) for kind in ("spot", "hole")}
    network = build_draem("compact").reconstructive
    for what, share in (("the image twice", 1.0), ("grey", 0.0)):
        row = reconstruction.handed_on(reconstruction.Instead(network, what), normal, corrupted)
        assert row["spot"] == row["hole"] == pytest.approx(share, abs=1e-5)
    with torch.no_grad():
        own = reconstruction.Instead(network, "its reconstruction")(normal)
        assert torch.equal(own, network(normal)) and not network.training


def test_the_augmenters_speed(monkeypatch, capsys, tmp_path):
    (tmp_path / "perlin.py").write_text(
        "import numpy as np\n\ndef rand_perlin_2d_np(shape, cells):\n    return np.zeros(shape)\n"
    )
    record = tmp_path / "record.json"
    arguments = ("--batch", 2, "--runs", 1, "--peer", tmp_path, "--record", record)
    status, lines, _ = run(monkeypatch, capsys, augmenter, *arguments)
    result = json.loads(lines[-1])
    assert status == 0 and list(result) == KEYS["augmenter"].split()
    assert result["pixels_per_s"] == pytest.approx(result["crops_per_s"] * 128**2)
    ratio = result["pixels_per_s"] / result["peer_perlin_pixels_per_s"]
    assert result["pixels_per_s_ratio"] == pytest.approx(ratio) and 0 < result["share_of_a_training_step"] < 1
    written = json.loads(record.read_text())
    assert written["command"].startswith("python benchmarks/augmenter.py") and written["torch"] and written["machine"]


def test_the_augmenters_peer_is_named_when_it_is_not_there(monkeypatch, capsys, tmp_path):
    status, _, error = run(monkeypatch, capsys, augmenter, "--peer", tmp_path)
    assert status == 2 and "perlin.py: no such file" in error and len(error.splitlines()) == 1


PEER_NETWORKS = """
from torch import nn

class ReconstructiveSubNetwork(nn.Conv2d):
    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 3, padding=1)

class DiscriminativeSubNetwork(ReconstructiveSubNetwork):
    pass
"""


def test_the_trainings_speed_and_shares(monkeypatch, capsys, tmp_path):
    (tmp_path / "model_unet.py").write_text(PEER_NETWORKS)
    record = tmp_path / "record.json"
    status, lines, _ = run(
        monkeypatch, capsys, training, "--runs", 2, "--peer-runs", 1, "--peer", tmp_path, "--record", record
    )
    result = json.loads(lines[-1])
    assert status == 0 and result["preset"] == "compact" and list(result) == KEYS["training"].split()
    ratio = result["pixels_per_s"] / result["peer_pixels_per_s"]
    assert result["pixels_per_s_ratio"] == pytest.approx(ratio)
    shares = [result[f"{name}_share"] for name in ("network", "losses", "augmenter")]
    assert all(0 < share < 1 for share in shares) and sum(shares) == pytest.approx(1)
    assert json.loads(record.read_text())["command"].startswith("python benchmarks/training.py")


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_step_in_pieces_is_the_step(small_set, ahead):
    """Also where the crops of several steps are drawn together, as on CUDA."""
    rolls = load_rolls(aitex.load_aitex(small_set).train)
    config = TrainConfig(steps=10, batch=4, crop=64, precision="float32")
    whole, cut = (Trainer(rolls, config, "cpu", ahead=ahead) for _ in range(2))
    pieces = training.Pieces(cut, cut.device)
    for _ in range(2):
        record.block_of_steps(whole)()
        pieces.steps()
    for ours, theirs in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert whole.steps == cut.steps == 2 * ahead
    assert all(len(taken) == 2 * ahead for taken in pieces.times.values())
    assert sum(pieces.shares(runs=1).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--peer", "nowhere"), "model_unet.py: no such file"),
        (("--preset", "huge"), "'huge'; expected one of compact, paper"),
        (("--runs", 0), "expected 1 or more"),
        (("--device", "abacus"), "device: 'abacus'"),
    ],
)
def test_the_trainings_bad_input_is_named(monkeypatch, capsys, arguments, message):
    status, _, error = run(monkeypatch, capsys, training, *arguments)
    assert status == 2 and message in error and len(error.splitlines()) == 1


def test_what_takes_a_gpu_is_named_as_missing_without_one(monkeypatch, capsys, tmp_path):
    record = tmp_path / "gpu.json"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, lines, _ = run(monkeypatch, capsys, gpu, "--record", record)
    assert status == 0 and json.loads(lines[-1])["missing"] == list(gpu.FIGURES)
    assert json.loads(record.read_text())["missing"] == list(gpu.FIGURES)


def test_the_gpus_benchmark_runs_on_a_cpu(monkeypatch, capsys, tmp_path):
    (tmp_path / "model_unet.py").write_text(PEER_NETWORKS)
    small = ("--on-cpu", "--preset", "compact", "--batch", 2, "--size", 64, "--matrix", 64, "--runs", 1, "--rolls", 2)
    status, lines, _ = run(monkeypatch, capsys, gpu, *small, "--peer", tmp_path)
    result = json.loads(lines[-1])
    assert status == 0 and result["missing"] == []
    ratio = result["paper_patches_per_s"] / result["peer_patches_per_s"]
    assert result["patches_per_s_ratio"] == pytest.approx(ratio)
    share = result["compact_tflops"] / result["peak_tflops"]
    assert result["compact_share_of_peak"] == pytest.approx(share) and result["rolls_per_s"] > 0
    assert all(result[f"{name}_memory_mb"] > 0 for name in ("paper", "peer", "compact", "rolls"))


GPU_SH = ROOT / "benchmarks" / "gpu.sh"


def gpu_sh(*arguments):
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        ["bash", GPU_SH, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd="/"
    )


def test_all_that_takes_a_gpu_takes_eight_minutes_at_most():
    assert subprocess.run(["bash", "-n", GPU_SH]).returncode == 0
    on_cuda = GPU_SH.read_text().split("else\n")[-1]
    limits = re.findall(r"^    (?:part|benchmark) (\w+) (\d+)", on_cuda, re.MULTILINE)
    assert [name for name, _ in limits] == ["fabric", "tests", "gpu", "training", "inference", "augmenter"]
    assert sum(int(limit) + 5 for _, limit in limits) <= 470, "ten seconds are for what stands between them"


def test_without_a_gpu_all_that_takes_one_is_named(tmp_path):
    done = gpu_sh(tmp_path / "records")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and summary == json.loads((tmp_path / "records" / "summary.json").read_text())
    assert set(summary["missing"]) == {"tests", "gpu", "training", "inference", "augmenter"} == set(summary["parts"])
    assert summary["card"] == "none" and "skipped: no CUDA device here" in done.stdout


def test_all_that_takes_a_gpu_tried_out_on_a_cpu(tmp_path):
    """One part fails, for its peer has no Perlin noise: it is named, and the others' records are there."""
    (tmp_path / "model_unet.py").write_text(PEER_NETWORKS)
    done = gpu_sh(tmp_path / "records", "--on-cpu", "--peer", tmp_path)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and set(summary["missing"]) == {"tests", "augmenter"}
    assert "perlin.py: no such file" in summary["missing"]["augmenter"]
    for name in ("gpu", "training", "inference"):
        assert summary["parts"][name]["status"] == "done"
        assert json.loads((tmp_path / "records" / f"{name}.json").read_text())["machine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no folder given"),
        (("records", "--peer", "/nowhere"), "/nowhere: no such folder"),
        (("records", "--fast"), "--fast: unknown option"),
    ],
)
def test_what_takes_a_gpu_refuses_bad_input(arguments, message):
    done = gpu_sh(*arguments)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_gpus_record_names_what_failed(monkeypatch, capsys, tmp_path):
    """Too little memory for one part costs the others nothing."""

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "published", full)
    monkeypatch.setattr(gpu, "utilisation", full)
    status, lines, _ = run(monkeypatch, capsys, gpu, "--on-cpu", "--runs", 1, "--rolls", 1)
    result = json.loads(lines[-1])
    assert status == 0 and result["rolls_per_s"] > 0 and "memory is too small" in "".join(lines)
    assert result["missing"] == [name for name in gpu.FIGURES if not name.startswith("rolls_")]


def test_the_scores_table_on_a_small_set(monkeypatch, capsys, small_set, checkpoint, tmp_path):
    record = tmp_path / "scores.json"
    arguments = ("--data", small_set, "--checkpoint", checkpoint, "--record", record)
    status, lines, _ = run(monkeypatch, capsys, scores, *arguments)
    variants = json.loads(lines[-1])["variants"]
    assert status == 0 and json.loads(record.read_text())["source"] == "simulated fabric"
    assert set(variants) == {f"{name}{more}" for name in ("sigma 0", "sigma 0.7", "sigma 1", "sigma 1.5", "sigma 2",
                             "sigma 4", "mean 21 x 21") for more in ("", ", not normalised")}  # fmt: skip
    monkeypatch.delenv("AITEX_DIR", raising=False)
    assert run(monkeypatch, capsys, scores)[0] == 2


def test_offsets_and_threshold_of_the_scores_table_by_hand():
    """Two normal rolls of 50 patches, logits 0 to 4.9 and 1 to 5.9: each is normalised by the other's tenth-highest."""
    roll = SimpleNamespace(fabric="00", edges=(0, 256 * 3), mask=np.zeros((256, 256 * 3), bool))
    roll.mask[5, 300] = True
    logits = [np.arange(50) / 10, np.arange(50) / 10 + 1, np.array([9.5, 5.7, 9.2])]
    calibration = [SimpleNamespace(fabric="00")] * 2
    sigmoids = [1 / (1 + np.exp(-part)) for part in logits]
    # Offset of both: 4.95; with k = floor(0.01 * 101) = 1 the threshold is 4.95 + 5.9 - 4.41 (held out) = 6.44.
    row = scores.judge(sigmoids, calibration, [roll], normalised=True)
    assert (row["patches"], row["positive_patches"], row["patches_found"], row["false_positive_regions"]) == (
        3,
        1,
        0,
        2,
    )
    assert scores.judge(sigmoids, calibration, [roll], normalised=False)["patches_found"] == 0, "5.9 without offsets"
    assert row["patch_auroc"] == 0


def test_inferences_speed(monkeypatch, capsys, tmp_path):
    (tmp_path / "model_unet.py").write_text(PEER_NETWORKS)
    few = ["--runs", 1, "--peer-runs", 1, "--images", 2]
    status, lines, _ = run(monkeypatch, capsys, inference, *few, "--peer", tmp_path)
    result = json.loads(lines[-1])
    assert status == 0 and 100 < result["peak_memory_mb"]
    assert [key for key in result if key != "rolls_per_s_bfloat16"] == KEYS["inference"].split()
    ratio = result["rolls_per_s"] / result["peer_rolls_per_s"]
    assert result["rolls_per_s_ratio"] == pytest.approx(ratio) and result["rolls_per_s_float32"] > 0
    assert 0.5 < result["inspect_ratio"] < 50


def test_the_ablations_recipes_differ():
    groups = ablation.groups("recipe")
    configurations = [ablation.configuration("recipe", settings, 3.0, 0) for settings in groups.values()]
    assert configurations[0] == TrainConfig(minutes=3.0) and configurations[1].normal_augmentation is None
    assert configurations[2].normal_augmentation == NormalAugmentation(wander_share=0, bar_share=0, tone=0)
    weights = configurations[3].augmenter.weights
    assert weights["slip"] == 0.3 and weights["spot"] == 0.2
    assert json.loads(json.dumps(groups)) == groups


def test_the_ablations_networks_build_and_differ():
    groups = ablation.groups("networks")
    configurations = [ablation.configuration("networks", settings, 3.0, 0) for settings in groups.values()]
    assert len({configuration.preset for configuration in configurations}) == len(groups) > 1
    for configuration in configurations:
        build_draem(configuration.preset)
    assert json.loads(json.dumps(groups)) == groups, "a record that was read back must compare equal"


def test_the_baselines_rows_are_every_backbone_both_ways_and_can_be_made():
    rows = baselines.rows()
    banks = {f"PatchCore, {name}, {kind}" for name in BACKBONES for kind in ("one bank", "one a fabric")}
    assert set(rows) == {"VAE", *banks}
    assert all(len(ways) == (8 if name == "VAE" else 4) for name, ways in rows.items())
    for name, ways in rows.items():
        made = [(baselines.make(name, arguments).options, how) for arguments, how in ways]
        assert all(made.count(way) == 1 for way in made), "every way is another one"
        assert {how["augmented"] for _, how in made} == {False, True} and {way["smoothing"] for way, _ in made} == {0}
        assert {way.get("per_fabric", False) for way, _ in made} == {name.endswith("one a fabric")}
        if "shallow" in name:
            assert all(way["learn_steps"] > 0 for way, _ in made)


@pytest.mark.parametrize("smoothing", baselines.SMOOTHINGS)
def test_the_baselines_maps_are_smoothed_as_the_detector_would(smoothing):
    detector = small_bank(pool_size=400)
    roll = as_roll(with_blob(stripes(9))[0])
    found = baselines.blurred(detector.raw_map(roll.image, roll.edges), roll, smoothing)
    detector.smoothing = smoothing
    assert np.abs(found - detector.raw_map(roll.image, roll.edges)).max() < 1e-4
    assert not found[:, : roll.edges[0]].any() and not found[:, roll.edges[1] :].any()


def test_the_baselines_readings_are_judged_on_development_rolls():
    """Three patches, the blob in the middle one; the plain reading is the detector's own AUROC."""
    image, distance = with_blob(stripes(9, height=256, width=840), row=100, column=450)
    development = [as_roll(image, edges=(70, 838), mask=distance <= 9)]
    parts = {"calibration": [as_roll(stripes(8, height=256, width=840), edges=(70, 838))], "development": development}
    detector = small_bank(pool_size=400)
    readings = [((reading["smoothing"], reading["normalised"]), auroc)
                for reading, auroc in baselines.readings(detector, parts)]  # fmt: skip
    assert [way for way, _ in readings] == [
        (s, normalised) for s in baselines.SMOOTHINGS for normalised in (True, False)
    ]
    (scores,) = detector.raw_patch_scores(development)
    wanted = metrics.auroc(np.array([False, True, False]), scores)
    assert dict(readings)[0, False] == dict(readings)[0, True] == wanted, "one fabric: its offset keeps the order"
    assert all(auroc in (0, 0.5, 1) for _, auroc in readings)


class Fake:
    """Stands in for a detector: keeps what it was fitted with."""

    def __init__(self, arguments):
        self.arguments, self.smoothing, self.normalised, self.fits = arguments, 0, True, []

    def fit(self, rolls, generator, **arguments):
        self.fits.append((rolls, torch.equal(generator.get_state(), seeded(baselines.SEED).get_state()), arguments))

    def calibrate(self, rolls, fpr):
        self.calibrated = rolls, fpr, self.smoothing, self.normalised


def test_the_reading_that_is_the_best_on_development_rolls_is_taken(monkeypatch):
    aurocs = {0: [0.6, 0.7], 1: [0.5, 0.9], 2: [0.8, 0.9]}  # the first of equals

    def readings(detector, parts):
        assert len(detector.fits) == 1 and parts is given
        for index, auroc in enumerate(aurocs[detector.arguments["way"]]):
            yield {"smoothing": 2 + index, "normalised": index == 0}, auroc

    monkeypatch.setattr(baselines, "make", lambda name, arguments: Fake(arguments))
    monkeypatch.setattr(baselines, "readings", readings)
    given = {"train": ["train"], "calibration": ["calibration"], "development": ["development"]}
    ways = [({"way": way}, {"augmented": way == 1, "steps": 5}) for way in range(3)]
    detector, row = baselines.tuned("VAE", ways, given)
    assert detector.arguments == {"way": 1} and detector.fits == [
        (["train"], True, {"steps": 5, "normal_augmentation": NormalAugmentation()})
    ]
    assert row["chosen"] == {
        "way": 1, "augmented": True, "steps": 5, "smoothing": 3, "normalised": False, "development_auroc": 0.9
    }  # fmt: skip
    assert len(row["tried"]) == 6 and row["chosen"] in row["tried"] and row["fit_seconds"] >= 0
    assert detector.calibrated == (["calibration"], baselines.RATE, 3, False), "as the reading has it, on other rolls"


def test_the_introductions_rows_are_kept_and_not_measured_again(monkeypatch, capsys, small_set, tmp_path):
    """A tiny autoencoder in place of all rows: figures and loss are in the record, and a second call fits nothing."""
    assert all(how["steps"] % introduction.EVERY == 0 for _, how in introduction.rows().values() if how)
    monkeypatch.setattr(introduction, "load_simulated", lambda: aitex.load_aitex(small_set))
    monkeypatch.setattr(introduction, "rows", lambda: {"VAE": (VAE(size=16), {"steps": 100, "batch": 2})})
    record, printed = tmp_path / "record.json", []
    for _ in range(2):
        status, lines, _ = run(monkeypatch, capsys, introduction, "--record", record)
        (row,) = json.loads(lines[-1]).values()
        assert status == 0 and row == json.loads(record.read_text())["rows"]["VAE"]
        assert len(row["losses"]) == 2 and row["losses"][1] < row["losses"][0]
        assert 0 <= row["patch_auroc"] <= 1 and 0 < row["positive_patches"] < row["patches"]
        printed.append(lines)
        monkeypatch.setattr(VAE, "fit", None)
    assert printed[0] == printed[1]


def test_the_neighbours_costs(monkeypatch, capsys, tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed: nothing to compare with")
    for name, value in (("LENGTHS", {"few": 8}), ("POOL", 300), ("BANK", 20), ("QUERIES", 16)):
        monkeypatch.setattr(neighbours, name, value)
    monkeypatch.setattr(neighbours, "in_a_process", lambda name, length: 7.0)
    record = tmp_path / "record.json"
    status, lines, _ = run(monkeypatch, capsys, neighbours, "--runs", 1, "--record", record)
    result = json.loads(lines[-1])["few"]
    assert status == 0 and result["length"] == 8 and result["torch_memory_mb"] == result["faiss_memory_mb"] == 7
    ratio = result["torch_seconds"] / result["faiss_seconds"]
    assert result["torch_over_faiss"] == pytest.approx(ratio) and result["coreset_seconds"] > 0
    assert 0 <= result["largest_difference"] < 1e-4
    assert json.loads(record.read_text())["few"] == result
