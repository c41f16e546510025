"""What determines a decoding, bit for bit on like processors: its shards and restarts agree on it.

It is kept in ``decoding.json`` beside what is decoded. Paths are not in it, so that shards may run
on machines where the same files lie elsewhere.
"""

import fcntl
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator

from fairseq_kd.json_files import digest_of, read_json, sealed
from fairseq_kd.whole_files import check_vacant, make_folder, own_file, written_whole

Plan = Dict[str, Any]
FILE = "decoding.json"
FORM = {  # what is read of it
    **{"sentences": int, "subset": str, "pair": [str], "nbest": int, "teacher": [str]},
    **{"source": str, "source_dictionary": str, "target_dictionary": str},
}


def plan_id(plan: Plan) -> str:
    """Sixteen hexadecimal digits that stand for a plan."""
    return digest_of(plan)


def agree_on(plan: Plan, folder: Path) -> None:
    """Writes the plan into a folder, or makes sure that it is the one that is there.

    Raises:
        ValueError: the folder was begun with another plan, whose first difference is named, or
            holds something else.
    """
    if not (folder / FILE).is_file():
        check_vacant(folder)
    make_folder(folder)
    with locked(folder):
        if not (folder / FILE).exists():
            with written_whole(folder / FILE) as file:
                json.dump(sealed(plan), file, indent=2)
                file.write("\n")
            return
        begun = read_plan(folder)
    for name in {**begun, **plan}:
        if begun.get(name) != plan.get(name):
            raise ValueError(
                f"{folder} was begun with {name} {_short(begun.get(name))}, but now it is "
                f"{_short(plan.get(name))}. Choose another --out, or give what it was begun with."
            )


def read_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
        FileNotFoundError: nothing was decoded into it.
        ValueError: the file is damaged.
    """
    if not (folder / FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {FILE}. Give the folder that fairseq-kd translate --out wrote."
        )
    repair = (
        "Copy it from where another shard was decoded, or from another --out to which the same "
        "fairseq-kd translate is begun, which writes it first; what is decoded here stays good."
    )
    plan = read_json(folder / FILE, FORM, repair)
    if len(plan["pair"]) != 2:
        raise ValueError(f"{folder / FILE} is damaged: 'pair' must be two languages. {repair}")
    return plan


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time change what belongs to all shards of a folder."""
    with open(folder / ".lock", "a", opener=own_file) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _short(value: Any) -> str:
    """A value for a sentence: of a hash, as much as tells it from another."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}..." if len(text) == 64 and " " not in text else text
