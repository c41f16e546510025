"""Runs commands whose parts are forks of a process that has imported fairseq already.

See ``fork_server.py``. A script takes the same commands from PATH: there they lie in an environment
that is this one, but for them.
"""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fork_server import PROGRAMS
from harness import ENVIRONMENT, ROOT, run

HERE = Path(__file__).parent


def run_forked(*command, env=None, **how):
    """As ``harness.run``, but for what takes long in it."""
    return run(*command, env={**forking(), **(env or {})}, **how)


def run_new(*command, env=None, **how):
    """The same, of commands that are to find the plugin, or do without it, by themselves."""
    new = {**forking(), "FORK_SERVER": f"{forking()['FORK_SERVER']}.new"}
    return run(*command, env={**new, **(env or {})}, **how)


def start_forked(*command):
    """A command that was started, to be killed; its errors end when nothing of it is left."""
    words = [str(word) for word in command]
    env = {**ENVIRONMENT, **forking()}
    return subprocess.Popen(words, cwd=ROOT, env=env, stderr=subprocess.PIPE)


@functools.cache
def forking():
    """The variables by which commands are forked; the first call starts this process's server."""
    kept = tempfile.TemporaryDirectory(prefix="forks")
    folder = Path(kept.name)
    commands, socket = _environment(folder), folder / "socket"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [commands / "python", HERE / "fork_server.py", socket],
            stdin=subprocess.PIPE,  # which ends with this process, and the server with it
            stdout=subprocess.PIPE,
            stderr=log,
            env=ENVIRONMENT,
        )
    assert b"ready\n" in iter(server.stdout.readline, b""), (folder / "log").read_text()
    forking.lives_with_this_process = server, kept
    return {
        "FORK_SERVER": str(socket),
        "FORK_PYTHON": str(commands / "python"),
        "PATH": os.pathsep.join([f"{folder}/first", str(commands), ENVIRONMENT["PATH"]]),
    }


def _environment(folder):
    """The commands' folder in an environment that has the packages of this one."""
    home = Path(sys.prefix)
    (folder / "bin").mkdir()
    for name in ("lib", "lib64", "pyvenv.cfg"):
        if (home / name).exists():
            (folder / name).symlink_to(home / name)
    for path in (home / "bin").iterdir():
        forked = path.name in PROGRAMS
        (folder / "bin" / path.name).symlink_to(HERE / "fork_client.py" if forked else path)
    (folder / "first").mkdir()  # beside them, as the environment's own python is to stay what it is
    (folder / "first" / "python").symlink_to(HERE / "fork_client.py")
    return folder / "bin"
