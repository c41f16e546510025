"""Checkpoints as files: what is read of them, and what is refused."""

import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from fairseq_kd.checkpoints import (
    check_finite,
    inherited_history,
    options_of,
    read_checkpoint,
    read_model,
    updates_behind,
    updates_done,
)

WEIGHTS = {"encoder.weight": torch.arange(6.0).reshape(2, 3), "encoder.version": torch.zeros(1)}
ARGS = Namespace(arch="transformer", criterion="cross_entropy", encoder_layers=2)
CFG = {"model": ARGS, "task": {"_name": "translation", "data": "bin"}, "criterion": None}
GIVE = "Give a file that fairseq-train wrote."
AGAIN = "Copy it again, or give another checkpoint of that training."


def saved(path, state, **how):
    torch.save(state, path, **how)
    return path


def text(path):
    path.write_text("no weights here\n")


def cut_off(path):
    whole = saved(path, {"model": WEIGHTS, "args": ARGS}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def another_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "none")


def lost_bytes(path):
    """An option whose name is no UTF-8, by a writer who takes that for right."""
    whole = saved(path, {"model": WEIGHTS, "args": ARGS})
    with zipfile.ZipFile(whole) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            file.writestr(name, content.replace(b"encoder_layers", b"encoder\xfflayers"))


def a_flipped_bit(path):
    whole = saved(path, {"model": WEIGHTS, "args": ARGS}).read_bytes()
    weights = WEIGHTS["encoder.weight"].numpy().tobytes()
    assert whole.count(weights) == 1
    path.write_bytes(whole.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))


