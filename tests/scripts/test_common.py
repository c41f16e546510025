"""Folders that scripts make: complete or not at all, next to other files."""

import os
import subprocess

import pytest
import yaml
from disks import left_by_a_kill, small_disk
from harness import ENVIRONMENT, ROOT, run

SOURCED = {"common.sh", "recipes.sh", "students.sh"}
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("scripts", "benchmarks")
    for path in (ROOT / folder).glob("*.sh")
    if path.name not in SOURCED
)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_is_found_from_every_folder_and_never_by_cdpath(script, tmp_path):
    theirs = tmp_path / script
    theirs.parent.mkdir()
    theirs.write_text("#!\n# theirs\nset\n")
    for folder in (ROOT, ROOT / script.parent, tmp_path):
        command = ["bash", os.path.relpath(ROOT / script, folder), "--help"]
        shown = run(*command, cwd=folder, env={"CDPATH": str(tmp_path)})
        assert f"usage: {script}" in shown.stdout
        assert "set -euo" not in shown.stdout
        assert shown.stderr == ""


MAKE = 'set -euo pipefail; source "$0/scripts/common.sh"; begin "$1"; echo whole > "$work/file"; '


def make(out, then="finish", check=True):
    return run("bash", "-c", MAKE + then, ROOT, out, check=check)


def test_a_folder_appears_when_it_is_finished(tmp_path):
    out = tmp_path / "new" / "out"
    assert make(out, '[[ ! -e $1 ]]; finish; echo "done"').stdout == "done\n"
    assert (out / "file").read_text() == "whole\n"
    assert os.listdir(tmp_path / "new") == ["out"]


@pytest.mark.parametrize("mark", [True, False, "link"])
def test_what_a_killed_script_left_is_removed_and_nothing_else(tmp_path, mark):
    folder = tmp_path / "folder"
    partial = left_by_a_kill(folder / "out.partial", mark)
    make(folder / "out")
    assert os.listdir(folder / "out") == ["file"]
    if mark is True:
        assert os.listdir(folder) == ["out"]
    else:
        assert (partial / "made" / "half").read_text() == "half"
        assert sorted(os.listdir(folder)) == ["out", "out.partial"]
    assert mark != "link" or (tmp_path / "precious").read_text() == "precious"


def test_what_another_command_left_beside_what_it_makes_stays(tmp_path):
    partial = left_by_a_kill(tmp_path / "out.partial", True)
    (partial / "journal").write_text("hours")
    make(tmp_path / "out")
    assert (partial / "journal").read_text() == "hours"
    assert os.listdir(tmp_path / "out") == ["file"]


def test_a_failure_writes_through_no_link_that_a_folder_holds(tmp_path):
    partial = left_by_a_kill(tmp_path / "folder" / "out.partial", True)
    (tmp_path / "precious").write_text("precious")
    (partial / "room").symlink_to(tmp_path / "precious")
    assert make(tmp_path / "folder" / "out", "false", check=False).returncode == 1
    assert (tmp_path / "precious").read_text() == "precious"


SOURCE = 'set -euo pipefail; source "$0/scripts/common.sh"; '


@pytest.mark.parametrize("called", ["hold", "no_link"])
def test_a_link_in_the_place_of_a_file_of_ours_is_refused(tmp_path, called):
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_text("precious")
    link.symlink_to(precious)
    result = run("bash", "-c", f'{SOURCE} {called} "$1"', ROOT, link, check=False)
    message = f"{link} is a symbolic link. Replace it by the file itself, or remove it.\n"
    assert (result.returncode, result.stderr) == (1, message)
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("language", ["es;touch made;:", "../es", "-es", "", "e" * 65])
def test_a_language_that_is_no_plain_name_is_refused(tmp_path, language):
    words = f'{SOURCE} plain_languages en "$1"'
    result = run("bash", "-c", words, ROOT, language, cwd=tmp_path, check=False)
    message = (
        f"The command line names the language {language!r}, but a language is a name of at most"
    )
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert os.listdir(tmp_path) == []


