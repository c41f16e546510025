# shellcheck shell=bash
# Sourced by the scripts beside it: the environment that setup.sh made, and how they speak.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -x $root/.venv/bin/python ]]; then export PATH="$root/.venv/bin:$PATH"; fi

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }
