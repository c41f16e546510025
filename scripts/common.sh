# shellcheck shell=bash
# Sourced first by every script: its location, its help, the environment that setup.sh makes, and message functions.
unset CDPATH # or cd finds folders of other projects
here=$PWD    # where the script was called
root=$(cd "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
script=$(cd "$(dirname -- "$0")" && pwd)/${0##*/}
[[ :$PATH: == *":$root/.venv/bin:"* ]] || export PATH="$root/.venv/bin:$PATH"

case ${script##*/} in
  setup.sh | test.sh) unset PYTHONSAFEPATH ;; # they work in this project alone
  *) export PYTHONSAFEPATH=1 ;;               # Python takes no modules from the folder where a script is called
esac

say() { printf '%s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$script"; } # the script's header
if [[ "${1:-}" =~ ^(-h|--help)$ ]]; then usage; exit 0; fi

from_here() { # from_here PATH DEFAULT: a path that the user gave, from the folder where the script was called
  case $1 in
    "") printf '%s\n' "$2" ;;
    /*) printf '%s\n' "$1" ;;
    *) if [[ $here == "$PWD" ]]; then printf '%s\n' "$1"; else printf '%s\n' "$here/$1"; fi ;;
  esac
}

as_yaml() { # as_yaml TEXT: for --set KEY=..., which is read as YAML: "runs/exp #2" would be runs/exp
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//$'\n'/\\n}"
}

whole_number() { # whole_number NAME VALUE: refuses a setting that is not a number above 0
  [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1 must be a whole number, 1 or more, but is $2."
}

moses() { # moses LANGUAGE PROCESSES COMMAND...: sacremoses, a million lines at a time, for it holds all that it reads
  # Its processes look for modules in the current folder, where they come to on Python 3.10, too.
  (cd / && SHELL=$BASH split --lines 1000000 --filter "sacremoses --quiet --language ${1@Q} --processes ${2@Q} ${*:3}")
}

clean_text() { # clean_text IN/train OUT/train MAX_WORDS LANGUAGE...: the usable part of parallel text; refuses other files
  python -I "$root/fairseq_kd/parallel_text.py" "$@"
}

logged() { # logged LOG COMMAND...: runs it with output to LOG, and shows the end of LOG if it fails
  local log=$1
  shift
  "$@" >> "$log" 2>&1 || { tail -n 20 "$log" >&2; die "${1##*/} failed."; }
}

ordinary() { # ordinary FILE...: refuses what may never answer, such as a pipe
  local file
  for file in "$@"; do
    [[ ! -e $file || -f $file ]] || die "$file must be a regular file, but is a folder, a pipe or a device. Put a file there."
  done
}

no_link() { # no_link FILE...: refuses a file of ours that leads to another one, which would be overwritten
  local file
  for file in "$@"; do
    [[ ! -L $file ]] || die "$file is a symbolic link. Replace it by the file itself, or remove it."
  done
  ordinary "$@"
}

hash_of() { # hash_of FILE...: one of all that they hold
  local file
  for file in "$@"; do [[ -e $file ]] || die "$file is missing."; done
  ordinary "$@"
  cat -- /dev/null "$@" | sha256sum | cut -c -16
}

hash_of_text() { # hash_of_text IN LANGUAGE...: of the sets in a folder of text, compressed or not; of those that are there
  local set lang file texts=()
  for set in train valid test; do
    for lang in "${@:2}"; do
      for file in "$1/$set.$lang"{,.xz,.gz}; do
        [[ ! -e $file || -d $file ]] || texts+=("$file")
      done
    done
  done
  hash_of "${texts[@]}"
}

recorded() { # recorded FILE: prints the inputs that record wrote; nothing if there is no FILE
  ordinary "$1"
  [[ ! -e $1 ]] || head --bytes 100000 "$1" | tr -d '\0'
}

record() { # record FILE SETTINGS: writes what something is made from, whole or not at all
  no_link "$1" "$1.partial"
  printf '%s\n' "$2" > "$1.partial"
  mv "$1.partial" "$1"
}

