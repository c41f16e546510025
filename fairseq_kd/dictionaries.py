"""Reads and validates fairseq's dictionary files."""

from pathlib import Path

from fairseq.data import Dictionary

from fairseq_kd.parallel_text import lines_of


def read_dictionary(path: Path, distinct: bool = True) -> Dictionary:
    """A dictionary of fairseq.

    Args:
        path: a ``dict.LANG.txt``.
        distinct: whether tokens are written as text: then each must have one index and no white
            space in it. fairseq allows a token twice if the second is marked.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is not UTF-8 text, not a dictionary, or holds a word twice or white space.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Give to --data the folder that fairseq-preprocess wrote."
        )
    check_encoding(path)
    try:
        dictionary = Dictionary.load(str(path))
    except (RuntimeError, ValueError) as error:  # a word twice, or an invalid line
        message = " ".join(str(error).split())
        reason = message.partition(". ")[0]
        if isinstance(error, ValueError):
            reason = f"a line is not a word and its count, {message.partition(': ')[2]}"
        raise ValueError(
            f"{path} is not a fairseq dictionary: {reason}. Run fairseq-preprocess again."
        ) from error
    if distinct and len(dictionary.indices) != len(dictionary.symbols):
        twice = next(
            word for i, word in enumerate(dictionary.symbols) if dictionary.indices[word] != i
        )
        raise ValueError(f'{path} holds the word "{twice}" twice. Run fairseq-preprocess again.')
    broken = next((word for word in dictionary.symbols if word.split() != [word]), None)
    if distinct and broken is not None:
        raise ValueError(
            f"{path} holds the token {broken!r}, in which there is white space: fairseq-preprocess "
            "splits text there, so no text has it. Binarise with a dictionary without it."
        )
    return dictionary


def check_encoding(path: Path) -> None:
    """Refuses a file that is not UTF-8 text; fairseq's error names neither file nor line.

    Raises:
        ValueError: naming both.
    """
    for _ in lines_of(str(path)):
        pass
