"""scripts/setup.sh reports missing programs in one sentence before it installs anything."""

import fcntl
import shutil
import subprocess
import sys

import pytest
from harness import ENVIRONMENT, ROOT, run


@pytest.fixture
def clone(tmp_path):
    """A clone without an environment."""
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "scripts").mkdir()
    for script in (ROOT / "scripts").glob("*.sh"):
        shutil.copy(script, tmp_path / "scripts")
    return tmp_path


@pytest.fixture
def lacking(tmp_path):
    """A Python that fails where its command line holds a certain text."""

    def make(text):
        path = tmp_path / "python-lacking"
        fails = f'case "$*" in *{text!r}*) exit 1 ;; esac'
        path.write_text(f'#!/usr/bin/env bash\n{fails}\nexec {sys.executable} "$@"\n')
        path.chmod(0o755)
        return str(path)

    return make


def refused(clone, **env):
    result = run(clone / "scripts" / "setup.sh", env=env, check=False)
    assert result.returncode == 1
    assert not (clone / ".venv").exists()
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_a_missing_python_is_reported(clone):
    assert "no-python is missing: install Python 3.10 or newer" in refused(
        clone, PYTHON="no-python"
    )


def test_a_python_that_is_too_old_is_reported(clone, lacking):
    message = refused(clone, PYTHON=lacking("version_info < (3, 10)"))
    assert "is too old: set PYTHON to a Python of 3.10 or newer" in message


def test_a_python_without_venv_is_reported(clone, lacking):
    message = refused(clone, PYTHON=lacking("ensurepip"))
    assert "apt install python3-venv" in message


def test_a_missing_compiler_is_reported(clone):
    message = refused(clone, CXX="no-compiler", PYTHON=sys.executable)
    assert "The C++ compiler no-compiler is missing" in message


def test_missing_headers_of_python_are_reported(clone, lacking):
    message = refused(clone, PYTHON=lacking("Python.h"))
    assert "apt install python3-dev" in message


def write_stamp(clone):
    """As a finished setup.sh leaves it."""
    (clone / ".venv").mkdir()
    names = ("pyproject.toml", "constraints.txt", "scripts/setup.sh")
    stamp = "".join((clone / name).read_text() for name in names)
    (clone / ".venv" / "stamp").write_text(f"{stamp}{clone}\n")


def test_nothing_to_do_is_quick_and_silent(clone):
    write_stamp(clone)
    result = run(clone / "scripts" / "setup.sh", env={"PYTHON": "no-python"})
    assert result.stdout == result.stderr == ""


def test_a_second_one_waits_for_the_first_and_has_nothing_to_do(clone):
    command, env = [str(clone / "scripts" / "setup.sh")], {"PYTHON": "true", "CXX": "true"}
    with (clone / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            command, env={**ENVIRONMENT, **env}, stdout=subprocess.PIPE, text=True
        ) as second:
            message = f"waiting for a process that still runs in {clone}\n"
            assert second.stdout.readline() == message
            write_stamp(clone)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert second.communicate()[0] == ""
    assert second.returncode == 0
