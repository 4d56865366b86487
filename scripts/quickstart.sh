#!/usr/bin/env bash
# From a fresh clone to a trained model: builds, makes byte shards of the Python standard library's sources,
# trains a Mamba-2 / attention / MLP hybrid for at most three minutes, compares it with byte Markov models
# counted on the same files, and lets it write.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
python=${ASPIS_PYTHON:-.venv/bin/python}
aspis=build/bin/aspis
run=runs/quickstart
data=data/quickstart/stdlib

if [ ! -e "${data}_train.idx" ]; then
  mkdir -p "$(dirname "$data")"
  # The library's own sources: neither its tests nor packages that somebody installed.
  "$python" - > "$data.list" <<'PY'
import pathlib
import sysconfig

root = pathlib.Path(sysconfig.get_path("stdlib"))
skip = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
for file in sorted(root.rglob("*.py")):
    if not skip & set(file.relative_to(root).parts):
        print(file)
PY
  "$aspis" prepare --list "$data.list" --validation-share 0.05 --out "$data"
fi
if [ -e "$run" ]; then  # an earlier run is kept under its date
  mv "$run" "$run-$(date -r "$run" +%Y%m%d-%H%M%S)"
fi
"$aspis" train configs/runs/quickstart.json --out "$run"
"$python" scripts/plot.py "$run"

"$python" - "$run" <<'PY'
import json
import sys

s = json.load(open(f"{sys.argv[1]}/summary.json"))
print(f"\n{s['params']:,} parameters, {s['tokens']:,} tokens in {s['train_seconds']:.0f} s")
print("bits per byte on files that nobody trained on:")
for name, key in (("order-1 Markov model", "order1_bpb"), ("order-2 Markov model", "order2_bpb"),
                  ("the hybrid", "val_bpb")):
    print(f"  {name:22} {s[key]:.3f}")
PY
echo
echo "The model continues a file that begins with \"import os\":"
"$aspis" generate "$run" --prompt $'import os\\n' --max-tokens 300 --temperature 0.7 --seed 1
echo
echo "Metrics, checkpoint, loss curve and summary are in $run."
