#!/usr/bin/env bash
# Build a parallel corpus, English and LANG, from Debian's package descriptions and their translations.
#
#   usage: benchmarks/debian_descriptions.sh LANG OUT_DIR [--local DIR]
#   e.g.   benchmarks/debian_descriptions.sh de text/descriptions.en-de
#
# apt-get fetches Translation-en and Translation-LANG of the suites into folders of its own: neither
# root nor any change of the system is needed. With --local DIR, the files below DIR whose names end in
# Translation-en and Translation-LANG are read instead (.xz, .bz2 and .gz, too); where two translate the
# same description, the path that sorts last wins.
# OUT_DIR gets train, valid and test, each with .en and .LANG: one sentence or paragraph a line, line N of
# both belongs together; and README.md with counts, licence and checksums. See docs/corpora.md.
#
# Env: SUITES="bullseye bookworm trixie sid"   of two translations of one description, the later suite's is taken
#      MIRROR=https://deb.debian.org/debian
#      KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg   where it is missing, the keys that apt trusts
#      VALID=1000 TEST=1000   pairs, about; at most a twentieth of all pairs each
#      LOCAL=DIR   the same as --local DIR
# Killed? Run the same line again: OUT_DIR appears complete or not at all.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/../scripts/common.sh"
words=() from=${LOCAL:-}
while [[ $# -gt 0 ]]; do
  case $1 in
    --local) [[ $# -ge 2 ]] || { usage >&2; exit 2; }; from=$2; shift 2 ;;
    -*) usage >&2; exit 2 ;;
    *) words+=("$1"); shift ;;
  esac
done
[[ ${#words[@]} -eq 2 ]] || { usage >&2; exit 2; }
lang=${words[0]} out=${words[1]%/}
read -ra suites <<< "${SUITES:-bullseye bookworm trixie sid}"
mirror=${MIRROR:-https://deb.debian.org/debian} keyring=${KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
valid=${VALID:-1000} test=${TEST:-1000}

[[ $lang =~ ^[a-z]{2,3}(_[A-Z]{2})?$ && $lang != en ]] ||
  die "LANG must be the code of a language other than English, such as de or pt_BR, but is $lang."
for size in "VALID=$valid" "TEST=$test"; do
  [[ ${size#*=} =~ ^[1-9][0-9]*$ ]] || die "${size%%=*} must be a number of pairs, 1 or more, but is ${size#*=}."
done
[[ -f $out/README.md && -f $out/train.en && -f $out/train.$lang ]] && { say "$out already exists"; exit 0; }
[[ ! -e $out ]] || die "$out exists but does not hold this corpus; remove it or choose another OUT_DIR."
[[ -z $from || -d $from ]] || die "--local must be a folder with Translation files, but $from is not a folder."
[[ -n $from ]] || command -v apt-get > /dev/null ||
  die "apt-get is missing; run this on Debian or Ubuntu, or give Translation files with --local DIR."

fetch() { # fetch FOLDER LISTS: what apt fetches below FOLDER; its Translation files, in the order of SUITES, in LISTS
  local signed="" suite reason file number=0
  mkdir -p "$1"/{state/lists/partial,cache/archives/partial}
  if [[ -f $keyring ]]; then signed="[signed-by=$keyring] "; fi
  for suite in "${suites[@]}"; do say "deb $signed$mirror $suite main"; done > "$1/sources.list"
  cat > "$1/apt.conf" << END
Dir::State "$1/state";
Dir::Cache "$1/cache";
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "-";
Acquire::GzipIndexes "false";
Acquire::IndexTargets::deb::Packages::DefaultEnabled "false";
Acquire::Retries "2";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
#clear Acquire::Languages;
Acquire::Languages { "en"; "$lang"; };
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
END
  apt-get -c "$1/apt.conf" update > "$1/log" 2>&1 || {
    reason=$({ grep -m 1 '^E: ' "$1/log" || tail -n 1 "$1/log"; } | tr -s ' ')
    reason=${reason#E: }
    if [[ $reason == *"not signed"* ]]; then reason="${reason%.}; give Debian's keys as KEYRING=FILE"; fi
    die "apt-get could not fetch ${suites[*]} from $mirror: ${reason%.}."
  }
  mkdir "$2"
  for suite in "${suites[@]}"; do
    number=$((number + 1))
    for file in "$1/state/lists/"*"_dists_${suite//\//_}_main_i18n_Translation-"*; do
      if [[ -f $file ]]; then mv "$file" "$2/$number.${suite//\//_}.Translation-${file##*_Translation-}"; fi
    done
  done
}

begin "$(realpath -m "$(dirname "$out")")/$(basename "$out")" # apt-get wants the whole path
if [[ -n $from ]]; then
  say "[1/5] reading Translation files of $from"
  lists=$from origin="the files below $from"
else
  say "[1/5] fetching Translation-en and Translation-$lang of ${suites[*]} from $mirror"
  fetch "$work/apt" "$work/lists"
  lists=$work/lists origin="${suites[*]} of $mirror"
fi
python3 "$root/benchmarks/debian_descriptions.py" "$lang" "$lists" "$work/corpus" \
  --origin "$origin" --valid "$valid" --test "$test"
finish "$work/corpus"
say "$out is ready"
