"""Reads and validates the package's JSON files; errors name the file.

A form describes the minimum content of a file:

    int, float, str, bool, None     a value of that kind; float is any number
    (form, form, ...)               one of several
    [form]                          a list of such values
    {"key": form, ...}              an object that has these keys, and maybe more; one that is
                                    written "key?" may be missing
    {str: form}                     an object with any keys, and such values
    object                          anything

A file that was ``sealed`` has a checksum of its values, so that a changed digit is detected.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Dict

NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


SEAL = "checksum"
MOST_BYTES, MOST_DEPTH = 16 << 20, 100  # ours have less than 1 MiB, and ten


def digest_of(content: Any) -> str:
    """A checksum of a JSON value, as sixteen hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def sealed(content: Dict[str, Any]) -> Dict[str, Any]:
    """An object to write, with a checksum of it, which ``read_json`` compares and leaves out."""
    return {**content, SEAL: digest_of(content)}


def read_json(path: Path, form: Any, repair: str) -> Any:
    """The content of a JSON file.

    Args:
        path: the file.
        form: its form, as above.
        repair: a sentence of advice for the error message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, does not have the form (the key at fault is named), or differs
        from its checksum.
    """
    try:
        content = _content(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist. {repair}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}. {repair}") from error
    wrong = difference(content, form)
    if isinstance(content, dict):
        seal = content.pop(SEAL, None)
        if not wrong and seal is not None and seal != digest_of(content):
            wrong = f"its values do not match its {SEAL}"
    if wrong:
        raise ValueError(f"{path} is damaged: {wrong}. {repair}")
    return content


def _content(path: Path) -> Any:
    """The content of a file of limited size.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or larger than any file of this package; as a clause.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    if not data.strip():
        raise ValueError("it is empty")
    try:
        content = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"its byte {error.start + 1:,} is not UTF-8") from error
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is not JSON from {at} on") from error
    except RecursionError as error:
        raise ValueError("it has too many brackets") from error
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise ValueError("it has a number that is too long") from error
    if _is_deeper(content, MOST_DEPTH):
        raise ValueError("it has too many brackets")
    return content


def _is_deeper(content: Any, depth: int) -> bool:
    """Whether lists and objects are nested more deeply than a limit."""
    if not isinstance(content, (list, dict)):
        return False
    inner = content.values() if isinstance(content, dict) else content
    return depth == 0 or any(_is_deeper(each, depth - 1) for each in inner)


def difference(content: Any, form: Any, key: str = "") -> str:
    """The first difference of a value from a form, as a clause; "" if there is none.

    Args:
        content: the value, as ``json`` reads it.
        form: what it must be, as above.
        key: its position; "" at the top.
    """
    kinds = form if isinstance(form, tuple) else (form,)
    fitting = [each for each in kinds if _is(content, each)]
    if not fitting:
        must = " or ".join(NAMES[_kind(each)] for each in kinds)
        is_now = NAMES[type(content)] if not _odd(content) else str(content)
        return f"{repr(key) if key else 'it'} must be {must}, but is {is_now}"
    form = fitting[0]
    if isinstance(form, list):
        inner = ((f"{key}[{at}]", each, form[0]) for at, each in enumerate(content))
    elif isinstance(form, dict) and str in form:
        inner = ((_below(key, name), each, form[str]) for name, each in content.items())
    elif isinstance(form, dict):
        missing = [name for name in form if name not in content and not name.endswith("?")]
        if missing:
            return f"it lacks {_below(key, missing[0])!r}"
        known = {name.rstrip("?"): each for name, each in form.items()}
        inner = (
            (_below(key, name), content[name], known[name]) for name in known if name in content
        )
    else:
        return ""
    return next(filter(None, (difference(value, each, at) for at, value, each in inner)), "")


def _kind(form: Any) -> type:
    return form if isinstance(form, type) else type(form)


def _is(content: Any, form: Any) -> bool:
    kind = _kind(form)
    if kind is float:
        return type(content) in (int, float) and not _odd(content)
    return kind is object or type(content) is kind


def _odd(content: Any) -> bool:
    """Whether it is NaN or infinity, which Python reads though JSON has none."""
    return isinstance(content, float) and not math.isfinite(content)


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
