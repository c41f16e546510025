# shellcheck shell=bash disable=SC2154
# Sourced by the recipes beside it: runs a published setting from the archives to the scores.
#
# A recipe sets the following variables, and calls recipe "$@":
#   src, tgt          the languages
#   archives          one an entry: URL and checksum, as sha256:... or md5:..., or - where none is known
#   corpora           one an entry: an archive, and what its two files are called before and after .LANGUAGE
#   valid_set         and test_set: sacreBLEU's names of them; "" if it has none, and write_text is the recipe's own
#   merges, max_words joint BPE merges, and the most words of a side of a training pair
#   big               settings of TEACHER=big
#   compounds         1: tokenised BLEU splits words at their hyphens, as papers on German do

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root" || exit

ratio=1.5           # a side of a training pair has at most so many times the words of the other
smoke_merges=400
smoke_settings=(    # override the run file, so that a whole run takes half a minute
  teacher.arch=transformer_kd_small_student 'ladder=[0.5]' 'controls=[]'
  train.max-update=20 train.lr=5e-3 train.warmup-updates=5 train.fp16=false
  train.max-tokens=1000 train.update-freq=1 train.log-interval=5
  evaluate.rounds=0 evaluate.no-memory=true evaluate.bootstrap=100 evaluate.beam=1
)

recipe() { # recipe flags...: all of it
  smoke=0 given="" flags=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --smoke) smoke=1 ;;
      --local) [[ $# -ge 2 ]] || { usage >&2; exit 2; }; given=$2; shift ;;
      --) shift; flags=("$@"); break ;;
      *) usage >&2; exit 2 ;;
    esac
    shift
  done
  scripts/setup.sh
  name=$(basename "$0" .sh)
  settle
  make_text
  fairseq-kd prepare --text "$run/text" --source "$src" --target "$tgt" --merges "$merges" --workers "$workers" \
    --out "$run/data"
  check_test_set
  fairseq-kd progressive "scripts/$name.yaml" "${settings[@]}" "${flags[@]}"
  show_scores
}

make_text() { # $run/text, unless it is there
  local made="all lines of the archives"
  [[ $smoke == 0 ]] || made="SMOKE_LINES=$lines"
  if [[ -d $run/text ]]; then
    made_from "$run/text/made_from.txt" "$made" "$run/text" "give another RUN."
    return
  fi
  get_archives
  [[ -z $test_set ]] || unpack_sets
  begin "$run/text"
  write_text "$work"
  record "$work/made_from.txt" "$made"
  finish
}

settle() { # the folder of the run, which is this process's alone, and the settings over the run file
  local setting
  run=$(from_here "${RUN:-}" "runs/$name") workers=${WORKERS:-2} lines=${SMOKE_LINES:-2000}
  [[ -n ${RUN:-} || $smoke == 0 ]] || run=$run-smoke
  given=$(from_here "$given" "")
  [[ -z $given || -d $given ]] || die "--local must be a folder that holds the archives, but $given is not a folder."
  settings=(--set "run=$(as_yaml "$run")" --set "data=$(as_yaml "$run/data/bin")")
  case ${TEACHER:-base} in
    base) ;;
    big)
      [[ ${#big[@]} -gt 0 ]] || die "TEACHER=big has no effect here: the published setting has one teacher."
      [[ $smoke == 0 ]] || die "TEACHER=big has no effect with --smoke, whose teacher is tiny: leave it out."
      for setting in "${big[@]}"; do settings+=(--set "$setting"); done ;;
    *) die "TEACHER must be base or big, but is $TEACHER." ;;
  esac
  if [[ $smoke == 1 ]]; then
    [[ $lines =~ ^[1-9][0-9]*$ ]] || die "SMOKE_LINES must be a number above 0, but is $lines."
    merges=$smoke_merges
    for setting in "${smoke_settings[@]}" "evaluate.cache=$(as_yaml "$run/converted")"; do settings+=(--set "$setting"); done
  fi
  export SACREBLEU=$run/sacrebleu PYTHONWARNINGS=ignore
  export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} # one GPU, if there is any: several would change the batches
  mkdir -p "$run/archives"
  hold "$run/.recipe.lock"
}

# ---- archives

