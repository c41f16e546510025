"""scripts/demo.sh, killed in every step, ends with the table of an undisturbed run.

And scripts/progressive.sh ends with that of its run file, scripts/ladder.yaml.
"""

import os
import re
import signal
import subprocess
import time

import pytest
from harness import ENVIRONMENT, ROOT, run, write_text

from fairseq_kd.pipeline.run_file import read_run

DEMO, PLAIN = (ROOT / "scripts" / f"{name}.sh" for name in ("demo", "progressive"))
LADDER = ROOT / "scripts" / "ladder.yaml"
STEPS = 8
MERGE = 4  # of the two shards of the translations, which is over at once
TRAININGS = ("student", "undistilled")


def start(env, log):
    return subprocess.Popen(
        [str(DEMO)], cwd=ROOT, env={**ENVIRONMENT, **env}, stdout=log, stderr=subprocess.STDOUT
    )


def table_without_timings(folder):
    overview = (folder / "report.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\|.*\|$", overview, re.M)
    return [row.split("|")[1:9] for row in rows]


def test_the_header_is_the_help():
    assert "Ten to twenty minutes on two CPU cores, after instal" in run(DEMO, "--help").stdout
    assert run(DEMO, "--quickly", check=False).returncode == 2
    assert "as plain shell: a ladder of fairseq-train lines" in run(PLAIN, "--help").stdout
    assert run(PLAIN, "quickly", check=False).returncode == 2


def test_the_plain_form_trains_what_its_run_file_describes():
    described = read_run(LADDER)
    names = ["teacher", *(stage.name for stage in described.ladder), *described.get("controls", [])]
    assert re.findall(r"^(?:train|distil|control) ([a-z]+)", PLAIN.read_text(), re.M) == names


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text", {"train": 3000, "valid": 60, "test": 40})


def test_a_folder_of_other_settings_is_refused_by_the_plain_form(text, tmp_path):
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "made_from.txt").write_text("text of hash 1, SEED=1\n")
    env = {"TEXT": str(text), "RUN": str(tmp_path / "run"), "SEED": "2"}
    result = run(PLAIN, env=env, check=False)
    assert result.returncode == 1
    message = rf"{tmp_path}/run already exists and was made from text of hash 1, SEED=1, not from "
    assert re.search(
        rf"{message}text of hash \w+, SEED=2, TEACHER_UPDATES=1500.*; give another RUN",
        result.stderr,
    )
    assert not list((tmp_path / "run" / "data").iterdir())


@pytest.mark.slow
def test_killed_in_every_step_it_ends_with_the_same_table(text, tmp_path):
    env = {"UPDATES": "510", "TEXT": str(text), "JOBS": "1"}
    run(DEMO, env={**env, "RUN": str(tmp_path / "whole")})
    killed, env["RUN"] = set(), str(tmp_path / "killed")
    with (tmp_path / "log").open("w+") as log:
        for step in {*range(1, STEPS + 1)} - {MERGE}:
            demo = start(env, log)
            while demo.poll() is None and not in_the_middle(
                tmp_path / "log", tmp_path / "killed", step
            ):
                time.sleep(0.05)
            if demo.poll() is None:
                demo.send_signal(signal.SIGKILL)  # the script alone: what it started must follow
                killed.add(step)
            demo.wait()
        assert start(env, log).wait() == 0
    assert killed == {*range(1, STEPS + 1)} - {MERGE}
    assert table_without_timings(tmp_path / "killed") == table_without_timings(tmp_path / "whole")
    assert not os.path.exists(tmp_path / "killed" / "data.partial")


@pytest.mark.slow
def test_the_plain_form_of_the_ladder_ends_with_the_same_table(text, tmp_path):
    sizes = {"TEACHER_UPDATES": "60", "INTERMEDIATE_UPDATES": "60", "STUDENT_UPDATES": "60"}
    run(PLAIN, env={**sizes, "TEXT": str(text), "RUN": str(tmp_path / "plain")})
    changes = [f"run={tmp_path / 'ladder'}", f"data.text={text}", "train.max-update=60"]
    changes += ["teacher.train.max-update=60", "ladder.0.train.max-update=60"]
    flags = [word for change in changes for word in ("--set", change)]
    run("fairseq-kd", "progressive", LADDER, *flags)
    assert table_without_timings(tmp_path / "plain") == table_without_timings(tmp_path / "ladder")


def in_the_middle(log, folder, step):
    """Whether the last run in the log is past the first checkpoint of a training, or well into
    another step."""
    latest = log.read_text().rpartition(f": {STEPS} steps\n")[2]
    reached = re.search(rf"^\[{step}/{STEPS}\] ([\w-]+)$", latest, re.M)
    if reached is None:
        return False
    if reached[1] in TRAININGS:
        return any((folder / reached[1]).glob("checkpoint_*_*.pt"))
    time.sleep(1)
    return True
