"""Dictionaries of fairseq from files, or what is wrong with them."""

from pathlib import Path

from fairseq.data import Dictionary

from fairseq_kd.parallel_text import lines_of


def read_dictionary(path: Path) -> Dictionary:
    """A dictionary in which every word stands for one index, so that words and ids are the same.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is no UTF-8 text, no dictionary, or holds a word twice.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Give to --data the folder that fairseq-preprocess wrote."
        )
    check_encoding(path)
    try:
        words = Dictionary.load(str(path))
    except (RuntimeError, ValueError) as error:  # a word twice, or a line that is no entry
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{path} is no dictionary of fairseq: {reason}. Build it anew.") from error
    if len(words.indices) != len(words.symbols):  # fairseq allows it to what is marked so
        twice = next(word for i, word in enumerate(words.symbols) if words.indices[word] != i)
        raise ValueError(f'{path} holds the word "{twice}" twice. Build it anew.')
    return words


def check_encoding(path: Path) -> None:
    """Refuses a file that is no UTF-8 text, of which fairseq says neither the name nor the line.

    Raises:
        ValueError: naming both.
    """
    for _ in lines_of(str(path)):
        pass
