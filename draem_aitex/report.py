"""A detector judged on test rolls: an `evaluation.Evaluation`, and its figures as a table and as JSON."""

import math

from tqdm.auto import tqdm

from draem_aitex.aitex import sha256
from draem_aitex.card import number
from draem_aitex.errors import InputError
from draem_aitex.evaluation import Evaluation
from draem_aitex.fabric import load_roll

INTERVALS_OF = {  # in the table
    "patch_auroc": "patch AUROC",
    "patch_ap": "patch AP",
    "patch_recall": "patch recall",
    "patch_precision": "patch precision",
    "patch_false_alarm_rate": "patch false-alarm rate",
    "roll_auroc": "roll AUROC",
    "roll_ap": "roll AP",
    "hit_rate": "defects hit",
    "false_alarms_per_roll": "false alarms a roll",
}


def evaluate(detector, records, threshold, quiet=False, mm_per_px=None, pictures=False):
    """Judge a detector on rolls it has not seen: an `Evaluation`. One roll is in memory at a time.

    detector: anything with `predict(image, edges, fabric)`; records: of `aitex`; threshold: a `metrics.Threshold`;
    mm_per_px: resolution, where it is known; pictures: keep one of every roll, for `page.html_page`.
    """
    if not records:
        raise InputError("rolls to judge: none left; expected rolls that were not trained or calibrated on; add some")
    result = Evaluation(threshold, mm_per_px, pictures)
    for record in tqdm(records, desc="evaluating", unit="roll", disable=quiet):
        roll = load_roll(record)
        result.add(roll, detector.predict(roll.image, roll.edges, roll.fabric))
    return result


def unseen_records(content, records):
    """Test records a checkpoint has neither trained nor calibrated on, known by their content, not by their name."""
    seen = {digest for part in ("train", "calibration") for digest in content["split"][part].values()}
    fabrics = content["fabrics"]
    chosen = [record for record in records if not fabrics or record.fabric in fabrics]
    return [record for record in chosen if sha256(record.path) not in seen]


def without_nan(value):
    """NaN becomes None, all the way down, so that JSON stays JSON."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def between(ends):
    """An interval in print; a dash where there is none."""
    return "–" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def table(figures):
    """The figures as text: pooled, per fabric, type and size, counts beside rates."""
    return "\n".join([*_pooled(figures), "", *_intervals(figures), "", *_by(figures)])


def _pooled(f):
    lines = [
        f"rolls: {f['n_test_rolls']} tested, {f['n_train_rolls']} trained on, {f['n_calibration_rolls']} calibrated on"
        f" ({f['source']})",
        f"patches: AUROC {number(f['patch_auroc'])} pooled, {number(f['patch_auroc_mean_of_fabrics'])} mean of fabrics"
        f", AP {number(f['patch_ap'])} ({f['positive_patches']} of {f['patches']} defective)",
        f"at threshold {f['threshold']:.4g} (for {f['false_alarm_rate_wanted']:.1%} false alarms, from "
        f"{f['calibration_patches']} calibration patches): found {f['patch_true_positives']} of "
        f"{f['positive_patches']} patches, precision {number(f['patch_precision'])}, F1 {number(f['patch_f1'])}, "
        f"false alarms {f['patch_false_positives']} of {f['patches'] - f['positive_patches']}",
        f"F1-max {number(f['patch_f1_max_upper_bound'])}: an upper bound, its threshold is the best for these patches",
        f"rolls: AUROC {number(f['roll_auroc'])}, AP {number(f['roll_ap'])}, recall {number(f['roll_recall'])}, "
        f"precision {number(f['roll_precision'])}, F1 {number(f['roll_f1'])}",
    ]
    for ending, label in (("", "pixels"), ("_without_giants", "pixels without giant masks")):
        if ending and not f["giant_rolls"]:
            continue  # the same figures again
        lines.append(
            f"{label}: AUROC {number(f['pixel_auroc' + ending])}, AP {number(f['pixel_ap' + ending])}, "
            f"AUPRO {number(f['aupro' + ending])} (to 30 % false alarms), {number(f['aupro_at_0.05' + ending])} (5 %), "
            f"{number(f['aupro_at_0.01' + ending])} (1 %), recall {number(f['pixel_recall' + ending])}, "
            f"precision {number(f['pixel_precision' + ending])}, F1 {number(f['pixel_f1' + ending])}"
        )
    lines.append(
        f"defects: hit {f['hits']} of {f['defects']}, mass-centre distance "
        f"{number(f['mass_centre_distance_px_median'], 1)} px{_in_mm(f)} (median), coverage "
        f"{number(f['coverage_median'], 2)} (median)"
    )
    per_metre = f", {number(f['false_alarms_per_metre'])} a metre" if not math.isnan(f["mm_per_px"]) else ""
    lines.append(
        f"false-alarm regions: {f['false_alarms']}, {number(f['false_alarms_per_roll'])} a roll{per_metre}; "
        f"{f['fabric_columns_in_no_patch']:,} of {f['fabric_columns']:,} fabric columns lie in no patch"
    )
    return lines


def _in_mm(figures):
    distance = figures["mass_centre_distance_mm_median"]
    return "" if math.isnan(distance) else f" = {distance:.2f} mm"


def _intervals(figures):
    lines = ["95 % intervals (rolls resampled)"]
    for name, label in INTERVALS_OF.items():
        lines.append(f"{label:24} {number(figures[name]):>6}   {between(figures['intervals'][name])}")
    return lines


def _by(f):
    lines = ["fabric  rolls  defective patches  AUROC   AP     found        false alarms  hits"]
    for fabric, row in f["by_fabric"].items():
        lines.append(
            f"{fabric:6}  {row['rolls']:5}  {row['positive_patches']:6} of {row['patches']:<7}  "
            f"{number(row['patch_auroc']):>6}  {number(row['patch_ap']):>5}  {row['patches_found']:4} of "
            f"{row['positive_patches']:<4}  {row['false_positives']:12}  {row['hits']} of {row['defects']}"
        )
    lines += ["", "defect               rolls  AUROC   patches found  hits       coverage"]
    for code, row in f["by_defect"].items():
        hits = f"{row['hits']} of {row['defects']}"
        lines.append(
            f"{code} {row['name']:16} {row['rolls']:5}  {number(row['patch_auroc']):>6}  {row['patches_found']:4} of "
            f"{row['positive_patches']:<6}  {hits:9}  {number(row['coverage_median'], 2)}"
        )
    lines += ["", "size of a defect     hits"]
    return lines + [f"{name:20} {row['hits']} of {row['defects']}" for name, row in f["by_size"].items()]
