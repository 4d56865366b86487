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
  stdlib=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
  mkdir -p "$(dirname "$data")"
  # Packages that users installed are not the standard library.
  "$aspis" prepare --glob "$stdlib/*.py" --glob "$stdlib/[!s]*/**/*.py" --glob "$stdlib/sqlite3/*.py" \
    --validation-share 0.05 --out "$data"
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
echo "The model continues \"def \":"
"$aspis" generate "$run" --prompt $'def ' --max-tokens 300 --temperature 0.7 --seed 1
echo
echo "Metrics, checkpoint, loss curve and summary are in $run."
