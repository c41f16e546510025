#!/usr/bin/env bash
# Make .venv with everything that fairseq_kd needs. Quick when there is nothing to do.
#
#   usage: scripts/setup.sh
#
# Env: PYTHON=python3   the interpreter to build on, 3.10 or newer
#      CUDA=auto        1: torch with CUDA, 0: without, auto: with if nvidia-smi lists a GPU
# fairseq is compiled here, which takes about three minutes. Killed? Run it again.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"
cd "$root"
[[ $# -eq 0 ]] || { usage >&2; exit 2; }
python=${PYTHON:-python3}

# The stamp holds what the environment was made from; it is written last, so half an environment has none.
stamp() { cat pyproject.toml constraints.txt scripts/setup.sh; pwd; }
is_made() { [[ -f .venv/stamp ]] && stamp | cmp -s - .venv/stamp; }
if is_made; then exit 0; fi

command -v "$python" > /dev/null || die "$python is missing: install Python 3.10 or newer, or set PYTHON to one."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  die "$("$python" --version) is too old: set PYTHON to a Python of 3.10 or newer, such as PYTHON=python3.11."
"$python" -c 'import ensurepip, venv' 2> /dev/null ||
  die "$python cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)."
command -v "${CXX:-g++}" > /dev/null ||
  die "The C++ compiler ${CXX:-g++} is missing, which fairseq is built with (Debian, Ubuntu: apt install g++)."
"$python" -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' ||
  die "The headers of $python are missing, which fairseq is built with (Debian, Ubuntu: apt install python3-dev)."

[[ ! -e .venv || -f .venv/pyvenv.cfg || -z $(ls -A .venv) ]] ||
  die ".venv exists and is not a virtual environment; move it away."
hold .venv.lock
if is_made; then exit 0; fi # by another setup.sh, for which this one waited
say "making .venv (fairseq is compiled: about three minutes)"
[[ -x .venv/bin/python ]] || "$python" -m venv --clear .venv
export PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
install() { pip install --quiet --constraint constraints.txt "$@"; }

old=0 # Python 3.10, on which fairseq 0.12.2 is installed
if ! python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  old=1
  pip install --quiet 'pip<24.1' # newer ones refuse the metadata of the omegaconf that fairseq 0.12.2 asks for
fi

# torch first, and without CUDA unless there is a GPU: asked for by fairseq alone, pip would fetch gigabytes of CUDA.
torch=$(sed -n 's/^torch==//p' constraints.txt)
cuda=${CUDA:-auto}
if [[ $cuda == auto ]]; then
  if nvidia-smi -L 2> /dev/null | grep -q GPU; then cuda=1; else cuda=0; fi
fi
if [[ $(uname -sm) != "Linux x86_64" ]]; then
  install "torch==$torch"
elif [[ $cuda == 1 ]]; then
  install "torch==$torch" nvidia-cublas-cu12 # the second for CTranslate2, which asks for cuBLAS of CUDA 12
else
  install "torch==$torch+cpu" 2> /dev/null ||
    install "torch==$torch" --index-url https://download.pytorch.org/whl/cpu
fi

if [[ $old == 1 ]]; then
  # Its source package lacks files that its build asks for once torch is visible: built apart from torch, it needs none.
  install --no-deps "fairseq==0.12.2"
fi
# fairseq-fixed's build needs these beside torch; in an environment of its own it would fetch another torch.
install Cython numpy setuptools wheel
install --no-build-isolation --editable '.[pipeline,test]'
stamp > .venv/stamp
say "done: source .venv/bin/activate"