get_archives() { # all of them into $run/archives
  local list url sum file
  list=$(printf '%s\n' "${archives[@]}"; [[ -z $test_set ]] || sacrebleu_archives)
  while read -r url sum file; do archive "$url" "$sum" "${file:-${url##*/}}"; done <<< "$list"
}

sacrebleu_archives() { # URL, checksum and file of the two sets, as sacreBLEU has them
  python -I - "$valid_set" "$test_set" << 'END'
import sys
from sacrebleu.dataset import DATASETS
for name in sys.argv[1:]:
    url, md5 = DATASETS[name].data[0], DATASETS[name].md5[0]
    print(url, f"md5:{md5}", f"{name.replace('/', '_')}.{url.rpartition('/')[2]}")
END
}

archive() { # archive URL CHECKSUM FILE: gets it, unless it is there, and refuses it if it is not what was published
  local url=$1 sum=$2 file=$run/archives/$3 partial=$run/archives/$3.partial
  no_link "$partial" "$file.sha256"
  [[ $sum != - || ! -s $file.sha256 ]] || sum=sha256:$(< "$file.sha256")
  if [[ -e $file ]]; then
    is_published "$file" "$sum" || die "$(difference "$file" "$sum" "$url"); remove it to download it again."
    [[ -z $given || ! -f $given/$3 ]] || cmp -s "$given/$3" "$file" ||
      die "$run was started with an archive $3 that differs from the one in $given: give another RUN, or leave --local out."
  elif [[ -n $given ]]; then
    [[ -f $given/$3 ]] || die "$given/$3 is missing. Download it from $url."
    is_published "$given/$3" "$sum" || die "$(difference "$given/$3" "$sum" "$url"); replace it by the published file."
    ln -sfn "$(realpath "$given/$3")" "$file"
  else
    say "downloading $url"
    download "$url" "$partial" ||
      die "$url could not be downloaded; run the same command again to resume, or give --local DIR to take $3 from DIR."
    if ! is_published "$partial" "$sum"; then
      mv "$partial" "$file.damaged"
      die "$(difference "$file.damaged" "$sum" "$url"); the same command downloads it again."
    fi
    mv "$partial" "$file"
  fi
  if [[ $sum == - ]]; then
    sum=$(sum_of sha256 "$file")
    say "$sum" > "$file.sha256"
  fi
}

download() { # download URL FILE: resumes, or starts again if the server cannot resume (curl status 33)
  local status=0 how=(--fail --location --show-error --retry 5 --output "$2")
  curl "${how[@]}" --continue-at - "$1" || status=$?
  [[ $status == 33 ]] || return "$status"
  rm "$2"
  curl "${how[@]}" "$1"
}

sum_of() { "$1sum" < "$2" | cut -d ' ' -f 1; } # sum_of md5|sha256 FILE

is_published() { # is_published FILE CHECKSUM: nothing is known of -, and samples for --smoke have other ones
  [[ $2 == - || ($smoke == 1 && -n $given) || $(sum_of "${2%%:*}" "$1") == "${2#*:}" ]]
}

difference() { # difference FILE CHECKSUM URL: what is wrong with it
  local kind=${2%%:*}
  printf '%s' "$1 has the $kind $(sum_of "$kind" "$1"), but what $3 holds has ${2#*:}"
}

member() { # member ARCHIVE FILE [LINES]: a file of an archive, its .gz undone; the first LINES of it, or (0) all
  python -I - "$1" "$2" "${3:-0}" << 'END'
import gzip, itertools, sys, tarfile, zipfile
archive, name, lines = sys.argv[1], sys.argv[2], int(sys.argv[3])
if archive.endswith(".zip"):
    content = zipfile.ZipFile(archive)
    file = content.open(name) if name in content.namelist() else None
else:
    content = tarfile.open(archive, "r|*")
    found = (each for each in content if each.name.removeprefix("./") == name)
    file = next((content.extractfile(each) for each in found), None)
if file is None:
    sys.exit(f"{archive} holds no {name}.")
if name.endswith(".gz"):
    file = gzip.open(file)
sys.stdout.buffer.writelines(itertools.islice(file, lines or None))
END
}

# ---- text

