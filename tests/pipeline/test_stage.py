"""A stage against a fake fairseq-train that logs and saves as the real one, fails and is killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import small_disk
from harness import ENVIRONMENT, ROOT
from workflows import checkpoint

from fairseq_kd import cli
from fairseq_kd.files.locks import locked
from fairseq_kd.pipeline import stage

FAKE = """\
#!{python}
# Stands in for fairseq-train: logs as many updates as it is asked for, and leaves a checkpoint.
import argparse, json, os, shutil, sys, time
words = sys.argv[1:]
folder, last = (words[words.index(flag) + 1] for flag in ("--save-dir", "--max-update"))
print("$", *words, flush=True)
open(os.path.join(folder, "pids"), "a").write(f"{{os.getpid()}}\\n")
if "--fail" in words:
    print("RuntimeError: out of luck", file=sys.stderr)
    sys.exit(3)
for update in range(1, int(last) + 1):
    figures = dict(num_updates=str(update), loss="2.5", kd_loss="0.125")
    try:
        print("now | INFO | train_inner |", json.dumps(figures), flush=True)
    except BrokenPipeError:
        pass  # logging does so
    time.sleep(0.2 if "--slow" in words else 0)
if "--abort-early" in words:
    os.abort()
saved = "5" if "--patience" in words else last
shutil.copy(os.path.join({saved!r}, saved + ".pt"), os.path.join(folder, "checkpoint_last.pt"))
if "--pad" in words:  # as fairseq saves, which takes the seconds of importing torch
    import torch
    state = dict(model=dict(weight=torch.zeros(int(words[-1]))), args=argparse.Namespace())
    torch.save(state, os.path.join(folder, "checkpoint_last.pt"))
