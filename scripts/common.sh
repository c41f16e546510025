# shellcheck shell=bash
# Shared by the scripts beside it: the environment that setup.sh made, and how they speak. Sourced from the root.
if [[ -x .venv/bin/python ]]; then export PATH="$PWD/.venv/bin:$PATH"; fi

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }
