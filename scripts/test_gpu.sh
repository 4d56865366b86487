#!/usr/bin/env bash
# The tests that need a GPU: those tagged [gpu] in every C++ test program, and tests/python/gpu.
# Builds nothing: run scripts/setup.sh first.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${ASPIS_PYTHON:-.venv/bin/python}
failed=()
for program in build/bin/test_*; do
  "$program" '[gpu]' || failed+=("$program")
done
"$python" -m pytest -q tests/python/gpu || failed+=(tests/python/gpu)
build/bin/aspis doctor || failed+=("aspis doctor")
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all GPU tests passed"
