#!/usr/bin/env bash
# Train the teacher that data/teacher.es-en holds, from which scripts/demo.sh distils.
#
#   usage: scripts/teacher.sh [OUT_DIR]        OUT_DIR=RUN/packed
#
# Some two hours of one CPU core. scripts/teacher.yaml describes the training: verses from data/bible.es-en, all lengths,
# Spanish to English. Its last checkpoints are averaged, and OUT_DIR gets the mean:
#   teacher.pt                            weights alone in half precision, with the options of the model
#   codes, dict.es.txt, dict.en.txt       how its text was split by BPE, and numbered
#
# Env: AVERAGED=4                   checkpoints in the mean
#      RUN=runs/teacher             where the training goes
#      TEXT=data/bible.es-en        train, valid and test text, each with .es and .en
#      UPDATES=9000
# Killed? Run the same line again: it goes on where it was.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -le 1 ]] || { usage >&2; exit 2; }
scripts/setup.sh

run=$(from_here "${RUN:-}" runs/teacher)
out=$(from_here "${1:-}" "$run/packed")
other="$out is there already, and is not this teacher. Remove it, or give another OUT_DIR."
[[ ! -e $out || -f $out/teacher.pt ]] || die "$other"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} PYTHONWARNINGS=ignore
whole_number AVERAGED "${AVERAGED:-4}"
begin "$out" # now, not after hours: whether it can be made, and whether another process makes it
changes=(--set "run=$(as_yaml "$run")")
[[ -z ${TEXT:-} ]] || changes+=(--set "data.text=$(as_yaml "$(from_here "$TEXT" "")")")
[[ -z ${UPDATES:-} ]] || changes+=(--set "teacher.train.max-update=$UPDATES")
fairseq-kd progressive scripts/teacher.yaml --until teacher "${changes[@]}"
mapfile -t last < <(printf '%s\n' "$run"/teacher/checkpoint_*_*.pt | sort -V | tail -n "${AVERAGED:-4}")
python scripts/weights_alone.py "$work/teacher.pt" "${last[@]}"
cp "$run"/data/codes "$run"/data/bin/dict.{es,en}.txt "$work"
if [[ -e $out ]]; then # as after a kill that came with the last line
  diff -rq "$work" "$out" > "$place/difference" || die "$other"
else
  finish
fi
say "$out/teacher.pt is the mean of ${#last[@]} checkpoints. Its BLEU:"
say "  fairseq-kd evaluate --teacher $out/teacher.pt --data $run/data/bin --out $run/evaluation"
