"""Types of flag values: numbers in a range, names, one line of text, paths.

They are the types of the flags on the command line, and of variables of the environment. A
``Range`` is also in the metadata of a criterion's field, whose value is checked against it
before the first update.
"""

import argparse
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Collection, List, Optional, Tuple, Union

Number = Union[int, float]
WHOLE = re.compile(r"[+-]?[0-9]+")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
UNPRINTABLE = re.compile(  # and bytes that are not UTF-8, which Python reads as surrogates
    r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]"
)


@dataclass(frozen=True)
class Range:
    """Numbers from the least to the most, and what else is allowed.

    Args:
        kind: int or float.
        least, most: both are allowed.
        also: further numbers that are allowed, such as 0 or inf.
        below: most itself is not allowed.
    """

    kind: type
    least: Number
    most: Number
    also: Tuple[Number, ...] = ()
    below: bool = False

    def __call__(self, text: str) -> Number:
        """A number as it is typed.

        Raises:
            argparse.ArgumentTypeError: it is not a number, or out of the range.
        """
        value = self._read(text)
        if value is None or not self.holds(value):
            raise argparse.ArgumentTypeError(f"it must be {self}, but is {shown(text)}")
        return value

    def holds(self, value: Number) -> bool:
        """Whether a number is in the range; NaN never is."""
        if value in self.also:
            return True
        return self.least <= value < self.most if self.below else self.least <= value <= self.most

    def check(self, name: str, value: Number) -> None:
        """Refuses a number out of the range.

        Args:
            name: of the flag, as the user types it.
            value: of the flag.

        Raises:
            ValueError: naming the flag, its range and its value.
        """
        if not self.holds(value):
            raise ValueError(f"{name} must be {self}, but is {value}.")

    def __str__(self) -> str:
        """The range in words."""
        kind = "a whole number" if self.kind is int else "a number"
        range_text = f"{kind} from {_digits(self.least)} to {'below ' * self.below}"
        range_text += _digits(self.most)
        return " or ".join([*(f"{each:g}" for each in self.also), range_text])

    def _read(self, text: str) -> "Number | None":
        """The number in a text, None if it holds none."""
        infinite = text.lstrip("+-") == "inf" and float(text) in self.also
        if self.kind is int and not infinite:
            return int(text) if WHOLE.fullmatch(text) and len(text) < 30 else None
        try:
            return float(text) if text == text.strip() else None
        except ValueError:
            return None


@dataclass(frozen=True)
class Several:
    """Numbers of one range, separated by commas.

    Args:
        each: what each of them may be.
        at_most: how many there may be.
    """

    each: Range
    at_most: int

    def __call__(self, text: str) -> List[Number]:
        """The numbers as they are typed.

        Raises:
            argparse.ArgumentTypeError: one is invalid or out of the range, or there are too many.
        """
        try:
            numbers = [self.each(part) for part in text.split(",")]
        except argparse.ArgumentTypeError:
            numbers = []
        if not 1 <= len(numbers) <= self.at_most:
            raise argparse.ArgumentTypeError(f"it must be {self}, but is {shown(text)}")
        return numbers

    def __str__(self) -> str:
        """The numbers in words."""
        return f"1 to {self.at_most} numbers separated by commas, each {self.each}"


COUNT = Range(int, 1, 1_000_000_000)  # of what only memory and patience limit
THREADS = Range(int, 1, 1024)
BEAM = Range(int, 1, 1000)
WEIGHT = Range(float, 1e-12, 1e6, also=(0,))  # of a term of a loss
TEMPERATURE = Range(float, 0.01, 100)
SEED = Range(int, 0, 2**32 - 1)
BPE = ("subword_nmt", "sentencepiece", "wordpiece", "letter", "_EOW", "none")  # of --remove-bpe


def from_environment(name: str, allowed: Range, default: Number) -> Number:
    """The number in a variable of the environment; the default if it is not set, or empty.

    Raises:
        ValueError: it holds none, or one out of the range.
    """
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return allowed(text)
    except argparse.ArgumentTypeError:
        message = f"{name} must be {allowed}, but is {shown(text):.60}"
        raise ValueError(f"{message}. Correct it, or unset it.") from None


