#!/usr/bin/env bash
# Turn parallel text into what fairseq-train reads: sacremoses, joint BPE by subword-nmt, fairseq-preprocess.
#
#   usage: scripts/prepare.sh SOURCE TARGET TEXT_DIR OUT_DIR
#   e.g.   scripts/prepare.sh es en data/bible.es-en runs/demo/data
#
# TEXT_DIR holds train, valid and test, each with .SOURCE and .TARGET (train.es, train.en; .xz and .gz are read too):
# plain sentences in UTF-8, one per line; line N of both files is a pair. Control characters in a line become spaces, and
# a pair is dropped if nothing of a side is visible.
# OUT_DIR gets  text/  the sentences that were kept, as they were written: the references to score against
#               bpe/   tokenised and split by BPE      codes  the BPE merges      bin/  what fairseq-train reads
#
# Env: MERGES=8000   joint BPE merges
#      VOCABULARY=   a folder with codes, dict.SOURCE.txt and dict.TARGET.txt: split and numbered as a teacher's text was,
#                    instead of learning BPE merges
#      MAX_WORDS=0   drop pairs in which a side has more words than this, from all three sets; 0 keeps all
#      WORKERS=2     processes
# Killed? Run the same line again: OUT_DIR appears complete or not at all.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
[[ $# -eq 4 ]] || { usage >&2; exit 2; }
src=$1 tgt=$2 in=$3 out=${4%/}
plain_languages "$src" "$tgt"
merges=${MERGES:-8000} vocabulary=${VOCABULARY:-} max_words=${MAX_WORDS:-0} workers=${WORKERS:-2}
whole_number MERGES "$merges"
whole_number WORKERS "$workers"
[[ ! -e $out || -d $out/bin ]] || die "$out exists but holds no prepared data; remove it or choose another OUT_DIR."
[[ $(realpath -m "$out") != "$(realpath -m "$in")"/* ]] || die "$out lies inside $in, which is only read; choose another OUT_DIR."

if [[ -n $vocabulary ]]; then
  for file in codes "dict.$src.txt" "dict.$tgt.txt"; do
    [[ -f $vocabulary/$file ]] ||
      die "$vocabulary/$file is missing: VOCABULARY is a folder with the BPE codes and the dictionaries of a teacher."
  done
fi

settings="MERGES=$merges"
[[ -z $vocabulary ]] || settings="VOCABULARY of hash $(hash_of "$vocabulary/codes" "$vocabulary"/dict.{"$src","$tgt"}.txt)"
text=$(hash_of_text "$in" "$src" "$tgt")
settings="$src-$tgt, $settings, MAX_WORDS=$max_words and text of hash $text"
if [[ -d $out/bin ]]; then
  made_from "$out/prepared.txt" "$settings" "$out" "remove it or choose another OUT_DIR."
  say "$out already exists"
  exit 0
fi

begin "$out"
record "$work/prepared.txt" "$settings"
mkdir "$work/text" "$work/tok" "$work/bpe"

for set in train valid test; do
  clean_text "$in/$set" "$work/text/$set" "$max_words" "$src" "$tgt"
  for lang in "$src" "$tgt"; do
    moses "$lang" "$workers" tokenize < "$work/text/$set.$lang" > "$work/tok/$set.$lang"
  done
done

if [[ -n $vocabulary ]]; then
  say "splitting by the BPE merges of $vocabulary"
  cp "$vocabulary/codes" "$work/codes"
  dictionaries=(--srcdict "$vocabulary/dict.$src.txt" --tgtdict "$vocabulary/dict.$tgt.txt")
else
  say "learning $merges BPE merges on both languages together"
  cat "$work/tok/train.$src" "$work/tok/train.$tgt" |
    logged "$work/log" subword-nmt learn-bpe -s "$merges" -o "$work/codes"
  dictionaries=(--joined-dictionary)
fi
for set in train valid test; do
  for lang in "$src" "$tgt"; do
    subword-nmt apply-bpe -c "$work/codes" < "$work/tok/$set.$lang" > "$work/bpe/$set.$lang"
    [[ $(wc -l < "$work/bpe/$set.$lang") -eq $(wc -l < "$work/text/$set.$lang") ]] ||
      die "$in/$set.$lang changed its number of lines when it was tokenised; look for odd line separators in it."
  done
done

logged "$work/log" fairseq-preprocess --source-lang "$src" --target-lang "$tgt" "${dictionaries[@]}" --workers "$workers" \
  --trainpref "$work/bpe/train" --validpref "$work/bpe/valid" --testpref "$work/bpe/test" \
  --destdir "$work/bin"
rm -r "$work/tok"
finish
say "$out/bin: a dictionary of $(wc -l < "$out/bin/dict.$tgt.txt") entries"