write_text() { # write_text OUT: train, valid and test, each with .$src and .$tgt
  local out=$1 most=0 corpus file stem suffix lang
  [[ $smoke == 0 ]] || most=$(((lines + ${#corpora[@]} - 1) / ${#corpora[@]})) # evenly from all of them
  for corpus in "${corpora[@]}"; do
    read -r file stem suffix <<< "$corpus"
    say "reading $stem"
    for lang in "$src" "$tgt"; do
      member "$run/archives/$file" "$stem.$lang$suffix" "$most" > "$out/corpus.$lang"
      cat "$out/corpus.$lang" >> "$out/raw.$lang"
    done
    [[ $(wc -l < "$out/corpus.$src") -eq $(wc -l < "$out/corpus.$tgt") ]] ||
      die "$stem.$src and .$tgt in $run/archives/$file have different numbers of lines, so they are not parallel."
    rm "$out/corpus.$src" "$out/corpus.$tgt"
  done
  say "cleaning $(wc -l < "$out/raw.$src") training pairs"
  clean_side "$out" "$src" 1
  clean_side "$out" "$tgt" 2
  cut -f 2 "$run/sacrebleu/test.tsv" > "$out/test.$tgt" # as it is: it is scored against
  paste "$out/clean.$src" "$out/clean.$tgt" | keep_pairs > "$out/kept"
  cut -f 1 "$out/kept" > "$out/train.$src"
  cut -f 2 "$out/kept" > "$out/train.$tgt"
  rm "$out"/{raw,clean}.* "$out/kept"
}

unpack_sets() { # $run/sacrebleu: the two sets, where sacreBLEU looks before it downloads; source TAB reference
  local list file set raw
  [[ ! -d $run/sacrebleu ]] || return 0
  begin "$run/sacrebleu"
  list=$(sacrebleu_archives)
  for set in "$valid_set" "$test_set"; do
    read -r _ _ file <<< "$list"
    list=${list#*$'\n'} raw=$work/$set/raw
    mkdir -p "$raw"
    tar --extract --file "$run/archives/$file" --directory "$raw"
    ln -s "$(realpath "$run/archives/$file")" "$raw/$file"
  done
  SACREBLEU=$work sacrebleu -t "$valid_set" -l "$src-$tgt" --echo src ref > "$work/valid.tsv"
  SACREBLEU=$work sacrebleu -t "$test_set" -l "$src-$tgt" --echo src ref > "$work/test.tsv"
  finish
}

clean_side() { # clean_side OUT LANGUAGE COLUMN: the three sets of one language
  local valid=$run/sacrebleu/valid.tsv test=$run/sacrebleu/test.tsv
  { cut -f "$3" "$valid"; cut -f "$3" "$test"; } | characters | cat - "$1/raw.$2" | clean "$2" |
    awk -v valid="$(wc -l < "$valid")" -v test="$(wc -l < "$test")" -v out="$1" -v lang="$2" \
      '{ print > (out "/" (NR <= valid ? "valid" : NR <= valid + test ? "test" : "clean") "." lang) }'
}

characters() { # replaces SGML entities by their characters
  sed "s/&quot;/\"/g; s/&apos;/'/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g"
}

clean() { # clean LANGUAGE: normalises punctuation and drops what does not print
  tr '\t' ' ' | tr -d '\r' | moses "$1" "$workers" normalize --remove-control-chars
}

keep_pairs() { # of source TAB target, those that have words, not too many, and about as many on both sides
  awk -F '\t' -v max="$max_words" -v ratio="$ratio" '{ s = split($1, a, " "); t = split($2, b, " ") }
    s && t && s <= max && t <= max && s <= ratio * t && t <= ratio * s'
}

check_test_set() { # every sentence of the test set is translated, and no other
  local whole=$run/text/test.$src
  [[ -z $test_set ]] || whole=$run/sacrebleu/test.tsv
  [[ $(wc -l < "$run/data/text/test.$src") -eq $(wc -l < "$whole") ]] ||
    die "$run/data/text/test.$src has $(wc -l < "$run/data/text/test.$src") lines, but the test set" \
      "${test_set:-of the archive} has $(wc -l < "$whole"), so that nothing could be scored by it."
}

# ---- scores

show_scores() { # writes $run/scores.md if the evaluation is newer, and shows it
  if [[ ! -f $run/evaluation.json ]]; then
    say "There are no scores yet: the run is not evaluated."
    return
  fi
  [[ $run/scores.md -nt $run/evaluation.json ]] || write_scores
  echo
  cat "$run/scores.md"
  printf '\n%s\n' "$run/report.html has quality, size, memory, speed and the training curves of every system."
}

write_scores() { # two tables, which are never one: figures of the one kind say nothing of the other
  local reference=$run/data/text/test.$tgt scorer named file found rows=""
  local -a systems
  mapfile -t systems <<< "$(translated)"
  ordinary "$run/scores.md"
  [[ ! -e $run/scores.md || $(head -n 1 "$run/scores.md") == "# Scores of $name" ]] ||
    die "$run/scores.md exists and was not written by this script; move it away."
  begin "$run/scores.md"
  scorer=(sacrebleu "$reference") named="\`sacrebleu\` by the references of the archive: sacreBLEU has no set of them"
  [[ -z $test_set ]] || { scorer=(sacrebleu -t "$test_set" -l "$src-$tgt"); named="\`${scorer[*]}\`"; }
  for file in "${systems[@]}"; do
    found=$("${scorer[@]}" -i "$file" --format text --width 2) # signature = score, and more
    rows+="| $(basename "$file" .txt) | $(cut -d ' ' -f 3 <<< "$found") |"$'\n'
  done
  {
    printf '%s\n' "# Scores of $name" ""
    [[ $smoke == 0 ]] || printf '%s\n' "A smoke run: tiny models and few updates, so the figures are not meaningful." ""
    printf '%s\n' "## sacreBLEU" "" "The figures to report: $named" "" "| system | BLEU |" "| :--- | ---: |"
    printf '%s\n' "$rows" "Signature: \`${found%% *}\`" ""
    printf '%s\n' "## Tokenised BLEU, only for comparison with older papers" "" "$(tokenised_how)" ""
    printf '%s\n' "| system | tokenised BLEU |" "| :--- | ---: |"
    tokenised_rows "$work" "$reference" "${systems[@]}"
  } > "$work/scores.md"
  rm -f "$run/scores.md" # that of an earlier evaluation
  finish "$work/scores.md"
}

translated() { # the translations of every system of the report, in its order
  python -I - "$run" << 'END'
import json, sys
with open(f"{sys.argv[1]}/evaluation.json", encoding="utf-8") as file:
    for name in json.load(file)["quality"]["scores"]:
        print(f"{sys.argv[1]}/translations/{name.replace(', int8', '.int8')}.txt")
END
}

tokenised_how() {
  local hyphens=""
  [[ $compounds == 0 ]] || hyphens=", words split at their hyphens"
  say "\`fairseq-score\` of translations and references that sacremoses tokenised$hyphens. It depends on the" \
    "tokeniser: it cannot be compared with the table above, nor with figures from another tokenisation."
}

retokenise() { # plain text as the scorers of older papers read it
  characters | moses "$tgt" "$workers" tokenize |
    if [[ $compounds == 1 ]]; then sed -E 's/(\S)-(\S)/\1 ##AT##-##AT## \2/g'; else cat; fi
}

tokenised_rows() { # tokenised_rows WORK REFERENCE FILE...: fairseq-score of each, in one process
  local work=$1 count
  shift
  count=$(wc -l < "$1")
  cat "$@" | retokenise | split --lines "$count" --numeric-suffixes --suffix-length 4 - "$work/tokenised."
  python -I - "$work" "${@:2}" << 'END'
import contextlib, io, logging, pathlib, re, sys
logging.disable(logging.INFO)
from fairseq_cli import score
folder, *systems = sys.argv[1:]
reference, *tokenised = sorted(map(str, pathlib.Path(folder).glob("tokenised.*")))
for system, text in zip(systems, tokenised, strict=True):
    sys.argv[1:] = ["--sys", text, "--ref", reference]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        score.cli_main()
    bleu = re.search(r"^BLEU4 = ([^,]+),", printed.getvalue(), re.M)
    print(f"| {pathlib.Path(system).stem} | {bleu[1]} |")
END
}
