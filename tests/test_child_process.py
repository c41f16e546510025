"""Commands end with their parent, together with all of their descendants."""

import fcntl
import functools
import os
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from harness import ENVIRONMENT, ROOT

from fairseq_kd import child_process
from fairseq_kd.child_process import child, descendants, run, running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
# A command with workers in sessions of their own, as torchrun has, and one that lost its parent.
TREE = """\
setsid sleep 300 &
setsid bash -c 'sleep 300 & sleep 300' &
(sleep 300 &)
wait
"""
WHOLE = 8  # the starter, its supervisor, two of bash, four sleeps
STARTER = """\
import dataclasses, sys
from fairseq_kd import child_process
from fairseq_kd.commands import merge
def run(options):
    with child_process.child(["bash", "-c", options.folder.read_text()]) as process:
        return process.wait()
merge.SUBCOMMAND = dataclasses.replace(merge.SUBCOMMAND, run=run)
from fairseq_kd import cli
sys.exit(cli.main())
"""
WORKERS = """\
import dataclasses, functools, sys, time
from fairseq_kd.process_pool import in_processes
from fairseq_kd.commands import merge
def run(options):
    return len(list(in_processes([functools.partial(time.sleep, 300)] * 8, 2)))
merge.SUBCOMMAND = dataclasses.replace(merge.SUBCOMMAND, run=run)
from fairseq_kd import cli
sys.exit(cli.main())
"""
ALL_WORKERS = 4  # the starter, the tracker of multiprocessing, two workers
SOON_SECONDS = 20  # for a machine that is busy: what is waited for takes no second otherwise


