#!/usr/bin/env bash
# Two teachers for one student: multi_teacher_kd against word_kd from each alone, and no teacher.
#
#   usage: scripts/multi_teacher.sh
#
# Verses from data/bible.es-en, Spanish to English: two teachers that differ in size and seed, and
# students of each kind that get the same updates. About an hour on two CPU cores. Ends with a table
# of sacreBLEU on the test set.
#
# Env: RUN=runs/multi_teacher  TEXT=data/bible.es-en  SEEDS="1 2 3"  UPDATES=600 (of a student)
#      TEACHER_UPDATES=1500  WEIGHTS="uniform gold"   kinds of --kd-teacher-weights
#      TEACHERS=A.pt:B.pt  existing teachers, with their data: DATA=runs/demo/data
# Killed? Run it again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -eq 0 ]] || { usage >&2; exit 2; }
scripts/setup.sh
# shellcheck source=scripts/students.sh
source scripts/students.sh

run=$(from_here "${RUN:-}" runs/multi_teacher) src=es tgt=en
teacher_updates=${TEACHER_UPDATES:-1500}
verses

first=$run/teacher-1/checkpoint_last.pt second=$run/teacher-2/checkpoint_last.pt
if [[ -n ${TEACHERS:-} ]]; then
  first=$(from_here "${TEACHERS%%:*}" "") second=$(from_here "${TEACHERS##*:}" "")
  [[ $first != "$second" && $TEACHERS != *:*:* ]] || die "TEACHERS must name two checkpoints, A.pt:B.pt, but is $TEACHERS."
else
  for number in 1 2; do
    train "teacher $number" "$run/teacher-$number" "$teacher_updates" "$number" --arch transformer_kd_small_teacher \
      --encoder-layers $((4 - number)) --lr 4e-3 --dropout 0 --criterion label_smoothed_cross_entropy
  done
fi
teachers=$first:$second
mkdir -p "$run/teachers/1" "$run/teachers/2"
score "$run/teachers/1" "$first"
score "$run/teachers/2" "$second"

read -ra kinds <<< "${WEIGHTS:-uniform gold}"
for seed in "${seeds[@]}"; do
  student plain "$seed" --criterion label_smoothed_cross_entropy
  student "word_kd, teacher 1" "$seed" --criterion word_kd --kd-teacher "$first" --kd-temperature 1
  student "word_kd, teacher 2" "$seed" --criterion word_kd --kd-teacher "$second" --kd-temperature 1
  for weights in "${kinds[@]}"; do
    student "multi_teacher_kd, $weights" "$seed" --criterion multi_teacher_kd --kd-teacher "$teachers" \
      --kd-teacher-weights "$weights" --kd-temperature 1
  done
done
say "teacher 1: $(< "$run/teachers/1/bleu") BLEU, teacher 2: $(< "$run/teachers/2/bleu") BLEU"
table plain "word_kd, teacher 1" "word_kd, teacher 2" "${kinds[@]/#/multi_teacher_kd, }"
