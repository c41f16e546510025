"""A run as one bash script: the same steps, in the same order, with the same results."""

import os
import re
import shutil
import subprocess

import pytest
from harness import ENVIRONMENT, run
from workflows import made, small_workflow

from fairseq_kd import cli
from fairseq_kd.pipeline.execution import run_step
from fairseq_kd.pipeline.shell_script import write_script
from fairseq_kd.pipeline.status import prepare_steps, step_statuses
from fairseq_kd.pipeline.workflow import Step, Workflow

NAMES = ["data", "teacher", "middle", "student", "undistilled", "evaluation"]


@pytest.fixture
def script(tmp_path):
    """The script of a small run, with the workflow."""
    workflow = small_workflow(tmp_path / "a run")  # a blank, as folders have
    write_script(workflow, tmp_path / "run.sh")
    return workflow, tmp_path / "run.sh"


def test_shellcheck_is_silent(script):
    found = subprocess.run(["shellcheck", script[1]], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_it_is_not_written_into_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "run.yaml").write_text("data: bin\nteacher: t.pt\ntarget: 0.5\n")
    assert cli.main(["progressive", "run.yaml", "--shell", "bin/run.sh"]) == 2
    message = (
        "--shell bin/run.sh lies inside data: bin, which is only read. Choose a place outside it."
    )
    assert message in capsys.readouterr().err
    assert not [*(tmp_path / "bin").iterdir()]


