"""What of a run is done, and why the rest is not."""

import fcntl
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from plans import build, made, manifest, small_plan, verdicts, write_sealed

from fairseq_kd.pipeline import state
from fairseq_kd.pipeline.execution import best_validation, run_step
from fairseq_kd.pipeline.workflow import Plan, Step

NAMES = ("data", "teacher", "middle", "student", "undistilled", "evaluation")


def test_all_is_missing_and_then_all_is_done(tmp_path):
    plan = small_plan(tmp_path / "run")
    assert set(verdicts(plan).values()) == {(state.MISSING, "it has not been made yet")}
    assert build(plan) == list(NAMES)
    assert set(verdicts(plan).values()) == {(state.DONE, "")}
    assert build(plan) == []


def test_a_changed_option_makes_its_step_and_those_after_it_anew(plan):
    before = made(plan)
    changed = small_plan(plan.folder, student_lines=6)
    found = verdicts(changed)
    assert [name for name in NAMES if found[name][0] == state.CHANGED] == ["student", "evaluation"]
    assert found["evaluation"][1] == "student must be made again"
    assert build(changed) == ["student", "evaluation"]
    assert len(made(changed)["student"][0]) > len(before["student"][0])
    assert (Path(plan.folder) / "replaced" / "student.1" / "text.made").is_file()


def test_a_changed_flag_is_told_by_its_values(plan):
    step = plan.step("student")
    words = [["fairseq-train", "data", "--kd-temperature", value, "--fp16"] for value in "42"]
    recipes = [{"commands": [each], "reads": {}, "after": {}} for each in words]
    assert state._difference(*recipes) == "--kd-temperature was 4, is 2"
    recipes[1]["commands"][0][-1] = "--bf16"
    told = state._difference(*recipes)
    assert "--fp16 was given, is not given; --bf16 was not given, is given" in told
    assert step.name == "student"


@pytest.mark.parametrize("was", ["user_dir", "/moved/clone/user_dir"])
def test_from_wherever_a_run_is_started_what_is_finished_stays(tmp_path, monkeypatch, was):
    def plan_of(own, lr="1"):
        """Two steps whose commands name the plugin and the script of this clone, or another."""
        words = ["true", "--user-dir", own, "--lr", lr]
        script = str(Path(own).parent / "scripts" / "prepare.sh")
        steps = [
            Step("data", "prepare", [["true", script]], [], [], []),
            Step("student", "train", [words], ["data"], [], []),
        ]
        return Plan(str(tmp_path / "run"), {}, 1, steps)

    clone = Path(state.__file__).parents[2]
    assert build(plan_of(was)) == ["data", "student"]
    assert build(plan_of(str(clone / "user_dir"))) == []
    monkeypatch.chdir(clone)
    assert build(plan_of("user_dir")) == []
    assert build(plan_of("user_dir", lr="2")) == ["student"]
    assert verdicts(plan_of(str(tmp_path / "user_dir")))["data"][0] == state.CHANGED


def test_an_interrupted_step_whose_folder_is_gone_is_told_to_begin_anew(plan):
    state.manifest_path(plan, plan.step("middle")).unlink()
    folder = Path(plan.step("middle").folder)
    folder.rename("elsewhere")
    told = f"it was interrupted, and begins anew: {folder} is not there"
    assert verdicts(plan)["middle"] == (state.BEGUN, told)


def test_a_changed_input_makes_everything_anew(tmp_path):
    text = tmp_path / "text"
    text.write_text("one\n")
    plan = small_plan(tmp_path / "run", reads=[str(text)])
    build(plan)
    text.write_text("two\n")
    found = verdicts(plan)
    assert found["data"] == (state.CHANGED, f"{text} is another file than it was")
    assert {name for name in NAMES if found[name][0] == state.CHANGED} == set(NAMES)
    text.unlink()
    with pytest.raises(FileNotFoundError, match="text is missing, which the run reads"):
        state.judge(plan)


