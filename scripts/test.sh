#!/usr/bin/env bash
# Install what is missing, then run the linters and the tests.
#
#   usage: scripts/test.sh [pytest flags...]        e.g. scripts/test.sh -k schedule
#          scripts/test.sh -m slow                  the long tests, such as the demo killed and resumed
#
# Env: WORKERS=2   processes that run tests at the same time; one thread each
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
scripts/setup.sh

ruff check .
shellcheck --external-sources scripts/*.sh benchmarks/*.sh tests/diagnosis/*.sh .ci/run
export OMP_NUM_THREADS=1
unset PYTHONDONTWRITEBYTECODE # otherwise each of some hundred processes compiles the package again
exec python -m pytest --numprocesses "${WORKERS:-2}" --dist worksteal "$@"