def number_field(default: Any, allowed: Union[Range, Several], help_text: str, **more: Any) -> Any:
    """A field that is a flag with a number: of a criterion's config, or of a command's options.

    Args:
        default: its value where the user gives none; ``MISSING`` for a flag that must be given.
        allowed: its other values.
        help_text: of the flag, without the range.
        more: further metadata, which ``fairseq_kd.command_line`` describes.
    """
    metadata = {"help": with_range(help_text, allowed), "range": allowed, **more}
    return field(default=default, metadata=metadata)


def option_field(
    default: Any, help_text: str, choices: Optional[Collection[str]] = None, **more: Any
) -> Any:
    """A field that is a flag without a number: of a criterion's config, or of a command.

    Args:
        default: its value where the user gives none; ``MISSING`` for a flag that must be given.
        help_text: of the flag.
        choices: the values that it may have; None: any text, or what ``more`` says.
        more: further metadata, which ``fairseq_kd.command_line`` describes.
    """
    return field(default=default, metadata={"help": help_text, "choices": choices, **more})


def with_range(help_text: str, allowed: Union[Range, Several]) -> str:
    """The help of a flag with its range, before the default, if there is one."""
    before, default, after = help_text.rpartition(" (default")
    if not default:
        return f"{help_text} ({allowed})"
    return f"{before} ({allowed}; default{after}"


def flag_name(name: str) -> str:
    """A field as the user types it: ``--max-tokens`` of ``max_tokens``."""
    return f"--{name.replace('_', '-')}"


def subset_name(text: str) -> str:
    """The name of a subset.

    Raises:
        argparse.ArgumentTypeError: it is not a name.
    """
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"it must be a name such as test, but is {shown(text)}")
    return text


def subset_names(text: str) -> str:
    """Names of subsets, separated by commas.

    Raises:
        argparse.ArgumentTypeError: one of them is not a name.
    """
    if not all(NAME.fullmatch(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(
            f"it must be names such as train,valid, but is {shown(text)}"
        )
    return text


def one_word(text: str) -> str:
    """A word without a space in it.

    Raises:
        argparse.ArgumentTypeError: it is empty or has a space.
    """
    if len(text.split()) != 1 or text != text.strip() or UNPRINTABLE.search(text):
        raise argparse.ArgumentTypeError(f"it must be one word, but is {shown(text)}")
    return text


def one_line(text: str) -> str:
    """One line of text.

    Raises:
        argparse.ArgumentTypeError: it is empty or has a line break or another control character.
    """
    if not text.strip() or UNPRINTABLE.search(text):
        raise argparse.ArgumentTypeError(
            f"it must be text on one line and not empty, but is {shown(text)}"
        )
    return text


def file_path(text: str) -> Path:
    """A path.

    Raises:
        argparse.ArgumentTypeError: it is empty or has a line break or another control character.
    """
    if not text.strip() or UNPRINTABLE.search(text):
        raise argparse.ArgumentTypeError(f"it must be a path, but is {shown(text)}")
    return Path(text)


def data_folder(text: str) -> Path:
    """The path of a folder of fairseq-preprocess.

    Raises:
        argparse.ArgumentTypeError: as ``file_path``, or fairseq would take it for several folders.
    """
    if os.pathsep in text:
        raise argparse.ArgumentTypeError(
            f"it must be a folder without {os.pathsep} in its path, with which fairseq separates "
            f"folders, but is {shown(text)}"
        )
    return file_path(text)


def shown(text: str) -> str:
    """A value for a message: quoted if it is empty or invisible."""
    return repr(text) if text != text.strip() or not text or UNPRINTABLE.search(text) else text


def _digits(value: Number) -> str:
    """A limit as people write it."""
    whole = math.isfinite(value) and value == int(value)
    return f"{int(value):,}" if whole else f"{value:g}"
