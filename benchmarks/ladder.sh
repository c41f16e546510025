#!/usr/bin/env bash
# Is a ladder better than one step? Students by three stages, by one step, and without a
# teacher; every student gets the same updates.
#
#   usage: benchmarks/ladder.sh TEACHER.pt DATA_BIN RUN_DIR
#   e.g.   benchmarks/ladder.sh runs/progressive/teacher/checkpoint_best.pt runs/progressive/data/bin runs/ladder
#
# Env: SEEDS="1 2 3"  UPDATES=800  LADDER="0.7, 0.49, 0.25"  START=inherit  CRITERION=word_kd
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
cd "$root"
[[ $# -eq 3 ]] || { usage >&2; exit 2; }
teacher=$1 data=$2 run=$3 updates=${UPDATES:-800}
read -ra seeds <<< "${SEEDS:-1 2 3}"

mkdir -p "$run"
for seed in "${seeds[@]}"; do
  cat > "$run/$seed.yaml" << END
run: $(as_yaml "$run/$seed")
seed: $seed
data: $(as_yaml "$data")
teacher: $(as_yaml "$teacher")
ladder: [${LADDER:-0.7, 0.49, 0.25}]
each: {criterion: ${CRITERION:-word_kd}, temperature: 1, start: ${START:-inherit}}
train:
  lr: 6e-3
  dropout: 0
  lr-scheduler: polynomial_decay
  warmup-updates: 300
  max-update: $updates
  max-tokens: 1250
  save-interval-updates: 200
  validate-interval: 1000
controls: [undistilled, one-step]
evaluate: {rounds: 1, latency-sentences: 16, batch-sentences: 128, no-memory: true}
END
  fairseq-kd progressive "$run/$seed.yaml"
done
python benchmarks/ladder.py "${seeds[@]/#/$run/}"
