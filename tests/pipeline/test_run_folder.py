"""The folder of a run, which may contain files of the user or of another version."""

import os
import re
import shutil
import signal
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import pytest
from workflows import TEACHER, build, made, small_workflow

from fairseq_kd.pipeline import driver, preparation
from fairseq_kd.pipeline.status import recipe_path
from fairseq_kd.pipeline.workflow import WORKFLOW_FILE

SMALL = "transformer_kd_small_student"
LADDER = f"ladder: [{{arch: {SMALL}, name: half}}, {{arch: {SMALL}}}]"
TEXT = "data: {text: %s, source: es, target: en}"


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    """The commands are not tried, which other tests do."""
    monkeypatch.setattr(preparation, "check_steps", lambda *given: None)


def corpus(folder):
    for split in ("train", "valid", "test"):
        for language in ("es", "en"):
            (folder / f"{split}.{language}").write_text("one\n")


READ = {  # where it lies, what the run file says of it, and the step that would move it
    "its text": ("run/data/text", TEXT % "run/data/text", "data"),
    "its text by another path": ("run/data/text", TEXT % "run/../run/data/text", "data"),
    "its vocabulary": (
        "run/data/old",
        TEXT.replace("}", ", vocabulary: run/data/old}") % "text",
        "data",
    ),
    "its teacher": ("run/half", "teacher: run/half/teacher.pt", "half"),
    "a start": (
        "run/student",
        LADDER.replace(f"{{arch: {SMALL}}}", f"{{arch: {SMALL}, start: run/student/teacher.pt}}"),
        "student",
    ),
    "the start of another stage": (
        "run/student",
        LADDER.replace("name: half", "name: half, start: run/student/teacher.pt"),
        "student",
    ),
    "what is compared": ("run/half", f"{LADDER}\ncompare: {{old: run/half/teacher.pt}}", "half"),
    "a link to its teacher": ("run/half", "teacher: link.pt", "half"),
    "its plugin": ("run/student", "user-dir: run/student", "student"),
}


@pytest.mark.parametrize("what", READ)
def test_a_run_that_would_move_what_it_reads_is_refused(workflow_of, large_teacher, tmp_path, what):
    folder, said, step = READ[what]
    Path("text").mkdir()
    (tmp_path / folder).mkdir(parents=True)
    for place in (Path("text"), tmp_path / folder):
        corpus(place)
        for name in ("codes", "dict.es.txt", "dict.en.txt"):
            (place / name).write_text("a 1\n")
    shutil.copy(large_teacher, tmp_path / folder / "teacher.pt")
    Path("link.pt").symlink_to(tmp_path / folder / "teacher.pt")
    text = f"run: run\n{said}" + ("" if "ladder" in said else f"\n{LADDER}")
    message = rf"^run: run contains (\S+) in run/{step}, which the step {step} writes, but the run "
    message += r"reads \1\. Choose another folder for the run\.$"
    with pytest.raises(ValueError, match=message):
        workflow_of(text)
    assert (tmp_path / folder / "teacher.pt").is_file()
    assert not Path("run/workflow.json").exists()


