#!/usr/bin/env bash
# Installs what is missing (Debian packages, Python packages in .venv) and builds. Quick when nothing is missing.
#
#   ASPIS_PYTHON=/path/to/python3   use this interpreter and its torch instead of making .venv
#   JOBS=N                          compile N files at a time (default: all cores)
#   CMAKE_ARGS="-DASPIS_CUDA=OFF"   further arguments for the configure step
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
[ -t 2 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '%s\n' "$*" >&2; }

# --- Debian packages -------------------------------------------------------------------------------------
missing=()
need() { "$@" >/dev/null 2>&1 || missing+=("$package"); }
package=g++ need command -v g++
package=cmake need command -v cmake
package=ninja-build need command -v ninja
package=ccache need command -v ccache
package=nlohmann-json3-dev need test -e /usr/include/nlohmann/json_fwd.hpp
package=libcli11-dev need test -e /usr/include/CLI/CLI.hpp
package=catch2 need test -d /usr/include/catch2
package=libgloo-dev need test -e /usr/include/gloo/context.h
if [ -z "${ASPIS_PYTHON:-}" ] && [ ! -x .venv/bin/python ]; then
  package=python3-venv need python3 -c 'import ensurepip, venv'
fi
if [ ${#missing[@]} -gt 0 ] && ! command -v apt-get >/dev/null; then
  # Elsewhere these may lie in other places: CMake finds them, or says which one it lacks.
  say "Not a Debian system: if the configure step below stops, install the equivalents of: ${missing[*]}"
elif [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" -ne 0 ]; then
    say "These Debian packages are missing. Run this line, then start again:"
    say "  sudo $install"
    exit 1
  fi
  say "Installing Debian packages: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $install >/dev/null
fi

# --- Python packages -------------------------------------------------------------------------------------
if [ -z "${ASPIS_PYTHON:-}" ]; then
  stamp=.venv/requirements.installed
  if [ ! -x .venv/bin/python ] || ! cmp -s requirements.txt "$stamp"; then
    say "Installing Python packages into .venv (torch is large: some minutes on a slow line)"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt "$stamp"
  fi
fi

# --- Build -----------------------------------------------------------------------------------------------
if [ ! -f build/build.ninja ] || [ -n "${CMAKE_ARGS:-}" ]; then
  # shellcheck disable=SC2086
  cmake --preset dev ${ASPIS_PYTHON:+-DASPIS_PYTHON="$ASPIS_PYTHON"} ${CMAKE_ARGS:-} >&2
fi
cmake --build build ${JOBS:+--parallel "$JOBS"} >&2
