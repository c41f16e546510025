#!/usr/bin/env -S python3 -IS
"""Stands on PATH for a command that ``fork_server.py`` runs, with the files and folder of this one.

It ends as that ends. It is to start at once, and imports little for that. What ``python`` runs is
that server's where it is read from standard input.
"""

import json
import os
import signal
import socket
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
if os.path.basename(sys.argv[0]) == "python" and sys.argv[1:2] != ["-"]:
    os.execv(os.environ["FORK_PYTHON"], [os.environ["FORK_PYTHON"], *sys.argv[1:]])
if os.path.basename(sys.argv[0]) == "sacrebleu" and "SACREBLEU" in os.environ:
    # It reads this variable when it is imported, which the server did long before.
    os.execv(
        os.environ["FORK_PYTHON"], [os.environ["FORK_PYTHON"], "-m", "sacrebleu", *sys.argv[1:]]
    )
request = {"words": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}
sent = json.dumps(request).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["FORK_SERVER"])
    socket.send_fds(server, [len(sent).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(sent)
    ended = server.recv(4)
code = int.from_bytes(ended, "big", signed=True) if ended else -signal.SIGKILL
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
