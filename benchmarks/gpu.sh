#!/usr/bin/env bash
# All times of distillation on a GPU, in about ten minutes: the loss, whole updates, decoding.
#
#   usage: benchmarks/gpu.sh
#
# Appends to benchmarks/results.csv, and makes docs/benchmarks.md. Killed? Run it again: what is measured already is
# not measured again, until runs/gpu is removed. liger-kernel is compared where it is installed.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
[[ $# -eq 0 ]] || { usage >&2; exit 2; }
cd "$root"
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || die "There is no GPU that torch can use."
export PYTHONWARNINGS=ignore
mkdir -p runs/gpu

once() { # once NAME COMMAND...: runs a command that has not ended well before
  local done=runs/gpu/$1.done
  shift
  [[ ! -e $done ]] || return 0
  say "$*"
  "$@"
  touch "$done"
}

for dtype in float16 bfloat16; do
  once "loss.$dtype" python benchmarks/loss.py --gpu --dtype "$dtype" --temperature 1
done
for sentences in 320 1280 2560; do # of 25 tokens: 8,000, 32,000 and 64,000 tokens a batch
  once "training.$sentences" python benchmarks/training.py --sentences "$sentences" --precision fp16 --rounds 9
done
once "decoding.data" fairseq-kd prepare data/bible.es-en --source es --target en --vocabulary data/teacher.es-en --out runs/gpu/data
once "decoding" fairseq-kd translate --teacher data/teacher.es-en/teacher.pt --data runs/gpu/data/bin --subset train \
  --beam 5 --device cuda --out runs/gpu/translations
python benchmarks/page.py
say "done: docs/benchmarks.md"
