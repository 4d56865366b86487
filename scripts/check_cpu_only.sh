#!/usr/bin/env bash
# Proves that the project builds and works without a CUDA toolkit: configures with nvcc and the toolkit's
# folders out of sight, builds libraries, command and one op's tests, and runs them.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-cpu-only
path=$(tr ':' '\n' <<<"$PATH" | while read -r folder; do [ -x "$folder/nvcc" ] || printf '%s:' "$folder"; done)
rm -f $build/CMakeCache.txt
env -u CUDACXX -u CUDA_PATH -u CUDA_HOME PATH="${path%:}" \
  cmake -S . -B $build -G Ninja ${ASPIS_PYTHON:+-DASPIS_PYTHON="$ASPIS_PYTHON"} \
  -DCMAKE_IGNORE_PREFIX_PATH=/usr/local/cuda | tee $build.log
grep -q 'CPU only' $build.log || { echo "expected the configure table to say: CPU only" >&2; exit 1; }
rm -f $build.log
env PATH="${path%:}" cmake --build $build --target aspis test_ops_rms_norm
$build/bin/test_ops_rms_norm
$build/bin/aspis doctor
echo "without a CUDA toolkit: builds and works"
