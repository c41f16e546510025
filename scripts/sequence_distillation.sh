#!/usr/bin/env bash
# Sequence-level distillation in plain fairseq: the teacher translates the training set, and its
# translations become the target.
#
#   usage: scripts/sequence_distillation.sh TEACHER.pt DATA_BIN OUT_DIR [fairseq-generate flags...]
#   then   fairseq-train OUT_DIR/bin --user-dir user_dir --arch transformer_kd_6_3 ...
#
# The same as fairseq-kd translate and fairseq-kd distill-data, without their speed, filters and restart
# within the set. DATA_BIN is the output of fairseq-preprocess; its BPE is kept.
# OUT_DIR gets  generate.txt  what fairseq-generate printed    text/  the pairs, one sentence per line
#               bin/          what fairseq-train reads, with the dictionaries of DATA_BIN
#               made_from.txt settings and hashes: an OUT_DIR of another teacher, data or setting is refused
#
# Env: BEAM=5  MAX_TOKENS=4000  WORKERS=2 (processes of fairseq-preprocess)
# Killed? Run the same line again: each of the three appears complete or not at all.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
[[ $# -ge 3 ]] || { usage >&2; exit 2; }
teacher=$1 data=$2 out=${3%/}
shift 3

beam=${BEAM:-5} max_tokens=${MAX_TOKENS:-4000} workers=${WORKERS:-2}
whole_number BEAM "$beam"
whole_number MAX_TOKENS "$max_tokens"
whole_number WORKERS "$workers"
for flag in "$@"; do
  [[ $flag != --nb* ]] || die "$flag has no effect, because the best translation is taken: leave it out, or take fairseq-kd translate."
  [[ $flag != --rem* && $flag != --post* ]] ||
    die "$flag joins subwords, but the training set is made of subwords: leave it out."
  [[ $flag != --score-* && $flag != --pref* && $flag != --gen-s* && $flag != --num-s* && $flag != --shard* && $flag != --max-v* ]] ||
    die "$flag does not give the best translations of the training set: leave it out, or take fairseq-kd translate."
  [[ $flag != --qui* && $flag != --resu* ]] || die "$flag prevents fairseq-generate from printing the translations: leave it out."
done

pair=$(python -I - "$root" "$teacher" << 'EOF'
import os, sys
sys.path.insert(0, sys.argv[1])
from fairseq_kd import quiet, plugin
from fairseq_kd.teachers.loading import teacher_languages
try:
    print(*teacher_languages(sys.argv[2].split(os.pathsep)[0], "Teacher"))
except (OSError, ValueError) as error:
    sys.exit(str(error))
EOF
) || exit 1
read -r src tgt <<< "$pair"

[[ -f $data/train.$src-$tgt.$src.idx || -f $data/train.$tgt-$src.$src.idx ]] ||
  die "$data holds no train.$src-$tgt.$src for $teacher to translate. Give what fairseq-preprocess wrote."
for name in "$out"/*; do
  [[ ! -e $name || -f $out/made_from.txt || -f $out/generate.txt ]] ||
    die "$out already exists and holds ${name##*/}; remove it or choose another OUT_DIR."
done
[[ $(realpath -m "$out") != "$(realpath -m "$data")"/* ]] || die "$out lies inside $data, which is only read; choose another OUT_DIR."
no_link "$out/generate.log" "$out/preprocess.log"
hold "$out/.lock"
[[ ! -f $out/generate.txt ]] || rm -f "$out/$mark" # of earlier versions, as if this were a temporary folder
shopt -s nullglob

IFS=: read -ra models <<< "$teacher"
teacher_hash=$(hash_of "${models[@]}")
data_hash=$(hash_of "$data"/dict.{"$src","$tgt"}.txt "$data"/{train,valid,test}*.{"$src-$tgt","$tgt-$src"}.*)
settings="$src-$tgt, teacher of hash $teacher_hash, data of hash $data_hash, BEAM=$beam, MAX_TOKENS=$max_tokens and flags: ${*:-none}"
if [[ ! -e $out/generate.txt && ! -e $out/text && ! -e $out/bin ]]; then
  record "$out/made_from.txt" "$settings"
elif [[ ! -e $out/made_from.txt ]]; then
  say "$out/generate.txt is used unchecked: an earlier version made it and did not record its inputs."
fi
made_from "$out/made_from.txt" "$settings" "$out" "remove it or choose another OUT_DIR."

if [[ ! -f $out/generate.txt ]]; then
  begin "$out/generate.txt"
  # Without a batch-size multiple of 1, fairseq-generate drops the last sentences.
  fairseq-generate "$data" --user-dir "$root/user_dir" --path "$teacher" --gen-subset train \
    --source-lang "$src" --target-lang "$tgt" --beam "$beam" --max-tokens "$max_tokens" \
    --max-len-a 2 --max-len-b 20 --skip-invalid-size-inputs-valid-test \
    --required-batch-size-multiple 1 "$@" > "$work/generate.txt" 2> "$out/generate.log" ||
    { tail -n 15 "$out/generate.log" >&2; die "fairseq-generate failed."; }
  grep -q '^H-' "$work/generate.txt" || die "fairseq-generate printed no translation; $out/generate.log has the rest of its output."
  finish "$work/generate.txt"
fi

column() { # column LETTER FIELD: S- or H- lines in the set's order
  grep "^$1-" "$out/generate.txt" | sed "s/^$1-//" | LC_ALL=C sort --numeric-sort --stable | cut -f "$2"
}

if [[ ! -d $out/text ]]; then
  begin "$out/text"
  cmp <(column S 1) <(column H 1) || die "$out/generate.txt has sources without translation. Remove it and run this again."
  column S 2 > "$work/train.$src"
  column H 3 > "$work/train.$tgt"
  finish
fi

if [[ ! -d $out/bin ]]; then
  begin "$out/bin"
  fairseq-preprocess --source-lang "$src" --target-lang "$tgt" --workers "$workers" \
    --srcdict "$data/dict.$src.txt" --tgtdict "$data/dict.$tgt.txt" \
    --trainpref "$out/text/train" --destdir "$work" > "$out/preprocess.log" 2>&1 ||
    { tail -n 15 "$out/preprocess.log" >&2; die "fairseq-preprocess failed."; }
  for path in "$data"/{valid,test}*.{"$src-$tgt","$tgt-$src"}.*; do
    name=${path##*/}
    cp "$path" "$work/${name/".$tgt-$src."/".$src-$tgt."}"
  done
  finish
fi
echo "$out/bin is ready for fairseq-train: $(wc -l < "$out/text/train.$tgt") pairs"
