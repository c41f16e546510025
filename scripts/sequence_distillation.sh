#!/usr/bin/env bash
# Sequence-level distillation in plain fairseq: the teacher translates the training set, and what it
# says becomes the target.
#
#   usage: scripts/sequence_distillation.sh TEACHER.pt DATA_BIN OUT_DIR [fairseq-generate flags...]
#   then   fairseq-train OUT_DIR/bin --user-dir user_dir --arch transformer_kd_6_3 ...
#
# This is what fairseq-kd translate and fairseq-kd distill-data do, without their speed, filters and
# restart within the set. DATA_BIN is what fairseq-preprocess wrote; BPE is kept as it is there.
# OUT_DIR gets  generate.txt  what fairseq-generate printed    text/  the pairs, one sentence a line
#               bin/          what fairseq-train reads, with the dictionaries of DATA_BIN
#
# Env: BEAM=5  MAX_TOKENS=4000  WORKERS=2 (processes of fairseq-preprocess)
# Killed? Run the same line again: each of the three appears whole or not at all.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
[[ $# -ge 3 ]] || { usage >&2; exit 2; }
teacher=$1 data=$2 out=$3
shift 3

for flag in "$@"; do
  [[ $flag != --nb* ]] || die "$flag is of no use, for the best translation is taken: leave it out, or take fairseq-kd translate."
done

pair=$(PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" python - "$teacher" << 'EOF'
import sys
sys.path = [path for path in sys.path if path]  # "" is the folder that this was started in
import os
from fairseq_kd import quiet, plugin
from fairseq_kd.teachers.loading import teacher_languages
try:
    print(*teacher_languages(sys.argv[1].split(os.pathsep)[0], "Teacher"))
except (OSError, ValueError) as error:
    sys.exit(str(error))
EOF
) || exit 1
read -r src tgt <<< "$pair"

[[ -f $data/train.$src-$tgt.$src.idx || -f $data/train.$tgt-$src.$src.idx ]] ||
  die "$data holds no train.$src-$tgt.$src, which $teacher translates. Give what fairseq-preprocess wrote."
for name in "$out"/*; do
  [[ ! -e $name || -f $out/$mark || -f $out/generate.txt ]] ||
    die "$out is there already, with ${name##*/} in it; remove it or choose another OUT_DIR."
done
[[ $(realpath -m "$out") != "$(realpath -m "$data")"/* ]] || die "$out lies inside $data, which is only read; choose another OUT_DIR."
no_link "$out/$mark" "$out/generate.log" "$out/preprocess.log"
why=$(mkdir -p "$out" 2>&1 && : 2>&1 >> "$out/$mark") || die "$out cannot be written (${why##*: }). Give another path."
shopt -s nullglob

if [[ ! -f $out/generate.txt ]]; then
  begin "$out/generate.txt"
  # Without a batch-size multiple of 1, fairseq-generate drops the last sentences.
  fairseq-generate "$data" --user-dir "$root/user_dir" --path "$teacher" --gen-subset train \
    --source-lang "$src" --target-lang "$tgt" --beam "${BEAM:-5}" --max-tokens "${MAX_TOKENS:-4000}" \
    --max-len-a 2 --max-len-b 20 --skip-invalid-size-inputs-valid-test \
    --required-batch-size-multiple 1 "$@" > "$work/generate.txt" 2> "$out/generate.log" ||
    { tail -n 15 "$out/generate.log" >&2; die "fairseq-generate failed."; }
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
  fairseq-preprocess --source-lang "$src" --target-lang "$tgt" --workers "${WORKERS:-2}" \
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
