"""Forked commands end, and are killed, like started ones."""

import signal
import subprocess
import time

import pytest
from forks import forking, run_forked, run_new
from harness import ENVIRONMENT


def test_a_script_gets_the_output_and_the_status_of_its_commands(tmp_path):
    script = "echo Hello, world. | sacremoses -l en tokenize; fairseq-kd plan --no || echo $?"
    done = run_forked("bash", "-c", script, cwd=tmp_path)
    assert done.stdout == "Hello , world .\n2\n"
    assert "usage: fairseq-kd plan" in done.stderr


def test_a_program_in_standard_input_is_run_as_python_runs_it(tmp_path):
    (tmp_path / "mine.py").write_text("name = 'mine'")
    program = "import sys, mine, torch; print(mine.name, sys.argv); sys.exit(3)"
    script = f'python - one two <<< "{program}" || echo $?; python -c "print(1)"'
    done = run_forked("bash", "-c", script, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout == "mine ['-', 'one', 'two']\n3\n1\n"


def test_a_command_dies_with_the_process_that_stands_for_it():
    command = ["sacremoses", "-l", "en", "tokenize"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    client = subprocess.Popen(command, env={**ENVIRONMENT, **forking()}, **pipes)
    time.sleep(1)  # it waits for its input by now
    client.kill()
    assert client.stdout.read() == b""  # which ends where nobody holds it any more
    assert client.wait() == -signal.SIGKILL
    client.stdin.close()


@pytest.mark.parametrize("start", [run_forked, run_new])
def test_one_of_the_servers_alone_knows_the_plugin(tmp_path, start):
    done = start("fairseq-train", tmp_path, "--arch", "transformer_kd_student", check=False)
    assert done.returncode != 0  # there is no data
    unknown = "invalid choice: 'transformer_kd_student'"
    assert (unknown in done.stderr) == (start is run_new), done.stderr
