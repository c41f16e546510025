"""Locks: one process at a time, the message for others, and when the lock is free."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from harness import ENVIRONMENT, ROOT

from fairseq_kd.child_process import TOKEN, running
from fairseq_kd.decoding import decode
from fairseq_kd.decoding.journal import Journal
from fairseq_kd.files import locks
from fairseq_kd.files.locks import is_held, lock_beside, locked

FILE = ".lock"
HOLDER = """\
import os, subprocess, sys, time
from pathlib import Path
from fairseq_kd.child_process import TOKEN
from fairseq_kd.files.locks import locked
with locked(Path(sys.argv[1]), "the folder") as lock:
    held = {"pass_fds": [lock.descriptor]} if sys.argv[3] == "holds it" else {}
    env = {**os.environ, TOKEN: lock.token if sys.argv[3] == "is known" else "another"}
    child = subprocess.Popen(["sleep", sys.argv[2]], env=env, stdout=subprocess.DEVNULL, **held)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def holder(folder, seconds, how="holds it"):
    """A process that holds the lock, with a child for some seconds that holds it, or is known."""
    command = [sys.executable, "-c", HOLDER, str(folder / FILE), str(seconds), how]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    process.child = int(process.stdout.readline())
    process.stdout.close()
    return process


def killed(folder, seconds, how="holds it"):
    """As ``holder``, but killed."""
    process = holder(folder, seconds, how)
    process.kill()
    process.wait()
    return process


def test_who_comes_second_is_reported_who_works_and_since_when(tmp_path):
    with locked(tmp_path / "run" / FILE, "--out run"):
        message = rf"^--out run is in use since \d{{4}}-\S+ by process {os.getpid()} on "
        with pytest.raises(ValueError, match=message + re.escape(socket.gethostname())):
            locked(tmp_path / "run" / FILE, "--out run").__enter__()


def test_the_lock_is_free_and_gone_afterwards_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / FILE, "it"):
        raise KeyError
    assert not (tmp_path / FILE).exists()
    with locked(tmp_path / FILE, "it"):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / FILE).exists()


def test_a_lock_that_its_holder_removes_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Else the one who waited for it holds a file that nobody else will ever meet."""
    (tmp_path / FILE).touch()
    flock = locks.fcntl.flock

    def removed_first(file, how):
        monkeypatch.setattr(locks.fcntl, "flock", flock)
        (tmp_path / FILE).unlink()
        flock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", removed_first)
    with locked(tmp_path / FILE, "it"):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_it_waits_for_what_a_killed_process_started(tmp_path):
    first = killed(tmp_path, 1)
    begun = time.monotonic()
    with locked(tmp_path / FILE, "it"):
        assert time.monotonic() - begun > 0.2
        assert not running(first.child)


def test_it_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.3)
    first = killed(tmp_path, 5)
    with pytest.raises(ValueError, match=f"by process {first.pid} on .* Wait for it or stop it"):
        locked(tmp_path / FILE, "it").__enter__()


def test_processes_that_a_killed_run_left_are_ended_and_reported(tmp_path, capsys):
    first = killed(tmp_path, 60, "is known")
    other = killed(tmp_path / "other", 1, "is another's")
    assert running(first.child)
    with locked(tmp_path / FILE, "it"):
        assert not running(first.child)
    message = f"ended processes left by a killed run: {first.child}\n"
    assert capsys.readouterr().err == message
    with locked(tmp_path / "other" / FILE, "it"):
        assert running(other.child)
    assert TOKEN not in os.environ


def test_what_holds_a_lock_works_on_when_a_copy_of_its_folder_is_locked(tmp_path, capsys):
    first = holder(tmp_path / "run", 60, "is known")
    try:
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with locked(tmp_path / "copy" / FILE, "it"):
            assert running(first.child)
        assert capsys.readouterr().err == ""
    finally:
        first.kill()
        first.wait()
        os.kill(first.child, signal.SIGKILL)


def test_a_process_that_is_a_zombie_works_no_more(tmp_path):
    first = holder(tmp_path, 1)
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # its number stays
    with locked(tmp_path / FILE, "it"):
        pass
    first.wait()


def test_one_on_another_machine_is_taken_to_work(tmp_path):
    with locked(tmp_path / FILE, "it"):
        message = {"pid": 1, "host": "another", "since": "2026-01-01T00:00:00+00:00"}
        (tmp_path / FILE).write_text(json.dumps(message))
        begun = time.monotonic()
        with pytest.raises(ValueError, match=r"since 2026-01-01.* by process 1 on another"):
            locked(tmp_path / FILE, "it").__enter__()
        assert time.monotonic() - begun < 5  # it is not waited for


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*words):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    message = rf"^The file system of {tmp_path / FILE} cannot lock files \(No locks available\)"
    with pytest.raises(ValueError, match=message):
        locked(tmp_path / FILE, "it").__enter__()


def test_what_appears_whole_has_its_lock_beside_it(tmp_path):
    assert lock_beside(tmp_path / "student") == tmp_path / ".student.lock"


OPENED = {
    "a lock": lambda path: locked(path, "the folder").__enter__(),
    "a lock of shards": lambda path: decode.folder_locked(path.parent).__enter__(),
    "a journal": lambda path: Journal(path, "decoding"),
}


@pytest.mark.parametrize("kind", OPENED)
def test_a_link_does_not_have_another_file_overwritten(tmp_path, kind):
    kept, link = tmp_path / "kept.txt", tmp_path / "given" / FILE
    kept.write_text("mine")
    link.parent.mkdir()
    link.symlink_to(kept)
    message = f"{link} is a symbolic link. Replace it by the file itself, or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OPENED[kind](link)
    assert kept.read_text() == "mine"


def test_a_pipe_in_the_place_of_a_lock_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    message = r"\.lock must be a regular file, but is a pipe or a device\. Remove it\."
    with pytest.raises(ValueError, match=message), locked(tmp_path / ".lock", "it"):
        pass
    assert is_held(tmp_path / ".lock") is None


@pytest.mark.parametrize("content", ["{}", '{"a": 1}', "[1]"])
def test_a_file_of_somebody_else_is_no_lock_and_stays(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    message = re.escape(f"{tmp_path / FILE} exists and is not a fairseq_kd lock. Move it away.")
    with pytest.raises(ValueError, match=f"^{message}$"):
        locked(tmp_path / FILE, "it").__enter__()
    assert (tmp_path / FILE).read_text() == content


@pytest.mark.parametrize("content", ["", "{", '{"pid": 1'])
def test_a_lock_that_a_kill_cut_off_is_taken(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with locked(tmp_path / FILE, "it"):
        assert is_held(tmp_path / FILE)


def test_a_lock_of_too_many_brackets_has_no_holder(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": ' * 100_000)
    with locked(tmp_path / ".lock", "it"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
