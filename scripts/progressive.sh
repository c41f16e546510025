#!/usr/bin/env bash
# The run of scripts/ladder.yaml as plain shell: a ladder of fairseq-train lines to copy and change.
#
#   usage: scripts/progressive.sh
#
# A quarter of an hour on two CPU cores, after installation. Verses from data/bible.es-en, Spanish to
# English:
#   teacher       2.4 M parameters, trained on the references
#   intermediate  starts from the teacher's layers, word_kd from the teacher
#   student       starts from the intermediate's layers, word_kd from the intermediate
#   undistilled   the student's size and updates without distillation
#   inherited     the same from the student's start
#   total         the same from random weights, with the total number of updates of the student's weights
# Then report.html and report.md in the run's folder compare all models.
#
# Env: RUN=runs/progressive                folder of the run
#      TEXT=data/bible.es-en        train, valid and test text, each with .es and .en
#      SEED=1                       of every training
#      TEACHER_UPDATES=1500 INTERMEDIATE_UPDATES=300 STUDENT_UPDATES=500
# Killed? Run it again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -eq 0 ]] || { usage >&2; exit 2; }
scripts/setup.sh

run=$(from_here "${RUN:-}" runs/progressive) text=$(from_here "${TEXT:-}" data/bible.es-en) seed=${SEED:-1}
teacher_updates=${TEACHER_UPDATES:-1500} intermediate_updates=${INTERMEDIATE_UPDATES:-300} student_updates=${STUDENT_UPDATES:-500}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} # one GPU, if there is any: several would change the batches
export PYTHONWARNINGS=ignore
hold "$run/.lock"
settings="text of hash $(hash_of_text "$text" es en), SEED=$seed, TEACHER_UPDATES=$teacher_updates"
settings+=", INTERMEDIATE_UPDATES=$intermediate_updates, STUDENT_UPDATES=$student_updates"
[[ -e $run/data ]] || record "$run/made_from.txt" "$settings"
[[ ! -e $run/made_from.txt ]] || made_from "$run/made_from.txt" "$settings" "$run" "give another RUN."

data=$run/data/bin
started=$SECONDS
stages=8 stage=0
heading() { stage=$((stage + 1)); say "[$stage/$stages] $*"; }

# Without --update-epoch-batch-itr, fairseq forms different batches after a restart.
train() { # train NAME UPDATES fairseq-train flags...
  local name=$1 updates=$2
  shift 2
  heading "train the $name: $updates updates (log: $run/$name/train.log)"
  fairseq-kd stage "$name" -- fairseq-train "$data" --user-dir user_dir --save-dir "$run/$name" \
    --source-lang es --target-lang en --share-all-embeddings --label-smoothing 0.1 --dropout 0 "$@" \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 \
    --lr-scheduler polynomial_decay --total-num-update "$updates" \
    --max-update "$updates" --max-tokens 1250 --seed "$seed" \
    --save-interval-updates 200 --keep-interval-updates 1 --no-epoch-checkpoints \
    --validate-interval 1000 --best-checkpoint-metric nll_loss --update-epoch-batch-itr True \
    --no-progress-bar --log-format json --log-interval 10
}

distil() { # distil NAME UPDATES ARCH TEACHER.pt: a student that starts from its teacher's layers
  local name=$1 updates=$2 arch=$3 teacher=$4 start=$run/$1-start/start.pt
  [[ -e $start ]] || fairseq-kd inherit --teacher "$teacher" --arch "$arch" --out "$start"
  train "$name" "$updates" --arch "$arch" --lr 6e-3 --warmup-updates 200 --finetune-from-model "$start" \
    --criterion word_kd --kd-teacher "$teacher" --kd-temperature 1
}

heading "prepare the text"
fairseq-kd prepare --text "$text" --source es --target en --merges 4000 --max-words 30 --out "$run/data"

train teacher "$teacher_updates" --arch transformer_kd_small_teacher --lr 4e-3 --warmup-updates 300 \
  --criterion label_smoothed_cross_entropy
distil intermediate "$intermediate_updates" transformer_kd_small_intermediate "$run/teacher/checkpoint_best.pt"
distil student "$student_updates" transformer_kd_small_student "$run/intermediate/checkpoint_best.pt"
control() { # control NAME UPDATES fairseq-train flags...: the student's size without distillation
  train "$@" --arch transformer_kd_small_student --lr 6e-3 --warmup-updates 200 --criterion label_smoothed_cross_entropy
}
control undistilled "$student_updates"
control inherited "$student_updates" --finetune-from-model "$run/student-start/start.pt"
control total $((teacher_updates + intermediate_updates + student_updates))

heading "evaluate the student"
fairseq-kd evaluate --data "$data" --subset test --out "$run" --teacher "$run/teacher/checkpoint_best.pt" \
  --student "intermediate=$run/intermediate/checkpoint_best.pt" --student "$run/student/checkpoint_best.pt" \
  --control "undistilled=$run/undistilled/checkpoint_best.pt" \
  --control "inherited=$run/inherited/checkpoint_best.pt" --control "total=$run/total/checkpoint_best.pt" \
  --rounds 1 --latency-sentences 8 --batch-sentences 64 --no-memory # quick: leave these out for firmer figures
say "$run/report.html has every figure, the signatures, the curves and the commands." \
  "This took $(((SECONDS - started + 30) / 60)) minutes."
