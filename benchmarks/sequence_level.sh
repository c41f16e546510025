#!/usr/bin/env bash
# A student on the references against the same student on its teacher's translations, by seeds.
#
#   usage: benchmarks/sequence_level.sh TEACHER.pt DATA_DIR RUN_DIR
#   e.g.   benchmarks/sequence_level.sh runs/progressive/teacher/checkpoint_best.pt runs/progressive/data runs/claim
#
# DATA_DIR is what fairseq-kd prepare made. RUN_DIR/results.tsv gets one line per student: training
# set, seed, beam, BLEU of the detokenised test set. A table with medians and gains is printed.
#
# Env: SEEDS="1 2 3"  UPDATES=1600  BEAMS="1 5"
#      SETS="gold best interpolation"   gold, and selections of fairseq-kd distill-data
# Killed? Run the same line again.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
cd "$root"
[[ $# -eq 3 ]] || { usage >&2; exit 2; }
teacher=$1 data=$2 run=$3
updates=${UPDATES:-1600}
read -ra seeds <<< "${SEEDS:-1 2 3}"
read -ra sets <<< "${SETS:-gold best interpolation}"
read -ra beams <<< "${BEAMS:-1 5}"
mkdir -p "$run"
export PYTHONWARNINGS=ignore

fairseq-kd translate --teacher "$teacher" --data "$data/bin" --nbest 5 --out "$run/translations"
for set in "${sets[@]}"; do
  [[ $set == gold ]] || fairseq-kd distill-data --translations "$run/translations" --data "$data/bin" \
    --select "$set" --out "$run/$set"
done

train_and_score() { # train_and_score SET SEED
  local set=$1 seed=$2 save=$run/$1-$updates-$2 bin=$run/$1
  if [[ $set == gold ]]; then bin=$data/bin; fi
  fairseq-kd stage "$set, seed $seed" -- fairseq-train "$bin" --user-dir user_dir --save-dir "$save" \
    --source-lang es --target-lang en --share-all-embeddings --label-smoothing 0.1 \
    --arch transformer_kd_small_student --lr 6e-3 --dropout 0 \
    --criterion label_smoothed_cross_entropy --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 \
    --lr-scheduler polynomial_decay --warmup-updates 250 --total-num-update "$updates" \
    --max-update "$updates" --max-tokens 1250 --seed "$seed" \
    --save-interval-updates 200 --keep-interval-updates 1 --no-epoch-checkpoints --disable-validation \
    --no-progress-bar --log-format json --log-interval 10
  for beam in "${beams[@]}"; do
    local out=$save/beam-$beam
    if [[ ! -f $out.score ]]; then
      fairseq-generate "$data/bin" --user-dir user_dir --path "$save/checkpoint_last.pt" \
        --gen-subset test --source-lang es --target-lang en --beam "$beam" --remove-bpe \
        --tokenizer moses --batch-size 64 --required-batch-size-multiple 1 > "$out.txt" 2> "$out.log"
      grep '^D-' "$out.txt" | sed 's/^D-//' | sort --numeric-sort | cut -f 3 > "$out.en"
      sacrebleu "$data/text/test.en" --input "$out.en" --score-only --width 2 > "$out.partial"
      mv "$out.partial" "$out.score"
    fi
    printf '%s\t%s\t%s\t%s\n' "$set" "$seed" "$beam" "$(cat "$out.score")" >> "$run/results.partial"
  done
}

: > "$run/results.partial"
for seed in "${seeds[@]}"; do
  for set in "${sets[@]}"; do train_and_score "$set" "$seed"; done
done
mv "$run/results.partial" "$run/results.tsv"
python benchmarks/sequence_level.py "$run/results.tsv" --updates "$updates"
