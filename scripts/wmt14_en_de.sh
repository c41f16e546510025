#!/usr/bin/env bash
# WMT14 English to German in the published setting: teacher, ladder, controls, scores.
#
#   usage: scripts/wmt14_en_de.sh [--smoke] [--local DIR] [-- flags of fairseq-kd progressive...]
#   e.g.   scripts/wmt14_en_de.sh --smoke
#
# Europarl v7, Common Crawl and News Commentary v9 (4.5 million pairs) train it, newstest2013 validates
# it, newstest2014 tests it. Downloads the archives (1.7 GB) and checks them, cleans the text, tokenises
# and splits it (32,000 joint BPE merges), and goes through scripts/wmt14_en_de.yaml. RUN/scores.md gets
# BLEU by sacreBLEU's own test set and, apart from it, the tokenised BLEU of older papers; RUN/report.html
# everything else. docs/recipes.md has the source of each number.
#
#   --smoke      the whole recipe with few lines and tiny models, in RUN-smoke if RUN is not given, only to
#                check that everything works. It uses the same archives, or samples of them:
#   --local DIR  takes the archives from DIR, under the names that they have in RUN/archives
#
# Env: RUN=runs/wmt14_en_de    folder of the run
#      TEACHER=base            or big: transformer_vaswani_wmt_en_de_big, 300,000 updates
#      WORKERS=2               processes that prepare the text
#      SMOKE_LINES=2000        training pairs of --smoke
#      CUDA_VISIBLE_DEVICES=0  GPUs; eight of them: name them, and add -- --set gpus=8 --set train.update-freq=1
# Killed? Run the same line again to resume.
set -euo pipefail
# shellcheck source=scripts/recipes.sh
source "$(dirname "$0")/recipes.sh"

src=en tgt=de
archives=( # their checksums are those of TensorFlow Datasets (url_checksums/wmt14_translate.txt)
  "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7"
  "https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5"
  "https://www.statmt.org/wmt14/training-parallel-nc-v9.tgz sha256:cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485"
)
corpora=(
  "training-parallel-europarl-v7.tgz training/europarl-v7.de-en"
  "training-parallel-commoncrawl.tgz commoncrawl.de-en"
  "training-parallel-nc-v9.tgz training/news-commentary-v9.de-en"
)
valid_set=wmt13 test_set=wmt14/full
merges=32000 max_words=250 compounds=1
big=(teacher.arch=transformer_vaswani_wmt_en_de_big teacher.train.dropout=0.3 teacher.train.max-update=300000)
recipe "$@"