UNREADABLE = f"is not a fairseq checkpoint: torch cannot read it. {GIVE}"
FILES = {
    "text": (text, UNREADABLE),
    "empty": (lambda path: path.touch(), f"is empty. {AGAIN}"),
    "folder": (
        lambda path: path.mkdir(),
        "is a folder, but must be a fairseq checkpoint. Give a file in it, such as "
        "checkpoint_best.pt.",
    ),
    "a flipped bit": (
        a_flipped_bit,
        f"is damaged: the checksum of T/data/0 in it is wrong. {AGAIN}",
    ),
    "cut off": (cut_off, f"is cut off, its end is missing. {AGAIN}"),
    "another zip": (another_zip, UNREADABLE),
    "a byte that is no text": (lost_bytes, UNREADABLE),
    "pickle": (lambda path: path.write_bytes(pickle.dumps([1, 2])), UNREADABLE),
    "list": (
        lambda path: saved(path, [1, 2]),
        "is not a fairseq checkpoint: it holds a list, not weights and options by their names. "
        + GIVE,
    ),
    "a module": (
        lambda path: saved(path, torch.nn.Linear(2, 2)),
        "holds a Python object besides weights, torch.nn.modules.linear.Linear, and is not loaded, "
        "since loading could run its code. If you trust the file, save it again with nothing but "
        "'model', 'args' or 'cfg', 'optimizer_history' and 'extra_state'.",
    ),
}
NO_OPTIONS = "it holds no 'cfg' or 'args' of a model."
STATES = {
    "weights alone": (WEIGHTS, "it holds no 'model'."),
    "no weights": ({"model": {}, "args": ARGS}, "it holds no 'model'."),
    "no tensors": ({"model": {"a": "b"}, "args": ARGS}, "it holds no 'model'."),
    "no options": ({"model": WEIGHTS}, NO_OPTIONS),
    "empty options": ({"model": WEIGHTS, "cfg": {}}, NO_OPTIONS),
    "options in a list": ({"model": WEIGHTS, "args": [1]}, NO_OPTIONS),
    "no architecture": (
        {"model": WEIGHTS, "args": Namespace(task="translation")},
        NO_OPTIONS,
    ),
    "a history of numbers": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [3]},
        "its 'optimizer_history' must be a list of dictionaries, but is [3].",
    ),
    "updates in words": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{"num_updates": "many"}]},
        "its 'num_updates' must be a whole number, but is many.",
    ),
    "a criterion of numbers": (
        {"model": WEIGHTS, "args": ARGS, "criterion": [3]},
        "its 'criterion' must be a dictionary, but is [3].",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint_is_refused_by_its_name(tmp_path, kind):
    write, message = FILES[kind]
    path = tmp_path / "T.pt"
    write(path)
    with pytest.raises(ValueError, match=f"^--teacher T {re.escape(message)}$"):
        read_checkpoint(path, "--teacher T")


@pytest.mark.parametrize("kind", STATES)
def test_a_file_that_lacks_a_part_of_a_checkpoint_is_refused_by_its_name(tmp_path, kind):
    state, message = STATES[kind]
    path = saved(tmp_path / "T.pt", state)
    whole = re.escape(f"{path} is not a fairseq checkpoint: {message} {GIVE}")
    with pytest.raises(ValueError, match=f"^{whole}$"):
        read_checkpoint(path)


def test_a_missing_checkpoint():
    message = r"^gone\.pt does not exist\. Give the path of a fairseq checkpoint\.$"
    with pytest.raises(FileNotFoundError, match=message):
        read_checkpoint("gone.pt")


def test_a_file_of_torchs_old_format_is_read_too(teacher, tmp_path):
    state = read_checkpoint(teacher)
    old = saved(tmp_path / "old.pt", state, _use_new_zipfile_serialization=False)
    assert updates_done(old) == updates_done(teacher) > 0
    model = read_checkpoint(old)["model"]
    assert all(torch.equal(model[name], weight) for name, weight in state["model"].items())


@pytest.mark.parametrize("options", [{"args": ARGS}, {"cfg": CFG}, {"args": None, "cfg": CFG}])
@pytest.mark.parametrize("rest", [{}, {"optimizer_history": [{"optimizer_name": "Adam"}]}])
def test_weights_and_options_are_enough_and_have_no_updates(tmp_path, options, rest):
    path = saved(tmp_path / "T.pt", {"model": WEIGHTS, **options, **rest})
    state = read_checkpoint(path)
    assert updates_done(path) == 0
    assert options_of(state, "model")["_name"] == "transformer"
    assert options_of(state, "model")["encoder_layers"] == 2
    assert options_of(state, "task")["_name"] == "translation"
    assert state["extra_state"]["train_iterator"]["epoch"] == 1


def test_options_of_all_groups_are_in_one_place_in_old_files():
    state = {"args": Namespace(arch="lstm", task="denoising", criterion="nat_loss", _name="lstm")}
    names = [options_of(state, group)["_name"] for group in ("model", "task", "criterion")]
    assert names == ["lstm", "denoising", "nat_loss"]
    assert options_of({"cfg": {"task": {"data": "x"}}}, "criterion") == {"_name": None}


def test_a_task_is_the_one_that_fairseq_would_set_up():
    task = {"_name": "translation", "task": "denoising"}
    assert options_of({"cfg": {"task": task}}, "task")["_name"] == "denoising"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_first_weight_that_is_not_finite_is_named(tmp_path, value, dtype):
    bad = torch.ones(2, 600, dtype=dtype)
    bad[1, :2] = value
    model = {"encoder.version": torch.tensor([value]), "a": torch.ones(1), "b": bad, "c": bad}
    path = saved(tmp_path / "T.pt", {"model": model, "args": ARGS})
    message = (
        "--student T holds NaN or infinity in 2 of the 1,200 numbers of 'b'. Its training "
        "diverged, or the file is damaged: give another checkpoint, such as an earlier one of that "
        "training."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read_model(path, "--student T")


def test_numbers_that_are_no_weights_may_be_anything():
    nothing = torch.tensor([float("nan")])
    check_finite({"embed_positions._float_tensor": nothing, "n": torch.tensor([3])}, "T.pt")


def entry(updates):
    """What fairseq keeps of a training in the history of a checkpoint."""
    names = {"criterion_name": "C", "optimizer_name": "O", "lr_scheduler_state": {"best": None}}
    return {**names, "num_updates": updates}


def write(path, updates, start=None, **options):
    """A checkpoint with what tells of its training, that of a start in front."""
    before = torch.load(start)["optimizer_history"] if start and Path(start).is_file() else []
    checkpoint = {"finetune_from_model": str(start) if start else None, **options}
    history = [*before, entry(updates)]
    torch.save({"cfg": {"checkpoint": checkpoint}, "optimizer_history": history}, path)
    return path


def test_updates_of_a_whole_line_of_starts_are_counted(tmp_path):
    teacher = write(tmp_path / "teacher.pt", 1500)
    middle = write(tmp_path / "middle.pt", 300, teacher)
    student = write(tmp_path / "student.pt", 500, middle)
    assert [updates_behind(each) for each in (teacher, middle, student)] == [1500, 1800, 2300]


def test_updates_of_inherited_weights_are_known_when_their_file_is_gone(tmp_path):
    start = tmp_path / "start.pt"
    history = inherited_history(start, 1800)
    torch.save({"cfg": {"checkpoint": {}}, "optimizer_history": history}, start)
    student = write(tmp_path / "student.pt", 500, start)
    assert updates_behind(start) == 1800
    start.unlink()
    assert updates_behind(student) == 2300


def test_updates_are_unknown_where_the_start_is_gone_or_another_file(tmp_path):
    start = write(tmp_path / "start.pt", 1500)
    student = write(tmp_path / "student.pt", 500, start)
    write(start, 9000)
    assert updates_behind(student) is None
    start.unlink()
    assert updates_behind(student) is None
    assert updates_behind(write(tmp_path / "next.pt", 10, student)) is None


def test_a_training_that_was_restored_goes_on_counting_unless_its_optimizer_is_reset(tmp_path):
    first = write(tmp_path / "first.pt", 100)
    on = write(tmp_path / "on.pt", 250, restore_file=str(first))
    options = {"restore_file": str(first), "reset_optimizer": True}
    state = {"cfg": {"checkpoint": options}, "optimizer_history": [entry(100), entry(50)]}
    torch.save(state, tmp_path / "reset.pt")
    assert updates_behind(on) == 250
    assert updates_behind(tmp_path / "reset.pt") == 150


def test_a_checkpoint_that_names_itself_as_its_start_does_not_go_round(tmp_path):
    path = tmp_path / "round.pt"
    torch.save(
        {
            "cfg": {"checkpoint": {"finetune_from_model": str(path)}},
            "optimizer_history": [{"num_updates": 5}],
        },
        path,
    )
    assert updates_behind(path) is None
