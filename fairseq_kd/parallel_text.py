"""Reads plain text line by line, and makes clean sets of parallel text.

It is a program, too, for ``scripts/cross_lingual.sh``, and imports nothing else of the package:

    parallel_text.py IN/train OUT/train MAX_WORDS LANGUAGE LANGUAGE...
"""

import codecs
import gzip
import html
import lzma
import os
import re
import sys
import unicodedata
import zlib
from contextlib import ExitStack
from itertools import zip_longest
from typing import Dict, Iterator, List, Optional, Sequence

OPENERS = {"": open, ".xz": lzma.open, ".gz": gzip.open}  # by what follows the name of a text
DAMAGED = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SEPARATORS = [*range(0x20), 0x85, 0x2028, 0x2029]  # some programs end a line or a word at them
CLEAN = {**dict.fromkeys(SEPARATORS, " "), 0xFEFF: ""}  # and a byte-order mark, from joined files
ODD = re.compile(f"[{''.join(map(chr, CLEAN))}]")
INVISIBLE = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories: controls, zero-width characters, spaces
SHOWN_BYTES = 20
SPLIT_BY = {  # marks of words that are split into subwords, by what splits them
    "BPE": re.compile(r"\S@@(?!\S)"),
    "SentencePiece": re.compile("(?<!\\S)\u2581"),
}
SHOWN = 40  # characters of a line in a message
MOST_SPLIT = 0.1  # largest share of lines with such marks in plain text
COUNTED = 250  # lines after which the share is compared, and again after as many
AS_BEFORE = "Give the text as it was before that."


def text_file(name: str) -> str:
    """The file of a text: the given name, or that name with ``.xz`` or ``.gz``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, or never ends, as a pipe may not.
    """
    there = [name + ending for ending in OPENERS if os.path.exists(name + ending)]
    if not there:
        raise FileNotFoundError(f"{name} is missing, and so are {name}.xz and {name}.gz.")
    if os.path.isdir(there[0]):
        raise ValueError(f"{there[0]} must be a text file, but is a folder.")
    if not os.path.isfile(there[0]):
        raise ValueError(f"{there[0]} must be a text file, but is a pipe or a device.")
    for other in there[1:]:
        print(f"{other} is ignored: {there[0]} is read", file=sys.stderr)
    return there[0]


