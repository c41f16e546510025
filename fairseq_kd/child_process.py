"""Child processes that are killed together with their descendants when this process ends.

Linux kills a child with its parent if the child requests it, but not processes that the child
starts in sessions of their own, as torchrun does with its workers. Therefore each command runs
under a supervisor: this file, run as a program. The supervisor adopts the descendants of the
command, and kills all of them when the command ends or this process has ended. It has a process
group of its own, so a kill of this process's group does not reach it. If the supervisor is killed,
the command dies with it, and this process kills the rest, which it identifies by a variable of
their environment. If both are killed, the next holder of their lock does so (see ``locks``).
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
# Loaded here: forked from a process with threads, a child may wait for ever for the linker.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 20.0  # from the signal that ends a command to SIGKILL for the rest
POLL_SECONDS = 1.0  # interval at which a supervisor checks its parent; signals wake it earlier
TOKEN = "FAIRSEQ_KD_STARTED_BY"


class Terminated(KeyboardInterrupt):
    """A signal ends this process, as Ctrl-C would.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = signal.Signals(number)


def die_with_parent(parent: int) -> None:
    """Asks Linux to kill this process when its parent ends; ends at once if it has ended.

    Args:
        parent: process id of the parent, as the parent passed it.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def begin_worker(parent: int) -> None:
    """Ends a ``multiprocessing`` worker with its parent; only the parent reacts to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent)


def import_nothing_from_here() -> None:
    """Keeps Python processes that are started from now on from modules in the current folder.

    ``python -c`` and ``python -m``, with which ``multiprocessing`` and others start processes,
    look for every module there first.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    if sys.version_info < (3, 11):  # which do not know it
        from multiprocessing import util

        util._args_from_interpreter_flags = lambda: ["-I"]  # a worker gets our sys.path afterwards


def die_with_script() -> None:
    """Ends this process with the script that started it, but not with an interactive shell.

    An interactive shell sends SIGHUP to its processes when it ends, except to those under nohup.
    """
    if LIBC is None:
        return
    parent = os.getppid()
    terminal = _stat(os.getpid())[4]
    if terminal == "0" or os.getsid(0) != parent:
        die_with_parent(parent)


def end_on_signals() -> None:
    """Makes SIGTERM, SIGHUP and SIGINT raise an exception here, and kill workers at once.

    A signal that is ignored, as under nohup, remains ignored.
    """
    for number in ENDING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def _end(number: int, frame: Any) -> None:
    if "multiprocessing" in sys.modules:
        for worker in sys.modules["multiprocessing"].active_children():
            worker.kill()  # otherwise this process would wait for them at its end
    raise Terminated(number)


class Child(subprocess.Popen):
    """A child process that is waited for in short intervals.

    Python misses a signal that arrives just before it begins to wait, until that ends.
    """

    def wait(self, timeout: Optional[float] = None) -> int:
        """Waits for the end of the process, as ``subprocess.Popen`` does."""
        while timeout is None:
            with suppress(subprocess.TimeoutExpired):
                return super().wait(POLL_SECONDS)
        return super().wait(timeout)


@contextmanager
def child(
    command: Sequence[str],
    stop: int = signal.SIGTERM,
    token: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    **options: Any,
) -> Iterator[subprocess.Popen]:
    """Starts a command; an exception in the block kills it with all of its descendants.

    Args:
        command: the command line.
        stop: the signal that ends it; remaining processes are killed after GRACE_SECONDS.
        token: identifies the started processes; None for a new one.
        env: its environment; None for that of this process.
        options: of ``subprocess.Popen``. Its standard input is empty unless one is given.

    Yields:
        The process, which has ended after the block. Its status is that of the command.

    Raises:
        FileNotFoundError: there is no such program.
    """
    if shutil.which(command[0], path=(os.environ if env is None else env).get("PATH")) is None:
        raise FileNotFoundError(
            f"{command[0]} must be a program on PATH or an executable file, but is neither. "
            "Install it, or correct PATH."
        )
    token = token or new_token()
    argv = list(command)
    if LIBC is not None:
        program = [sys.executable, "-IS", str(Path(__file__).resolve())]
        argv = [*program, str(os.getpid()), str(GRACE_SECONDS), *argv]
    process = Child(
        argv,
        env={**(os.environ if env is None else env), TOKEN: token},
        preexec_fn=os.setpgrp,
        **{"stdin": subprocess.DEVNULL, **options},
    )
    try:
        yield process
    except BaseException:
        process.send_signal(stop)
        raise
    finally:
        process.wait()
        if process.returncode == -signal.SIGKILL:  # perhaps the supervisor, not the command
            end_started_by(token)


def run(
    command: Sequence[str], input: Optional[str] = None, env: Optional[Dict[str, str]] = None
) -> "subprocess.CompletedProcess[str]":
    """Runs a command to its end as ``child`` does, and returns its output and its status."""
    pipe = subprocess.PIPE
    options = {"stdin": subprocess.DEVNULL if input is None else pipe}
    with child(
        command, env=env, stdout=pipe, stderr=pipe, encoding="utf-8", errors="replace", **options
    ) as process:
        output, errors = process.communicate(input)
    return subprocess.CompletedProcess(list(command), process.returncode, output, errors)


def own_programs(environment: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """An environment in which the programs of this Python environment precede those on PATH.

    Args:
        environment: variables to change; None for none.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **(environment or {}), "PATH": path}


