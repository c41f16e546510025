#!/usr/bin/env bash
# The whole way on real text: train a teacher, distil it in two steps, measure what was gained.
#
#   usage: scripts/demo.sh [flags of fairseq-kd progressive...]      e.g. scripts/demo.sh --dry-run
#
# A quarter of an hour on two CPU cores, after installation. scripts/demo.yaml describes the run: verses
# from data/bible.es-en, Spanish to English; a teacher, an intermediate that starts from its layers and
# learns from it, a student that does so from the intermediate, and three controls without
# distillation: the same student after as many updates, from the same start, and after as many updates as
# stand behind its weights in all. Then runs/demo/report.html (and report.md) says what each is worth, and
# runs/demo/history.html how each was made. Every training is one fairseq-train line. scripts/progressive.sh
# is the same without the driver, as plain shell.
#
# Env: RUN=runs/demo                where everything goes
#      TEXT=data/bible.es-en        train, valid and test text, each with .es and .en
#      SEED=1                       of every training
#      TEACHER_UPDATES=1500 INTERMEDIATE_UPDATES=300 STUDENT_UPDATES=500
# Killed? Run it again: it goes on where it was.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; }
[[ "${1:-}" =~ ^(-h|--help)$ ]] && { usage; exit 0; }
scripts/setup.sh
# shellcheck source=scripts/common.sh
source scripts/common.sh

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} # one GPU, if there is any: several would change the batches
export PYTHONWARNINGS=ignore
changes=()
[[ -z ${RUN:-} ]] || changes+=(--set "run=$(from_here "$RUN" "")")
[[ -z ${TEXT:-} ]] || changes+=(--set "data.text=$(from_here "$TEXT" "")")
[[ -z ${SEED:-} ]] || changes+=(--set "seed=$SEED")
[[ -z ${TEACHER_UPDATES:-} ]] || changes+=(--set "teacher.train.max-update=$TEACHER_UPDATES")
[[ -z ${INTERMEDIATE_UPDATES:-} ]] || changes+=(--set "ladder.0.train.max-update=$INTERMEDIATE_UPDATES")
[[ -z ${STUDENT_UPDATES:-} ]] || changes+=(--set "train.max-update=$STUDENT_UPDATES")
exec fairseq-kd progressive scripts/demo.yaml "${changes[@]}" "$@"
