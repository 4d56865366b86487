#!/usr/bin/env bash
# Sets up, builds and runs every test: the C++ programs through CTest, then the Python tests.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
python=${ASPIS_PYTHON:-.venv/bin/python}
ctest --test-dir build --output-on-failure --no-tests=error
"$python" -m pytest -q tests/python --ignore tests/python/gpu
