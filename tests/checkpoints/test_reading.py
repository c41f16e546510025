"""Checkpoints as files: their content as read, and refusals."""

import os
import pickle
import re
import zipfile
from argparse import Namespace

import pytest
import torch

from fairseq_kd.checkpoints.reading import options_of, read_checkpoint, read_model
from fairseq_kd.checkpoints.updates import updates_done
from fairseq_kd.checkpoints.weights import check_finite

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


def good_records(path):
    """The records of a good checkpoint, by their names."""
    with zipfile.ZipFile(saved(path, {"model": WEIGHTS, "args": ARGS})) as file:
        return {name: file.read(name) for name in file.namelist()}


def lost_bytes(path):
    """An option whose name is no UTF-8, by a writer who takes that for right."""
    records = good_records(path)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            file.writestr(name, content.replace(b"encoder_layers", b"encoder\xfflayers"))


def a_flipped_bit(path):
    whole = saved(path, {"model": WEIGHTS, "args": ARGS}).read_bytes()
    weights = WEIGHTS["encoder.weight"].numpy().tobytes()
    assert whole.count(weights) == 1
    path.write_bytes(whole.replace(weights, bytes([weights[0] ^ 1]) + weights[1:]))


def compressed(path):
    records = good_records(path)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            packed = zipfile.ZIP_DEFLATED if name == "T/data.pkl" else zipfile.ZIP_STORED
            file.writestr(name, content, compress_type=packed)


def two_directories(path):
    """Records in a directory whose place is named, and again in that before the end of the file."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in good_records(path).items():
            file.writestr(name, content)
    whole, directory = path.read_bytes(), file.start_dir
    path.write_bytes(whole[:-22] + whole[directory:])


def two_long_directories(path):
    """The same in a large file, and in those of torch, which end like one."""
    whole = saved(path, {"model": WEIGHTS, "args": ARGS}).read_bytes()
    path.write_bytes(whole[:-42] + whole[-98:])


def overlapping(path):
    """One record that many names stand for."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("T/data.pkl", bytes(1000))
        file.filelist += file.filelist * 30


UNREADABLE = f"is not a fairseq checkpoint: torch cannot read it. {GIVE}"
TWO = (
    f"is not a fairseq checkpoint: its records are listed in two places, which torch never does. "
    f"{GIVE}"
)
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
    "compressed": (
        compressed,
        "is not a fairseq checkpoint: its record T/data.pkl is compressed, which torch never does. "
        + GIVE,
    ),
    "overlapping records": (
        overlapping,
        f"is not a fairseq checkpoint: its records overlap, which torch never does. {GIVE}",
    ),
    "two directories": (two_directories, TWO),
    "two long directories": (two_long_directories, TWO),
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
        "since loading could run its code or fill the memory. If you trust the file, save it again "
        "with nothing but 'model', 'args' or 'cfg', 'optimizer_history' and 'extra_state'.",
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
        "its 'optimizer_history[0]' must be a dictionary, but is 3.",
    ),
    "updates in words": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{"num_updates": "many"}]},
        "its 'num_updates' must be a whole number of 0 or more, but is 'many'.",
    ),
    "a criterion of numbers": (
        {"model": WEIGHTS, "args": ARGS, "criterion": [3]},
        "its 'criterion' must be a dictionary, but is a list.",
    ),
    "a history of text": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": "text"},
        "its 'optimizer_history' must be a list of dictionaries, but is 'text'.",
    ),
    "a text in the history": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{}, "text", {}]},
        "its 'optimizer_history[1]' must be a dictionary, but is 'text'.",
    ),
    "negative updates": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{"num_updates": -1}]},
        "its 'num_updates' must be a whole number of 0 or more, but is -1.",
    ),
    "updates that are true": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{"num_updates": True}]},
        "its 'num_updates' must be a whole number of 0 or more, but is True.",
    ),
    "endless updates": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{"num_updates": 10**60}]},
        "its 'num_updates' must be a whole number of 0 or more, but is a whole number.",
    ),
    "inherited updates in words": (
        {"model": WEIGHTS, "args": ARGS, "optimizer_history": [{"inherited_updates": "abc"}, {}]},
        "its 'inherited_updates' must be a whole number of 0 or more, but is 'abc'.",
    ),
    "a start that is a list": (
        {"model": WEIGHTS, "cfg": {**CFG, "checkpoint": {"finetune_from_model": ["l"]}}},
        "its 'checkpoint.finetune_from_model' must be a text, but is a list.",
    ),
    "data that are a number": (
        {"model": WEIGHTS, "cfg": {**CFG, "task": {"_name": "translation", "data": 5}}},
        "its 'task.data' must be a text, but is 5.",
    ),
    "data that are a number in an old file": (
        {"model": WEIGHTS, "args": Namespace(**{**vars(ARGS), "data": 5})},
        "its 'args.data' must be a text, but is 5.",
    ),
    "a sparse weight": (
        {"model": {"w": torch.eye(3).to_sparse()}, "args": ARGS},
        "its weight 'w' must be a dense tensor, but has the layout torch.sparse_coo.",
    ),
    "a weight without numbers": (
        {"model": {"w": torch.empty(3, device="meta")}, "args": ARGS},
        "its weight 'w' has no numbers in the file, only a shape (device meta).",
    ),
    "complex weights": (
        {"model": {"w": torch.zeros(3, dtype=torch.complex64)}, "args": ARGS},
        "its weight 'w' must be of real or whole numbers, but is of torch.complex64.",
    ),
    "weights of eight bits": (
        {"model": {"w": torch.zeros(3).to(torch.float8_e4m3fn)}, "args": ARGS},
        "its weight 'w' must be of real or whole numbers, but is of torch.float8_e4m3fn.",
    ),
    "one number for many": (
        {"model": {"w": torch.zeros(1).expand(40_000_000_000)}, "args": ARGS},
        "its weight 'w' has the shape (40000000000,), but the file holds 1 numbers of it.",
    ),
    "nothing, many times": (
        {"model": {"v": torch.zeros(0, 512), "w": torch.zeros(10**9, 0)}, "args": ARGS},
        "its weight 'w' has the shape (1000000000, 0), but the file holds 0 numbers of it.",
    ),
}  # fmt: skip
MULTIPLIED = (
    "its lists and dictionaries contain each other, to more than 1,000,000 values or 100 deep."
)


