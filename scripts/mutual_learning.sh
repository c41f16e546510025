#!/usr/bin/env bash
# Two models that teach each other, without a teacher: mutual_learning against a student alone.
#
#   usage: scripts/mutual_learning.sh
#
# Verses from data/bible.es-en, Spanish to English: students that get the same updates, alone, beside
# a peer of their own size, and beside a larger one. About half an hour on two CPU cores. Ends with a
# table of sacreBLEU on the test set. With TEACHER the table has word_kd from that teacher, too.
#
# Env: RUN=runs/mutual_learning  TEXT=data/bible.es-en  SEEDS="1 2 3"  UPDATES=600
#      PEERS="equal larger"   their size
#      TEACHER=T.pt  an existing teacher, with its data: DATA=runs/demo/data
# Killed? Run it again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -eq 0 ]] || { usage >&2; exit 2; }
scripts/setup.sh
# shellcheck source=scripts/students.sh
source scripts/students.sh

run=$(from_here "${RUN:-}" runs/mutual_learning) src=es tgt=en
verses

teacher=$(from_here "${TEACHER:-}" "")
read -ra kinds <<< "${PEERS:-equal larger}"
names=(plain "${kinds[@]/#/mutual_learning, peer }")
for seed in "${seeds[@]}"; do
  student plain "$seed" --criterion label_smoothed_cross_entropy
  for kind in "${kinds[@]}"; do
    size=()
    if [[ $kind == larger ]]; then size=(--kd-peer-overrides arch=transformer_kd_small_intermediate); fi
    student "mutual_learning, peer $kind" "$seed" --criterion mutual_learning "${size[@]}"
  done
  if [[ -n $teacher ]]; then
    student word_kd "$seed" --criterion word_kd --kd-teacher "$teacher" --kd-temperature 1
  fi
done
if [[ -n $teacher ]]; then names+=(word_kd); fi
table "${names[@]}"

# A peer as a checkpoint of its own: that of the last student.
last="$run/students/${names[${#kinds[@]}]}/${seeds[-1]}"
[[ $last/peer/peer.pt -nt $last/checkpoint_last.pt ]] || rm -f "$last/peer/peer.pt" # that of an earlier update
[[ -e $last/peer/peer.pt ]] ||
  fairseq-kd extract-peer "$last/checkpoint_last.pt" --peer 1 --out "$last/peer/peer.pt"
score "$last/peer" "$last/peer/peer.pt"
say "its peer as a model of its own: $(< "$last/peer/bleu") BLEU"