def new_token() -> str:
    """A unique name for processes that are started together."""
    return os.urandom(16).hex()


def end_started_by(token: str) -> List[int]:
    """Kills all processes with a token in their environment, and returns their ids."""
    mark, killed = f"{TOKEN}={token}".encode(), []
    while found := [pid for pid in _processes() if mark in _environment(pid)]:
        killed += [pid for pid in found if pid not in killed]
        _kill(found)
        time.sleep(0.02)
    return killed


def running(pid: int) -> bool:
    """Whether there is a process of this id, one that has ended but is not waited for excepted."""
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def descendants(root: int) -> List[int]:
    """The processes that a process started, those that they started, and so on."""
    stats = {pid: stat for pid in _processes() if (stat := _stat(pid)) and stat[0] != "Z"}
    found, parents = [], {root}
    while parents:
        parents = {pid for pid, stat in stats.items() if int(stat[1]) in parents}
        found += sorted(parents)
    return found


def _processes() -> List[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) > 1]


def _stat(pid: int) -> List[str]:
    """State, parent, group, session, terminal and more of a process; nothing if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _environment(pid: int) -> List[bytes]:
    """The initial environment of a process; empty if it has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill(pids: Sequence[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(OSError):  # it has ended, or belongs to another user
            os.kill(pid, number)


class Supervisor:
    """Runs a command, and kills its processes when the parent of this process ends.

    Args:
        parent: the process that started this one.
        grace_s: seconds from the signal until remaining processes are killed.
        command: the command line.
    """

    def __init__(self, parent: int, grace_s: float, command: List[str]):
        self.parent, self.grace_s = parent, grace_s
        self.own, self.status = os.getpid(), None
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *ENDING})
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGCHLD)  # which wakes it
        self.command = os.fork()
        if self.command == 0:
            die_with_parent(self.own)
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # Python, or a shell's &, ignores them
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            try:
                os.execvp(command[0], command)
            except OSError as error:
                print(f"{command[0]} cannot be run: {error.strerror}.", file=sys.stderr, flush=True)
            os._exit(127)

    def run(self) -> None:
        """Waits until the command or the parent ends, kills the rest, and exits with its status."""
        deadline, halted = float("inf"), False
        while self.status is None and os.getppid() == self.parent and time.monotonic() < deadline:
            if halted != (_stat(self.parent)[:1] == ["T"]):  # Ctrl-Z, and its end
                halted = not halted
                _kill(descendants(self.own), signal.SIGSTOP if halted else signal.SIGCONT)
            got = signal.sigtimedwait({signal.SIGCHLD, *ENDING}, POLL_SECONDS)
            if got and got.si_signo in ENDING and got.si_pid != self.own:
                os.killpg(self.own, got.si_signo)
                deadline = min(deadline, time.monotonic() + self.grace_s)
            self._reap()
        while left := descendants(self.own):
            _kill(left)
            time.sleep(0.01)
            self._reap()
        self._end_alike()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.command:
                    self.status = ended[1]

    def _end_alike(self) -> None:
        if self.status is None:
            self._reap()
        if self.status is not None and os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the command's own core is enough
            with suppress(OSError):  # SIGKILL cannot be handled
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            os.kill(self.own, number)
        os._exit(1 if self.status is None else os.WEXITSTATUS(self.status))


if __name__ == "__main__":
    Supervisor(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]).run()
