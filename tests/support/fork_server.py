"""Runs the commands that ``fork_client.py`` stands for, each in a fork of this process.

This process has imported what they import, and done nothing else: a fork is the same program in a
process of its own, less the seconds that importing takes each time. There are two of them: one has
imported the plugin too; the other, at the socket with .new behind its name, knows fairseq alone,
for what has to show that a command finds the plugin, or does without it.

usage: fork_server.py SOCKET, which serves until standard input ends
"""

import atexit
import gc
import json
import logging
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec

from fairseq_kd.child_process import die_with_parent

PROGRAMS = {
    "fairseq-train": "fairseq_cli.train",
    "fairseq-generate": "fairseq_cli.generate",
    "fairseq-interactive": "fairseq_cli.interactive",
    "fairseq-preprocess": "fairseq_cli.preprocess",
    "fairseq-validate": "fairseq_cli.validate",
    "fairseq-kd": "fairseq_kd.cli",
    "sacrebleu": "sacrebleu.sacrebleu",
    "sacremoses": "sacremoses.__main__",
    "subword-nmt": "subword_nmt.subword_nmt",
    "ct2-fairseq-converter": "ctranslate2.converters.fairseq",
    "torchrun": "torch.distributed.run",
}
OURS = "fairseq_kd"
NOT_IMPORTED = {  # which change standard files or signals, or are the plugin's
    *("subword_nmt.subword_nmt", "sacrebleu.sacrebleu", "fairseq_kd.cli"),
}
IMPORTED = ["torch._dynamo", "ctranslate2", "sacrebleu", "subword_nmt.apply_bpe"]
IMPORTED += [name for name in PROGRAMS.values() if name not in NOT_IMPORTED]
FILES = 3  # of a command: its standard input, output and error
SIZE_BYTES = 8  # of the number that a request begins with


def bound(path):
    """A socket that waits for requests."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


def serve(listener):
    """Forks for every request, until there is nobody any more who could make one."""
    with listener:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that end are forgotten
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            server = os.getpid()
            if os.fork() == 0:
                die_with_parent(server)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                return connection
            connection.close()
    return None


def answer(connection):
    """Runs what was asked for in a fork, and tells how it ended; who hangs up has it killed."""
    size, files, _, _ = socket.recv_fds(connection, SIZE_BYTES, FILES)
    with connection.makefile("rb") as stream:
        request = json.loads(stream.read(int.from_bytes(size, "big")))
    own = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(own)
        connection.close()
        return become(files, **request)
    for file in files:
        os.close(file)
    threading.Thread(target=_kill_if_alone, args=(connection, child), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(code.to_bytes(4, "big", signed=True))
    os._exit(0)


def _kill_if_alone(connection, child):
    if connection.recv(1) == b"":
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def become(files, words, folder, environment):
    """Runs a command as if it had been started with these files, words, folder and environment."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for name, number, buffering in (("stdout", 1, -1), ("stderr", 2, 1)):
        stream = getattr(sys, name)  # made for a file of another kind
        how = {"encoding": stream.encoding, "errors": stream.errors, "closefd": False}
        stream = os.fdopen(number, "w", buffering=buffering, **how)
        setattr(sys, name, stream), setattr(sys, f"__{name}__", stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    logging.root.handlers.clear()  # the program sets its own
    logging.root.setLevel(logging.WARNING)
    sys.argv = words
    code = 0
    name = os.path.basename(words[0])
    try:
        if name == "python":
            run_standard_input()
        else:
            program = runpy.run_module(PROGRAMS[name], run_name="__main__")
            if name == "subword-nmt":  # alone defines what its command calls
                program["main"]()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)  # at once: to take down all that was imported takes half a second


def run_standard_input():
    """Runs a program from standard input, as ``python -``."""
    sys.argv = sys.argv[1:]
    added = os.environ.get("PYTHONPATH")
    sys.path[:0] = ["", *(added.split(os.pathsep) if added else [])]
    exec(compile(sys.stdin.read(), "<stdin>", "exec"), {"__name__": "__main__"})


def forget_the_plugin():
    """Of it, this process has imported what a server needs."""
    for name in [*sys.modules]:
        if name.partition(".")[0] == OURS:
            del sys.modules[name]


def main(path):
    for name in IMPORTED:
        if find_spec(name.partition(".")[0]):  # CTranslate2 may be missing
            import_module(name)
    gc.freeze()
    listener, of_new = bound(path), bound(f"{path}.new")
    server = os.getpid()
    if os.fork() == 0:
        die_with_parent(server)
        listener.close()
        asked = serve(of_new)
        forget_the_plugin()
    else:
        of_new.close()
        import_module(f"{OURS}.plugin"), import_module(f"{OURS}.cli")
        gc.freeze()
        print("ready", flush=True)
        asked = serve(listener)
    if asked is not None:
        answer(asked)


if __name__ == "__main__":
    main(sys.argv[1])