def multiplied(content="lol"):
    """Lists that are few in a file, and 4^40 values to whoever walks through them."""
    for _ in range(40):
        content = [content] * 4
    return content


def nested():
    content = []
    for _ in range(300):
        content = [content]
    return content


def within_itself():
    content = {}
    content["again"] = [content, content]
    return content


BOMBS = {
    "criterion": {"criterion": multiplied()},
    "history": {"optimizer_history": multiplied()},
    "num_updates": {"optimizer_history": [{"num_updates": multiplied()}]},
    "deep": {"criterion": nested()},
    "an option": {"args": Namespace(**vars(ARGS), more=multiplied())},
    "a configuration": {"args": None, "cfg": {**CFG, "task": {"data": multiplied()}}},
    "made_of": {"made_of": multiplied({})},
    "a cycle": {"extra_state": within_itself()},
}


@pytest.mark.parametrize("kind", BOMBS)
def test_content_that_multiplies_is_refused_before_anything_walks_through_it(tmp_path, kind):
    path = saved(tmp_path / "T.pt", {"model": WEIGHTS, "args": ARGS, **BOMBS[kind]})
    whole = re.escape(f"{path} is not a fairseq checkpoint: {MULTIPLIED} {GIVE}")
    with pytest.raises(ValueError, match=f"^{whole}$"):
        read_checkpoint(path)


def test_what_a_long_training_keeps_is_read(tmp_path):
    state = {number: {"step": 1, "exp_avg": 2, "exp_avg_sq": 3} for number in range(20_000)}
    optimizer = {"state": state, "param_groups": [{"params": list(range(20_000))}]}
    content = {"model": WEIGHTS, "args": ARGS, "last_optimizer_state": optimizer}
    assert read_checkpoint(saved(tmp_path / "T.pt", content))["last_optimizer_state"] == optimizer


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


def test_a_missing_checkpoint_is_refused():
    message = r"^gone\.pt does not exist\. Give the path of a fairseq checkpoint\.$"
    with pytest.raises(FileNotFoundError, match=message):
        read_checkpoint("gone.pt")


def test_a_file_of_torchs_old_format_is_read_too(teacher, tmp_path):
    state = read_checkpoint(teacher)
    old = saved(tmp_path / "old.pt", state, _use_new_zipfile_serialization=False)
    assert updates_done(old) == updates_done(teacher) > 0
    model = read_checkpoint(old)["model"]
    assert all(torch.equal(model[name], weight) for name, weight in state["model"].items())


def test_a_file_whose_name_is_no_text_is_read_too(tmp_path):
    path = saved(tmp_path / "T.pt", {"model": WEIGHTS, "args": ARGS})
    path = path.rename(tmp_path / os.fsdecode(b"\xff\xfe.pt"))
    assert torch.equal(read_model(path)["model"]["encoder.weight"], WEIGHTS["encoder.weight"])


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
