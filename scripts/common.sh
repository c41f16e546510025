# shellcheck shell=bash
# Sourced by the scripts beside it: the environment that setup.sh made, and how they speak.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -x $root/.venv/bin/python && :$PATH: != *":$root/.venv/bin:"* ]]; then export PATH="$root/.venv/bin:$PATH"; fi

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

from_here() { # from_here PATH DEFAULT: a path that the user gave, from the folder where the script was called ($here)
  case $1 in
    "") printf '%s\n' "$2" ;;
    /*) printf '%s\n' "$1" ;;
    *) if [[ ${here:?} == "$PWD" ]]; then printf '%s\n' "$1"; else printf '%s\n' "$here/$1"; fi ;;
  esac
}

moses() { # moses LANGUAGE PROCESSES COMMAND...: sacremoses, a million lines at a time, for it holds all that it reads
  split --lines 1000000 --filter "sacremoses --quiet --language ${1@Q} --processes ${2@Q} ${*:3}"
}

clean_text() { # clean_text IN/train OUT/train MAX_WORDS LANGUAGE...: what can be used of parallel text; refuses what is no text
  python -I "$root/fairseq_kd/parallel_text.py" "$@"
}

no_link() { # no_link FILE...: refuses a file of ours that leads to another one, which would be overwritten
  local file
  for file in "$@"; do
    [[ ! -L $file ]] || die "$file is a link to another file, which would be overwritten. Remove the link."
  done
}

plain_languages() { # plain_languages LANGUAGE...: refuses what is no name, as in a run file
  python -I - "$root" "$@" << 'END' || exit
import sys
sys.path.insert(0, sys.argv[1])
from fairseq_kd.names import plain_languages
try:
    plain_languages(sys.argv[2:], "The command line")
except ValueError as error:
    sys.exit(str(error))
END
}

hold() { # hold FOLDER/LOCK: every process started here holds it, so nothing that a kill left running is run twice
  mkdir -p "$(dirname "$1")"
  no_link "$1"
  exec 9>> "$1"
  flock --nonblock 9 || { say "waiting for the run that is still running in $(dirname "$1")"; flock 9; }
}

mark=.fairseq_kd # in temporary folders of ours, as in fairseq_kd/whole_files.py

begin() { # begin OUT: sets work to an empty folder, for finish; what a killed run left is removed, what is not ours is not
  local number=1 why
  why=$(mkdir -p "$(dirname "$1")" 2>&1) || die "$1 cannot be made (${why##*: }). Give another path."
  place=$1.partial
  while [[ -L $place || -L $place/$mark || ! -f $place/$mark ]]; do
    if [[ -e $place || -L $place ]]; then
      number=$((number + 1)) place=$1.$number.partial
    else
      why=$(mkdir "$place" 2>&1) || die "$1 cannot be made (${why##*: }). Give another path."
      : > "$place/$mark"
    fi
  done
  exec {lock}>> "$place/$mark" # what a kill left running holds it, too
  flock --nonblock "$lock" || { say "waiting for the process that still makes $1"; flock "$lock"; }
  if [[ ! -f $place/$mark ]]; then exec {lock}>&-; begin "$1"; return; fi
  trap "" XFSZ # a file that may not grow is an error like a full disk
  making=$1 work=$place/made
  trap 'give_up $?' EXIT
  rm -rf "$work"
  mkdir "$work"
}

finish() { # finish [FOLDER]: what is in work, or in a folder of it, becomes OUT, where nothing is
  mv --no-target-directory "${1:-$work}" "$making"
  rm -rf "$place"
  trap - EXIT
  exec {lock}>&-
}

give_up() { # give_up STATUS: removes what is not whole, and says so if that was for want of space
  local status=$1 told=""
  rm -f "$place/room"
  (head --bytes 1048576 /dev/zero > "$place/room") 2> /dev/null ||
    told="The disk of $making is full; what was there before is as it was. Free some space and run the same line again."
  rm -rf "$place"
  [[ -z $told ]] || say "$told" >&2
  exit "$status"
}
