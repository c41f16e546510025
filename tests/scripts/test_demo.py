"""scripts/demo.sh, killed in every stage, ends with the table of an undisturbed run.

So does its plain form, scripts/progressive.sh.
"""

import os
import re
import signal
import subprocess
import time

import pytest
from harness import ENVIRONMENT, ROOT, run, write_text

DEMO, PLAIN = (ROOT / "scripts" / f"{name}.sh" for name in ("demo", "progressive"))
SMALL = {"TEACHER_UPDATES": "210", "INTERMEDIATE_UPDATES": "210", "STUDENT_UPDATES": "210"}
STAGES = 10


def start(env, log):
    return subprocess.Popen(
        [str(DEMO)], cwd=ROOT, env={**ENVIRONMENT, **env}, stdout=log, stderr=subprocess.STDOUT
    )


def table_without_timings(folder):
    overview = (folder / "report.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\|.*\|$", overview, re.M)
    return [row.split("|")[1:9] for row in rows]


def test_the_header_is_the_help():
    assert "A quarter of an hour on two CPU cores" in run(DEMO, "--help").stdout
    assert run(DEMO, "--quickly", check=False).returncode == 2
    assert "as plain shell: a ladder of fairseq-train lines" in run(PLAIN, "--help").stdout
    assert run(PLAIN, "quickly", check=False).returncode == 2


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_table(tmp_path):
    text = write_text(tmp_path / "text", {"train": 3000, "valid": 60, "test": 40})
    env = {**SMALL, "TEXT": str(text)}
    run(DEMO, env={**env, "RUN": str(tmp_path / "whole")})
    killed, env["RUN"] = set(), str(tmp_path / "killed")
    with (tmp_path / "log").open("w+") as log:
        for stage in range(1, STAGES + 1):
            demo = start(env, log)
            while demo.poll() is None and not in_the_middle(
                tmp_path / "log", tmp_path / "killed", stage
            ):
                time.sleep(0.05)
            if demo.poll() is None:
                demo.send_signal(signal.SIGKILL)  # the script alone: what it started must follow
                killed.add(stage)
            demo.wait()
        assert start(env, log).wait() == 0
    assert killed == set(range(1, STAGES + 1))
    assert table_without_timings(tmp_path / "killed") == table_without_timings(tmp_path / "whole")
    assert not os.path.exists(tmp_path / "killed" / "data.partial")
    run(PLAIN, env={**env, "RUN": str(tmp_path / "plain")})
    assert table_without_timings(tmp_path / "plain") == table_without_timings(tmp_path / "whole")


def in_the_middle(log, folder, stage):
    """Whether the last run in the log is past the first checkpoint of a training, or well into
    another stage."""
    latest = log.read_text().rpartition(f": {STAGES} steps\n")[2]
    reached = re.search(rf"^\[{stage}/{STAGES}\] ([\w-]+)$", latest, re.M)
    if reached is None:
        return False
    if reached[1] in ("teacher", "intermediate", "student", "undistilled", "inherited", "total"):
        return any((folder / reached[1]).glob("checkpoint_*_*.pt"))
    time.sleep(1)
    return True
