"""Runs a command of fairseq in a fork of this process, which has imported fairseq already.

It is the same program in a process of its own, less the seconds that importing takes each time.
The fork may know the plugin already, so what has to show that a command finds it, or does without
it, is for ``harness.run``. Where there is a GPU, that runs the command too: what CUDA has begun
does not go on in a fork.
"""

import logging
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings

import torch
from harness import ROOT, run

PROGRAMS = {
    "fairseq-train": "fairseq_cli.train",
    "fairseq-generate": "fairseq_cli.generate",
    "fairseq-preprocess": "fairseq_cli.preprocess",
    "fairseq-kd": "fairseq_kd.cli",
}


def run_forked(*command):
    """Runs a command of PROGRAMS, and shows its output where it fails."""
    if torch.cuda.is_available():
        return run(*command)
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            _be(words, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, err):
            file.seek(0)
        result = subprocess.CompletedProcess(words, code, out.read(), err.read())
    assert code == 0, f"{words}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
    return result


def _forget_logging():
    """Takes back what pytest and the tests before have set: the program sets its own."""
    logging.disable(logging.NOTSET)
    logging.root.handlers.clear()
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(logging.NOTSET)


def _be(words, out, err):
    """Becomes the command, and ends as it ends: nothing of the test goes on in this process."""
    code = 1
    try:
        for fd, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), fd)
        sys.stdout, sys.stderr = (os.fdopen(fd, "w", 1, closefd=False) for fd in (1, 2))
        _forget_logging()
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        os.chdir(ROOT)
        sys.argv = words
        runpy.run_module(PROGRAMS[words[0]], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
