"""From a run file to its workflow: the steps, and refusals before anything runs."""

import json
import os
import re
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fairseq import tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from workflows import TEACHER, build, small_workflow, statuses, training_of

from fairseq_kd.cli import parser
from fairseq_kd.files.locks import locked
from fairseq_kd.pipeline import preparation
from fairseq_kd.pipeline.status import DONE
from fairseq_kd.pipeline.training_check import check_training_command

SMALL = "transformer_kd_small_student"
EVERYTHING = f"""\
{TEACHER}ladder:
  - 0.7
  - {{ratio: 0.4, name: half, soft-targets: store, data: mixed, start: inherit}}
  - {{ratio: 0.2, learns-from: [teacher, half], data: distilled, curriculum: 1, patience: 3}}
each: {{temperature: {{from: 6, to: 2}}, alpha: 0.7, beta: 0.3}}
controls: [undistilled, one-step]
distilled: {{shards: 2, translate: {{beam: 3, nbest: 3}}, distill-data: {{select: mbr}}}}
store: {{shards: 2, topk: 8}}
evaluate: {{subset: valid, rounds: 1, no-memory: true}}
gpus: 2
"""


def trainings(workflow):
    return {
        step.name: check_training_command(training_of(step))
        for step in workflow.steps
        if step.kind == "train"
    }


def parameters(args):
    """Of the model that fairseq-train would build."""
    cfg = convert_namespace_to_omegaconf(Namespace(**args))
    model = tasks.setup_task(cfg.task).build_model(cfg.model)
    return sum(each.numel() for each in model.parameters())


def test_a_target_gives_a_ladder_with_names_by_ratio_and_a_student(workflow_of):
    trained = trainings(workflow_of("target: 0.25"))  # at 0.343 it would be the student's size
    assert list(trained) == ["stage-70", "stage-49", "student", "undistilled"]
    assert [args["encoder_embed_dim"] for args in trained.values()] == [48, 48, 32, 32]
    assert [args["decoder_layers"] for args in trained.values()] == [3, 2, 1, 1]
    assert all(args["encoder_normalize_before"] for args in trained.values())  # as the teacher
    assert all(args["share_all_embeddings"] for args in trained.values())


def test_stages_have_the_names_that_they_are_given(workflow_of):
    ladder = f"ladder: [1.0, 0.7, {{ratio: 0.4, name: half}}, {{arch: {SMALL}}}, {{arch: {SMALL}}}]"
    assert list(trainings(workflow_of(ladder))) == [
        "stage-70",
        "half",
        SMALL,
        "student",
        "undistilled",
    ]


def test_a_budget_of_parameters_is_kept_and_used(workflow_of):
    trained = trainings(workflow_of("parameters: 40K\nfactor: 0.8"))
    assert {"stage-80", "student", "undistilled"} < trained.keys()
    assert 20_000 < parameters(trained["student"]) <= 40_000 < parameters(trained["stage-80"])
    trained = trainings(workflow_of("parameters: 150K\nstrategy: depth"))
    assert parameters(trained["student"]) <= 150_000
    assert trained["student"]["encoder_embed_dim"] == 64


