"""A detector judged on test rolls: an `evaluation.Evaluation`, and its figures as a table and as JSON."""

import math

from draem_aitex.training.model_card import number

INTERVALS_OF = {  # in the table
    "patch_auroc": "patch AUROC",
    "patch_ap": "patch AP",
    "patch_recall": "patch recall",
    "patch_precision": "patch precision",
    "patch_fpr": "patch false-alarm rate",
    "roll_auroc": "roll AUROC",
    "roll_ap": "roll AP",
    "hit_rate": "defects hit",
    "false_positive_regions_per_roll": "false alarms a roll",
}


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
        f"at threshold {f['threshold']:.4g} (for {f['fpr_wanted']:.1%} false alarms, from "
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
        f"{number(f['centroid_distance_px_median'], 1)} px{_in_mm(f)} (median), coverage "
        f"{number(f['coverage_median'], 2)} (median)"
    )
    per_metre = f", {number(f['false_positive_regions_per_metre'])} a metre" if not math.isnan(f["mm_per_px"]) else ""
    lines.append(
        f"false-alarm regions: {f['false_positive_regions']}, {number(f['false_positive_regions_per_roll'])} a roll{per_metre}; "
        f"{f['fabric_columns_in_no_patch']:,} of {f['fabric_columns']:,} fabric columns lie in no patch"
    )
    return lines


def _in_mm(figures):
    distance = figures["centroid_distance_mm_median"]
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
