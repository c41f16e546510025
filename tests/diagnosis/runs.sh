#!/usr/bin/env bash
# Train students that fail or die, each in a way that fairseq-kd diagnose must name, and one that does not.
#
#   usage: tests/diagnosis/runs.sh LADDER OUT [NAME...]
#   e.g.   tests/diagnosis/runs.sh runs/progressive runs/failed rate_too_high
#
# LADDER is the folder of a finished scripts/progressive.sh: its data, its teacher, its student's flags. Each
# run differs from that student in what its name says. OUT/NAME/train.log is what is diagnosed.
#
# Env: UPDATES=800
set -euo pipefail

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; }
[[ "${1:-}" =~ ^(-h|--help)$ ]] && { usage; exit 0; }
[[ $# -ge 2 ]] || { usage >&2; exit 2; }
ladder=$1 out=$2 updates=${UPDATES:-800}
shift 2

through=() # what starts fairseq-train

train() { # train NAME flags...
  local name=$1
  shift
  mkdir -p "$out/$name"
  fairseq-kd stage "$name" -- "${through[@]}" fairseq-train "$ladder/data/bin" --user-dir user_dir --save-dir "$out/$name" \
    --source-lang es --target-lang en --share-all-embeddings --label-smoothing 0.1 --dropout 0 \
    --arch transformer_kd_small_student --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 \
    --lr-scheduler polynomial_decay --lr 6e-3 --warmup-updates 300 --total-num-update "$updates" \
    --max-update "$updates" --max-tokens 1250 --seed 1 --validate-interval-updates 200 \
    --no-epoch-checkpoints --best-checkpoint-metric nll_loss --save-interval-updates 400 \
    --keep-interval-updates 1 --no-progress-bar --log-format json --log-interval 10 "$@"
}

distil() { # distil NAME flags...
  local name=$1
  shift
  train "$name" --criterion word_kd --kd-teacher "$ladder/teacher/checkpoint_best.pt" --kd-temperature 1 "$@"
}

die() { # die NAME flags...: a short training that does not come to its end
  train "$@" --max-update 40 --log-interval 1 --cpu --criterion label_smoothed_cross_entropy || true
}

run() {
  local through=() two
  case $1 in
    healthy_t4) distil healthy_t4 --kd-temperature 4 ;;
    rate_too_high) distil rate_too_high --lr 0.6 ;;
    temperature_50) distil temperature_50 --kd-temperature 50 ;;
    random_teacher)
      train random --criterion label_smoothed_cross_entropy --max-update 1 --lr 1e-9 --warmup-updates 0
      distil random_teacher --kd-alpha 1 --kd-beta 0 --kd-teacher "$out/random/checkpoint_last.pt"
      ;;
    tiny_student)
      distil tiny_student --encoder-layers 1 --encoder-embed-dim 20 --decoder-embed-dim 20 \
        --encoder-attention-heads 2 --decoder-attention-heads 2 --encoder-ffn-embed-dim 80 --decoder-ffn-embed-dim 80
      ;;
    rate_too_low) distil rate_too_low --lr 3e-5 ;;
    over_fitted)
      train over_fitted --criterion label_smoothed_cross_entropy --train-subset valid --valid-subset test \
        --validate-interval-updates 50
      ;;
    dominated) distil dominated --criterion feature_kd --kd-feature-weight 1000 ;;
    host_memory)
      # shellcheck disable=SC2016
      through=(bash -c 'ulimit -v 3000000; exec "$@"' bash)
      die host_memory --max-tokens 100000
      ;;
    worker_killed)
      # shellcheck disable=SC2016
      two='self=$BASHPID; [[ $RANK == 0 ]] || (sleep 30; kill -KILL "$self") & exec "$@" --distributed-world-size 2 --distributed-rank "$RANK"'
      through=(torchrun --nproc_per_node 2 --master_port 29511 --no-python bash -c "$two" bash)
      die worker_killed --distributed-init-method env:// --distributed-no-spawn --distributed-backend gloo \
        --ddp-backend legacy_ddp --update-freq 2
      ;;
    killed)
      # shellcheck disable=SC2016
      through=(bash -c '(sleep 30; kill -KILL $$) & exec "$@"' bash)
      die killed --update-freq 20
      ;;
    raised) die raised --max-source-positions 5 ;;
    unknown_flag) die unknown_flag --no-such-flag ;;
    plain_format) die plain_format --log-format simple ;;
    *) printf 'no run is called %s\n' "$1" >&2; exit 2 ;;
  esac
}

[[ $# -gt 0 ]] || set -- healthy_t4 rate_too_high temperature_50 random_teacher tiny_student rate_too_low over_fitted dominated \
  host_memory worker_killed killed raised unknown_flag plain_format
for name in "$@"; do run "$name"; done
