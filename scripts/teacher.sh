#!/usr/bin/env bash
# Train the models that data/teacher.es-en holds: the teacher from which scripts/demo.sh distils, or the control that
# it compares the student with, a model of the student's size that is trained alone.
#
#   usage: scripts/teacher.sh [OUT_DIR]        OUT_DIR=RUN/packed
#
# Some four hours of one CPU core; two for the control. scripts/teacher.yaml and scripts/alone.yaml describe the
# training: verses from data/bible.es-en, all lengths, Spanish to English, first with a high learning rate, then with
# one that falls to 0. OUT_DIR gets
#   teacher.pt or alone.pt                weights alone in half precision, with the options of the model
#   codes, dict.es.txt, dict.en.txt       how its text was split by BPE, and numbered
#
# Env: MODEL=teacher                teacher or alone
#      RUN=runs/MODEL               where the training goes
#      TEXT=data/bible.es-en        train, valid and test text, each with .es and .en
#      UPDATES=17000 COOLDOWN=4000  of both parts (alone: 18000 and 2000)
# Killed? Run the same line again: it goes on where it was.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -le 1 ]] || { usage >&2; exit 2; }
scripts/setup.sh

model=${MODEL:-teacher}
[[ $model == teacher || $model == alone ]] || die "MODEL must be teacher or alone, but is $model."
run=$(from_here "${RUN:-}" "runs/$model")
out=$(from_here "${1:-}" "$run/packed")
other="$out is there already, and is not this model. Remove it, or give another OUT_DIR."
[[ ! -e $out || -f $out/$model.pt ]] || die "$other"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} PYTHONWARNINGS=ignore
begin "$out" # now, not after hours: whether it can be made, and whether another process makes it
changes=(--set "run=$(as_yaml "$run")")
[[ -z ${TEXT:-} ]] || changes+=(--set "data.text=$(as_yaml "$(from_here "$TEXT" "")")")
[[ -z ${UPDATES:-} ]] || changes+=(--set "teacher.train.max-update=$UPDATES")
[[ -z ${COOLDOWN:-} ]] || changes+=(--set "each.train.max-update=$COOLDOWN")
fairseq-kd progressive "scripts/$model.yaml" --until cooldown "${changes[@]}"
python scripts/weights_alone.py "$work/$model.pt" "$run/cooldown/checkpoint_best.pt"
cp "$run"/data/codes "$run"/data/bin/dict.{es,en}.txt "$work"
if [[ -e $out ]]; then # as after a kill that came with the last line
  diff -rq "$work" "$out" > "$place/difference" || die "$other"
else
  finish
fi
say "$out/$model.pt is ready. Its BLEU, before and after the second part:"
say "  fairseq-kd progressive scripts/$model.yaml ${changes[*]@Q}"