def test_an_interrupted_step_goes_on_and_a_changed_one_begins_anew(tmp_path):
    plan = small_plan(tmp_path / "run")
    state.make_way(plan, state.judge(plan))
    run_step(plan, "data")
    attempts = state.attempts_path(plan, plan.step("teacher"))
    hour = "2026-01-01T00"  # a minute of work before the kill
    attempt = {"start": f"{hour}:00:00+00:00", "seen": f"{hour}:01:00+00:00"}
    attempts.write_text(json.dumps([attempt]))
    folder = Path(plan.step("teacher").folder)
    folder.mkdir()
    (folder / "text").write_text("line\nline\nline\n")
    assert verdicts(plan)["teacher"] == (state.BEGUN, "it was interrupted")
    build(plan)
    told = manifest(plan, "teacher")
    assert (told["attempts"], told["seconds"] >= 60) == (2, True)
    assert (folder / "text").read_text() == "line\n" * 5


def test_a_folder_that_the_run_did_not_make_is_moved_aside(tmp_path):
    plan = small_plan(tmp_path / "run")
    folder = Path(plan.step("teacher").folder)
    folder.mkdir(parents=True)
    (folder / "text").write_text("of another run\n")
    told = f"{folder} was there before, and this run did not make it"
    assert verdicts(plan)["teacher"] == (state.CHANGED, told)
    build(plan)
    kept = Path(plan.folder) / "replaced" / "teacher.1" / "text"
    assert kept.read_text() == "of another run\n"
    assert (folder / "text").read_text() == "line\n" * 5


def test_a_manifest_tells_what_was_done(plan):
    told = manifest(plan, "student")
    path = plan.step("student").makes[0]
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True).stdout.split()[0]
    assert told["outputs"] == {path: {"bytes": Path(path).stat().st_size, "sha256": digest}}
    assert told["recipe"]["commands"] == plan.step("student").commands
    assert told["parents"] == ["data", "middle"]
    assert told["seed"] == 1
    assert "torch" in told["versions"]


def test_steps_of_one_folder_are_made_anew_together(plan):
    steps = [
        step._replace(folder=plan.step("middle").folder) if step.name == "undistilled" else step
        for step in plan.steps
    ]
    joined = plan._replace(steps=steps)
    Path(plan.step("middle").makes[0]).unlink()
    found = verdicts(joined)
    assert found["undistilled"][0] == state.DAMAGED
    assert found["undistilled"][1].startswith("middle: ")
    assert found["teacher"][0] == state.DONE


def test_what_stands_on_a_step_that_gave_something_else_is_stale(plan):
    path, told = Path(plan.step("middle").makes[0]), state.manifest_path(plan, plan.step("middle"))
    path.write_text("another model\n")
    digest = hashlib.sha256(b"another model\n").hexdigest()
    content = manifest(plan, "middle")
    content["outputs"] = {str(path): {"bytes": 14, "sha256": digest}}  # as if only it was remade
    write_sealed(told, content)
    found = verdicts(plan)
    assert found["middle"] == (state.DONE, "")
    assert found["student"] == (state.CHANGED, "middle was made again")


def test_a_report_that_is_made_anew_is_kept(plan):
    def with_report(plan):
        last = plan.steps[-1]._replace(folder=None)
        return plan._replace(steps=[*plan.steps[:-1], last])

    old = Path(plan.steps[-1].makes[0]).read_text()
    build(with_report(small_plan(plan.folder, student_lines=6)))
    assert (Path(plan.folder) / "replaced" / "evaluation.1" / "text.made").read_text() == old


def test_what_a_report_shows_is_kept_beside_it_when_it_is_made_anew(tmp_path):
    run = tmp_path / "run"

    def plan_of(word):
        said = f"cd {run}; mkdir -p plots translations; "
        said += f"tee report.md plots/size.png translations/student.txt <<< {word}"
        step = Step("evaluation", "evaluate", [["bash", "-c", said]], [], [], [f"{run}/report.md"])
        return Plan(str(run), {}, 1, [step])

    build(plan_of("old"))
    build(plan_of("new"))
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
        return Plan(str(tmp_path / "run"), {}, 1, [*parts, merge])

    assert len(build(in_shards(4))) == 5
    two = in_shards(2)
    state.make_way(two, state.judge(two))
    assert build(in_shards(4)) == [step.name for step in in_shards(4).steps]