def test_its_header_is_its_help(script):
    workflow, path = script
    message = run(path, "--help").stdout
    header = [line[2:] for line in path.read_text().splitlines()[1:] if line.startswith("# ")]
    assert message.split() == " ".join(header).split()
    for line in ("The run of run.yaml, as plain commands.", f"usage: {path}", "Env: RUN='"):
        assert line in message
    refused = subprocess.run([path, "more"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (2, message)
    assert not os.path.exists(workflow.step("data").folder)


def test_it_does_the_steps_in_order_and_ends_with_what_they_make(script, tmp_path):
    workflow, path = script
    message = run("bash", path).stdout
    assert re.findall(r"^\[(\d)/6\] ([\w-]+)$", message, re.M) == [
        (str(number), name) for number, name in enumerate(NAMES, 1)
    ]
    driven = small_workflow(tmp_path / "driven")
    prepare_steps(driven, step_statuses(driven))
    for name in NAMES:
        assert run_step(driven, name) == 0
    assert made(workflow) == made(driven)


def test_a_second_time_nothing_becomes_another(script):
    workflow, path = script
    run("bash", path)
    before, written = made(workflow), os.stat(workflow.step("data").makes[0]).st_mtime_ns
    run("bash", path)
    assert made(workflow) == before
    assert os.stat(workflow.step("data").makes[0]).st_mtime_ns == written


def test_what_a_kill_left_out_is_made_the_next_time(script):
    workflow, path = script
    run("bash", path)
    before = made(workflow)
    for name in ("data", "middle"):
        shutil.rmtree(workflow.step(name).folder)
    run("bash", path)
    assert made(workflow) == before


def test_every_file_goes_into_the_folder_of_the_run(script, tmp_path):
    workflow, path = script
    folder = tmp_path / "else where"
    run("bash", path, env={"RUN": str(folder)})
    assert not os.path.exists(workflow.step("data").folder)
    moved = [
        str(folder / os.path.relpath(p, workflow.folder)) for s in workflow.steps for p in s.makes
    ]
    assert all(map(os.path.isfile, moved))
    commands = path.read_text().partition("step() {")[2]
    assert workflow.folder not in commands


def test_a_failing_step_ends_it(script):
    workflow, path = script
    with open(workflow.step("middle").folder, "w"):  # a file where a folder should be
        pass
    os.makedirs(os.path.dirname(workflow.step("data").folder), exist_ok=True)
    ended = subprocess.run(["bash", path], capture_output=True, text=True, env=ENVIRONMENT)
    assert ended.returncode != 0
    assert "[3/6] middle" in ended.stdout
    assert "[4/6]" not in ended.stdout


def test_a_real_run_is_a_script_without_its_folder(workflow_of, tmp_path):
    stored = "{ratio: 0.4, start: inherit, soft-targets: store, data: mixed}"
    workflow = workflow_of(f"run: runs/real\nladder: [0.7, {stored}]\nstore: {{shards: 2}}")
    write_script(workflow, tmp_path / "real.sh")
    run("shellcheck", tmp_path / "real.sh")
    commands = (tmp_path / "real.sh").read_text().partition("step() {")[2]
    assert commands.count("$run/") > 20
    assert "runs/real" not in commands


def commands_of(tmp_path, *steps):
    """The lines of the script that run some steps of a run in runs/a."""
    workflow = Workflow("runs/a", {"file": "a.yaml", "started in": str(tmp_path)}, 1, list(steps))
    (tmp_path / "a.sh").unlink(missing_ok=True)
    write_script(workflow, tmp_path / "a.sh")
    return (tmp_path / "a.sh").read_text().partition("step() {")[2].partition("\n")[2]


def test_the_folder_of_the_run_is_a_variable_where_a_step_writes(tmp_path):
    words = ["say", "--out", "runs/a", "runs/a/b:runs/a/c", "student=runs/a/b/s.pt"]
    others = ["runs/ab", "x/runs/a", "runs/a/data", "-s", "runs/a", '$HOME `x` "y"']
    made = 'say --out "$run" "$run/b:$run/c" "student=$run/b/s.pt"'
    left = "runs/ab x/runs/a runs/a/data -s runs/a '$HOME `x` \"y\"'"
    step = Step("one", "train", [[*words, *others]], [], [], ["runs/a/c"], "runs/a/b")
    assert commands_of(tmp_path, step).split("\n")[2] == f"{made} {left}"
    odd = Step("one", "train", [["say", 'runs/a/$x "y"/z']], [], [], [], 'runs/a/$x "y"')
    assert 'say "$run/\\$x \\"y\\"/z"' in commands_of(tmp_path, odd)


def test_a_run_in_the_current_folder_cannot_be_moved(tmp_path):
    with pytest.raises(
        ValueError, match=r"run: \. cannot be moved by RUN\. Give another run: for --shell\."
    ):
        write_script(Workflow(".", {}, 1, []), tmp_path / "run.sh")


def test_a_step_is_done_when_the_last_of_its_files_is_there(tmp_path):
    makes = ["runs/a/s/train/sentences.npy", "runs/a/s/valid/sentences.npy"]
    lines = commands_of(tmp_path, Step("s", "store", [["fairseq-kd", "store"]], [], [], makes))
    assert '[[ -e "$run/s/valid/sentences.npy" ]] || fairseq-kd store' in lines
    lines = commands_of(tmp_path, Step("s", "train", [["fairseq-kd", "stage"]], [], [], makes))
    assert "[[" not in lines  # it goes on by itself


def test_long_commands_are_cut_before_their_flags(tmp_path):
    words = ["fairseq-train", "data", *(f"--flag-{number}=1" for number in range(20))]
    lines = commands_of(tmp_path, Step("one", "train", [words], [], [], [])).strip().splitlines()
    assert len(lines) > 3
    assert all(len(line) <= 100 for line in lines)
    assert all(line.startswith("  --flag-") for line in lines[2:])


def test_a_folder_with_a_colon_is_refused_before_any_step(tmp_path):
    workflow = Workflow("run", {"file": "a.yaml", "started in": "/"}, 1, [])
    write_script(workflow, tmp_path / "a.sh")
    refused = run("bash", tmp_path / "a.sh", env={"RUN": "a:b"}, check=False)
    assert refused.returncode == 2
    assert refused.stderr == "RUN must have no colon, which separates paths, but is a:b.\n"


@pytest.mark.parametrize("name", ["a$b", "a`touch x`b", "a\\b", 'a"b', "a'b", "a}b", "a=b"])
def test_every_file_goes_into_the_folder_of_the_run_whatever_its_name(tmp_path, name):
    words = ["echo", f"{name}/x.pt", f"--k={name}/y:{name}/x.pt", "--out", name]
    step = Step("s", "train", [words], [], [], [f"{name}/x.pt"], f"{name}/y")
    write_script(
        Workflow(name, {"file": "a.yaml", "started in": "/"}, 1, [step]), tmp_path / "a.sh"
    )
    for given, folder in ({}, name), ({"RUN": "other"}, "other"):
        message = run("bash", tmp_path / "a.sh", env=given).stdout
        assert message.splitlines()[-1] == (
            f"{folder}/x.pt --k={folder}/y:{folder}/x.pt --out {folder}"
        )