def lines_of(path: str, called: Optional[str] = None) -> Iterator[str]:
    r"""The lines of a UTF-8 text file, each ended by ``\n`` or ``\r\n``, without their ends.

    A byte-order mark that the file begins with is left out. The last line needs no end.

    Args:
        path: the file; what ends in ``.xz`` or ``.gz`` is decompressed.
        called: how the user named it, if otherwise.

    Raises:
        ValueError: it is not UTF-8, or a compressed file is cut off; the line is named.
    """
    called, number = called or path, 0
    try:
        with OPENERS.get(os.path.splitext(path)[1], open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = _without_mark(line, called)
                if b"\0" in line:
                    raise ValueError(
                        f"{called}, line {number}, has a zero byte, which text must not contain. "
                        + _advice("UTF-16")
                    )
                yield line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        start = max(0, error.start - SHOWN_BYTES)
        before = error.object[start : error.start].decode("utf-8", errors="ignore")
        raise ValueError(
            f'{called}, line {number}, is not UTF-8: after "{before}" comes the byte '
            f"0x{error.object[error.start]:02x}. {_advice('LATIN1')}"
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"{called} is cut off or damaged after line {number}. Download or compress it again."
        ) from error


def _without_mark(line: bytes, called: str) -> bytes:
    if line.startswith(UTF_16):
        raise ValueError(
            f"{called} must be UTF-8, but is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8."
        )
    if not line.startswith(codecs.BOM_UTF8):
        return line
    print(f"{called} begins with a byte-order mark, which is left out", file=sys.stderr)
    return line[len(codecs.BOM_UTF8) :]


def _advice(encoding: str) -> str:
    return (
        f"If the file has another encoding, convert it, as iconv -f {encoding} -t UTF-8 does; if "
        "the line is damaged, correct it, or remove it in every language."
    )


def letters_of(text: str) -> str:
    """The letters and digits of a text, which tokenisation and truecasing leave as they are."""
    return "".join(filter(str.isalnum, html.unescape(text).casefold()))


def cleaned(line: str) -> str:
    """A line without the characters at which programs disagree where it ends; spaces instead."""
    return line if line.isprintable() else line.translate(CLEAN)


class SplitWords:
    """Counts the lines of a text whose words BPE or SentencePiece has split, by their marks.

    Such text would be split a second time, or compared with text that is not split.

    Args:
        called: how errors name the text.
        advice: what to do with such text; "" accepts it.
    """

    def __init__(self, called: str, advice: str = AS_BEFORE):
        self.called, self.advice, self.lines = called, advice, 0
        self.marked = dict.fromkeys(SPLIT_BY, 0)  # lines
        self.first: Dict[str, str] = {}  # of them

    def add(self, line: str) -> None:
        """Counts the next line.

        Raises:
            ValueError: as ``check``, of every so many lines.
        """
        self.lines += 1
        if "\u2581" in line or "@@" in line:  # few have them, and this is fast
            for each, mark in SPLIT_BY.items():
                if mark.search(line):
                    self.marked[each] += 1
                    self.first.setdefault(each, line)
        if self.lines % COUNTED == 0:
            self.check()

    @property
    def split_by(self) -> str:
        """What split the words of more lines than plain text has marks in; "" if nothing did."""
        most = MOST_SPLIT * self.lines
        return next((each for each, lines in self.marked.items() if lines > most), "")

    def check(self) -> None:
        """Refuses text that is split, if there is advice.

        Raises:
            ValueError: it is split.
        """
        if self.advice and self.split_by:
            raise ValueError(
                f"{self.called} must be plain text, but is split by {self.split_by}, as "
                f"{self.first[self.split_by][:SHOWN]!r} shows. {self.advice}"
            )


class CleanLines:
    """The lines of a file without the characters at which programs disagree where a line ends.

    They become spaces. A line in which nothing is visible becomes "".

    Args:
        path: the file.
        if_split: what to do if the text is split into subwords; "" accepts it.
    """

    def __init__(self, path: str, if_split: str = AS_BEFORE):
        self.path, self.if_split = path, if_split
        self.count = self.cleaned = 0

    def __iter__(self) -> Iterator[str]:
        """Each line once, counted.

        Raises:
            ValueError: as ``lines_of``, or the text is split into subwords.
        """
        words = SplitWords(self.path, self.if_split)
        for line in lines_of(self.path):
            self.count += 1
            words.add(line)
            if line.isprintable():  # most are, and this is fast
                yield line if not line.isspace() else ""
                continue
            if ODD.search(line):
                self.cleaned += 1
                line = line.translate(CLEAN)
            yield line if any(unicodedata.category(each) not in INVISIBLE for each in line) else ""
        words.check()

    def check(self) -> None:
        """Refuses a file without lines, and says what was cleaned."""
        if not self.count:
            raise ValueError(f"{self.path} is empty.")
        if self.cleaned:
            message = f"{self.path}: control characters, such as tabs, became spaces in"
            print(message, f"{self.cleaned:,} line{'s' * (self.cleaned > 1)}", file=sys.stderr)


def write_clean(name: str, out: str, languages: Sequence[str], max_words: int) -> "tuple[int, int]":
    """Writes the lines of a set that have words in every language, as ``OUT.LANGUAGE``.

    Args:
        name: of the set's files, without ``.LANGUAGE``.
        out: the same of the files to write.
        languages: two or more; line N of all belongs together.
        max_words: the most words of a line; 0 for any number.

    Returns:
        How many lines were kept, and how many there are.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged or out of step, or leaves no line.
    """
    sides = [CleanLines(text_file(f"{name}.{language}")) for language in languages]
    kept = 0
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(f"{out}.{each}", "w", encoding="utf-8", newline="\n"))
            for each in languages
        ]
        for lines in zip_longest(*sides, fillvalue=""):
            if all(lines) and not (max_words and any(_is_long(line, max_words) for line in lines)):
                kept += 1
                for file, line in zip(files, lines, strict=True):
                    file.write(f"{line}\n")
    for side in sides:
        side.check()
    for side in sides[1:]:
        if side.count != sides[0].count:
            raise ValueError(
                f"{sides[0].path} has {sides[0].count} lines but {side.path} has {side.count}; "
                f"line N of {'both' if len(sides) == 2 else 'all'} must be the same sentence."
            )
    if not kept:
        which = " and ".join(f".{language}" for language in languages)
        limit = f" of at most {max_words} words" if max_words else ""
        raise ValueError(f"{name}{which} leave no pairs{limit}.")
    return kept, sides[0].count


def _is_long(line: str, max_words: int) -> bool:
    return line.count(" ") >= max_words and sum(map(bool, line.split(" "))) > max_words


def main(arguments: List[str]) -> int:
    """Writes one set; a user error ends with one sentence and status 1."""
    name, out, max_words, *languages = arguments
    try:
        if not max_words.isdecimal():
            raise ValueError(f"MAX_WORDS must be a whole number, 0 or more, but is {max_words}.")
        kept, count = write_clean(name, out, languages, int(max_words))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{os.path.basename(name)}: {kept} of {count} pairs kept")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
