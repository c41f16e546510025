#!/usr/bin/env bash
# IWSLT14 German to English in the published setting: teacher, ladder, controls, scores.
#
#   usage: scripts/iwslt14_de_en.sh [--smoke] [--local DIR] [-- flags of fairseq-kd progressive...]
#   e.g.   scripts/iwslt14_de_en.sh --smoke
#
# TED talks (160,000 pairs) as fairseq's recipe divides them: every 23rd pair validates, five sets of
# earlier years (dev2010, dev2012 of TEDX, tst2010 to tst2012) are the test, and all is lower-cased.
# Downloads the archive (20 MB) and checks it, tokenises and splits the text (10,000 joint BPE merges), and goes
# through scripts/iwslt14_de_en.yaml. sacreBLEU has no set of IWSLT14, so RUN/scores.md gets its BLEU
# against the references of the archive, lower-cased, and, apart from it, the tokenised BLEU of papers;
# RUN/report.html everything else. docs/recipes.md has the source of each number.
#
#   --smoke      the whole recipe with few lines and tiny models, in RUN-smoke if RUN is not given, only to
#                check that everything works. It uses the same archive, or a sample of it:
#   --local DIR  takes the archive from DIR, under the name that it has in RUN/archives
#
# Env: RUN=runs/iwslt14_de_en  folder of the run
#      WORKERS=2               processes that prepare the text
#      SMOKE_LINES=2000        training pairs of --smoke, those that validate included
#      CUDA_VISIBLE_DEVICES=0  the GPU
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/recipes.sh
source "$(dirname "$0")/recipes.sh"

src=de tgt=en
archives=("http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz md5:10936dfdf616504ddbd844e91b94ef4a")
valid_set="" test_set=""
merges=10000 max_words=175 compounds=0
big=()

write_text() { # write_text OUT: train, valid and test, each with .de and .en
  local out=$1 most=0 lang
  [[ $smoke == 0 ]] || most=$lines
  for lang in de en; do
    member "$run/archives/de-en.tgz" "de-en/train.tags.de-en.$lang" | tr '\t' ' ' | tr -d '\r' | spoken > "$out/raw.$lang"
  done
  [[ $(wc -l < "$out/raw.de") -eq $(wc -l < "$out/raw.en") ]] ||
    die "train.tags.de-en.de and .en in $run/archives/de-en.tgz are not parallel: remove their tags, and they differ in length."
  paste "$out/raw.de" "$out/raw.en" | keep_pairs | awk -v most="$most" '!most || NR <= most' | lower > "$out/kept"
  awk 'NR % 23' "$out/kept" > "$out/train"
  awk 'NR % 23 == 0' "$out/kept" > "$out/valid"
  test_pairs "$out" | sed "s/’/'/g" | lower > "$out/test"
  for set in train valid test; do
    cut -f 1 "$out/$set" > "$out/$set.de"
    cut -f 2 "$out/$set" > "$out/$set.en"
    rm "$out/$set"
  done
  rm -r "$out"/raw.* "$out/kept" "$out/xml"
}

spoken() { # what was said, the titles and the descriptions, without their tags
  sed -E '/^ *<(url|talkid|keywords|speaker|reviewer|translator)/d; s/<\/?(title|description)>//g; s/^ +| +$//g'
}

lower() {
  python -I -c 'import sys
for stream in (sys.stdin, sys.stdout):
    stream.reconfigure(encoding="utf-8", newline="\n")
sys.stdout.writelines(line.lower() for line in sys.stdin)'
}

test_pairs() { # test_pairs OUT: German TAB English of the five sets, read by what reads IWSLT's files in sacreBLEU
  local xml=$1/xml part lang
  local parts=(TED.dev2010 TEDX.dev2012 TED.tst2010 TED.tst2011 TED.tst2012)
  mkdir "$xml"
  for part in "${parts[@]}"; do
    for lang in de en; do
      member "$run/archives/de-en.tgz" "de-en/IWSLT14.$part.de-en.$lang.xml" > "$xml/$part.$lang"
    done
  done
  SACREBLEU=$xml python -I - "$(realpath "$xml")" "${parts[@]}" << 'END'
import sys
from sacrebleu.dataset.iwslt_xml import IWSLTXMLDataset
folder, *parts = sys.argv[1:]
for part in parts:
    files = [f"{folder}/{part}.{language}" for language in ("de", "en")]
    talks = IWSLTXMLDataset(part, data=[], langpairs={"de-en": files})
    for source, (reference,) in zip(talks.source("de-en"), talks.references("de-en"), strict=True):
        print(source, reference.strip(), sep="\t")
END
}

recipe "$@"
