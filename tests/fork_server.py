"""Runs the commands that ``fork_client.py`` stands for, each in a fork of this process.

This process has imported what they import, and done nothing else: a fork is the same program in a
process of its own, less the seconds that importing takes each time. It knows the plugin already, so
what has to show that a command finds it, or does without it, is not for here.

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
    "sacremoses": "sacremoses.__main__",
}
IMPORTED = ("fairseq_kd.plugin", "torch._dynamo", "ctranslate2", "sacrebleu", *PROGRAMS.values())
FILES = 3  # of a command: its standard input, output and error
SIZE_BYTES = 8  # of the number that a request begins with


def serve(path):
    """Forks for every request, until there is nobody any more who could make one."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that end are forgotten
        print("ready", flush=True)
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
        setattr(sys, name, os.fdopen(number, "w", buffering=buffering, **how))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    logging.root.handlers.clear()  # the program sets its own
    logging.root.setLevel(logging.WARNING)
    sys.argv = words
    code = 0
    try:
        runpy.run_module(PROGRAMS[os.path.basename(words[0])], run_name="__main__")
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


if __name__ == "__main__":
    for name in IMPORTED:
        if find_spec(name.partition(".")[0]):  # CTranslate2 may be missing
            import_module(name)
    gc.freeze()
    asked = serve(sys.argv[1])
    if asked is not None:
        answer(asked)
