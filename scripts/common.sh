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
  split --lines 1000000 --filter "sacremoses --quiet --language $1 --processes $2 ${*:3}"
}

clean_text() { # clean_text IN/train OUT/train MAX_WORDS LANGUAGE...: what can be used of parallel text; refuses what is no text
  python -I "$root/fairseq_kd/parallel_text.py" "$@"
}
