"""Every command refuses every hostile file with one sentence, and changes nothing.

A row is a file, a column a command. What a command legitimately accepts is stated as such below.
Each command and each file is tried once; all pairs are, by ``pytest -m slow``.
"""

from pathlib import Path

import pytest
from harness import SIZE, Setup, copy_dictionaries
from hostile_files import ACCEPTED, NOT_FINITE, OTHER_TASKS, REFUSED, crossed, refused, snapshot
from three_languages import PIVOT

from fairseq_kd import cli

PLAIN = ["--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"]
RUN = "data: {data}\nteacher: {bad}\ntarget: 0.5\ntrain: {{max-update: 9}}\n"
FEW = ["--max-len-a", "0", "--max-len-b", "3"]  # a model with random weights does not end
TAKES_A_TEACHER = ["word_kd", "feature_kd", "attention_kd", "hybrid_kd", "multi_teacher_kd"]


def plan(bad, **good):
    return ["plan", "--teacher", bad, "--ladder", "0.5"]


def store(bad, data, out, **good):
    return ["store", "--teacher", bad, "--data", data, "--out", out, "--subset", "valid"]


def translate(bad, data, out, **good):
    words = ["translate", "--teacher", bad, "--data", data, "--out", out, "--subset", "valid"]
    return [*words, "--engine", "fairseq", "--beam", "1", *FEW]


def translate_by_two(bad, data, out, teacher, **good):
    return translate(f"{teacher}:{bad}", data, out)


def inherit(bad, out, **good):
    return ["inherit", "--teacher", bad, "--arch", "transformer", "--out", out, "--", *SIZE[3:]]


def extract_peer(bad, out, **good):
    return ["extract-peer", bad, "--out", out]


def export(bad, data, out, **good):
    return ["export", bad, "--data", data, "--out", out]


def evaluate(role):
    def words(bad, data, out, teacher, **good):
        systems = {"teacher": teacher, "student": teacher, "control": f"c={teacher}", role: bad}
        flags = [word for item in systems.items() for word in (f"--{item[0]}", item[1])]
        return ["evaluate", *flags, "--data", data, "--out", out]

    return words


def stage(bad, data, out, **good):
    training = ["fairseq-train", data, "--arch", "transformer", "--save-dir", out]
    training += ["--max-update", "1"]
    return ["stage", "student", "--", *training, "--finetune-from-model", bad]


def dry_run(bad, data, out, **good):
    path = Path(out).with_name("run.yaml")
    path.write_text(RUN.format(data=data, bad=bad))
    return ["progressive", path, "--dry-run"]


COMMANDS = {
    "plan": plan,
    "store": store,
    "translate": translate,
    "translate, one of two": translate_by_two,
    "inherit": inherit,
    "export": export,
    "evaluate --teacher": evaluate("teacher"),
    "evaluate --student": evaluate("student"),
    "evaluate --control": evaluate("control"),
    "stage": stage,
    "progressive": dry_run,
    "extract-peer": extract_peer,
}


@pytest.fixture(scope="module")
def good(data, tmp_path_factory):
    """A checkpoint with random weights and its dictionaries beside it."""
    folder = tmp_path_factory.mktemp("good")
    copy_dictionaries(data, folder)
    return Setup(data, *PLAIN).save(folder / "teacher.pt")


@pytest.fixture(scope="module")
def files(good, tmp_path_factory):
    """Writes a hostile file once, in a folder of its own with the dictionaries; its path."""
    made = {}

    def write(how):
        if how not in made:
            folder = copy_dictionaries(good.parent, tmp_path_factory.mktemp("hostile"))
            made[how] = folder / "hostile.pt"
            how(made[how], good)
        return made[how]

    return write


@pytest.fixture
def refuse(data, tmp_path, monkeypatch, capsys):
    """Runs a command that must be refused, in a folder where nothing may change."""
    monkeypatch.chdir(tmp_path)
    return lambda words, bad, message: refused(capsys, words, [tmp_path, bad.parent], bad, message)