@pytest.mark.parametrize("ladder", ["[0.5]", f"[{{arch: {SMALL}}}]"])
def test_a_teacher_that_is_no_checkpoint_is_refused(workflow_of, ladder):
    Path("strange.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"the teacher strange\.pt is not a fairseq checkpoint"):
        workflow_of(f"teacher: strange.pt\nladder: {ladder}")


def test_a_teacher_without_a_checkpoint_is_trained_first(workflow_of):
    workflow = workflow_of(f"{TEACHER}ladder: [0.5]")
    assert [step.name for step in workflow.steps][:2] == ["teacher", "student"]
    trained = trainings(workflow)
    assert trained["teacher"]["criterion"] == "label_smoothed_cross_entropy"
    assert trained["student"]["kd_teacher"] == workflow.step("teacher").makes[0]
    assert workflow.step("student").after == ["teacher"]
    assert trained["student"]["encoder_layers"] == trained["teacher"]["encoder_layers"] // 2


def test_every_command_is_one_that_its_program_understands(workflow_of):
    workflow = workflow_of(EVERYTHING)
    understood = set()
    for step in workflow.steps:
        for command in step.commands:
            assert command[0] == "fairseq-kd"
            understood.add(parser().parse_args(command[1:]).subcommand)
    assert understood == {
        *("stage", "store", "store-merge", "translate", "merge", "distill-data"),
        *("inherit", "evaluate"),
    }
    assert len(trainings(workflow)) == 6


def test_steps_stand_after_those_that_they_need(workflow_of):
    workflow = workflow_of(EVERYTHING)
    names = [step.name for step in workflow.steps]
    assert len({*names}) == len(names)
    for step in workflow.steps:
        assert {*step.after} <= {*names[: names.index(step.name)]}
    makers = {path: step.name for step in workflow.steps for path in step.makes}
    for step in workflow.steps:  # a file of the run that a command names is made by a step before
        words = {part for word in step.commands[0] for part in re.split("[:=]", word)}
        needed = {makers[word] for word in words if word in makers} - {step.name}
        assert needed <= _before(workflow, step.name)


def _before(workflow, name):
    found = {*workflow.step(name).after}
    return found.union(*(_before(workflow, each) for each in found))


# ---- when the commands are tried anew, and whose they are


@pytest.fixture
def tried(monkeypatch):
    """How often the commands of a run were tried; only counted, for other tests do that."""
    runs = []
    monkeypatch.setattr(preparation, "check_steps", lambda *given: runs.append(given))
    return runs


def test_commands_are_tried_once_while_file_changes_teacher_and_data_are_the_same(
    workflow_of, tried
):
    first = workflow_of(f"ladder: [{{arch: {SMALL}}}]", "seed=2")
    assert first.seed == 2
    assert workflow_of(f"ladder: [{{arch: {SMALL}}}]", "seed=2") == first
    assert len(tried) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda workflow: workflow["steps"][0].update(commands=[["touch", "theirs"]]),
        lambda workflow: workflow["steps"][0].update(folder="thesis", makes=["thesis/notes"]),
        lambda workflow: workflow["steps"][0].update(reads=[]),
        lambda workflow: workflow.update(folder="elsewhere"),
        lambda workflow: workflow["steps"].append({**workflow["steps"][0], "name": "theirs"}),
        lambda workflow: workflow.update(seed=7),
    ],
)
def test_what_somebody_wrote_into_the_file_is_neither_run_nor_moved(workflow_of, tried, change):
    text = f"ladder: [{{arch: {SMALL}}}]"
    workflow = workflow_of(text)
    file = Path(workflow.folder) / "workflow.json"
    right, theirs = file.read_text(), json.loads(file.read_text())
    change(theirs)
    file.write_text(json.dumps(theirs))
    assert workflow_of(text) == workflow
    assert (file.read_text(), len(tried)) == (right, 2)


def test_another_file_value_teacher_or_data_makes_another_workflow(
    workflow_of, tried, data, tmp_path
):
    copy, teacher = tmp_path / "copy", tmp_path / "teacher.pt"
    copy.mkdir()
    for name in os.listdir(data):
        (copy / name).write_bytes((Path(data) / name).read_bytes())
    teacher.write_text("one")
    text = f"data: copy\nteacher: teacher.pt\nladder: [{{arch: {SMALL}}}]"
    workflow_of(text)
    for count, change in enumerate(
        (
            lambda: workflow_of(text + "\nseed: 3"),
            lambda: workflow_of(text + "\nseed: 3", "seed=4"),
            lambda: teacher.write_text("two") and workflow_of(text, "seed=4"),
            lambda: (copy / "test1.es-en.es.idx").touch() or workflow_of(text, "seed=4"),
            lambda: (copy / "dict.en.txt").write_text("a 1\n") and workflow_of(text, "seed=4"),
        ),
        start=2,
    ):
        change()
        assert len(tried) == count


def test_a_run_that_was_finished_when_its_file_was_plan_json_is_not_trained_again(
    workflow_of, tried, monkeypatch
):
    folder = Path("runs/run")
    steps = small_workflow(folder).steps
    assert len(build(small_workflow(folder))) == len(steps)
    content = json.loads((folder / "workflow.json").read_text())
    inputs = content.pop("inputs")
    former = json.dumps({**content, "made_from": inputs})
    (folder / "plan.json").write_text(former)
    (folder / "workflow.json").unlink()
    steps = [SimpleNamespace(recorded=lambda step=step: step) for step in steps]
    laid_out = SimpleNamespace(steps=steps, user_dir="user_dir")
    monkeypatch.setattr(preparation, "lay_out", lambda run: laid_out)
    workflow = workflow_of("ladder: [0.5]")
    assert {state for state, _ in statuses(workflow).values()} == {DONE}
    assert build(workflow) == []
    assert (folder / "workflow.json").is_file()
    assert (folder / "plan.json").read_text() == former
    assert len(tried) == 1


