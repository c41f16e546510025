"""Reads the YAML file that describes a run: checks every key and adds the defaults.

``run.schema.yaml`` has the keys and their types; docs/progressive.md explains them.
"""

import datetime
import itertools
import math
import os
import re
from collections.abc import Hashable
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import jsonschema
import yaml

from fairseq_kd.fairseq_flags import Flags
from fairseq_kd.files.names import why_no_file
from fairseq_kd.parallel_text import lines_of

SCHEMA = Path(__file__).with_name("run.schema.yaml")
COLD, INHERIT = "cold", "inherit"  # values of start
OWN = "own"  # of data
MOST_VALUES = 100_000
STAGE_DEFAULTS = {
    **{"criterion": "word_kd", "soft-targets": "live", "start": COLD, "data": "gold"},
    "importance": "weights",
}
VALIDATOR = jsonschema.validators.extend(  # 2.0 is not an integer, nan not a number
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda checker, value: type(value) is int,
            "number": lambda checker, value: (
                type(value) is int or (type(value) is float and math.isfinite(value))
            ),
        }
    ),
)


@dataclass(frozen=True)
class Stage:
    """One stage of the ladder, as its entry in the run file describes it.

    Args:
        name: the name of its step and folder; "" until the ladder is laid out.
        ratio: its size relative to the teacher by the strategy's formulas; None if it has an arch.
        arch: a named architecture; None if it has a ratio.
        settings: the other keys of the entry, which override those of ``each``.
    """

    name: str
    ratio: Optional[float]
    arch: Optional[str]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class RunFile:
    """The content of a run file with defaults; the files that it names are not read yet.

    Args:
        path: the run file.
        folder: the folder of the run.
        data: a folder of fairseq-preprocess, or the keys for preparing text.
        teacher: checkpoints, or the keys for training one.
        ladder: the stages; None if ``target`` or ``parameters`` determines them.
        each: settings of all stages.
        train: fairseq-train flags of all trainings.
        other: the remaining keys, unchanged.
    """

    path: Path
    folder: Path
    data: Union[str, Mapping[str, Any]]
    teacher: Union[List[str], Mapping[str, Any]]
    ladder: Optional[List[Stage]]
    each: Mapping[str, Any]
    train: Flags
    other: Mapping[str, Any]

    def settings_of(self, stage: Stage) -> Dict[str, Any]:
        """The settings of a stage: its own override those of ``each``, flag by flag."""
        train = {**self.each.get("train", {}), **stage.settings.get("train", {})}
        return {**self.each, **stage.settings, "train": train}

    def learns_from(self, stages: Sequence[Stage], teachers: Sequence[str]) -> Dict[str, List[str]]:
        """The names of the models from which each stage learns, by the name of the stage.

        By default the stage before; of a stage that starts from an earlier one, the models from
        which that learnt.

        Args:
            stages: with their names.
            teachers: the names of the teachers of the run, from which the first stage learns.
        """
        before, by_stage = list(teachers), {}
        for stage in stages:
            settings = self.settings_of(stage)
            given = settings.get("learns-from", by_stage.get(settings["start"], before))
            by_stage[stage.name] = [given] if isinstance(given, str) else list(given)
            before = [stage.name]
        return by_stage

    @property
    def teacher_languages(self) -> Optional[Tuple[str, str]]:
        """The names of the languages in the given teachers, if they are others than in the data."""
        pair = self.other.get("teacher-languages")
        return (pair["source"], pair["target"]) if pair else None

    def get(self, key: str, default: Any) -> Any:
        """The value of one of the remaining keys."""
        return self.other.get(key, default)

    @contextmanager
    def section(self, key: str) -> Iterator[None]:
        """Adds the name of a section to errors about its flags."""
        try:
            yield
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{self.path}: {key}: {error}") from None


