"""Status of each step, with the reason when it must be rebuilt."""

import fcntl
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workflows import build, made, manifest, small_workflow, statuses, write_sealed

from fairseq_kd.pipeline import execution, status
from fairseq_kd.pipeline.execution import run_step
from fairseq_kd.pipeline.workflow import Step, Workflow

NAMES = ("data", "teacher", "middle", "student", "undistilled", "evaluation")


def test_all_is_missing_and_then_all_is_done(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    assert set(statuses(workflow).values()) == {(status.MISSING, "it has not been made yet")}
    assert build(workflow) == list(NAMES)
    assert set(statuses(workflow).values()) == {(status.DONE, "")}
    assert build(workflow) == []


def test_a_changed_option_makes_its_step_and_those_after_it_anew(workflow):
    before = made(workflow)
    changed = small_workflow(workflow.folder, student_lines=6)
    found = statuses(changed)
    assert [name for name in NAMES if found[name][0] == status.CHANGED] == [
        "student",
        "evaluation",
    ]
    assert found["evaluation"][1] == "student must be made again"
    assert build(changed) == ["student", "evaluation"]
    assert len(made(changed)["student"][0]) > len(before["student"][0])
    assert (Path(workflow.folder) / "replaced" / "student.1" / "text.made").is_file()


def test_a_changed_flag_is_reported_by_its_values(workflow):
    step = workflow.step("student")
    words = [["fairseq-train", "data", "--kd-temperature", value, "--fp16"] for value in "42"]
    recipes = [{"commands": [each], "reads": {}, "after": {}} for each in words]
    assert status._difference(*recipes) == "--kd-temperature was 4, is 2"
    recipes[1]["commands"][0][-1] = "--bf16"
    message = status._difference(*recipes)
    assert "--fp16 was given, is not given; --bf16 was not given, is given" in message
    assert step.name == "student"


@pytest.mark.parametrize("was", ["user_dir", "/moved/clone/user_dir"])
def test_from_wherever_a_run_is_started_what_is_finished_stays(tmp_path, monkeypatch, was):
    def workflow_of(own, lr="1"):
        """Two steps, of which one has a command that names the plugin of a clone."""
        words = ["true", "--user-dir", own, "--lr", lr]
        steps = [
            Step("data", "prepare", [["true"]], [], [], []),
            Step("student", "train", [words], ["data"], [], []),
        ]
        return Workflow(str(tmp_path / "run"), {}, 1, steps)

    clone = Path(status.__file__).parents[2]
    assert build(workflow_of(was)) == ["data", "student"]
    assert build(workflow_of(str(clone / "user_dir"))) == []
    monkeypatch.chdir(clone)
    assert build(workflow_of("user_dir")) == []
    assert build(workflow_of("user_dir", lr="2")) == ["student"]
    assert statuses(workflow_of(str(tmp_path / "user_dir")))["student"][0] == status.CHANGED


def test_an_interrupted_step_whose_folder_is_gone_is_reported_to_begin_anew(workflow):
    status.manifest_path(workflow, workflow.step("middle")).unlink()
    folder = Path(workflow.step("middle").folder)
    folder.rename("elsewhere")
    message = f"it was interrupted and starts again: {folder} is missing"
    assert statuses(workflow)["middle"] == (status.INTERRUPTED, message)


def test_a_changed_input_makes_everything_anew(tmp_path):
    text = tmp_path / "text"
    text.write_text("one\n")
    workflow = small_workflow(tmp_path / "run", reads=[str(text)])
    build(workflow)
    text.write_text("two\n")
    found = statuses(workflow)
    assert found["data"] == (status.CHANGED, f"{text} has changed")
    assert {name for name in NAMES if found[name][0] == status.CHANGED} == set(NAMES)
    text.unlink()
    with pytest.raises(FileNotFoundError, match="text, which the run reads, is missing"):
        status.step_statuses(workflow)


def test_an_interrupted_step_goes_on_and_a_changed_one_begins_anew(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    status.prepare_steps(workflow, status.step_statuses(workflow))
    run_step(workflow, "data")
    attempts = status.attempts_path(workflow, workflow.step("teacher"))
    hour = "2026-01-01T00"  # a minute of work before the kill
    attempt = {"start": f"{hour}:00:00+00:00", "seen": f"{hour}:01:00+00:00"}
    attempts.write_text(json.dumps([attempt]))
    folder = Path(workflow.step("teacher").folder)
    folder.mkdir()
    (folder / "text").write_text("line\nline\nline\n")
    assert statuses(workflow)["teacher"] == (status.INTERRUPTED, "it was interrupted")
    build(workflow)
    message = manifest(workflow, "teacher")
    assert (message["attempts"], message["seconds"] >= 60) == (2, True)
    assert (folder / "text").read_text() == "line\n" * 5


def test_a_folder_that_the_run_did_not_make_is_moved_aside(tmp_path):
    workflow = small_workflow(tmp_path / "run")
    folder = Path(workflow.step("teacher").folder)
    folder.mkdir(parents=True)
    (folder / "text").write_text("of another run\n")
    message = f"{folder} already existed and was not created by this run"
    assert statuses(workflow)["teacher"] == (status.CHANGED, message)
    build(workflow)
    kept = Path(workflow.folder) / "replaced" / "teacher.1" / "text"
    assert kept.read_text() == "of another run\n"
    assert (folder / "text").read_text() == "line\n" * 5


def test_a_manifest_records_the_commands_and_files_of_a_step(workflow):
    message = manifest(workflow, "student")
    path = workflow.step("student").makes[0]
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    assert message["outputs"] == {path: {"bytes": Path(path).stat().st_size, "sha256": digest}}
    assert message["recipe"]["commands"] == workflow.step("student").commands
    assert message["parents"] == ["data", "middle"]
    assert message["seed"] == 1
    assert "torch" in message["versions"]


def test_steps_of_one_folder_are_made_anew_together(workflow):
    steps = [
        step._replace(folder=workflow.step("middle").folder) if step.name == "undistilled" else step
        for step in workflow.steps
    ]
    joined = workflow._replace(steps=steps)
    Path(workflow.step("middle").makes[0]).unlink()
    found = statuses(joined)
    assert found["undistilled"][0] == status.DAMAGED
    assert found["undistilled"][1].startswith("middle: ")
    assert found["teacher"][0] == status.DONE


def test_a_step_is_stale_if_a_step_before_it_has_other_outputs(workflow):
    path, message = (
        Path(workflow.step("middle").makes[0]),
        status.manifest_path(workflow, workflow.step("middle")),
    )
    path.write_text("another model\n")
    digest = hashlib.sha256(b"another model\n").hexdigest()
    content = manifest(workflow, "middle")
    content["outputs"] = {str(path): {"bytes": 14, "sha256": digest}}  # as if only it was remade
    write_sealed(message, content)
    found = statuses(workflow)
    assert found["middle"] == (status.DONE, "")
    assert found["student"] == (status.CHANGED, "middle was made again")


def test_a_report_that_is_made_anew_is_kept(workflow):
    def with_report(workflow):
        last = workflow.steps[-1]._replace(folder=None)
        return workflow._replace(steps=[*workflow.steps[:-1], last])

    old = Path(workflow.steps[-1].makes[0]).read_text()
    build(with_report(small_workflow(workflow.folder, student_lines=6)))
    assert (Path(workflow.folder) / "replaced" / "evaluation.1" / "text.made").read_text() == old


def test_what_a_report_shows_is_kept_beside_it_when_it_is_made_anew(tmp_path):
    run = tmp_path / "run"

    def workflow_of(word):
        said = f"cd {run}; mkdir -p plots translations; "
        said += f"tee report.md plots/size.png translations/student.txt <<< {word}"
        step = Step("evaluation", "evaluate", [["bash", "-c", said]], [], [], [f"{run}/report.md"])
        return Workflow(str(run), {}, 1, [step])

    build(workflow_of("old"))
    build(workflow_of("new"))
    for name in ("report.md", "plots/size.png", "translations/student.txt"):
        assert (run / "replaced" / "evaluation.1" / name).read_text() == "old\n"
        assert (run / name).read_text() == "new\n"


def test_shards_of_another_number_are_no_shards_of_this(tmp_path):
    folder = tmp_path / "run" / "all"

    def in_shards(count):
        names = [f"all-{index}-of-{count}" for index in range(1, count + 1)]
        parts = [
            Step(name, "translate", [["mkdir", "-p", str(folder)]], [], [], [], str(folder))
            for name in names
        ]
        merge = Step("all", "merge", [["true"]], names, [], [], str(folder))
        return Workflow(str(tmp_path / "run"), {}, 1, [*parts, merge])

    assert len(build(in_shards(4))) == 5
    two = in_shards(2)
    status.prepare_steps(two, status.step_statuses(two))
    assert build(in_shards(4)) == [step.name for step in in_shards(4).steps]


def test_a_step_that_was_changed_while_it_ran_does_not_count(workflow):
    step = workflow.step("student")
    other = {"id": "another", "commands": [], "reads": {}, "after": {}}
    change = [
        "cp",
        str(write_sealed(Path("other"), other)),
        str(status.recipe_path(workflow, step)),
    ]
    changed = [
        each._replace(commands=[change]) if each == step else each for each in workflow.steps
    ]
    workflow = workflow._replace(steps=changed)
    status.prepare_steps(
        workflow,
        [each for each in status.step_statuses(workflow) if each.step.name == "student"],
    )
    with pytest.raises(
        ValueError, match=r"student was changed while it ran\. Its result is discarded\."
    ):
        run_step(workflow, "student")
    assert manifest(workflow, "student") is None


def test_a_stale_step_that_still_runs_is_left_alone(workflow, monkeypatch):
    monkeypatch.setattr(status, "WAIT_SECONDS", 0.1)
    changed = small_workflow(workflow.folder, student_lines=6)
    with (Path(workflow.folder) / "steps" / "student.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            ValueError, match="student still runs with its old commands, in the job of a killed"
        ):
            status.prepare_steps(changed, status.step_statuses(changed))
    assert Path(workflow.step("student").makes[0]).is_file()
    assert manifest(workflow, "student") is not None


def test_the_commands_of_this_environment_come_first(workflow, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    out = Path(workflow.folder) / "prefix"
    command = ["python", "-c", f"import sys; open({str(out)!r}, 'w').write(sys.prefix)"]
    which = Step("which", "train", [command], [], [], [str(out)])
    asked = workflow._replace(steps=[*workflow.steps, which])
    status.prepare_steps(
        asked, [each for each in status.step_statuses(asked) if each.step.name == "which"]
    )
    assert run_step(asked, "which") == 0
    assert out.read_text() == sys.prefix


def test_a_step_that_makes_nothing_is_no_success(workflow):
    broken = workflow.step("student")._replace(
        name="broken", commands=[["true"]], makes=["no/file"]
    )
    broken = workflow._replace(steps=[*workflow.steps, broken])
    status.prepare_steps(
        broken, [each for each in status.step_statuses(broken) if each.step.name == "broken"]
    )
    with pytest.raises(FileNotFoundError, match="broken ended without no/file, which it should"):
        run_step(broken, "broken")


def test_a_step_that_is_none_is_refused_with_all_names(workflow):
    with pytest.raises(ValueError, match=r"has no step stdent\. Its steps are data, teacher"):
        workflow.step("stdent")


def test_what_is_made_anew_forgets_its_own_shards_and_no_others(workflow):
    steps = Path(workflow.folder) / "steps"
    own = [steps / f"student-1-of-2{end}" for end in (".json", ".recipe.json", ".attempts")]
    others = [steps / "student-1-of-2.lock", steps / "student-distilled-1-of-2.json"]
    others += [steps / f"student-1-of-3{end}" for end in (".json", ".recipe.json", ".attempts")]
    for path in (*own, *others):
        path.touch()
    others[2].write_text((steps / "teacher.json").read_text())  # of a finished stage of that name
    stage = workflow.step("teacher")._replace(
        name="student-1-of-3", folder=f"{workflow.folder}/another"
    )
    changed = small_workflow(workflow.folder, student_lines=6)
    changed = changed._replace(steps=[*changed.steps, stage])
    stale = [each for each in status.step_statuses(changed) if each.step.name == "student"]
    status.prepare_steps(changed, stale)
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


def test_a_manifest_has_the_updates_of_the_checkpoints_and_the_scores_of_the_best(tmp_path):
    for name, updates in (("checkpoint_best.pt", 16), ("checkpoint_last.pt", 18)):
        torch.save({"optimizer_history": [{"num_updates": updates}]}, tmp_path / name)
    rows = [(12, 7.743), (15, 7.709), (16, 7.722), (18, 7.748)]  # at 15 nothing was saved
    lines = [
        f'| INFO | valid | {{"epoch": 1, "valid_nll_loss": "{nll}", "valid_num_updates": "{at}"}}'
        for at, nll in rows
    ]
    (tmp_path / "train.log").write_text("\n".join(["$ fairseq-train bin", *lines]))
    made = [str(tmp_path / "checkpoint_best.pt")]
    step = Step("student", "train", [["fairseq-train"]], [], [], made, str(tmp_path))
    assert execution._training(step) == {
        "updates": 18,
        "updates_behind": 16,
        "scores": {"nll_loss": 7.722},
    }


@pytest.fixture
def reading(tmp_path):
    """A workflow whose first step reads a file of the user's, and that file."""
    path = tmp_path / "teacher.pt"
    path.write_text("a teacher")
    return small_workflow(tmp_path / "run", reads=[str(path)]), path


def test_a_step_does_not_read_another_file_than_was_checked(reading):
    workflow, path = reading
    status.prepare_steps(workflow, status.step_statuses(workflow))
    path.write_text("another one")
    message = rf"^{path} was changed since the run was started, before data could read it\. Run the"
    with pytest.raises(ValueError, match=message):
        run_step(workflow, "data")
    assert not Path(workflow.step("data").folder).exists()
    path.write_text("a teacher")
    assert statuses(workflow)["data"][0] == status.INTERRUPTED


def test_a_step_is_made_again_if_a_file_was_changed_while_it_ran(reading, monkeypatch):
    workflow, path = reading
    status.prepare_steps(workflow, status.step_statuses(workflow))

    def swapped(*args):
        path.write_text("another one")
        return 0

    monkeypatch.setattr(execution, "_run", swapped)
    with pytest.raises(ValueError, match=rf"^{path} was changed while data used it\. Run the same"):
        run_step(workflow, "data")
    path.write_text("a teacher")  # it is unknown which of them was read
    assert statuses(workflow)["data"] == (status.CHANGED, f"{path} has changed")