def test_a_changed_workflow_is_not_put_under_a_driver_that_works(workflow_of, tmp_path):
    workflow = workflow_of(f"ladder: [{{arch: {SMALL}}}]")
    kept = (tmp_path / workflow.folder / "workflow.json").read_bytes()
    with locked(tmp_path / workflow.folder / ".lock", "the run"):
        assert workflow_of(f"ladder: [{{arch: {SMALL}}}]") == workflow
        with pytest.raises(ValueError, match=f"in use since .* by process {os.getpid()}"):
            workflow_of(f"ladder: [{{arch: {SMALL}}}]", "seed=5")
    assert (tmp_path / workflow.folder / "workflow.json").read_bytes() == kept


# ---- what is refused

REFUSALS = {
    "an unknown model": (
        "ladder: [0.7, {ratio: 0.4, learns-from: stage-50}]",
        r"student learns from stage-50, which is not trained before it\. Before it are teacher, st",
    ),
    "itself": (
        "ladder: [{ratio: 0.5, learns-from: student}]",
        "student learns from student, which",
    ),
    "a folder's name": (
        "ladder: [{ratio: 0.5, name: logs}]",
        r"a stage is called logs, which is also the name of another part of the run\. Give it "
        r"another name\.",
    ),
    "the driver's name": ("ladder: [{ratio: 0.5, name: driver}]", "a stage is called driver, w"),
    "Snakemake's name": ("ladder: [{ratio: 0.5, name: snakemake}]", "a stage is called snakemak"),
    "settings of the teacher in the ladder": (
        "ladder: [{ratio: 1, temperature: 2}, 0.4]",
        r"the first entry of the ladder has the ratio 1, which is the teacher itself, so its other "
        r"keys have no effect\. Leave them out\.",
    ),
    "the teacher's name": (
        "ladder: [{ratio: 0.5, name: teacher}]",
        "a stage is called teacher, which is also the name of another part of the run",
    ),
    "a control's name": (
        "ladder: [{ratio: 0.5, name: one-step}]",
        "a stage is called one-step, which is also the name of another part of the run",
    ),
    "a doubled name": (
        "ladder: [{ratio: 0.7, name: a}, {ratio: 0.4, name: a}]",
        "a stage is called a, which is also the name of another",
    ),
    "a start's name": (
        "ladder: [{ratio: 0.7, name: student-start}, {ratio: 0.4, start: inherit}]",
        "a stage is called student-start, which is also the name of another part",
    ),
    "a store's name": (
        "ladder: [{ratio: 0.7, name: teacher-store}, {ratio: 0.4, learns-from: teacher, "
        "soft-targets: store}]",
        "a stage is called teacher-store, which is also the name of another part",
    ),
    "the distilled set's name": (
        "ladder: [{ratio: 0.7, name: distilled}, {ratio: 0.4, data: distilled}]",
        "a stage is called distilled, which is also the name of another part",
    ),
    "no stage": (
        "ladder: [1.0]",
        r"the ladder has no stage below the teacher\. Add one, such as 0\.5\.",
    ),
    "stages that go up": ("ladder: [0.4, 0.7]", r"must go down, but 0\.7 follows 0\.4"),
    "a budget that is none": ("parameters: many", r"run\.yaml: parameters must be a number such"),
    "a budget for the teacher": (
        "parameters: 1B",
        r"run\.yaml: parameters allows 1,000,000,000 pa",
    ),
    "a misspelt flag of all": (
        "ladder: [0.5]\ntrain: {max-updates: 5}",
        r"does not understand the training of student: unrecognized arguments: --max-updates 5\.",
    ),
    "a misspelt flag of a stage": (
        "ladder: [0.7, {ratio: 0.4, train: {dropuot: 0.2}}]",
        "does not understand the training of student: unrecognized arguments: --dropuot",
    ),
    "a misspelt flag of ours": (
        "ladder: [0.5]\nevaluate: {bem: 5}",
        r"run\.yaml: evaluate: --bem is not a flag of fairseq-kd evaluate\. Did you mean --beam\?",
    ),
    "a wrong choice of ours": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {distill-data: {select: worst}}",
        r"distilled\.distill-data: --select must be one of best, nbest, interpolation, mbr, sc",
    ),
    "more translations than the beam has": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {translate: {beam: 0}}",
        r"distilled\.translate: --beam must be a whole number from 1 to 1,000, but is 0\.",
    ),
    "a flag of the distilled set without effect": (
        "ladder: [{ratio: 0.5, data: mixed}]\ndistilled: {distill-data: {copies: 2}}",
        r"the step mixed is refused: --copies has no effect without --select nbest\.",
    ),
    "an evaluation out of range": (
        "ladder: [0.5]\nevaluate: {rounds: -1}",
        r"run\.yaml: evaluate: --rounds must be a whole number from 0 to 1,000, but is -1\.",
    ),
    "something else than a checkpoint to compare": (
        "ladder: [0.5]\ncompare: {b: run.yaml}",
        r"run\.yaml: compare: run\.yaml is not a fairseq checkpoint: torch cannot read it\. Give",
    ),
    "references of another set": (
        "ladder: [0.5]\nevaluate: {reference: run.yaml}",
        r"evaluate: --reference run\.yaml has 5 lines, but test in \S+ has \d+ sentences\. Give",
    ),
    "a tokenizer that is not installed": (
        "ladder: [0.5]\nevaluate: {sacrebleu-tokenize: ja-mecab}",
        r"evaluate: BLEU of en by the tokenizer ja-mecab needs a package that is not installed",
    ),
}