def test_what_is_compared_does_not_lie_where_the_evaluation_has_its_plots(
    workflow_of, large_teacher
):
    small_workflow("run")
    Path("run/plots").mkdir()
    shutil.copy(large_teacher, "run/plots/old.pt")
    message = (
        r"^run: run contains run/plots/old\.pt in run/plots, which the step evaluation writes, "
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(f"run: run\n{LADDER}\ncompare: {{old: run/plots/old.pt}}")


def test_a_run_file_in_the_folder_of_a_step_is_refused(large_teacher, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run/half").mkdir(parents=True)
    text = f"run: run\ndata: {data}\nteacher: {large_teacher}\n{LADDER}\n"
    Path("run/half/run.yaml").write_text(text)
    with pytest.raises(
        ValueError,
        match=r"contains run/half/run\.yaml in run/half, which the step half writes, but",
    ):
        preparation.prepare_run(Path("run/half/run.yaml"))


def test_a_new_run_moves_no_folder_that_no_run_made(workflow_of):
    Path("data").mkdir()
    Path("data/notes").write_text("mine")
    Path("text").mkdir()
    corpus(Path("text"))
    text = f"run: .\n{TEXT % 'text'}\n{LADDER}"
    message = (
        r"^run: \. holds data, which was not made by a run\. Move that away, or give another folder"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(text)
    assert not Path("workflow.json").exists()
    Path("data").rename("mine")
    workflow_of(text)


@pytest.mark.parametrize("lost", ["removed", "damaged", "of an earlier version"])
@pytest.mark.parametrize("left", ["manifests", "recipes"])
def test_a_lost_plan_is_laid_out_again_and_what_was_made_stays(workflow_of, lost, left):
    small = small_workflow("runs/run")
    build(small)
    before, workflow = made(small), Path("runs/run") / WORKFLOW_FILE
    Path("runs/run/history.md").write_text("as made by a run")
    if left == "recipes":
        for path in set(Path("runs/run/steps").glob("*.json")) - set(
            recipe_path(small, step) for step in small.steps
        ):
            path.unlink()
    damage = {"damaged": lambda: workflow.write_text("{"), "removed": workflow.unlink}
    damage.get(lost, lambda: workflow.write_text('{"steps": []}'))()
    laid_out = workflow_of(LADDER)
    assert laid_out.folder == "runs/run"
    assert workflow.read_text() != "{"
    assert made(small) == before


@pytest.mark.parametrize("content", ["{}", '{"step": "teacher"}', "x"])
def test_a_folder_that_is_called_steps_is_no_run(workflow_of, content):
    Path("runs/run/steps").mkdir(parents=True)
    Path("runs/run/steps/teacher.json").write_text(content)
    message = (
        f"run: {Path('runs/run')} holds steps, which was not made by a run. Move that away, or"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        workflow_of(LADDER)


def test_a_stage_that_is_called_as_a_shard_is_refused(workflow_of):
    message = (
        r"a stage is called student-1-of-3, which is also the name of a shard of a step\. Give it"
    )
    with pytest.raises(ValueError, match=message):
        workflow_of(LADDER.replace("half", "student-1-of-3"))


LINKED = [".snakemake", ".snakemake/log", ".snakemake/metadata/c3R1ZGVudA==", "middle/text"]


@pytest.mark.parametrize("name", [*LINKED, "middle"])
def test_a_link_in_the_place_of_what_a_step_writes_is_refused(tmp_path, name):
    run, precious = tmp_path / "run", tmp_path / "precious"
    precious.mkdir()
    middle = [small_workflow(run).step("middle")]
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(precious)
    with pytest.raises(ValueError, match=rf"{name} is a symbolic link\. Replace it by the folder"):
        driver._check_paths(run, middle)
    (run / name).unlink()
    driver._check_paths(run, middle)


@pytest.mark.parametrize("name", ["logs/snakemake.log", "logs/middle.log", ".snakemake/log/a"])
def test_a_backup_by_hard_links_keeps_its_logs(tmp_path, name):
    run, backup = tmp_path / "run", tmp_path / "backup"
    small_workflow(run)
    (run / name).parent.mkdir(parents=True)
    (run / name).write_text("as it was")
    backup.hardlink_to(run / name)
    driver._check_paths(run, [])
    with (run / name).open("a") as log:
        log.write(" and more")
    assert backup.read_text() == "as it was"


@pytest.mark.parametrize("name", ["pip-deployments", "iocache/latest.pkl"])
def test_what_snakemake_would_run_of_the_folder_of_a_run_is_refused(tmp_path, name):
    small_workflow(tmp_path / "run")
    path = tmp_path / "run" / ".snakemake" / name
    path.mkdir(parents=True)
    message = f"{path} would be executed by Snakemake, and no run needs it. Remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        driver.run_workflow(small_workflow(tmp_path / "run"), None, [])


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The environment in which Snakemake would be started, as a function."""

    def started():
        given = {}

        @contextmanager
        def child(words, env, **options):
            given.update(env)
            yield Namespace(wait=lambda: -signal.SIGKILL)

        monkeypatch.setattr(driver, "child", child)
        driver.run_workflow(small_workflow(tmp_path / "run"), None, [])
        return given

    return started


def test_jobs_import_no_module_of_the_folder_of_a_run(environment):
    assert environment()["PYTHONSAFEPATH"] == "1"
    assert 'envvars:\n    "PYTHONSAFEPATH",\n' in driver.SNAKEFILE.read_text()  # also elsewhere


@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_without_a_home_snakemake_keeps_its_cache_in_the_run(
    environment, tmp_path, monkeypatch, variable
):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()  # nobody, root included, makes a folder in it
    monkeypatch.setenv(variable, str(tmp_path / "file" / "home"))
    assert environment()["XDG_CACHE_HOME"] == str(tmp_path / "run" / ".snakemake" / "cache")
    monkeypatch.setenv(variable, str(tmp_path / "home"))
    cache = environment().get("XDG_CACHE_HOME")
    assert cache == (None if variable == "HOME" else str(tmp_path / "home"))


# ---- what lies in a folder already


@pytest.mark.parametrize("name", ["logs", "steps", "replaced"])
def test_a_link_in_the_folder_of_a_run_is_refused(workflow_of, tmp_path, name):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).symlink_to(tmp_path / "theirs")
    with pytest.raises(
        ValueError, match=rf"mine/{name} is a symbolic link\. Replace it by the folder"
    ):
        workflow_of(f"run: {tmp_path / 'mine'}\n{TEACHER}ladder: [0.5]")


@pytest.mark.parametrize("name", ["history.md", "workflow.json", "report.html", "hashes.json"])
def test_a_file_that_no_run_made_is_not_replaced(workflow_of, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}")
    message = f"run: {tmp_path}/mine holds {name}, which was not made by a run. Move that away, or"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        workflow_of(f"target: 0.25\nrun: {tmp_path}/mine")
    assert os.listdir(tmp_path / "mine") == [name]


def test_a_file_in_place_of_the_folder_of_a_run_is_refused(workflow_of, tmp_path):
    (tmp_path / "notes.txt").touch()
    message = f"run: {tmp_path}/notes.txt must be a folder, but is a file. Give another path."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        workflow_of(f"target: 0.25\nrun: {tmp_path}/notes.txt")


def test_a_file_beside_those_of_a_run_is_kept(workflow_of, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("beside a run")
    workflow_of(f"target: 0.25\nrun: {tmp_path}/mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "beside a run"


@pytest.mark.parametrize("name", [".", "run"])
def test_a_run_in_its_data_is_refused(workflow_of, data, name):
    folder = os.path.normpath(os.path.join(data, name))
    with pytest.raises(
        ValueError, match=f"run: {folder} (and|lies inside) data: {data}( are the same)?"
    ):
        workflow_of(f"target: 0.25\nrun: {folder}")
    assert not os.path.exists(os.path.join(data, "workflow.json"))


def test_checkpoints_to_compare_are_evaluated_as_controls(workflow_of, large_teacher):
    workflow = workflow_of(f"ladder: [0.5]\ncompare: {{baseline: {large_teacher}}}")
    (command,) = workflow.step("evaluation").commands
    controls = [command[i + 1] for i, word in enumerate(command) if word == "--control"]
    assert controls == [
        "undistilled=runs/run/undistilled/checkpoint_best.pt",
        f"baseline={large_teacher}",
    ]
    assert large_teacher in workflow.step("evaluation").reads


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ("{baseline: none.pt}", "compare: baseline is none.pt, which does not exist. Give a check"),
        ("{student: none.pt}", "compare: student is the name of a model of the run. Give another "),
        ("{total: none.pt}", "compare: total is the name of a model of the run. Give another name"),
    ],
)
def test_a_checkpoint_that_cannot_be_compared_is_refused(workflow_of, compare, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        workflow_of(f"ladder: [0.5]\ncompare: {compare}")


def test_a_dry_run_refuses_a_folder_that_cannot_be_made(workflow_of):
    message = r"run: /proc/run cannot be made, since /proc takes no files\. Give another path\."
    with pytest.raises(ValueError, match=message):
        workflow_of("ladder: [0.5]\nrun: /proc/run")


def test_a_dry_run_refuses_a_folder_below_a_file(workflow_of):
    Path("file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        workflow_of("ladder: [0.5]\nrun: file/run")