def read_run(path: Path, changes: Sequence[str] = ()) -> RunFile:
    """Reads and checks a run file.

    Args:
        path: the file.
        changes: ``KEY=VALUE`` settings that override it, such as ``train.lr=1e-3`` or
            ``ladder.0.ratio=0.6``; the value is YAML.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not YAML, or a key is unknown, is missing or has a wrong value.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} {why_no_file(path)}. Give the YAML file of a run.")
    try:
        text = "\n".join(lines_of(str(path)))
        content = _loaded(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as YAML: {reason}") from None
    for change in changes:
        _change(content, change)
    content = _with_home(content)
    check(path, content, text, changes)
    known = ("run", "data", "teacher", "ladder", "each", "train")
    teacher = content["teacher"]
    return RunFile(
        path=path,
        folder=Path(content.get("run", Path("runs") / path.stem)),
        data=content["data"],
        teacher=[teacher] if isinstance(teacher, str) else teacher,
        ladder=[_stage(entry) for entry in content["ladder"]] if "ladder" in content else None,
        each={**STAGE_DEFAULTS, **content.get("each", {})},
        train=content.get("train", {}),
        other={key: value for key, value in content.items() if key not in known},
    )


def _change(content: Any, change: str) -> None:
    """Applies one ``KEY=VALUE`` change; missing parent keys are added.

    Raises:
        ValueError: it is not KEY=VALUE.
    """
    key, separator, value = change.partition("=")
    *parents, last = _key(change)
    if not separator or last == "":
        raise ValueError(f"--set must be KEY=VALUE, such as train.lr=1e-3, but is {change}.")
    try:
        for name in parents:
            within = isinstance(content, dict)
            content = content.setdefault(name, {}) if within else content[name]
        content[last] = _loaded(value)
    except (IndexError, TypeError):
        raise ValueError(f"--set {change}: the run file has no place {key}.") from None
    except (yaml.YAMLError, RecursionError):
        raise ValueError(f"--set {change}: {value:.60} cannot be read as YAML.") from None


def _key(change: str) -> List[Union[int, str]]:
    """The parts of the key of KEY=VALUE."""
    parts = change.partition("=")[0].split(".")
    return [int(part) if part.isdecimal() else part for part in parts]


def check(path: Path, content: Any, text: str, changes: Sequence[str] = ()) -> None:
    """Checks the content of a run file against the schema.

    Args:
        path: the run file.
        content: its content with all changes.
        text: its text.
        changes: those of ``--set``.

    Raises:
        ValueError: it does not match; the message names the key, and the nearest known one.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values, such as data: DATA_BIN.")
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    errors = list(VALIDATOR(schema).iter_errors(content))
    if errors:
        wrong = min(
            errors, key=lambda error: (error.validator == "oneOf", list(map(str, error.path)))
        )
        wrong = _innermost(wrong)
        place, where = list(wrong.absolute_path), str(path)
        for change in reversed(changes):
            key = _key(change)
            if place[: len(key)] == key:  # the value is from --set, not from the file
                place, where, text = place[len(key) :], f"--set {change}", change.partition("=")[2]
                break
        raise ValueError(f"{where}: {_sentence(wrong, place, text)}")


def _loaded(text: str) -> Any:
    """Parses YAML whose aliases do not make it much larger than its text.

    Raises:
        yaml.YAMLError: it is not YAML, or too large.
    """
    node = yaml.compose(text, Loader=_Loader)
    if node is not None and _length(node, {}) > MOST_VALUES:
        raise yaml.YAMLError(f"its aliases make it longer than {MOST_VALUES:,} values")
    return yaml.load(text, Loader=_Loader)


