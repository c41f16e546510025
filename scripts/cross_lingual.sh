#!/usr/bin/env bash
# A teacher of a rich language pair for a student of a poor one: cross_lingual_kd.
#
#   usage: scripts/cross_lingual.sh TEXT_DIR
#
# TEXT_DIR holds train, valid and test of three languages, the same sentence in line N of each
# (train.fr, train.en, train.it; .xz and .gz are read too). A teacher learns en-it from all lines;
# students of fr-it get LOW_LINES of them, for which the teacher reads the English. Beside them, at
# equal updates: students without a teacher, and students by word_kd of a teacher that has the same
# few lines of fr-it. Ends with a table of sacreBLEU on valid and test together; nothing is chosen by
# either. About an hour on two CPU cores.
#
# Env: RUN=runs/cross_lingual  SEEDS="1 2 3"  UPDATES=600 (of a student)  TEACHER_UPDATES=1200
#      LOW=fr HIGH=en TARGET=it  LOW_LINES=10000  MERGES=6000  MAX_WORDS=30
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -eq 1 ]] || { usage >&2; exit 2; }
scripts/setup.sh
# shellcheck source=scripts/students.sh
source scripts/students.sh

in=$(from_here "$1" "") run=$(from_here "${RUN:-}" runs/cross_lingual)
low=${LOW:-fr} high=${HIGH:-en} tgt=${TARGET:-it}
plain_languages "$low" "$high" "$tgt"
low_lines=${LOW_LINES:-10000} merges=${MERGES:-6000} max_words=${MAX_WORDS:-30}
whole_number LOW_LINES "$low_lines"
whole_number MERGES "$merges"
teacher_updates=${TEACHER_UPDATES:-1200}

binarise() { # binarise SOURCE TEXT OUT: one dictionary for all languages
  logged "$work/log" fairseq-preprocess --source-lang "$1" --target-lang "$tgt" --srcdict "$work/dict/dict.all.txt" \
    --tgtdict "$work/dict/dict.all.txt" --trainpref "$2/train" --validpref "$work/bpe/valid" \
    --testpref "$work/bpe/test" --destdir "$3" --workers 2
}

prepare() { # everything below $work, which becomes $run/data when it is whole
  begin "$run/data"
  record "$work/prepared.txt" "$settings"
  mkdir "$work"/{text,bpe,few,dict}
  for set in train valid test; do
    clean_text "$in/$set" "$work/text/$set" "$max_words" "$low" "$high" "$tgt"
  done
  for lang in "$low" "$high" "$tgt"; do
    cat "$work/text/valid.$lang" >> "$work/text/test.$lang" # scored together
    for set in train valid test; do
      moses "$lang" 2 tokenize < "$work/text/$set.$lang" > "$work/$set.$lang"
    done
  done
  cat "$work"/train.* | logged "$work/log" subword-nmt learn-bpe -s "$merges" -o "$work/codes"
  for lang in "$low" "$high" "$tgt"; do
    for set in train valid test; do
      subword-nmt apply-bpe -c "$work/codes" < "$work/$set.$lang" > "$work/bpe/$set.$lang"
      rm "$work/$set.$lang"
    done
    # the few lines of the poor pair, evenly from the whole
    awk -v total="$(wc -l < "$work/bpe/train.$lang")" -v few="$low_lines" \
      'int(NR * few / total) > int((NR - 1) * few / total)' "$work/bpe/train.$lang" > "$work/few/train.$lang"
  done
  cat "$work"/bpe/train.* > "$work/dict/train.all"
  logged "$work/log" fairseq-preprocess --dict-only --only-source --source-lang all --trainpref "$work/dict/train" \
    --destdir "$work/dict"
  binarise "$high" "$work/bpe" "$work/rich" # the teacher's data
  binarise "$low" "$work/few" "$work/poor"  # the student's data,
  binarise "$high" "$work/few" "$work/poor" # and the same sentences as the teacher reads them
  rm -r "$work/dict"
  finish
}

text=$run/data/text
settings=$(hash_of_text "$in" "$low" "$high" "$tgt")
settings="$low-$high-$tgt, LOW_LINES=$low_lines, MERGES=$merges, MAX_WORDS=$max_words and text of hash $settings"
if [[ -d $run/data ]]; then made_from "$run/data/prepared.txt" "$settings" "$run/data" "give another RUN."; else prepare; fi

teacher() { # teacher NAME SOURCE DATA: trained on the references
  src=$2 data=$run/data/$3
  train "teacher $2-$tgt" "$run/$1" "$teacher_updates" 1 --arch transformer_kd_small_teacher --lr 4e-3 \
    --dropout 0.1 --criterion label_smoothed_cross_entropy
  score "$run/$1"
}
teacher rich "$high" rich
teacher poor "$low" poor

src=$low data=$run/data/poor
pivot=(--task pivot_translation --kd-pivot-lang "$high")
for seed in "${seeds[@]}"; do
  student plain "$seed" --dropout 0.1 --criterion label_smoothed_cross_entropy
  student "word_kd, teacher $low-$tgt" "$seed" --dropout 0.1 --criterion word_kd --kd-temperature 1 \
    --kd-teacher "$run/poor/checkpoint_last.pt"
  student cross_lingual_kd "$seed" --dropout 0.1 --criterion cross_lingual_kd "${pivot[@]}" \
    --kd-temperature 1 --kd-teacher "$run/rich/checkpoint_last.pt"
done
say "teacher $high-$tgt: $(< "$run/rich/bleu") BLEU, teacher $low-$tgt: $(< "$run/poor/bleu") BLEU"
table plain "word_kd, teacher $low-$tgt" cross_lingual_kd