def test_languages_with_plain_names_are_taken():
    run("bash", "-c", f'{SOURCE} plain_languages es zh_CN sr@latin "$1"', ROOT, "español")


def test_text_is_tokenised_whatever_the_shell_of_the_user_is(tmp_path):
    words = f"{SOURCE} echo 'Yes, Lord.' | moses en 1 tokenize"
    assert run("bash", "-c", words, ROOT, env={"SHELL": "/bin/false"}).stdout == "Yes , Lord .\n"


def test_the_tokeniser_takes_no_module_from_the_folder_where_a_script_is_called(tmp_path):
    tokeniser = tmp_path / "sacremoses"
    tokeniser.write_text('#!/bin/sh\necho "$PWD $PYTHONSAFEPATH"\n')
    tokeniser.chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PATH']}"}
    words = f"{SOURCE} cd {tmp_path}; echo a | moses en 1 tokenize"
    assert run("bash", "-c", words, ROOT, env=env).stdout == "/ 1\n"


def test_the_messages_of_what_fails_are_shown(tmp_path):
    words = f'{SOURCE} logged "$1" bash -c "echo how; echo why >&2; exit 3"'
    result = run("bash", "-c", words, ROOT, tmp_path / "log", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (
        1,
        "",
        "how\nwhy\nbash failed.\n",
    )


@pytest.mark.parametrize("path", ["runs/exp #2", "a: b", "12", "2026-11-29", "x\\y\"'$`", "two\nl"])
def test_a_path_is_a_path_in_yaml(path):
    words = f'{SOURCE} printf "key: %s\n" "$(as_yaml "$1")"'
    assert yaml.safe_load(run("bash", "-c", words, ROOT, path).stdout) == {"key": path}


STUDENTS = (
    'set -euo pipefail; source "$0/scripts/common.sh"; cd "$1"; '
    'source "$0/scripts/students.sh"; run=run data=data text=text src=es tgt=en; '
    'fairseq-kd() { mkdir -p run/t; touch run/t/checkpoint_last.pt; echo "trained"; }; '
    'fairseq-generate() { printf "D-0\\t0\\tone\\n"; echo >> calls; }; '
    "sacrebleu() { wc -l < calls; }; "
)


@pytest.fixture
def students(tmp_path):
    """Calls functions of students.sh with stubs: BLEU is how often anything was translated."""
    for name in ("data/dict.en.txt", "data/train.en", "data/test.en", "text/test.en", "a.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def students(words, check=True, **env):
        return run("bash", "-c", STUDENTS + words, ROOT, tmp_path, env=env, check=check)

    return students


def test_a_score_is_that_of_its_checkpoint_and_data(students, tmp_path):
    (tmp_path / "run").mkdir()
    score = "score run a.pt; cat run/bleu"
    assert [students(score).stdout for _ in range(2)] == ["1\n", "1\n"]
    for count, name in enumerate(("a.pt", "data/test.en", "text/test.en"), 2):
        (tmp_path / name).write_text("another")
        os.utime(tmp_path / name, (0, 0))  # older than the score of what it replaced
        assert students(score).stdout == f"{count}\n"


@pytest.mark.parametrize("name", ["a.pt", "data/train.en"])
def test_a_student_of_other_data_or_another_teacher_is_not_taken(students, tmp_path, name):
    train = "train name run/t 1 1 --kd-teacher b.pt:a.pt"
    assert [students(train).stdout for _ in range(2)] == ["trained\n", "trained\n"]
    (tmp_path / name).write_text("another")
    result = students(train, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("run/t already exists and was made from data and teachers of ")
    assert result.stderr.endswith("; give another RUN.\n")


def test_data_that_the_user_has_are_taken_as_they_are(students, tmp_path):
    (tmp_path / "mine" / "bin").mkdir(parents=True)
    words = 'here=$PWD; verses; echo "$data $text"'
    message = "DATA must be a folder that fairseq-kd prepare made, but mine lacks bin or text.\n"
    assert students(words, DATA="mine", check=False).stderr == message
    (tmp_path / "mine" / "text").mkdir()
    assert students(words, DATA="mine").stdout == "mine/bin mine/text\n"


def test_a_table_has_the_seeds_of_this_run_alone(students, tmp_path):
    for seed, bleu in enumerate((30, 2, 4), 1):
        folder = tmp_path / "run" / "students" / "plain" / str(seed)
        folder.mkdir(parents=True)
        (folder / "bleu").write_text(f"{bleu}\n")
    row = students("table plain", SEEDS="3 2").stdout.splitlines()[2]
    assert [each.strip() for each in row.split("|")[1:-1]] == ["plain", "4, 2", "3.00", ""]


def test_a_word_for_the_tokeniser_is_no_code(tmp_path):
    words = f'{SOURCE} moses "en;touch {tmp_path}/made;:" 1 tokenize < text || true'
    run("bash", "-c", f"cd {tmp_path}; echo a > text; {words}", ROOT)
    assert os.listdir(tmp_path) == ["text"]


def test_what_has_come_meanwhile_is_not_replaced(tmp_path):
    result = make(tmp_path / "out", 'mkdir "$1"; echo theirs > "$1/file"; finish', check=False)
    assert result.returncode != 0
    assert (tmp_path / "out" / "file").read_text() == "theirs\n"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_has_come_meanwhile_is_not_replaced(tmp_path):
    then = 'echo theirs > "$1"; finish "$work/file"'
    message = f"another process made {tmp_path}/out meanwhile. Remove it, or give another path.\n"
    assert make(tmp_path / "out", then, check=False).stderr.startswith(message)
    assert (tmp_path / "out").read_text() == "theirs\n"


def test_a_new_folder_may_be_named_with_slashes_behind(tmp_path):
    make(f"{tmp_path}/new/out//")
    assert os.listdir(tmp_path / "new" / "out") == ["file"]


def test_two_scripts_do_not_make_one_folder_at_the_same_time(tmp_path):
    command = ["bash", "-c", MAKE + "echo begun; read -r; finish", ROOT, tmp_path / "out"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True}
    with subprocess.Popen([str(word) for word in command], env=ENVIRONMENT, **pipes) as first:
        assert first.stdout.readline() == "begun\n"
        with subprocess.Popen([str(word) for word in command], env=ENVIRONMENT, **pipes) as second:
            message = f"waiting for the process that still makes {tmp_path}/out\n"
            assert second.stdout.readline() == message
            first.communicate("\n")
            end = second.communicate("\n")
    assert first.returncode == 0
    message = f"the other process has made {tmp_path}/out. Run the same line again.\n"
    assert (second.returncode, *end) == (1, "", message)
    assert (tmp_path / "out" / "file").read_text() == "whole\n"


@pytest.mark.parametrize("how", ["a small disk", "a limit"])
def test_a_full_disk_is_reported_and_nothing_is_left(tmp_path, how):
    write = 'head --bytes 200000 /dev/zero > "$work/more"; finish'

    def full(out, limit=""):
        result = make(out, limit + write, check=False)
        assert result.returncode != 0
        assert result.stderr.endswith(
            f"The disk of {out} is full; existing files are unchanged. Free some space and run the "
            "same line again.\n"
        )
        assert os.listdir(out.parent) == []

    if how == "a limit":
        (tmp_path / "folder").mkdir()
        full(tmp_path / "folder" / "out", "ulimit -f 64; ")
        return
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        full(disk / "out")


def test_a_place_where_nothing_can_be_made_is_reported(tmp_path):
    (tmp_path / "file").touch()
    result = make(tmp_path / "file" / "out", check=False)
    assert result.stderr == (
        f"{tmp_path}/file/out cannot be made (File exists). Give another path.\n"
    )
    result = make(tmp_path / ("n" * 300), check=False)
    assert "cannot be made (File name too long). Give another path." in result.stderr
    with small_disk(tmp_path / "disk", "ro") as disk:
        result = make(disk / "out", check=False)
        message = f"{disk}/out cannot be made (Read-only file system). Give another path.\n"
        assert result.stderr == message