def _length(node: yaml.Node, known: Dict[int, float]) -> float:
    """The number of values in a node, those of aliases included; infinite if it holds itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        each = itertools.chain.from_iterable(inner) if pairs else inner
        known[id(node)] = 1 + sum(_length(value, known) for value in each)
    return known[id(node)]


def _with_home(content: Any) -> Any:
    """A value in which texts that begin with ``~/`` begin with the user's home folder instead."""
    if isinstance(content, dict):
        return {key: _with_home(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_home(value) for value in content]
    if isinstance(content, str) and content.startswith("~/"):
        return os.path.expanduser(content)
    return content


MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value of a node; any failure of PyYAML to convert it becomes a YAMLError."""
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            kind = node.tag.rpartition(":")[2]
            value = repr(node.value) if isinstance(node.value, str) else "what it holds"
            message = f"{value:.60} is not a valid {kind} {node.start_mark}"
            raise yaml.YAMLError(message) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> Dict[Any, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = set()
        for each, _ in pairs:
            if each.tag == MERGE:  # the keys of another mapping, which those here override
                continue
            key = self.construct_object(each, deep=True)
            if isinstance(key, Hashable):  # other keys are refused below
                if key in keys:
                    raise yaml.YAMLError(f"{key} is given twice {node.start_mark}")
                keys.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """A whole number in digits; YAML also reads 1:30 as 90 and 010 as 8."""
        number = super().construct_yaml_int(node)
        if ":" in node.value or re.match(r"[-+]?0[0-9]", node.value):
            raise yaml.YAMLError(
                f"{node.value} would be read as {number}, so write it in quotes {node.start_mark}"
            )
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(  # 5e-4, which YAML 1.1 reads as text
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+\Z"), list("-+0123456789")
)


def _stage(entry: Any) -> Stage:
    entry = dict(entry) if isinstance(entry, dict) else {"ratio": entry}
    name, ratio, arch = (entry.pop(key, None) for key in ("name", "ratio", "arch"))
    return Stage(name or "", ratio, arch, entry)


def _innermost(error: Any) -> Any:
    """The error in that alternative of a failed ``oneOf`` which has the type of the value."""
    while error.validator == "oneOf" and error.context:
        branches: Dict[int, List[Any]] = {}
        for each in error.context:
            branches.setdefault(each.schema_path[0], []).append(each)
        root = error.absolute_path
        meant = [
            errors
            for errors in branches.values()
            if not any(each.validator == "type" and each.absolute_path == root for each in errors)
        ]
        if len(meant) != 1:
            return error
        error = meant[0][0]
    return error


def _sentence(error: Any, place: List[Union[int, str]], text: str) -> str:
    """A schema error as a sentence; the value is at a place in the text."""
    path = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path]
    where = "".join(path).lstrip(".")
    value = error.instance
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(str(key) for key in value if key not in known)
        near = get_close_matches(unknown, known, n=1)
        advice = f"Did you mean {near[0]}?" if near else f"Known keys are {', '.join(known)}."
        return f"{where + ' has' if where else 'it has'} an unknown key {unknown}. {advice}"
    if error.validator == "required":
        lacks = next(key for key in error.validator_value if key not in value)
        return f"{where + ' lacks' if where else 'it lacks'} the key {lacks}."
    if error.validator == "oneOf" and isinstance(value, dict):
        choices = [branch["required"][0] for branch in error.validator_value]
        given = [key for key in choices if key in value]
        has = f"has {' and '.join(given)}" if given else "has none"
        return f"{where or 'it'} must have exactly one of {', '.join(choices)}, but {has}."
    if error.validator == "enum":
        choices = ", ".join(map(str, error.validator_value))
        return f"{where} must be one of {choices}, but is {value}."
    if error.validator == "pattern":
        return f"{where} must be {error.schema['description']}, but is {value!r}."
    if error.validator == "uniqueItems":
        return f"{where} names one of {', '.join(map(str, value))} twice. Name each once."
    if _may_be_text(error) and isinstance(value, (bool, int, float, datetime.date)):
        is_key = "propertyNames" in error.relative_schema_path
        typed = str(value) if is_key else _typed(error, place, text)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{where} is {typed}, which is not a finite number."
        kind = "a date" if isinstance(value, datetime.date) else "a number"
        kind = "true or false" if isinstance(value, bool) else kind
        if is_key:
            return f"{where} has a key that YAML reads as {kind}, {typed}. Write it in quotes."
        return f"{where} is {typed}, which YAML reads as {kind}: write '{typed}' in quotes."
    if error.validator in ("type", "oneOf"):
        return f"{where} cannot be {value!r}. docs/progressive.md lists the allowed values."
    return f"{where} cannot be {value!r}: {error.message}."


def _may_be_text(error: Any) -> bool:
    """Whether the schema allows text for the key of an error."""
    kinds = [each for each in (error, *error.context) if each.validator == "type"]
    return any("string" in each.validator_value for each in kinds)


def _typed(error: Any, place: List[Union[int, str]], text: str) -> str:
    """The value at a place as it is written in the text."""
    node = yaml.compose(text, Loader=_Loader)
    for key in place:
        if isinstance(node, yaml.MappingNode):
            node = next((value for name, value in node.value if name.value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            node = node.value[key] if key < len(node.value) else None
    if isinstance(node, yaml.ScalarNode):
        return node.value
    return str(error.instance).lower()