if "--abort-late" in words:
    os.abort()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What the fake saves, by the number of updates."""
    folder = tmp_path_factory.mktemp("saved")
    for updates in (5, 30, 31):
        checkpoint(folder / f"{updates}.pt", updates)
    return folder


@pytest.fixture
def command(saved, tmp_path, monkeypatch):
    """A fairseq-train command line that reaches the fake."""
    fake = tmp_path / "bin" / "fairseq-train"
    fake.parent.mkdir()
    fake.write_text(FAKE.format(python=sys.executable, saved=str(saved)))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    save_dir = ["--save-dir", str(tmp_path / "run"), "--max-update", "30"]
    own = ["--user-dir", "user_dir", "--arch", "transformer"]
    return ["fairseq-train", "data", *own, *save_dir]


def runs(tmp_path):
    pids = tmp_path / "run" / "pids"
    return [int(line) for line in pids.read_text().split()] if pids.exists() else []


def test_it_runs_the_command_and_shows_how_far_it_is(command, tmp_path, capsys):
    assert stage.run_stage("student", command) == 0
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.startswith(f"$ {' '.join(command)}\n$ data --user-dir user_dir --arch")
    shown = capsys.readouterr().err.splitlines()
    assert "student: 100% |####################| 30/30 updates" in shown[-1]
    assert "loss 2.50, kd_loss 0.12" in shown[-1]


def test_a_line_that_was_cut_off_stays_a_line_of_its_own(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").write_text("now | INFO | train_inn")
    assert stage.run_stage("student", command) == 0
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.startswith(f"now | INFO | train_inn\n$ {' '.join(command)}\n")


def test_a_finished_stage_is_not_run_again(command, tmp_path, capsys):
    assert stage.run_stage("student", command) == 0
    assert stage.run_stage("student", command) == 0
    assert len(runs(tmp_path)) == 1
    assert capsys.readouterr().err.endswith("student: all 30 updates are done\n")


def test_flags_that_are_not_those_of_the_training_that_is_there_are_named(
    command, tmp_path, capsys
):
    assert stage.run_stage("student", [*command, "--lr", "1e-3", "--fp16"]) == 0
    capsys.readouterr()
    assert stage.run_stage("student", [*command, "--lr", "5e-4", "--log-interval", "9"]) == 0
    message = (
        f"student: the training in {tmp_path / 'run'} was started with --fp16, --lr 1e-3, and is "
        "resumed with the new flags. For a new training give another --save-dir.\nstudent: all 30 "
        "updates are done\n"
    )
    assert capsys.readouterr().err == message


def test_other_data_is_named_and_another_place_of_the_plugin_is_not(command, tmp_path, capsys):
    checkpoint(tmp_path / "run" / "checkpoint_last.pt", 30)
    log, ours = tmp_path / "run" / "train.log", ["--user-dir", str(ROOT / "user_dir")]
    began = "$ fairseq-train 'my data' --user-dir user_dir --arch transformer"
    log.write_text(f"{began} --save-dir run --max-update 30\n")
    for data, message in (("my data", ""), ("mine", "data my data")):
        assert stage.run_stage("student", ["fairseq-train", data, *ours, *command[4:]]) == 0
        begun = (
            f"student: the training in {tmp_path / 'run'} was started with {message}, and is resu"
        )
        assert capsys.readouterr().err.startswith(begun if message else "student: all 30 updates")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--no-save"],
            "--no-save cannot be used in a stage: a killed training could not be resumed",
        ),
        (["--no-save-optimizer-state"], "--no-save-optimizer-state cannot be used in a stage: a k"),
        (
            ["--no-last-checkpoints"],
            "--no-last-checkpoints cannot be used in a stage: a killed tra",
        ),
        (
            ["--reset-optimizer"],
            "--reset-optimizer cannot be used in a stage: it would apply at ev",
        ),
        (
            ["--reset-da"],
            "--reset-da cannot be used in a stage: it would apply at every restart; g",
        ),
        (
            ["--restore-file=x.pt", "--lr", "1"],
            "--restore-file cannot be used in a stage: a training is resumed from its own folder; "
            "give --finetune-from-model FILE to start from a checkpoint. Leave it out.",
        ),
        (["--checkpoint-suffix", "-a"], "--checkpoint-suffix cannot be used in a stage: the next"),
        (["--optimizer-overrides", "{'lr': 1}"], "--optimizer-overrides cannot be used in a stage"),
    ],
)
def test_a_flag_by_which_a_stage_could_not_go_on_is_refused(command, tmp_path, flags, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        stage.run_stage("student", [*command, *flags])
    assert runs(tmp_path) == []


@pytest.mark.parametrize(
    "workers", ["--nproc_per_node=2", "--nproc-per-node 12", "--nproc_per_node auto"]
)
def test_processes_that_would_train_alone_are_refused(command, tmp_path, workers):
    started = ["torchrun", *workers.split(), "--no-python", *command, "--cpu"]
    message = (
        r"^torchrun starts (2|12|auto) processes, but each would train a model of its own: on CP"
    )
    with pytest.raises(ValueError, match=message):
        stage.run_stage("student", started)
    assert runs(tmp_path) == []


def test_flags_that_change_no_restart_may_stand_in_a_stage(command, tmp_path):
    usual = ["--restore-file", "checkpoint_last.pt", "--optimizer", "adam"]
    assert stage.run_stage("student", [*command, *usual, "--optimizer-overrides", "{}"]) == 0
    assert len(runs(tmp_path)) == 1


def test_a_backup_by_hard_links_stays_as_it_is(command, tmp_path):
    folder, backup = tmp_path / "run", tmp_path / "backup"
    assert stage.run_stage("student", command) == 0
    shutil.copytree(folder, backup, copy_function=os.link)
    before = {path.name: path.read_bytes() for path in backup.iterdir()}
    more = [*command[:-1], "31"]
    assert stage.run_stage("student", more) == 0
    assert (folder / "checkpoint_last.pt").read_bytes() != before["checkpoint_last.pt"]
    for name in ("checkpoint_last.pt", "train.log"):
        assert (backup / name).read_bytes() == before[name]


@pytest.mark.parametrize("name", ["train.log", "checkpoint_best.pt", "checkpoint_last.pt.tmp"])
def test_a_link_in_the_place_of_what_is_written_is_refused(command, tmp_path, name):
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "theirs")
    with pytest.raises(ValueError, match=rf"/{name} is a symbolic link\. Replace it by the file"):
        stage.run_stage("student", command)
    assert (tmp_path / "theirs").read_text() == "precious"


def test_an_unfinished_stage_goes_on(command, tmp_path, capsys):
    checkpoint(tmp_path / "run" / "checkpoint_last.pt", 12)
    assert stage.run_stage("student", command) == 0
    assert len(runs(tmp_path)) == 1
    assert "student: resuming after update 12" in capsys.readouterr().err


def test_a_training_that_ended_by_patience_is_not_taken_up_again(command, tmp_path, capsys):
    impatient = [*command, "--patience", "3"]
    assert stage.run_stage("student", impatient) == 0
    assert stage.run_stage("student", impatient) == 0
    assert len(runs(tmp_path)) == 1
    assert "student: it ended early, after update 5" in capsys.readouterr().err
    assert stage.run_stage("student", [*command, "--patience", "9"]) == 0
    assert len(runs(tmp_path)) == 2
    (tmp_path / "run" / "checkpoint_last.pt").unlink()
    assert stage.run_stage("student", [*command, "--patience", "9"]) == 0
    assert len(runs(tmp_path)) == 3


def test_a_failure_is_shown_and_returned(command, tmp_path, capsys):
    assert stage.run_stage("student", [*command, "--fail"]) == 3
    shown = capsys.readouterr().err
    assert "RuntimeError: out of luck" in shown
    assert f"student failed with status 3; the whole log is in {tmp_path}/run/train.log" in shown
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.endswith("RuntimeError: out of luck\n# the command ended with status 3\n")


def test_a_command_that_ends_without_training_has_failed(tmp_path, capsys):
    assert stage.run_stage("s", ["true", "--save-dir", str(tmp_path), "--max-update", "6"]) == 1
    message = "s: the command ended without an error, but after update 0 of 6; its output is in "
    assert capsys.readouterr().err.endswith(f"{message}{tmp_path}/train.log\n")


def test_a_training_without_an_architecture_is_refused(tmp_path):
    command = ["fairseq-train", "data", "--save-dir", str(tmp_path), "--max-update", "6"]
    with pytest.raises(ValueError, match=r"^fairseq-train needs --arch in its command line, which"):
        stage.run_stage("s", command)


def test_a_word_that_is_not_utf_8_is_refused(tmp_path, capsys):
    command = ["fairseq-train", "b\udce1", "--save-dir", str(tmp_path), "--max-update", "6"]
    assert cli.main(["stage", "s", "--", *command]) == 2
    message = "The word 'b\\udce1' of the command is not UTF-8. Rename the path.\n"
    assert capsys.readouterr().err == f"fairseq-kd stage: {message}"


@pytest.mark.parametrize(("flags", "status"), [([], 1), (["--max-epoch", "2"], 0)])
def test_a_training_ends_early_by_a_flag_alone(saved, tmp_path, flags, status):
    shutil.copy(saved / "5.pt", tmp_path / "checkpoint_last.pt")
    command = ["true", "--save-dir", str(tmp_path), "--max-update", "6", *flags]
    assert stage.run_stage("s", command) == status


def test_a_training_that_a_signal_ended_is_reported_as_shells_do(command, tmp_path, capsys):
    assert cli.main(["stage", "student", "--", *command, "--abort-early"]) == 128 + signal.SIGABRT
    assert "student failed with status -6 (SIGABRT); the whole log" in capsys.readouterr().err
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.endswith("\n# the command ended with status -6 (SIGABRT)\n")


def test_a_line_that_a_signal_cut_off_is_not_taken_for_its_end(tmp_path):
    cut_off = ["bash", "-c", "printf 'now | INFO'; kill -KILL $$", "bash"]
    command = [*cut_off, "--save-dir", str(tmp_path), "--max-update", "3"]
    assert stage.run_stage("student", command) == -signal.SIGKILL
    log = (tmp_path / "train.log").read_text()
    assert log.endswith("\nnow | INFO\n# the command ended with status -9 (SIGKILL)\n")


def test_a_second_stage_in_the_same_folder_is_refused(command, tmp_path, capsys):
    with locked(tmp_path / "run" / ".stage.lock", "it"):
        assert cli.main(["stage", "student", "--", *command]) == 2
    message = f"fairseq-kd stage: --save-dir {tmp_path}/run is in use since "
    assert capsys.readouterr().err.startswith(message)
    assert not runs(tmp_path)


def test_a_training_that_aborts_after_its_last_checkpoint_is_done(command, tmp_path):
    assert stage.run_stage("student", [*command, "--abort-late"]) == 0
    (tmp_path / "run" / "checkpoint_last.pt").unlink()
    assert stage.run_stage("student", [*command, "--abort-early"]) == -signal.SIGABRT


def test_an_unfinished_stage_of_an_old_torch_goes_on(command, tmp_path, capsys):
    checkpoint(tmp_path / "run" / "checkpoint_last.pt", 12, old_format=True)
    assert stage.run_stage("student", command) == 0
    assert "student: resuming after update 12" in capsys.readouterr().err


def test_a_training_that_fails_on_a_full_disk_reports_it(command, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        at = command.index("--save-dir") + 1
        words = [*command[:at], str(disk / "run"), *command[at + 1 :], "--pad", "100000"]
        assert cli.main(["stage", "student", "--", *words]) == 2
        shown = capsys.readouterr().err
    assert "student failed with status 1; the whole log is in" in shown
    assert shown.endswith(
        f"fairseq-kd stage: The disk of {disk}/run is full; the checkpoints are kept. Free some "
        "space and run the same command again.\n"
    )


def test_a_training_whose_progress_cannot_be_shown_is_ended(command, tmp_path, monkeypatch):
    """Such as when the reader of a pipe has gone: else it trains on, and its log is lost."""

    def show(*words):
        raise BrokenPipeError

    monkeypatch.setattr(stage.ProgressLine, "show", show)
    with pytest.raises(BrokenPipeError):
        stage.run_stage("student", [*command, "--slow"])
    assert runs(tmp_path)
    assert not (tmp_path / "run" / "checkpoint_last.pt").exists()


@pytest.mark.parametrize("flag", ["--save-dir", "--max-update"])
def test_a_command_without_what_a_stage_needs_is_refused(command, flag):
    at = command.index(flag)
    lacking = command[:at] + command[at + 2 :]
    with pytest.raises(ValueError, match=f"^A stage needs {flag} in its command line, which is: "):
        stage.run_stage("student", lacking)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to its parent")
def test_the_training_dies_with_the_script_that_started_it(command, tmp_path):
    as_torchrun = ["bash", "-c", 'setsid "$@" & wait', "bash", *command, "--slow"]
    subcommand = [sys.executable, "-m", "fairseq_kd.cli", "stage", "student", "--", *as_torchrun]
    script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    driver = subprocess.Popen(
        [sys.executable, "-c", script, *subcommand], cwd=ROOT, env={**ENVIRONMENT, **os.environ}
    )
    deadline = time.monotonic() + 60
    while not runs(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    (pid,) = runs(tmp_path)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "run" / "checkpoint_last.pt").exists()