def words_of(command, bad, data, good, tmp_path):
    return COMMANDS[command](bad=bad, data=data, out=tmp_path / "out", teacher=good)


@pytest.mark.parametrize(("command", "kind"), crossed(COMMANDS, REFUSED))
def test_a_hostile_checkpoint_is_refused_by_every_command(
    command, kind, files, refuse, data, good, tmp_path
):
    write, message = REFUSED[kind]
    bad = files(write)
    words = words_of(command, bad, data, good, tmp_path)
    refuse(words, bad, message)


@pytest.mark.parametrize(
    ("command", "kind"), crossed([each for each in COMMANDS if each != "extract-peer"], NOT_FINITE)
)
def test_no_command_uses_weights_that_are_not_finite(
    command, kind, files, refuse, data, good, tmp_path
):
    write, message = NOT_FINITE[kind]
    bad = files(write)
    refuse(words_of(command, bad, data, good, tmp_path), bad, message)


@pytest.mark.parametrize(
    ("command", "task"),
    crossed([each for each in COMMANDS if each not in ("extract-peer", "stage")], OTHER_TASKS),
)  # a stage may start from whatever model fairseq-train can build
def test_no_command_gives_a_model_of_another_task_wrong_input(
    command, task, files, refuse, data, good, tmp_path
):
    write, message = OTHER_TASKS[task]
    bad = files(write)
    refuse(words_of(command, bad, data, good, tmp_path), bad, message)


@pytest.mark.parametrize(
    ("criterion", "kind"), crossed(TAKES_A_TEACHER, [*REFUSED, *NOT_FINITE, *OTHER_TASKS])
)
def test_a_hostile_checkpoint_is_refused_by_every_criterion(criterion, kind, files, data, good):
    write, message = {**REFUSED, **NOT_FINITE, **OTHER_TASKS}[kind]
    bad = files(write)
    before = snapshot(bad.parent)
    named = f"{good}:{bad}" if criterion == "multi_teacher_kd" else bad
    with pytest.raises(ValueError, match=r"\.$") as error:
        Setup(data, "--criterion", criterion, "--kd-teacher", named)
    printed = str(error.value)
    assert printed.startswith(f"--kd-teacher {bad} ")
    assert message in printed
    assert "\n" not in printed
    assert snapshot(bad.parent) == before


@pytest.mark.parametrize("kind", ["code", "text", "not a number", "online_backtranslation"])
def test_no_teacher_of_a_pivot_language_is_taken_either(kind, files, three_way):
    write, message = {**REFUSED, **NOT_FINITE, **OTHER_TASKS}[kind]
    bad = files(write)
    with pytest.raises(ValueError, match=r"\.$") as error:
        Setup(three_way, "--criterion", "cross_lingual_kd", *PIVOT, "--kd-teacher", bad)
    assert str(error.value).startswith(f"--kd-teacher {bad} {message}")


@pytest.mark.parametrize(
    ("command", "kind"), crossed(["plan", "store", "translate", "inherit"], ACCEPTED)
)
def test_a_checkpoint_without_what_only_a_training_needs_is_used(
    command, kind, files, data, good, tmp_path
):
    words = words_of(command, files(ACCEPTED[kind]), data, good, tmp_path)
    assert cli.main([str(word) for word in words]) == 0


@pytest.mark.parametrize("kind", ACCEPTED)
def test_such_a_checkpoint_can_teach(kind, files, data):
    setup = Setup(data, "--criterion", "word_kd", "--kd-teacher", files(ACCEPTED[kind]))
    assert setup.criterion(setup.model, setup.batch(0))[2]["kd_loss"] > 0


@pytest.mark.parametrize("kind", ["no history", "args alone"])
def test_a_training_that_fairseq_would_not_start_from_it_is_refused(
    kind, files, refuse, data, good, tmp_path
):
    bad = files(ACCEPTED[kind])
    message = f"--finetune-from-model {bad} holds no 'optimizer_history', which fairseq-train"
    refuse(stage(bad, data, tmp_path / "out"), bad, message)
