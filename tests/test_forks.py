"""Commands that are forked end, and are ended, as those that are started."""

import signal
import subprocess
import time

from forks import forking, run_forked
from harness import ENVIRONMENT


def test_a_script_gets_the_output_and_the_status_of_its_commands(tmp_path):
    script = "echo Hello, world. | sacremoses -l en tokenize; fairseq-kd plan --no || echo $?"
    done = run_forked("bash", "-c", script, cwd=tmp_path)
    assert done.stdout == "Hello , world .\n2\n"
    assert "usage: fairseq-kd plan" in done.stderr


def test_a_command_dies_with_the_process_that_stands_for_it():
    command = ["sacremoses", "-l", "en", "tokenize"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    client = subprocess.Popen(command, env={**ENVIRONMENT, **forking()}, **pipes)
    time.sleep(1)  # it waits for its input by now
    client.kill()
    assert client.stdout.read() == b""  # which ends where nobody holds it any more
    assert client.wait() == -signal.SIGKILL
    client.stdin.close()