def test_a_step_that_was_changed_while_it_ran_does_not_count(plan):
    step = plan.step("student")
    other = {"id": "another", "commands": [], "reads": {}, "after": {}}
    change = ["cp", str(write_sealed(Path("other"), other)), str(state.recipe_path(plan, step))]
    changed = [each._replace(commands=[change]) if each == step else each for each in plan.steps]
    plan = plan._replace(steps=changed)
    state.make_way(plan, [each for each in state.judge(plan) if each.step.name == "student"])
    with pytest.raises(ValueError, match=r"student was changed while it ran\. Its result does not"):
        run_step(plan, "student")
    assert manifest(plan, "student") is None


def test_a_stale_step_that_still_runs_is_left_alone(plan, monkeypatch):
    monkeypatch.setattr(state, "PATIENCE_SECONDS", 0.1)
    changed = small_plan(plan.folder, student_lines=6)
    with (Path(plan.folder) / "steps" / "student.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"student still runs by its old commands, as the job"):
            state.make_way(changed, state.judge(changed))
    assert Path(plan.step("student").makes[0]).is_file()
    assert manifest(plan, "student") is not None


def test_the_commands_of_this_environment_come_first(plan, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    out = Path(plan.folder) / "prefix"
    command = ["python", "-c", f"import sys; open({str(out)!r}, 'w').write(sys.prefix)"]
    which = Step("which", "train", [command], [], [], [str(out)])
    asked = plan._replace(steps=[*plan.steps, which])
    state.make_way(asked, [each for each in state.judge(asked) if each.step.name == "which"])
    assert run_step(asked, "which") == 0
    assert out.read_text() == sys.prefix


def test_a_step_that_makes_nothing_is_no_success(plan):
    broken = plan.step("student")._replace(name="broken", commands=[["true"]], makes=["no/file"])
    broken = plan._replace(steps=[*plan.steps, broken])
    state.make_way(broken, [each for each in state.judge(broken) if each.step.name == "broken"])
    with pytest.raises(FileNotFoundError, match="broken ended without no/file, which it should"):
        run_step(broken, "broken")


def test_a_step_that_is_none_is_refused_with_all_names(plan):
    with pytest.raises(ValueError, match=r"has no step stdent\. Its steps are data, teacher"):
        plan.step("stdent")


def test_what_is_made_anew_forgets_its_own_shards_and_no_others(plan):
    steps = Path(plan.folder) / "steps"
    own = [steps / f"student-1-of-2{end}" for end in (".json", ".recipe.json", ".attempts")]
    others = [steps / "student-1-of-2.lock", steps / "student-distilled-1-of-2.json"]
    others += [steps / f"student-1-of-3{end}" for end in (".json", ".recipe.json", ".attempts")]
    for path in (*own, *others):
        path.touch()
    others[2].write_text((steps / "teacher.json").read_text())  # of a finished rung of that name
    rung = plan.step("teacher")._replace(name="student-1-of-3", folder=f"{plan.folder}/another")
    changed = small_plan(plan.folder, student_lines=6)
    changed = changed._replace(steps=[*changed.steps, rung])
    stale = [each for each in state.judge(changed) if each.step.name == "student"]
    state.make_way(changed, stale)
    assert not any(path.exists() for path in own)
    assert all(path.exists() for path in others)


@pytest.mark.parametrize(
    ("flags", "update"),
    [
        (["--best-checkpoint-metric", "nll_loss"], 30),
        (["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"], 20),
        ([], 10),
    ],
)
def test_the_scores_of_the_best_checkpoint_are_those_of_its_validation(flags, update):
    records = [
        {"update": 10, "loss": 1.0, "nll_loss": 5.0, "bleu": 2.0},
        {"update": 20, "loss": 2.0, "nll_loss": 4.0, "bleu": 9.0},
        {"update": 30, "loss": 3.0, "nll_loss": 4.0},
    ]
    assert best_validation(records, ["fairseq-train", *flags])["update"] == update
