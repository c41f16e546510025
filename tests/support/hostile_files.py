"""Files that no command may trip over: each is written in place of a good one."""

import os
import pickle
import zipfile
from argparse import Namespace

import pytest
import torch
from hostile import CODES

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint


class Intruder:
    """Would make a folder if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def carries_code(path, good):
    torch.save({**read_checkpoint(good), "cfg": Intruder(path.with_name("marker"))}, path)


def text(path, good):
    path.write_text("no weights here\n")


def empty(path, good):
    path.touch()


def folder(path, good):
    path.mkdir()


def cut_off(path, good):
    whole = good.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def another_zip(path, good):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "none")


def another_pickle(path, good):
    path.write_bytes(pickle.dumps([1, 2, 3]))


def another_tensor(path, good):
    torch.save(torch.zeros(2), path)


def weights_alone(path, good):
    torch.save({"model": read_checkpoint(good)["model"]}, path)


def no_number(path, good):
    state = read_checkpoint(good)
    state["model"] = {name: tensor.clone() for name, tensor in state["model"].items()}
    state["model"]["encoder.layers.0.fc1.weight"][3, 5] = float("nan")
    torch.save(state, path)


def too_large_for_half(path, good):
    state = read_checkpoint(good)
    state["model"] = {name: tensor.clone().half() for name, tensor in state["model"].items()}
    state["model"]["decoder.layers.0.fc2.bias"][0] = 70000.0  # infinity there
    torch.save(state, path)


def options_of_words(path, good):
    state = read_checkpoint(good)
    torch.save({**state, "cfg": "the usual ones"}, path)


def history_of_words(path, good):
    torch.save({**read_checkpoint(good), "optimizer_history": ["a hundred updates"]}, path)


def of_task(task):
    """A checkpoint of another task than translation."""

    def write(path, good):
        state = read_checkpoint(good)
        options = Namespace(**{**state["cfg"]["task"], "_name": task, "task": task})
        options.lang_pairs, options.encoder_langtok, options.decoder_langtok = "es-en", "src", True
        torch.save({**state, "cfg": {**state["cfg"], "task": options}}, path)

    return write


def with_option(kind):
    """A checkpoint with code in an option that fairseq evaluates."""

    def write(path, good):
        state = read_checkpoint(good)
        CODES[kind](state)
        torch.save(state, path)

    return write


REFUSED = {  # checkpoints that no command takes, with a part of the sentence
    "code": (carries_code, "holds a Python object besides weights, posix.mkdir, and is not loaded"),
    "code in an option": (
        with_option("model.adaptive_softmax_cutoff"),
        "holds the option model.adaptive_softmax_cutoff, which fairseq evaluates",
    ),
    "code in an old option": (
        with_option("adaptive_softmax_cutoff"),
        "holds the option adaptive_softmax_cutoff, which fairseq evaluates",
    ),
    "text": (text, "is not a fairseq checkpoint: torch cannot read it"),
    "empty": (empty, "is empty"),
    "folder": (folder, "is a folder, but must be a fairseq checkpoint"),
    "cut off": (cut_off, "is cut off, its end is missing"),
    "another zip": (another_zip, "is not a fairseq checkpoint: torch cannot read it"),
    "another pickle": (another_pickle, "is not a fairseq checkpoint: torch cannot read it"),
    "another tensor": (another_tensor, "is not a fairseq checkpoint: it holds a Tensor"),
    "weights alone": (weights_alone, "holds no 'cfg' or 'args' of a model"),
    "options of words": (options_of_words, "holds no 'cfg' or 'args' of a model"),
    "history of words": (
        history_of_words,
        "'optimizer_history[0]' must be a dictionary, but is",
    ),
}
NOT_FINITE = {  # those whose weights are looked at only where they are used
    "not a number": (no_number, "holds NaN or infinity in 1 of the 512 numbers of"),
    "infinite": (too_large_for_half, "holds NaN or infinity in 1 of the 16 numbers of"),
}
OTHER_TASKS = {
    task: (of_task(task), f"was trained on --task {task}, but must be trained on --task transl")
    for task in (
        "semisupervised_translation",
        "online_backtranslation",
        "multilingual_denoising",
        "translation_lev",
    )
}


def without_history(path, good):
    """Weights and the options of fairseq-train, as people strip checkpoints."""
    state = read_checkpoint(good)
    torch.save({"model": state["model"], "cfg": state["cfg"]}, path)


def without_configuration(path, good):
    """The same as fairseq wrote it before it had configurations."""
    state = read_checkpoint(good)
    cfg = state["cfg"]
    options = {"task": "translation", "criterion": "cross_entropy", "optimizer": "adam"}
    options |= {"lr_scheduler": "fixed", "lr": [0.1], "adam_betas": "(0.9, 0.999)"}
    options |= {key: cfg["task"][key] for key in ("data", "source_lang", "target_lang")}
    args = Namespace(**{**vars(cfg["model"]), **options})
    torch.save({"model": state["model"], "args": args}, path)


def without_updates(path, good):
    """A history that does not tell the number of updates, for which fairseq takes 0."""
    state = read_checkpoint(good)
    del state["optimizer_history"][-1]["num_updates"]
    torch.save(state, path)


ACCEPTED = {
    "no history": without_history,
    "args alone": without_configuration,
    "no updates": without_updates,
}


def crossed(columns, rows):
    """Every pair of two tables; where each row and each column has been tried once, it is slow."""
    columns, rows = list(columns), list(rows)
    few = min(len(columns), len(rows))
    return [
        pytest.param(column, row, marks=() if (i + j) % few == 0 else pytest.mark.slow)
        for i, column in enumerate(columns)
        for j, row in enumerate(rows)
    ]


def refused(capsys, words, watched, *parts):
    """Runs a command that must end with one sentence and leave everything as it was.

    Args:
        capsys: that of the test.
        words: of the command.
        watched: folders in which nothing may change.
        parts: of the sentence.
    """
    words = [str(word) for word in words]
    before = [snapshot(folder) for folder in watched]
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"fairseq-kd {words[0]}: ")
    assert message.count("\n") == 1, message
    for part in parts:
        assert str(part) in message
    for word in ("Traceback", "weights_only", "Errno", "line 1 column"):
        assert word not in message
    assert [snapshot(folder) for folder in watched] == before


def snapshot(folder):
    """All paths in a folder, with the bytes of files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
