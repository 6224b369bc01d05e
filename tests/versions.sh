#!/usr/bin/env bash
# Run the tests with the oldest versions that the scripts' headers allow, and with the newest ones:
#     tests/versions.sh [OLDEST_TORCH [NEWEST_TORCH]]
# torch is 2.13.0 in both unless given: the header's 2.7.0 has no small CPU build among the packages
# that pip finds by default (865 MB, and more for CUDA). Not part of `python -m pytest`.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

check() {  # NAME REQUIREMENT...
    echo "== $1: ${*:2}"
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet "${@:2}"
    "$folder/$1/bin/python" -m pytest -n 2 -q
    rm -r "${folder:?}/$1"
}

# The header's lower bounds, torch apart, and what only the tests need. Gymnasium's own extras are
# left out, because box2d would have to be compiled for the oldest Gymnasium.
bounds=$(sed -n '/^# dependencies/,/^# \/\/\/$/p' a2c_discrete.py | grep -o '"[^"]*"' | tr -d '"')
oldest=$(grep -v '^torch' <<<"$bounds" | sed 's/>=/==/')
only_tests=$(grep -E '^(hypothesis|moviepy|mujoco|optuna|pytest)' requirements.txt)
check oldest "torch==${1:-2.13.0}" $oldest $only_tests box2d imageio

newest=$(grep -v '^torch' requirements.txt | sed 's/==.*//')
check newest "torch==${2:-2.13.0}" $newest
