"""The lineage of a checkpoint: how it was trained, its teachers, and their teachers."""

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from fairseq_kd.checkpoints.reading import data_folders, options_of, read_checkpoint
from fairseq_kd.checkpoints.updates import start_of, updates_behind, updates_of
from fairseq_kd.checkpoints.weights import count_parameters
from fairseq_kd.decoding.decode import IMPORTED
from fairseq_kd.distilled_data.manifest import is_distilled, read_manifest
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.teachers.store import STORE_FILE, TeacherStore
from fairseq_kd.training_log import LOG_FILE, read_training_log

UNREAD = "could not be read"
SHOWN = ("kd_alpha", "kd_beta", "kd_temperature", "kd_temperature_schedule", "label_smoothing")


class Ancestor(NamedTuple):
    """A checkpoint in a lineage, or a store or data set that a teacher made.

    Args:
        path: as in the options of the student's training.
        role: ``student``, ``teacher of NAME`` and the like.
        facts: by name; empty if the file no longer exists.
        command: that trained it; None without a log.
    """

    path: str
    role: str
    facts: Dict[str, str]
    command: Optional[str]


def lineage(path: Path) -> List[Ancestor]:
    """A checkpoint, its teachers, their teachers, and so on, as far as the files exist.

    Stores and data sets that a teacher translated are included. For a file that cannot be read,
    the only fact is the reason.
    """
    ancestors: List[Ancestor] = []
    waiting = [(str(path), "student")]
    seen = set()
    while waiting:
        name, role = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        try:
            ancestor, before = _described(name, role)
        except Exception as error:  # the file may have been replaced since the training
            reason = " ".join(str(error).split()) or type(error).__name__
            ancestor, before = Ancestor(name, role, {UNREAD: reason[:300]}, None), []
        ancestors.append(ancestor)
        waiting += before
    return ancestors


def _described(name: str, role: str) -> Tuple[Ancestor, List[Tuple[str, str]]]:
    """A file or folder as an ancestor, and the paths and roles of those before it."""
    if (Path(name) / STORE_FILE).is_file():
        store = TeacherStore(name).identity
        facts = {"store": f"the top-{store['topk']} distribution of every token"}
        return Ancestor(name, role, facts, None), [(store["teacher"], "teacher of the store")]
    manifest = read_manifest(Path(name))
    if manifest is not None:
        return Ancestor(name, role, _distillation(manifest), None), []
    if not Path(name).is_file():
        return Ancestor(name, role, {}, None), []
    state = read_checkpoint(name)
    options = _options(state)
    whose = Path(os.path.abspath(name)).parent.name or role
    given = [options.get(name) or "" for name in ("kd_teacher", "kd_store")]
    teachers = [each for names in given for each in str(names).split(os.pathsep) if each]
    start = start_of(state)
    before = [(start, f"initial weights of {whose}")] if start else []
    before += [(teacher, f"teacher of {whose}") for teacher in teachers]
    folders = [each for each in data_folders(name, options["data"]) if is_distilled(each)]
    before += [(str(folder), f"distilled data of {whose}") for folder in folders]
    return Ancestor(name, role, _facts(Path(name), state, options), _command(name)), before


def trained_on(checkpoint: Path) -> Path:
    """The data folder in the options of a checkpoint; of several, the first that exists."""
    folders = data_folders(checkpoint, _options(read_checkpoint(checkpoint))["data"]) or [Path()]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _distillation(manifest: Dict[str, Any]) -> Dict[str, str]:
    """The facts of a distilled data set: teacher, decoding and selection."""
    decoding, choice = manifest["made_of"]["decoding"], manifest["made_of"]["choice"]
    counts = manifest["counts"]
    kept = f"{counts['kept']:,} pairs of {counts['sentences']:,} sentences"
    hashes = ", ".join(decoding["teacher"])
    if decoding["engine"] == IMPORTED:
        made = {"translated by": f"another system; its translations have the SHA-256 {hashes}"}
    else:
        search = f"beam {decoding.get('beam', '?')}, {decoding.get('compute_type', '?')}"
        made = {"translated by": f"the teacher with SHA-256 {hashes}"}
        made["decoding"] = f"{search}, {decoding['engine']}"
    return {
        **made,
        "selection": f"{choice['select']}; {kept}, and {manifest['gold_pairs']:,} gold pairs",
    }


def _options(state: Dict[str, Any]) -> Dict[str, Any]:
    """Options of model and criterion, data and languages, by name."""
    task, criterion = options_of(state, "task"), options_of(state, "criterion")
    shared = {name: task.get(name) for name in ("data", "source_lang", "target_lang")}
    trained = {**criterion, "criterion": criterion["_name"]}
    return {**options_of(state, "model"), **trained, **shared}


def _facts(path: Path, state: Dict[str, Any], options: Dict[str, Any]) -> Dict[str, str]:
    layers = [options.get(f"{side}_layers", "?") for side in ("encoder", "decoder")]
    width, heads = options.get("encoder_embed_dim"), options.get("encoder_attention_heads")
    size = f"{layers[0]}+{layers[1]} layers of {width}, {heads} heads"
    settings = [
        f"{name.removeprefix('kd_').replace('_', ' ')} {options[name]}"
        for name in SHOWN
        if options.get(name) is not None
    ]
    behind = updates_behind(path)
    return {
        "model": f"{size}, {count_parameters(state['model']):,} parameters",
        "trained by": f"{options.get('criterion')} ({', '.join(settings)})",
        "updates": f"{updates_of(state):,}",
        "updates behind its weights": "unknown" if behind is None else f"{behind:,}",
        "data": str(options.get("data")),
        "SHA-256": sha256_of([path]),
    }


def _command(path: str) -> Optional[str]:
    log = Path(path).parent / LOG_FILE
    return read_training_log(log).command or None if log.is_file() else None
