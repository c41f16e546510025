"""Display of the logs of running steps."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from workflows import build, small_workflow

from fairseq_kd.pipeline import follower
from fairseq_kd.pipeline.follower import Follower
from fairseq_kd.pipeline.workflow import Step, write_workflow
from fairseq_kd.progress import Progress


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(follower, "POLL_SECONDS", 0.01)
    return tmp_path


@pytest.fixture
def written(folder):
    """Adds to a log of the folder."""

    def write(text, name="student"):
        with (folder / f"{name}.log").open("a", encoding="utf-8") as file:
            file.write(text)

    return write


def progress(percent, name="student"):
    return Progress(name, percent, 100, "updates", 23.0, "").line()


@pytest.fixture
def advanced(folder, written):
    """Records the progress of a step, and writes the lines of it into the log."""

    def advance(*percents, name="student", step=None):
        for percent in percents:
            with (folder / f"{step or name}.progress").open("a", encoding="utf-8") as file:
                record = Progress(name, percent, 100, "updates", 23.0, "")._asdict()
                file.write(f"{json.dumps(record)}\n")
            written(f"{progress(percent, name)}\n", step or name)

    return advance


def test_lines_are_shown_once_and_what_was_there_before_is_not(folder, written, capsys):
    written("from an earlier attempt\n")
    with Follower(folder) as following:
        written("[1/2] student\n")
        following._look()
        following._look()
        written("two\nthree\n", "other")
    assert capsys.readouterr().err == "[1/2] student\ntwo\nthree\n"


def test_what_no_step_writes_is_no_log(folder, written, capsys):
    (folder / "old.log").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.log")
    (folder / "folder.log").mkdir()
    with Follower(folder):
        written("one\n")
        (folder.parent / "elsewhere").write_text("theirs\n")
        (folder / "later.log").symlink_to(folder.parent / "elsewhere")
    assert capsys.readouterr().err == "one\n"


def test_control_characters_of_a_log_are_not_sent_to_the_terminal(
    folder, written, advanced, capsys
):
    with Follower(folder) as following:
        following.on_terminal = True
        written("\033]0;title\007done\n")
        advanced(50, name="\033[31mstudent", step="student")
    message = capsys.readouterr().err
    assert "\\x1b]0;title\\x07done\n" in message
    assert "\\x1b[31mstudent:  50%" in message
    assert message.count("\033") == 1  # its own, which clears the line


def test_a_line_is_shown_when_it_is_whole(folder, written, capsys):
    with Follower(folder) as following:
        written("half of ")
        following._look()
        assert capsys.readouterr().err == ""
        written("a line\n")
    assert capsys.readouterr().err == "half of a line\n"


def test_steps_that_began_between_two_looks_are_shown_in_their_order(folder, written, capsys):
    steps = ["teacher-translations", "mixed", "stage-70"]
    with Follower(folder) as following:
        following._ended.set()  # as if its thread got no time
        following._thread.join()
        for number, name in enumerate(steps):
            written(f"[{number + 1}/3] {name}\nmore\n", name)
            os.utime(folder / f"{name}.log", ns=(0, 10**9 + number))
    assert re.findall(r"\] (.*)", capsys.readouterr().err) == steps


def test_the_last_words_of_a_step_are_shown_without_an_end_of_line(folder, written, capsys):
    with Follower(folder):
        written("one\ntwo")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_every_line_is_one_write_so_that_no_other_process_can_part_it(folder, written, monkeypatch):
    parts = []
    with monkeypatch.context() as patch, Follower(folder):
        patch.setattr(sys.stderr, "write", parts.append)
        written("one\ntwo\n")
    assert parts == ["one\n", "two\n"]


def test_the_engines_own_log_is_not_shown(folder, written, capsys):
    with Follower(folder):
        written("Building DAG of jobs...\n", "snakemake")
    assert capsys.readouterr().err == ""


def test_in_a_log_progress_is_shown_now_and_then_and_at_its_end(folder, advanced, capsys):
    with Follower(folder) as following:
        for percent in (1, 2, 3):
            advanced(percent)
            following._look()
        advanced(1, name="other")
        following._look()
        advanced(99, 100)
    assert capsys.readouterr().err.splitlines() == [
        progress(1),
        progress(1, "other"),
        progress(100),
    ]


def test_after_a_while_there_is_another_progress_line(folder, advanced, capsys, monkeypatch):
    monkeypatch.setattr(follower, "QUIET_SECONDS", 0.0)
    with Follower(folder) as following:
        following._ended.set()  # its thread would look in between
        following._thread.join()
        for percent in (1, 2):
            advanced(percent)
            following._look()
    assert capsys.readouterr().err.splitlines() == [progress(1), progress(2)]


def test_of_progress_that_was_written_at_once_the_latest_counts(folder, written, advanced, capsys):
    with Follower(folder) as following:
        following._ended.set()  # as if its thread got no time
        following._thread.join()
        advanced(1)
        written("warning\n")
        advanced(2, 3)
    assert capsys.readouterr().err.splitlines() == ["warning", progress(3)]


def test_on_a_terminal_progress_is_one_line(folder, written, advanced, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Follower(folder) as following:
        for percent in (1, 2):
            advanced(percent)
            following._look()
        written("[2/2] evaluation\n")
        following._look()
        advanced(3)
    message = capsys.readouterr().err
    rewritten = [f"\r\033[K{progress(percent)}" for percent in (1, 2, 3)]
    assert message == f"{rewritten[0]}{rewritten[1]}\n[2/2] evaluation\n{rewritten[2]}\n"


def test_on_a_terminal_steps_side_by_side_share_the_line(folder, advanced, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "44")
    with Follower(folder) as following:
        for name, percent in (("student", 7), ("other", 12), ("student", 100), ("other", 13)):
            advanced(percent, name=name)
            following._look()
    both = "student 7%, 00:23 left; other 12%, 00:23 left"[:43]
    shown = [progress(7), both, f"{progress(100)}\n", f"{progress(13, 'other')}\n"]
    assert capsys.readouterr().err == "".join(f"\r\033[K{line}" for line in shown)


def test_a_log_that_is_no_text_does_not_end_it(folder, capsys):
    with Follower(folder):
        (folder / "student.log").write_bytes(b"\xff\xfe broken\nwhole\n")
    assert re.search(r"broken\nwhole\n$", capsys.readouterr().err)


def test_a_line_without_a_record_is_a_line_as_others(folder, written, advanced, capsys):
    advanced(1)
    with Follower(folder) as following:
        written(f"{progress(1)}\n{progress(2)}\n")
        following._look()
        advanced(3)
    assert capsys.readouterr().err.splitlines() == [progress(1), progress(2), progress(3)]


RECORD = {"name": "student", "done": 1, "total": 100, "unit": "updates", "note": ""}
RECORD["seconds_left"] = 23.0


@pytest.mark.parametrize(
    "damaged",
    [
        *("", "{", "[" * 100_000, "7", "{}", json.dumps({**RECORD, "total": 0})),
        *(json.dumps({**RECORD, "done": each}) for each in (-1, "1", 0.5, None)),
        *(json.dumps({**RECORD, "seconds_left": each}) for each in (-1, "1", 1e300, float("nan"))),
    ],
    ids=lambda text: text[:90],
)
def test_what_is_no_record_is_passed_over(folder, written, advanced, damaged, capsys):
    with Follower(folder):
        (folder / "student.progress").write_text(f"{damaged}\n")
        written("one\n")
        advanced(2)
    assert capsys.readouterr().err.splitlines() == ["one", progress(2)]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_records_are_read_from_a_regular_file_only(folder, written, kind, capsys):
    path = folder / "student.progress"
    with Follower(folder):
        (folder.parent / "elsewhere").write_text(f"{json.dumps(RECORD)}\n")
        if kind == "link":
            path.symlink_to(folder.parent / "elsewhere")
        else:
            os.mkfifo(path) if kind == "pipe" else path.mkdir()
        written("one\n")
    assert capsys.readouterr().err == "one\n"


def test_a_step_records_its_progress_beside_its_log(tmp_path):
    (tmp_path / "run" / "logs").mkdir(parents=True)
    made = str(tmp_path / "run" / "data" / "text")
    script = 'mkdir "${1%/*}" && printf %s "$FAIRSEQ_KD_PROGRESS" > "$1"'
    step = Step("data", "prepare", [["bash", "-c", script, "data", made]], [], [], [made])
    workflow = small_workflow(tmp_path / "run")._replace(steps=[step])
    write_workflow(workflow)
    assert build(workflow) == ["data"]
    assert Path(made).read_text() == str(tmp_path / "run" / "logs" / "data.progress")
