"""One driver at a time: who is told what, and when the lock is free."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest
from harness import ENVIRONMENT, ROOT

from fairseq_kd.progressive import run_lock as module
from fairseq_kd.progressive.run_lock import run_lock

HOLDER = """\
import subprocess, sys, time
from pathlib import Path
from fairseq_kd.progressive.run_lock import run_lock
with run_lock(Path(sys.argv[1])) as lock:
    child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def holder(folder, seconds):
    """A process that holds the lock, and a child of it that does so for some seconds."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(seconds)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    return process


def test_a_second_driver_is_told_who_works_and_since_when(tmp_path):
    with run_lock(tmp_path / "run"):
        told = rf"run is being worked on since \d{{4}}-\S+ by process {os.getpid()} on "
        with pytest.raises(ValueError, match=told + re.escape(socket.gethostname())):
            run_lock(tmp_path / "run").__enter__()


def test_the_lock_is_free_afterwards_also_after_an_error(tmp_path):
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError
    with run_lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_it_waits_for_what_a_killed_driver_started(tmp_path):
    first = holder(tmp_path, 1)
    first.kill()
    first.wait()
    begun = time.monotonic()
    with run_lock(tmp_path):
        assert time.monotonic() - begun > 0.2


def test_it_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.3)
    first = holder(tmp_path, 5)
    first.kill()
    first.wait()
    with pytest.raises(ValueError, match=f"by process {first.pid} on .* Wait for it, or end it"):
        run_lock(tmp_path).__enter__()


def test_a_driver_that_is_a_zombie_works_no_more(tmp_path):
    first = holder(tmp_path, 1)
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # its number stays
    with run_lock(tmp_path):
        pass
    first.wait()


def test_one_on_another_machine_is_taken_to_work(tmp_path):
    with run_lock(tmp_path):
        told = {"pid": 1, "host": "another", "since": "2026-01-01T00:00:00+00:00"}
        (tmp_path / ".lock").write_text(json.dumps(told))
        begun = time.monotonic()
        with pytest.raises(ValueError, match=r"since 2026-01-01.* by process 1 on another"):
            run_lock(tmp_path).__enter__()
        assert time.monotonic() - begun < 5  # it is not waited for
