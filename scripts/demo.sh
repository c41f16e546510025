#!/usr/bin/env bash
# The whole pipeline on real text: distil a trained teacher into a small student, and evaluate the student.
#
#   usage: scripts/demo.sh [flags of fairseq-kd progressive...]      e.g. scripts/demo.sh --dry-run
#
# Ten to twenty minutes on two CPU cores, after installation. scripts/demo.yaml describes the run: verses from
# data/bible.es-en, Spanish to English; the teacher in data/teacher.es-en, which scripts/teacher.sh made; a student of
# 37 % of its parameters that learns from its translations; the same training on the references; and students of that
# size after full training, with and without a teacher.
# Then runs/demo/report.html (and report.md) compares them, and runs/demo/history.html documents how each was made.
# Every training is one fairseq-train line.
#
# Env: RUN=runs/demo                folder of the run
#      TEXT=data/bible.es-en        train, valid and test text, each with .es and .en
#      SEED=1                       of every training
#      UPDATES=2000                 of the student and of the same without distillation
#      JOBS=                        steps at the same time (default: 2 without a GPU on two cores or more, else 1)
# Killed? Run it again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
scripts/setup.sh

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} # one GPU, if there is any: several would change the batches
export PYTHONWARNINGS=ignore
jobs=${JOBS:-}
if [[ -z $jobs && $(nproc) -ge 2 ]] && ! nvidia-smi -L 2> /dev/null | grep -q GPU; then jobs=2; fi
changes=()
# Nothing runs with these, so how many at a time has no effect.
[[ " $* " == *" --dry-run "* || " $* " == *" --shell "* || -z $jobs ]] || changes+=(--jobs "$jobs")
[[ -z ${RUN:-} ]] || changes+=(--set "run=$(as_yaml "$(from_here "$RUN" "")")")
[[ -z ${TEXT:-} ]] || changes+=(--set "data.text=$(as_yaml "$(from_here "$TEXT" "")")")
[[ -z ${SEED:-} ]] || changes+=(--set "seed=$SEED")
[[ -z ${UPDATES:-} ]] || changes+=(--set "train.max-update=$UPDATES")
exec fairseq-kd progressive scripts/demo.yaml "${changes[@]}" "$@"
