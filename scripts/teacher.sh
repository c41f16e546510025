#!/usr/bin/env bash
# Train the models that data/teacher.es-en holds: the teacher from which scripts/demo.sh distils, or its student or the
# student's control, all fully trained.
#
#   usage: scripts/teacher.sh [OUT_DIR]        OUT_DIR=RUN/packed-MODEL
#
# Some four hours of one CPU core; one for the others. scripts/teacher.yaml and scripts/converged.yaml describe the
# trainings: verses from data/bible.es-en, all lengths, Spanish to English, until the learning rate is 0. OUT_DIR gets
#   MODEL.pt                              weights alone in half precision, with the options of the model
#   codes, dict.es.txt, dict.en.txt       how its text was split by BPE, and numbered
#
# Env: MODEL=teacher                teacher; distilled, the student; or alone, its control
#      RUN=runs/teacher             where the training goes (distilled, alone: runs/converged)
#      TEXT=data/bible.es-en        train, valid and test text, each with .es and .en
#      UPDATES=17000 COOLDOWN=4000  of both parts (distilled, alone: UPDATES=15000, and no second part)
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -le 1 ]] || { usage >&2; exit 2; }
scripts/setup.sh

model=${MODEL:-teacher}
case $model in
  teacher) file=scripts/teacher.yaml run=runs/teacher step=cooldown length=teacher.train ;;
  distilled) file=scripts/converged.yaml run=runs/converged step=distilled length=train ;;
  alone) file=scripts/converged.yaml run=runs/converged step=undistilled length=train ;;
  *) die "MODEL must be teacher, distilled or alone, but is $model." ;;
esac
run=$(from_here "${RUN:-}" "$run")
out=$(from_here "${1:-}" "$run/packed-$model")
other="$out already exists and is not this model. Remove it, or give another OUT_DIR."
[[ ! -e $out || -f $out/$model.pt ]] || die "$other"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} PYTHONWARNINGS=ignore
begin "$out" # now, not after hours: whether it can be made, and whether another process makes it
changes=(--set "run=$(as_yaml "$run")")
[[ -z ${TEXT:-} ]] || changes+=(--set "data.text=$(as_yaml "$(from_here "$TEXT" "")")")
[[ -z ${UPDATES:-} ]] || changes+=(--set "$length.max-update=$UPDATES")
[[ -z ${COOLDOWN:-} || $model != teacher ]] || changes+=(--set "each.train.max-update=$COOLDOWN")
fairseq-kd progressive "$file" --until "$step" "${changes[@]}"
python scripts/weights_alone.py "$work/$model.pt" "$run/$step/checkpoint_best.pt"
cp "$run"/data/codes "$run"/data/bin/dict.{es,en}.txt "$work"
if [[ -e $out ]]; then # as after a kill that came with the last line
  diff -rq "$work" "$out" > "$place/difference" || die "$other"
else
  finish
fi
say "$out/$model.pt is ready. Its BLEU, by the evaluation of the whole run:"
say "  fairseq-kd progressive $file ${changes[*]@Q}"
