#!/usr/bin/env bash
# A student that learns from the translations of another system, Apertium, beside the references: see docs/results.md.
#
#   usage: benchmarks/apertium.sh
#
# Translates the source side of data/bible.es-en by `apertium spa-eng` (Debian: apt-get install apertium-eng-spa), and
# trains the students of benchmarks/comparison/apertium.yaml: twenty-five minutes each on one CPU core. Scores are
# appended to benchmarks/comparison.csv.
#
# Env: SEEDS=1   of the students
# Killed? Run it again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
[[ $# -eq 0 ]] || { usage >&2; exit 2; }
cd "$root"
command -v apertium > /dev/null || die "apertium is not installed. On Debian: apt-get install apertium-eng-spa"

translations=runs/comparison/apertium/train.en
if [[ ! -f $translations ]]; then
  mkdir -p "$(dirname "$translations")"
  xz -dc data/bible.es-en/train.es.xz | apertium -u spa-eng > "$translations.partial"
  mv "$translations.partial" "$translations"
fi
SEEDS=${SEEDS:-1} benchmarks/comparison.sh apertium