made_from() { # made_from FILE SETTINGS OUT ADVICE: refuses OUT if FILE records that it was made from other settings
  local made
  made=$(recorded "$1")
  [[ -n $made && $made != "$2" ]] || return 0 # earlier versions recorded nothing
  [[ $made != *[![:print:]]* ]] || made=${made@Q} # nothing of it steers the terminal
  die "$3 already exists and was made from $made, not from $2; $4"
}

plain_languages() { # plain_languages LANGUAGE...: refuses invalid names, as in a run file
  python -I - "$root" "$@" << 'END' || exit
import sys
sys.path.insert(0, sys.argv[1])
from fairseq_kd.files.names import plain_languages
try:
    plain_languages(sys.argv[2:], "The command line")
except ValueError as error:
    sys.exit(str(error))
END
}

hold() { # hold FOLDER/LOCK: every process started here holds it, so nothing that a kill left running is run twice
  local why
  no_link "$1"
  why=$({ mkdir -p "$(dirname "$1")" && : >> "$1"; } 2>&1) ||
    die "$(dirname "$1") cannot be written (${why##*: }). Give another path."
  exec 9>> "$1"
  flock --nonblock 9 || { say "waiting for a process that still runs in $(realpath "$(dirname "$1")")"; flock 9; }
}

mark=.fairseq_kd # in temporary folders of ours, as in fairseq_kd/files/atomic_files.py

left_by_us() { # left_by_us FOLDER: whether it is a temporary one of ours, with nothing in it that begin does not put there
  [[ ! -L $1 && ! -L $1/$mark && -f $1/$mark ]] &&
    [[ -z $(ls -A --ignore "$mark" --ignore made --ignore room --ignore difference "$1") ]]
}

begin() { # begin OUT: sets work to an empty folder, for finish; what a killed run left is removed, what is not ours is not
  local number=1 why
  making=$1
  while [[ $making == ?*/ ]]; do making=${making%/}; done
  why=$(mkdir -p "$(dirname "$making")" 2>&1) || die "$1 cannot be made (${why##*: }). Give another path."
  place=$making.partial
  until left_by_us "$place"; do
    if [[ -e $place || -L $place ]]; then
      number=$((number + 1)) place=$making.$number.partial
    else
      why=$(mkdir "$place" 2>&1) || die "$1 cannot be made (${why##*: }). Give another path."
      : > "$place/$mark"
    fi
  done
  exec {lock}>> "$place/$mark" # what a kill left running holds it, too
  flock --nonblock "$lock" || { say "waiting for the process that still makes $making"; flock "$lock"; }
  if [[ ! -f $place/$mark ]]; then
    exec {lock}>&-
    [[ ! -e $making ]] || die "the other process has made $making. Run the same line again."
    begin "$making"
    return
  fi
  trap "" XFSZ # a file that may not grow is an error like a full disk
  work=$place/made
  trap 'give_up $?' EXIT
  rm -rf "$work"
  mkdir "$work"
}

clear_place() { # removes the temporary folder, except files of others in it
  rm -rf "${place:?}"/{made,room,difference,"$mark"}
  rmdir "$place" 2> /dev/null || say "$place holds other files and is not removed" >&2
}

finish() { # finish [FOLDER]: what is in work, or in a folder of it, becomes OUT, where nothing is
  [[ ! -e $making && ! -L $making ]] ||
    die "another process made $making meanwhile. Remove it, or give another path."
  mv --no-target-directory "${1:-$work}" "$making"
  clear_place
  trap - EXIT
  exec {lock}>&-
}

give_up() { # give_up STATUS: removes incomplete output, and reports a full disk
  local status=$1 message=""
  rm -f "$place/room"
  (head --bytes 1048576 /dev/zero > "$place/room") 2> /dev/null ||
    message="The disk of $making is full; existing files are unchanged. Free some space and run the same line again."
  clear_place
  [[ -z $message ]] || say "$message" >&2
  exit "$status"
}
