#!/usr/bin/env bash
# Students of a live teacher against students of its store, at equal updates.
#
#   usage: benchmarks/store_students.sh TEACHER.pt DATA TEXT OUT
#   e.g.   benchmarks/store_students.sh runs/progressive/teacher/checkpoint_best.pt runs/progressive/data/bin runs/progressive/data/text runs/store_students
#
# Trains transformer_kd_small_student for 800 updates from the live teacher and from stores of K words, with seeds
# 1 to 3, and appends each one's sacreBLEU on the test set to benchmarks/students.csv.
#
# Env: KS="8 16 32 64"  SEEDS="1 2 3"  TEMPERATURE=1  UPDATES=800
# Killed? Run it again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
[[ $# -eq 4 ]] || { usage >&2; exit 2; }
teacher=$1 data=$2 text=$3 out=$4
here=$root/benchmarks
export PYTHONWARNINGS=ignore
updates=${UPDATES:-800} temperature=${TEMPERATURE:-1}
mkdir -p "$out"

student() { # student NAME SEED flags of the teacher...
  local dir=$out/$1.$2 name=$1 seed=$2
  shift 2
  fairseq-kd stage "$name.$seed" -- fairseq-train "$data" --user-dir "$here/../user_dir" --save-dir "$dir" \
    --source-lang es --target-lang en --arch transformer_kd_small_student --share-all-embeddings \
    --criterion word_kd "$@" --kd-temperature "$temperature" --label-smoothing 0.1 --dropout 0 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 --lr 6e-3 \
    --lr-scheduler polynomial_decay --warmup-updates 300 --total-num-update "$updates" \
    --max-update "$updates" --max-tokens 1250 --seed "$seed" --no-epoch-checkpoints \
    --save-interval-updates 300 --keep-interval-updates 1 --validate-interval 1000 \
    --best-checkpoint-metric nll_loss --no-progress-bar --log-format json --log-interval 10
  [[ -f $dir/bleu ]] && return
  fairseq-generate "$data" --user-dir "$here/../user_dir" --path "$dir/checkpoint_best.pt" --gen-subset test \
    --source-lang es --target-lang en --beam 5 --remove-bpe --tokenizer moses --batch-size 64 \
    --required-batch-size-multiple 1 2> /dev/null | grep '^D-' | sort -t- -k2n | cut -f 3 > "$dir/test.txt"
  sacrebleu "$text/test.en" -i "$dir/test.txt" -b -w 2 > "$dir/bleu.partial"
  [[ -f $here/students.csv ]] || say "system,seed,updates,temperature,BLEU,date" > "$here/students.csv"
  say "$name,$seed,$updates,$temperature,$(< "$dir/bleu.partial"),$(date +%F)" >> "$here/students.csv"
  mv "$dir/bleu.partial" "$dir/bleu"
}

for k in ${KS:-8 16 32 64}; do
  fairseq-kd store --teacher "$teacher" --data "$data" --topk "$k" --out "$out/store.$k"
done
for seed in ${SEEDS:-1 2 3}; do
  student live "$seed" --kd-teacher "$teacher"
  for k in ${KS:-8 16 32 64}; do student "store $k" "$seed" --kd-store "$out/store.$k"; done
done
sort -s -t, -k1,1 "$here/students.csv"