@pytest.fixture
def started(tmp_path, request):
    """A command of ours whose work is the tree, or a script, and what finds its processes."""
    script = getattr(request, "param", STARTER)
    (tmp_path / "tree").write_text(TREE)
    mark = f"TREE_OF_TEST={tmp_path}".encode()
    process = subprocess.Popen(
        [sys.executable, "-c", script, "merge", str(tmp_path / "tree")],
        cwd=ROOT,
        env={**ENVIRONMENT, "TREE_OF_TEST": str(tmp_path)},
        stderr=(tmp_path / "message").open("w"),
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    yield process, lambda: marked(mark)
    process.kill()
    process.wait()


def heed_signals():
    """Lets signals end this process, also where the tests run under nohup or behind an &."""
    for number in child_process.ENDING:
        signal.signal(number, signal.SIG_DFL)


def marked(mark):
    """The running processes that have something in the environment that they began with."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if mark in child_process._environment(pid) and running(pid)]


def await_until(condition):
    deadline = time.monotonic() + SOON_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def name_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@pytest.mark.parametrize("processes", [1, 2, 4, WHOLE])
def test_a_command_that_is_killed_at_any_moment_takes_all_with_it(processes, started):
    process, alive = started
    await_until(lambda: len(alive()) >= processes)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    await_until(lambda: not alive())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_all_with_one_line_and_its_status(number, started, tmp_path):
    process, alive = started
    await_until(lambda: len(alive()) == WHOLE)
    process.send_signal(number)
    process.wait()
    assert not alive()
    assert process.returncode == 128 + number
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    message = (tmp_path / "message").read_text()
    assert message == f"\nfairseq-kd merge: {how}; run the same command again to resume\n"


@pytest.mark.parametrize("started", [WORKERS], indirect=True, ids=["workers"])
@pytest.mark.parametrize("processes", [2, 3, ALL_WORKERS])
def test_workers_end_with_a_command_that_is_killed_at_any_moment(processes, started):
    process, alive = started
    await_until(lambda: len(alive()) >= processes)
    process.kill()
    await_until(lambda: not alive())


@pytest.mark.parametrize("started", [WORKERS], indirect=True, ids=["workers"])
def test_a_signal_does_not_wait_for_what_workers_have_to_do(started):
    process, alive = started
    await_until(lambda: len(alive()) == ALL_WORKERS)
    process.terminate()
    await_until(lambda: not alive())
    assert process.wait() == 128 + signal.SIGTERM


def test_a_kill_of_the_whole_group_spares_nothing(started):
    process, alive = started
    await_until(lambda: len(alive()) == WHOLE)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    await_until(lambda: not alive())


def test_a_supervisor_that_is_killed_leaves_nothing(started):
    process, alive = started
    await_until(lambda: len(alive()) == WHOLE)
    (supervisor,) = (pid for pid in alive() if child_process.__file__.encode() in name_of(pid))
    os.kill(supervisor, signal.SIGKILL)
    process.wait()
    assert not alive()
    assert process.returncode == -signal.SIGKILL % 256


def test_ctrl_z_halts_all_and_its_end_lets_all_go_on(started):
    process, alive = started
    await_until(lambda: len(alive()) == WHOLE)

    def halted():
        return [pid for pid in alive() if child_process._stat(pid)[0] == "T"]

    process.send_signal(signal.SIGSTOP)
    await_until(lambda: len(halted()) == WHOLE - 1)  # all but the supervisor
    process.send_signal(signal.SIGCONT)
    await_until(lambda: not halted())
    process.kill()
    process.wait()
    await_until(lambda: not alive())


def test_what_a_command_leaves_behind_ends_with_it():
    with child(["bash", "-c", "setsid sleep 300 & exit 3"], token="left") as process:
        pass
    assert process.returncode == 3
    assert not marked(f"{child_process.TOKEN}=left".encode())


def test_what_does_not_react_to_a_signal_is_killed(monkeypatch):
    monkeypatch.setattr(child_process, "GRACE_SECONDS", 0.1)
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    with suppress(KeyError), child(["bash", "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        raise KeyError
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 7", 7),
        ("kill -ABRT $$", -signal.SIGABRT),
        ("kill -KILL $$", -signal.SIGKILL),
        ("kill -PIPE $$", -signal.SIGPIPE),  # which Python ignores, and its children are not to
        ("cat", 0),  # its input is empty
    ],
)
def test_the_status_is_that_of_the_command(script, status):
    assert run(["bash", "-c", script]).returncode == status


def test_input_and_output_pass_through():
    done = run(["bash", "-c", "cat; echo über >&2"], input="grün\n")
    assert (done.stdout, done.stderr) == ("grün\n", "über\n")


def test_a_program_that_is_missing_is_named():
    message = "^no-such-program must be a program on PATH or an executable file, but is neither."
    with pytest.raises(FileNotFoundError, match=message):
        run(["no-such-program"])


LATE = """\
import os, sys
from fairseq_kd.child_process import die_with_parent
parent = os.getpid()
if os.fork() == 0:
    while sys.argv[1] == "late" and os.getppid() == parent:
        pass
    print("begun", flush=True)
    die_with_parent(parent)
    print("tied", flush=True)
    os.close(1)
    os.read(0, 1)
os.read(0, 1) if sys.argv[1] == "early" else os._exit(0)
"""


@pytest.mark.parametrize(("when", "shown"), [("late", "begun\n"), ("early", "begun\ntied\n")])
def test_a_process_whose_parent_has_ended_before_it_is_tied_to_it_ends(when, shown):
    command = [sys.executable, "-c", LATE, when]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.read(len(shown)) == shown
        left = descendants(process.pid)
        process.kill()
        await_until(lambda: not any(running(pid) for pid in left))
        assert process.stdout.read() == ""


TIED = """\
import os, signal, subprocess, sys
if sys.argv[1] == "tied":
    from fairseq_kd.child_process import die_with_script
    die_with_script()
    print(os.getpid(), flush=True)
    os.read(0, 1)
else:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    subprocess.run([sys.executable, "-c", sys.argv[2], "tied"], stdin=int(sys.argv[3]))
"""


@pytest.mark.parametrize("shell", ["a script", "the shell of a terminal"])
def test_a_stage_ends_with_its_script_but_under_nohup_not_with_its_terminal(shell):
    source, sink = os.pipe()
    command = [sys.executable, "-c", TIED, "parent", TIED, str(source)]
    terminal, end = os.openpty()

    def take_terminal():
        os.setsid()
        fcntl.ioctl(end, termios.TIOCSCTTY, 0)

    own = {} if shell == "a script" else {"preexec_fn": take_terminal}
    options = {"cwd": ROOT, "pass_fds": [source, end], "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **options, **own) as parent:
        tied = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        if shell == "a script":
            await_until(lambda: not running(tied))
        assert running(tied) == (shell != "a script")
        os.close(sink)  # which ends it
        await_until(lambda: not running(tied))
    for number in (source, terminal, end):
        os.close(number)


WORKERS_HERE = """\
import multiprocessing, os, sys
from contextlib import suppress
from functools import partial
from fairseq_kd import cli
from fairseq_kd.process_pool import in_processes
sys.path.remove("")
os.chdir(sys.argv[1])
sys.argv = ["fairseq-kd", "--help"]
with suppress(SystemExit):
    cli.main()
print(list(in_processes([partial(int, "7")] * 2, 2)), flush=True)
process = multiprocessing.get_context("forkserver").Process(target=print, args=["forked"])
process.start()
process.join()
"""


def test_workers_take_no_module_from_the_current_folder(tmp_path):
    (tmp_path / "multiprocessing.py").write_text("open('imported', 'w').close()\n")
    command = [sys.executable, "-c", WORKERS_HERE, str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout.endswith("[7, 7]\nforked\n")
    assert os.listdir(tmp_path) == ["multiprocessing.py"]


def test_no_process_is_started_otherwise():
    other = re.compile(r"Popen\(|subprocess\.(run|call|check)|os\.(system|fork|spawn|popen|exec)")
    sources = (ROOT / "fairseq_kd").rglob("*.py")
    found = [path.name for path in sources if other.search(path.read_text(encoding="utf-8"))]
    assert found == ["child_process.py"]


def test_a_worker_that_is_killed_ends_in_one_sentence():
    from fairseq_kd.process_pool import in_processes

    message = (
        r"^One of 2 worker processes was killed, perhaps because memory ran out\. Run the same comm"
    )
    with pytest.raises(ValueError, match=message):
        list(in_processes([functools.partial(os._exit, 9)] * 2, 2))
