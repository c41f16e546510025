# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by the worked examples beside it: trains students by seeds, scores them, and shows a table.
#
# They set run (a folder), data (what fairseq-train reads), text (the references), src and tgt.

updates=${UPDATES:-600}
read -ra seeds <<< "${SEEDS:-1 2 3}"
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} PYTHONWARNINGS=ignore

verses() { # sets data and text: those of DATA, or else what fairseq-kd prepare makes of TEXT in $run/data
  local prepared
  prepared=$(from_here "${DATA:-}" "$run/data")
  data=$prepared/bin text=$prepared/text
  if [[ -z ${DATA:-} ]]; then
    fairseq-kd prepare --text "$(from_here "${TEXT:-}" data/bible.es-en)" --source "$src" --target "$tgt" \
      --merges 4000 --max-words 30 --out "$prepared"
  else
    [[ -d $data && -d $text ]] || die "DATA must be a folder that fairseq-kd prepare made, but $prepared lacks bin or text."
  fi
}

train() { # train NAME DIR UPDATES SEED fairseq-train flags...: to its last update, however often it is killed
  local name=$1 dir=$2 updates=$3 seed=$4 flag file files settings
  shift 4
  local -a inputs=("$data"/dict.* "$data"/train.*)
  for flag in "$@"; do
    IFS=: read -ra files <<< "$flag"
    for file in "${files[@]}"; do [[ ! -f $file ]] || inputs+=("$file"); done # teachers
  done
  settings="data and teachers of hash $(hash_of "${inputs[@]}")"
  if compgen -G "$dir/checkpoint*.pt" > /dev/null; then
    made_from "$dir/made_from.txt" "$settings" "$dir" "give another RUN."
  else
    mkdir -p "$dir"
    record "$dir/made_from.txt" "$settings"
  fi
  fairseq-kd stage "$name" -- fairseq-train "$data" --user-dir user_dir --save-dir "$dir" \
    --source-lang "$src" --target-lang "$tgt" --share-all-embeddings --label-smoothing 0.1 "$@" \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 \
    --lr-scheduler polynomial_decay --warmup-updates 200 --total-num-update "$updates" \
    --max-update "$updates" --max-tokens 1250 --seed "$seed" --update-epoch-batch-itr True \
    --save-interval-updates 200 --keep-interval-updates 1 --no-epoch-checkpoints --disable-validation \
    --no-progress-bar --log-format json --log-interval 10
}

score() { # score DIR [CHECKPOINT]: BLEU of its translations of the test set, kept in DIR/bleu
  local dir=$1 checkpoint=${2:-$1/checkpoint_last.pt} settings scored
  settings="checkpoint, data and references of hash $(hash_of "$checkpoint" "$data"/dict.* "$data"/test.* "$text/test.$tgt")"
  scored=$(recorded "$dir/scored.txt")
  [[ -s $dir/bleu && $scored == "$settings" ]] && return
  no_link "$dir"/{generate-test.txt,generate.log,"test.$tgt",bleu.partial}
  rm -f "$dir/bleu"
  fairseq-generate "$data" --user-dir user_dir --path "$checkpoint" --gen-subset test \
    --source-lang "$src" --target-lang "$tgt" --beam 5 --remove-bpe --tokenizer moses --batch-size 64 \
    --required-batch-size-multiple 1 > "$dir/generate-test.txt" 2> "$dir/generate.log" ||
    { tail -n 15 "$dir/generate.log" >&2; die "fairseq-generate failed."; }
  grep '^D-' "$dir/generate-test.txt" | sed 's/^D-//' | sort --numeric-sort | cut -f 3 > "$dir/test.$tgt"
  sacrebleu "$text/test.$tgt" --input "$dir/test.$tgt" --score-only --width 2 > "$dir/bleu.partial"
  record "$dir/scored.txt" "$settings"
  mv "$dir/bleu.partial" "$dir/bleu"
}

student() { # student NAME SEED fairseq-train flags...: a small student, trained and scored
  local name=$1 seed=$2
  shift 2
  train "$name, seed $seed" "$run/students/$name/$seed" "$updates" "$seed" \
    --arch transformer_kd_tiny_student --lr 6e-3 --dropout 0 "$@"
  score "$run/students/$name/$seed"
}

bleu_of() { # bleu_of NAME: of a student, each seed of SEEDS on a line
  local seed
  for seed in "${seeds[@]}"; do cat "$run/students/$1/$seed/bleu"; done
}

table() { # table NAME...: BLEU of every student, each seed of SEEDS, their mean, and the gain over the first
  printf '| %-34s | %-20s | %5s | %5s |\n' student "BLEU of each seed" mean gain
  printf '| :--- | :--- | ---: | ---: |\n'
  local name first=""
  for name in "$@"; do
    bleu_of "$name" | awk -v name="$name" -v first="$first" \
      '{ all = all (NR > 1 ? ", " : "") $1; sum += $1 }
       END { gain = first == "" ? "" : sprintf("%+.2f", sum / NR - first)
             printf "| %-34s | %-20s | %5.2f | %5s |\n", name, all, sum / NR, gain }'
    [[ -n $first ]] || first=$(bleu_of "$name" | awk '{ sum += $1 } END { print sum / NR }')
  done
}
