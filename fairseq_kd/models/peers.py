"""The peers of mutual learning: their configurations, weights and files."""

import copy
import math
import re
import sys
from argparse import Action, ArgumentParser, Namespace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

import torch
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, build_model
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_kd.checkpoints.option_check import EVALUATED, is_plain, shown
from fairseq_kd.checkpoints.reading import is_made_of, options_of, read_checkpoint, read_state
from fairseq_kd.checkpoints.sizes import check_sizes
from fairseq_kd.checkpoints.updates import LAST, inherited_history, start_of, updates_of
from fairseq_kd.checkpoints.weights import check_finite, check_weights, count_parameters
from fairseq_kd.fairseq_flags import range_of
from fairseq_kd.files.atomic_files import atomic_write, check_apart, make_folder
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.flag_types import Range
from fairseq_kd.models.architectures import ARCHITECTURES

SHARED = ("data", "source_lang", "target_lang", "left_pad_source", "left_pad_target")
FOLLOWING = {  # widths that fairseq derives from another one
    "decoder_embed_dim": ("decoder_input_dim", "decoder_output_dim"),
}
PEERS = Range(int, 2, 100)  # with the run's own model
KEPT = ("label_smoothing", "report_accuracy", "ignore_prefix_size", "sentence_avg")
WHOLE = re.compile(r"-?[0-9]{1,18}")
WEIGHTS = "peers"  # the name of the list of peers in the criterion, and so of their weights


def peer_configurations(model_cfg: Any, text: Optional[str], count: int) -> List[Namespace]:
    """The configurations of the peers.

    Args:
        model_cfg: the configuration of the run's own model.
        text: ``--kd-peer-overrides``: KEY=VALUE,... for all peers, or for each, separated by
            colons; None for peers like the run's own model.
        count: the number of peers beside it.

    Raises:
        ValueError: the text is malformed, names an unknown option or one that peers cannot differ
            in, or does not fit the number of peers.
    """
    groups = (text or "").split(":")
    if len(groups) not in (1, count):
        raise ValueError(
            f"--kd-peer-overrides {text} describes {len(groups)} peers, but there are {count} "
            f"beside the model itself. Describe one, for all of them, or {count}, separated by "
            "colons."
        )
    groups = groups * count if len(groups) == 1 else groups
    return [_configuration(model_cfg, group) for group in groups]


def _configuration(model_cfg: Any, group: str) -> Namespace:
    options = _as_dict(model_cfg)
    given = dict(_overrides(group))
    sizes: Dict[str, Any] = {}
    if "arch" in given:
        name = given.pop("arch")
        if name not in ARCHITECTURES:
            raise ValueError(
                f"--kd-peer-overrides names the arch {name}, but it must be one of "
                f"{', '.join(ARCHITECTURES)}."
            )
        sizes.update(ARCHITECTURES[name].sizes())
    known = _model_options(options)
    for key, value in given.items():
        if key in SHARED:
            raise ValueError(
                f"--kd-peer-overrides names {key}, but peers read the batches of the run and "
                "therefore share its languages and vocabularies. Leave it out."
            )
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise ValueError(
                f"--kd-peer-overrides names {key}, which is not an option of the model."
                + (f" Did you mean {near[0]}?" if near else "")
            )
        sizes[key] = _parsed(known[key], key, value)
    for key, followers in FOLLOWING.items():
        if key in sizes:
            sizes.update({each: sizes[key] for each in followers if each not in given})
    return Namespace(**{**options, **sizes})


def _as_dict(model_cfg: Any) -> Dict[str, Any]:
    if OmegaConf.is_config(model_cfg):
        return OmegaConf.to_container(model_cfg, resolve=True, enum_to_str=True)
    return copy.deepcopy(model_cfg if isinstance(model_cfg, dict) else vars(model_cfg))


def _model_options(options: Dict[str, Any]) -> Dict[str, Action]:
    """The options of the model's family, by name."""
    name = options.get("_name") or options["arch"]
    family = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY[name]
    parser = ArgumentParser(add_help=False)
    family.add_args(parser)
    return {action.dest: action for action in parser._actions}


