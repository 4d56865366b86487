#!/usr/bin/env bash
# Formats C++ and CUDA sources in place; with --check, lists the files that differ and fails.
set -euo pipefail
cd "$(dirname "$0")/.."
format=.venv/bin/clang-format
[ -x "$format" ] || format=clang-format
mapfile -t files < <(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.h' 'tests/*.cpp')
if [ "${1:-}" = --check ]; then
  "$format" --dry-run --Werror "${files[@]}" || {
    echo "Formatting differs: run scripts/format.sh and commit the result." >&2
    exit 1
  }
  echo "formatting: ${#files[@]} files as .clang-format wants them"
else
  "$format" -i "${files[@]}"
fi
