#!/usr/bin/env bash
# WMT16 English to Romanian in the published setting: teacher, ladder, controls, scores.
#
#   usage: scripts/wmt16_en_ro.sh [--smoke] [--local DIR] [-- flags of fairseq-kd progressive...]
#   e.g.   scripts/wmt16_en_ro.sh --smoke
#
# Europarl v8 and SETIMES2 (610,000 pairs) train it, newsdev2016 validates it, newstest2016 tests it.
# Downloads the archives (0.3 GB) and checks them, cleans the text, tokenises and splits it (32,000 joint
# BPE merges), and goes through scripts/wmt16_en_ro.yaml. RUN/scores.md gets BLEU by sacreBLEU's own test
# set and, apart from it, the tokenised BLEU of older papers; RUN/report.html everything else.
# docs/recipes.md has the source of each number.
#
# No published checksum of SETIMES2 is known: the checksum of the first download is kept beside it, in
# RUN/archives/en-ro.txt.zip.sha256, and checked from then on.
#
#   --smoke      the whole recipe with few lines and tiny models, in RUN-smoke if RUN is not given, only to
#                check that everything works. It uses the same archives, or samples of them:
#   --local DIR  takes the archives from DIR, under the names that they have in RUN/archives
#
# Env: RUN=runs/wmt16_en_ro    folder of the run
#      TEACHER=base            or big: transformer_vaswani_wmt_en_de_big
#      WORKERS=2               processes that prepare the text
#      SMOKE_LINES=2000        training pairs of --smoke
#      CUDA_VISIBLE_DEVICES=0  GPUs; eight of them: name them, and add -- --set gpus=8 --set train.update-freq=1
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/recipes.sh
source "$(dirname "$0")/recipes.sh"

src=en tgt=ro
archives=( # the checksum is that of TensorFlow Datasets (url_checksums/wmt16_translate.txt)
  "http://data.statmt.org/wmt16/translation-task/training-parallel-ep-v8.tgz sha256:8917bd3bef3bc894c8519ca1f8a4c7c330aad08a1263655a9d99ee13d532e3c7"
  "https://object.pouta.csc.fi/OPUS-SETIMES/v2/moses/en-ro.txt.zip -"
)
corpora=(
  "training-parallel-ep-v8.tgz training-parallel-ep-v8/europarl-v8.ro-en"
  "en-ro.txt.zip SETIMES.en-ro"
)
valid_set=wmt16/dev test_set=wmt16
merges=32000 max_words=250 compounds=0
big=(teacher.arch=transformer_vaswani_wmt_en_de_big teacher.train.dropout=0.3)
recipe "$@"