def _overrides(group: str) -> List[Tuple[str, str]]:
    pairs = []
    for item in filter(None, group.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ValueError(
                "--kd-peer-overrides must be KEY=VALUE,... such as encoder_layers=2,"
                f"decoder_layers=1, but holds {item}."
            )
        pairs.append((key.strip().replace("-", "_"), value.strip()))
    return pairs


def _parsed(action: Action, key: str, value: str) -> Any:
    """The value of an option as fairseq-train would read it; refuses one out of range."""
    if action.nargs == 0:  # a switch
        wanted = "true or false"
        parsed = {"true": True, "false": False}.get(value.lower())
    elif key.endswith(("_layers", "_dim", "_heads")):
        wanted = "a whole number above 0"
        parsed = int(value) if WHOLE.fullmatch(value) and int(value) > 0 else None
    elif action.type is float or key.endswith("dropout"):
        wanted = "a number from 0 to below 1" if "drop" in key else "a number"
        parsed = _number(value)
        if parsed is not None and "drop" in key and not 0 <= parsed < 1:
            parsed = None
    elif key in EVALUATED:
        wanted = f"a plain value such as {EVALUATED[key]}"
        parsed = value if is_plain(key, value) else None
    else:
        wanted = "a whole number" if action.type is int else "what fairseq-train takes"
        parsed = value if action.type is not int or WHOLE.fullmatch(value) else None
        parsed = int(parsed) if parsed is not None and action.type is int else parsed
    if parsed is None:
        raise ValueError(f"--kd-peer-overrides {key} must be {wanted}, but is {value}.")
    if isinstance(parsed, (int, float)) and not isinstance(parsed, bool):
        range_of(key, type(parsed)).check(f"--kd-peer-overrides {key}", parsed)
    return parsed


def _number(text: str) -> Optional[float]:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def build_peer(cfg: Namespace, number: int, task: FairseqTask, seed: int) -> nn.Module:
    """A peer with random weights of its own.

    It is not built by the task, which would use it as the model that ``--eval-bleu`` measures.

    Args:
        cfg: its configuration.
        number: counted from 1.
        task: the task of the run.
        seed: that of the run.

    Raises:
        ValueError: fairseq cannot build it, or not with the vocabulary of the task.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000_003 * seed + number)
        try:
            peer = build_model(copy.deepcopy(cfg), task)
        except (ArithmeticError, AssertionError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                "--kd-peer-overrides gives sizes with which no model can be built for peer "
                f"{number}{f' ({error})' if str(error) else ''}. The number of heads must divide "
                "the width, and shared embeddings need one width."
            ) from error
    vocab_size = peer.decoder.embed_tokens.num_embeddings
    if vocab_size != len(task.target_dictionary):
        raise ValueError(
            f"Peer {number} has a vocabulary of {vocab_size} tokens, but the run's has "
            f"{len(task.target_dictionary)}. Leave the option that changes it out of "
            "--kd-peer-overrides."
        )
    return peer


def write_peer(checkpoint: str, number: int, out: Path) -> int:
    """Writes a peer as a checkpoint of its own, and returns the number of its parameters.

    Args:
        checkpoint: one that a training with ``mutual_learning`` wrote.
        number: of the peer, counted from 1; the run's own model is in the checkpoint as usual.
        out: the file to write; it appears whole or not at all.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it holds no such peer, or the file exists.
    """
    check_apart(out, {"CKPT": checkpoint})
    state = read_checkpoint(checkpoint)
    criterion = options_of(state, "criterion")
    if state.get("args") or criterion["_name"] != "mutual_learning":
        raise ValueError(
            f"{checkpoint} was trained with --criterion {criterion['_name']}, which has no "
            "peers. Give a checkpoint of --criterion mutual_learning."
        )
    _check_options(checkpoint, criterion, options_of(state, "model")["_name"])
    count = criterion["kd_peers"] - 1
    if not 1 <= number <= count:
        raise ValueError(
            f"--peer must be from 1 to {count} for {checkpoint}, but is {number}. The model of the "
            "run is the checkpoint itself."
        )
    configurations = peer_configurations(
        state["cfg"]["model"], criterion["kd_peer_overrides"], count
    )
    weights = peer_weights(state["criterion"] or {}, number)
    if not weights:
        raise ValueError(
            f"{checkpoint} holds no weights of peer {number}. Give a file that fairseq-train wrote."
        )
    check_weights(weights, f"{checkpoint}, peer {number},")
    check_finite(weights, f"{checkpoint}, peer {number},")
    architecture = options_of(state, "model")["_name"]
    family = ARCH_MODEL_REGISTRY.get(architecture) or MODEL_REGISTRY.get(architecture)
    check_sizes(f"{checkpoint}, peer {number},", vars(configurations[number - 1]), weights, family)
    if _averaged_without(weights, state["model"]):
        print(
            f"{checkpoint} was averaged, but only its model: peer {number} comes from only one of "
            "the checkpoints. Extract it from each of them, and average the results.",
            file=sys.stderr,
        )
    ordinary = {key: criterion[key] for key in KEPT}
    ordinary["_name"] = "label_smoothed_cross_entropy"
    (history,) = inherited_history(out, _updates_behind_peers(state))
    cold = {**options_of(state, "checkpoint"), "finetune_from_model": None, "restore_file": LAST}
    made_of = {"checkpoint": sha256_of([Path(checkpoint)]), "peer": number}
    peer = {
        "args": None,
        "cfg": {
            **state["cfg"],
            "model": configurations[number - 1],
            "criterion": ordinary,
            "checkpoint": cold,
        },
        "model": weights,
        "criterion": None,
        "optimizer_history": [{**history, "num_updates": updates_of(state)}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
        "task_state": state["task_state"] or {},
        "made_of": made_of,
    }
    if not is_made_of(out, made_of):
        make_folder(out.parent)
        with atomic_write(out, "wb", new=True) as file:
            torch.save(peer, file)
    return count_parameters(weights)


def _updates_behind_peers(
    state: Dict[str, Any], seen: FrozenSet[Path] = frozenset()
) -> Optional[int]:
    """The number of updates behind the weights of the peers in a checkpoint.

    Peers start from random weights, unless the training started from a checkpoint of another mutual
    learning: then they start from the peers in that checkpoint.

    Args:
        state: of the checkpoint.
        seen: the checkpoints that it started from so far.

    Returns:
        None if that checkpoint no longer exists or has been replaced.
    """
    start, own, history = start_of(state), updates_of(state), state["optimizer_history"]
    if start is None:
        return own
    if not Path(start).is_file():
        names = [each.get("criterion_name") for each in history]
        return None if names.count(names[-1]) > 1 else own  # no training before this one had peers
    begun = read_state(start, start)
    if options_of(begun, "criterion")["_name"] != "mutual_learning":
        return own
    path = Path(start).resolve()
    if path in seen or history[: len(begun["optimizer_history"])] != begun["optimizer_history"]:
        return None
    before = _updates_behind_peers(begun, seen | {path})
    return None if before is None else before + own


def _check_options(checkpoint: str, criterion: Dict[str, Any], architecture: str) -> None:
    """Refuses options of a checkpoint that no training with ``mutual_learning`` has.

    Args:
        checkpoint: the file.
        criterion: its options of the criterion.
        architecture: of its model.

    Raises:
        ValueError: naming the option that is missing or wrong.
    """
    for key in ("kd_peers", "kd_peer_overrides", *KEPT):
        if key not in criterion:
            raise ValueError(
                f"{checkpoint} lacks the option {key} of --criterion mutual_learning. Give a file "
                "that fairseq-train wrote."
            )
    peers, overrides = criterion["kd_peers"], criterion["kd_peer_overrides"]
    known = {**ARCH_MODEL_REGISTRY, **MODEL_REGISTRY}
    for option, right, holds in (
        ("kd_peers", str(PEERS), isinstance(peers, int) and PEERS.holds(peers)),
        ("kd_peer_overrides", "a text or None", isinstance(overrides, (str, type(None)))),
    ):
        if not holds:
            raise ValueError(
                f"{checkpoint} has the option {option}, which must be {right}, but is "
                f"{shown(criterion[option])}. Give a file that fairseq-train wrote."
            )
    if architecture not in known:
        raise ValueError(
            f"{checkpoint} was trained with the architecture {shown(architecture)}, which fairseq "
            "does not know. Give the plugin that registers it by --user-dir."
        )


def _averaged_without(peer: Dict[str, Tensor], model: Dict[str, Tensor]) -> bool:
    """Whether a file shows that its model was averaged after a training had written both.

    fairseq's ``average_checkpoints.py`` widens weights in half precision, and takes apart those
    that a model uses in two places. Where there are neither, it leaves no trace.
    """
    wide = {tensor.dtype for tensor in model.values()} != {tensor.dtype for tensor in peer.values()}
    return wide or (_shares(peer) and not _shares(model))


def _shares(weights: Dict[str, Tensor]) -> bool:
    """Whether two of the weights are one."""
    return len({tensor.untyped_storage().data_ptr() for tensor in weights.values()}) < len(weights)


def peer_weights(criterion: Dict[str, Tensor], number: int) -> Dict[str, Tensor]:
    """The weights of a peer, counted from 1, among those of its criterion."""
    prefix = f"{WEIGHTS}.{number - 1}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in criterion.items()
        if name.startswith(prefix)
    }
