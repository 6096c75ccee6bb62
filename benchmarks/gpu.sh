#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most eight minutes on one card.
#
#     benchmarks/gpu.sh OUT [--peer DIR] [--on-cpu]
#
# OUT: a folder for one JSON record and one log for each part, and summary.json: which parts ran, how long each took,
# and what is missing. DIR: a checkout of VitjanZ/DRAEM; without it the authors' networks are not measured. --on-cpu:
# try it out on a CPU, with tiny sizes. PYTHON names another interpreter than .venv/bin/python.
# Without a CUDA device every part is skipped and named, and the status is 0; it is 1 where a part failed or was stopped.
set -uo pipefail

usage() { echo "error: $1; expected: benchmarks/gpu.sh OUT [--peer DIR] [--on-cpu]" >&2; exit 2; }

out= peer= on_cpu=
while [ $# -gt 0 ]; do
    case $1 in
        --peer) [ $# -gt 1 ] || usage "--peer: no folder given"; [ -d "$2" ] || usage "$2: no such folder"
                peer=$(cd "$2" && pwd); shift 2 ;;
        --on-cpu) on_cpu=yes; shift ;;
        -*) usage "$1: unknown option" ;;
        *) [ -z "$out" ] || usage "$1: a second folder"; out=$1; shift ;;
    esac
done
[ -n "$out" ] || usage "no folder given"
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3
"$python" -c 'import draem_aitex' || exit 2

card=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")')
peer_option=()
[ -z "$peer" ] || peer_option=(--peer "$peer")
parts=() failed=

note() {  # NAME STATUS SECONDS: how a part went, for the summary
    parts+=("$1" "$2" "$3")
    printf '%-10s %5d s  %s\n' "$1" "$3" "$2"
}

part() {  # NAME LIMIT COMMAND...: run it for at most LIMIT seconds, its output into a log
    local name=$1 limit=$2 began=$SECONDS status
    shift 2
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    case $status in
        0) note "$name" done $((SECONDS - began)) ;;
        124 | 137) failed=yes; note "$name" "stopped after $limit s" $((SECONDS - began)) ;;
        *) failed=yes; note "$name" "failed with status $status: $(tail -n 1 "$out/$name.log")" $((SECONDS - began)) ;;
    esac
}

benchmark() {  # NAME LIMIT OPTIONS...: a script of this folder, which writes a record
    local name=$1 limit=$2
    shift 2
    part "$name" "$limit" "$python" "benchmarks/$name.py" "$@" ${peer_option[@]+"${peer_option[@]}"} \
        --record "$out/$name.json"
}

rm -f "$out"/{tests,gpu,training,inference,augmenter,summary}.{json,log}
if [ -n "$on_cpu" ]; then
    note tests "skipped: no CUDA device asked for" 0
    benchmark gpu 120 --on-cpu --preset compact --batch 2 --size 64 --matrix 64 --runs 1 --rolls 2
    benchmark training 120 --runs 1 --peer-runs 1
    benchmark inference 120 --runs 1 --peer-runs 1
    benchmark augmenter 120 --batch 2 --runs 1
elif [ -z "$card" ]; then
    for name in tests gpu training inference augmenter; do
        note "$name" "skipped: no CUDA device here" 0
    done
else
    # The limits, and 5 seconds for each part that must be killed, come to less than eight minutes.
    part fabric 45 "$python" -c 'from draem_aitex import load_simulated; load_simulated()'
    part tests 100 "$python" -m pytest -p no:cacheprovider tests/test_cuda.py
    benchmark gpu 170
    benchmark training 40 --device cuda --peer-runs 10 --peer-batch 8
    benchmark inference 30 --device cuda --peer-runs 10
    benchmark augmenter 35 --device cuda --batch 1024
fi
[ -n "$peer" ] || echo "skipped: the authors' networks (--peer DIR was not given)"

"$python" - "$out" "${card:-none}" "${parts[@]}" <<'END'
import json, sys
from pathlib import Path

out, card, *words = sys.argv[1:]
parts = {name: {"status": status, "seconds": int(taken)} for name, status, taken in zip(*[iter(words)] * 3)}
missing = {name: part["status"] for name, part in parts.items() if part["status"] != "done"}
for name in parts:
    record = Path(out, f"{name}.json")
    if record.is_file():
        content = json.loads(record.read_text())
        empty = [key for key, value in content.items() if value is None]
        if empty:
            missing[name] = "without " + ", ".join(empty)
summary = {"card": card, "parts": parts, "missing": missing}
Path(out, "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
for name, why in missing.items():
    print(f"missing: {name}: {why}")
print(json.dumps(summary))
END
written=$?
[ -z "$failed" ] && [ $written -eq 0 ]
