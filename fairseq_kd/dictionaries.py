"""Reads the dictionaries of fairseq, or names the one that cannot be used."""

from pathlib import Path
from typing import Union

from fairseq.data import Dictionary

from fairseq_kd.parallel_text import lines_of


def read_dictionary(path: Union[str, Path], missing: str = "") -> Dictionary:
    """A dictionary of fairseq.

    Args:
        path: a ``dict.LANG.txt``.
        missing: what to do where there is no such file, as a sentence.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no text, a line is no entry, or a token stands twice and is not marked so.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing. {missing}".rstrip())
    check_encoding(path)
    try:
        return Dictionary.load(str(path))
    except OSError:
        raise
    except Exception as error:  # fairseq's errors have no common class
        told = " ".join(str(error).split())
        wrong = f"a line is no token with its count, {told.partition(': ')[2]}"
        if isinstance(error, RuntimeError):  # a token stands twice
            wrong = told.partition(". ")[0]
        raise ValueError(f"{path} is no dictionary of fairseq: {wrong}. Build it anew.") from error


def check_distinct(path: Union[str, Path], words: Dictionary) -> None:
    """Makes sure that every token stands for one index, so that tokens and ids are the same.

    Args:
        path: the file.
        words: what was read of it.

    Raises:
        ValueError: a token stands twice.
    """
    if len(words.indices) != len(words.symbols):  # fairseq allows it to what is marked so
        twice = next(word for i, word in enumerate(words.symbols) if words.indices[word] != i)
        raise ValueError(f'{path} holds the token "{twice}" twice. Build it anew.')


def check_encoding(path: Union[str, Path]) -> None:
    """Refuses a file that is no UTF-8 text, of which fairseq says neither the name nor the line.

    Raises:
        ValueError: naming both.
    """
    for _ in lines_of(str(path)):
        pass
