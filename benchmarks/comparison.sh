#!/usr/bin/env bash
# The comparison of docs/results.md: the ways to distil, by seeds, from run files.
#
#   usage: benchmarks/comparison.sh TABLE [ROW...]
#   e.g.   benchmarks/comparison.sh converged               the whole table
#          benchmarks/comparison.sh converged feature       one row of it
#          benchmarks/comparison.sh pair-en-it              another pair of languages, one epoch
#          benchmarks/comparison.sh gpu-en-it               three students at the size of a GPU
#
# TABLE is a run file of benchmarks/comparison, ROW the name of one of its stages, or undistilled. A student of the
# first takes twenty minutes of one CPU core. Tables with a pair in their name have the text of
# benchmarks/debian_descriptions.sh, and a teacher of their own. Scores are appended to benchmarks/comparison.csv and
# validation losses to benchmarks/curves.csv, from which python benchmarks/comparison_page.py makes the page. Rows are
# tested against undistilled and word if these are scored with them.
#
# Env: RUN=runs/comparison    TEXT=text (the folder of descriptions.en-it and its like)
#      SEEDS="1 2 3"          of the students
#      JOBS=1                 students of a whole table at the same time; costs are true for 1 alone
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
cd "$root"
[[ $# -ge 1 ]] || { usage >&2; exit 2; }
scripts/setup.sh
export PYTHONWARNINGS=ignore

table=$1
shift
files=benchmarks/comparison run=${RUN:-runs/comparison} text=${TEXT:-text}
read -ra seeds <<< "${SEEDS:-1 2 3}"

file=$files/$table.yaml given=()
if [[ $table == pair-*-* || $table == gpu-*-* ]]; then
  IFS=- read -r kind src tgt <<< "$table"
  file=$files/$kind.yaml
  given=("data.text=$(as_yaml "$text/descriptions.$src-$tgt")" "data.source=$src" "data.target=$tgt")
fi
[[ -f $file ]] || die "There is no table $table: $file does not exist. $files has the run file of every table."

for seed in "${seeds[@]}"; do
  changes=()
  for change in "${given[@]}" "run=$(as_yaml "$run/$table/$seed")" "seed=$seed"; do changes+=(--set "$change"); done
  changes+=(--jobs "${JOBS:-1}")
  if [[ $# -eq 0 ]]; then fairseq-kd progressive "$file" "${changes[@]}"; fi
  for row in "$@"; do fairseq-kd progressive "$file" "${changes[@]}" --until "$row"; done
  python benchmarks/comparison.py "$table" "$run/$table/$seed" "$@"
done
