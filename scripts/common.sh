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

read_text() { # read_text FILE: FILE, FILE.xz or FILE.gz, decompressed
  if [[ -f $1 ]]; then cat "$1"
  elif [[ -f $1.xz ]]; then python -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1.xz"
  elif [[ -f $1.gz ]]; then gzip -dc "$1.gz"
  else die "$1 is missing (nor is there $1.xz or $1.gz)."
  fi
}
