"""Checkpoints as files: what is read of them, and what is refused."""

import pickle
import re
import zipfile
from argparse import Namespace

import pytest
import torch

from fairseq_kd.checkpoints import check_finite, options_of, read_checkpoint, read_model
from fairseq_kd.updates import updates_done

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
