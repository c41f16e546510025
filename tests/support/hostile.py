"""Hostile checkpoints: each would run a command if its options were evaluated."""

from argparse import Namespace
from pathlib import Path

import torch
from harness import copy_dictionaries

from fairseq_kd.checkpoints.reading import read_checkpoint

MARK = "ran-code-of-a-file"  # the file that such code makes in the current folder
CODE = f"__import__('os').system('touch {MARK}')"


def _model(name, value):
    return lambda state: setattr(state["cfg"]["model"], name, value)


def _fconv(state):
    """An architecture whose layers fairseq evaluates."""
    options = {"arch": "fconv", "_name": "fconv", "encoder_layers": CODE, "decoder_layers": CODE}
    state["cfg"]["model"] = Namespace(**{**vars(state["cfg"]["model"]), **options})


def _lstm(state):
    """An architecture that reads a switch by evaluating it."""
    options = {"arch": "lstm", "_name": "lstm", "decoder_attention": CODE}
    state["cfg"]["model"] = Namespace(**{**vars(state["cfg"]["model"]), **options})


def _old(state):
    """Options as fairseq kept them before it had configurations."""
    cfg = state.pop("cfg")
    options = {"task": "translation", "criterion": "cross_entropy", "optimizer": "adam"}
    options |= {"data": cfg["task"]["data"], "source_lang": "es", "target_lang": "en"}
    options |= {"lr_scheduler": "fixed", "lr": [0.1], "adam_betas": "(0.9, 0.999)"}
    options |= {"adaptive_softmax_cutoff": CODE}
    state["args"] = Namespace(**{**vars(cfg["model"]), **options})


CODES = {  # by the option that holds it: a change of the state that a checkpoint holds
    "model.adaptive_softmax_cutoff": _model("adaptive_softmax_cutoff", CODE),
    "model.encoder_layers": _fconv,
    "model.decoder_attention": _lstm,
    "model.encoder.xformers_att_config": _model("encoder", {"xformers_att_config": CODE}),
    "task.left_pad_source": lambda state: state["cfg"]["task"].update(left_pad_source=CODE),
    "optimizer.adam_betas": lambda state: state["cfg"]["optimizer"].update(adam_betas=CODE),
    "adaptive_softmax_cutoff": _old,
    "model.dropout": _model("dropout", "${oc.env:HOME}"),
}


def changed(path, folder, change, name="hostile.pt"):
    """A copy of a checkpoint with another state, and the dictionaries of its data beside it."""
    state = read_checkpoint(path)
    copy_dictionaries(Path(state["cfg"]["task"]["data"]), Path(folder))
    change(state)
    torch.save(state, Path(folder) / name)
    return str(Path(folder) / name)


def write(kind, path, folder):
    """The checkpoint of a kind, made of a good one.

    Args:
        kind: one of ``CODES``.
        path: of the good one.
        folder: to write into.
    """
    return changed(path, folder, CODES[kind], f"{kind}.pt")


def ran_code(folder):
    """Whether code of a file ran with this current folder; clears the mark."""
    mark = Path(folder) / MARK
    ran = mark.exists()
    mark.unlink(missing_ok=True)
    return ran