@pytest.mark.parametrize("wrong", REFUSALS)
def test_a_mistake_is_reported_before_anything_runs(workflow_of, tmp_path, wrong):
    text, message = REFUSALS[wrong]
    with pytest.raises(ValueError, match=message):
        workflow_of(text)
    assert not (tmp_path / "runs" / "run" / "workflow.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed=[", r"--set seed=\[: \[ cannot be read as YAML\."),
        ("ladder.3.ratio=0.2", r"the run file has no place ladder\.3\.ratio"),
        ("seed", r"--set must be KEY=VALUE, such as train\.lr=1e-3, but is seed\."),
        ("sed=2", r"has an unknown key sed\. Did you mean seed\?"),
    ],
)
def test_a_change_that_cannot_be_made_is_reported(workflow_of, change, message):
    with pytest.raises(ValueError, match=message):
        workflow_of("ladder: [0.5]", change)


MISSING = {
    "the teacher": (
        "teacher: none.pt\nladder: [0.5]",
        r"run\.yaml: the teacher none\.pt does not exist\. Give a checkpoint, or teacher: \{arch",
    ),
    "the data": (
        "data: none\nladder: [0.5]",
        r"data: none is not a folder\. Give what fairseq-prepro",
    ),
    "the training set": ("data: empty\nladder: [0.5]", r"data: empty holds no training set\."),
    "the text": (
        "data: {text: none, source: es, target: en}\nladder: [0.5]",
        r"data\.text: none/train\.es is missing, and so are none/train\.es\.xz and "
        r"none/train\.es\.gz\.",
    ),
    "a start": (
        "ladder: [{ratio: 0.5, start: none.pt}]",
        r"student starts from none\.pt, which does not exist\. Give cold, inherit, the name of an ",
    ),
    "the set to evaluate": (
        "ladder: [0.5]\nevaluate: {subset: test7}",
        r"holds no test7 set, which the evaluation translates\. Add it, or name another, as evalu",
    ),
    "the plugin": ("ladder: [0.5]\nuser-dir: none", r"run\.yaml: user-dir: none is not a folder\."),
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_missing_is_named(workflow_of, missing):
    text, message = MISSING[missing]
    Path("empty").mkdir()
    with pytest.raises(FileNotFoundError, match=message):
        workflow_of(text)


def test_several_teachers_have_names_that_no_stage_can_have(workflow_of, large_teacher):
    other = shutil.copy(large_teacher, Path(large_teacher).with_name("other.pt"))
    teachers = f"teacher: [{large_teacher}, {other}]\n"
    with pytest.raises(
        ValueError, match="a stage is called teacher-2, which is also the name of another part"
    ):
        workflow_of(f"{teachers}ladder: [{{ratio: 0.5, name: teacher-2}}]")


def test_parameters_cannot_be_counted_before_the_text_is_prepared(workflow_of, prepared):
    text = f"data: {{text: {prepared / 'text'}, source: es, target: en}}\n"
    with pytest.raises(
        ValueError, match=r"before the text is prepared\. Run fairseq-kd prepare --text "
    ):
        workflow_of(f"{text}{TEACHER}parameters: 60K")
