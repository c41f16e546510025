"""Names from files, command lines and checkpoints: checked to be plain, or escaped in output."""

import os
import re
from pathlib import Path
from typing import Iterable, Tuple, Union

LANGUAGE = re.compile(r"[^\W_][\w@.+-]{0,63}")
SYSTEM = re.compile(r"[^\W_][\w .,:;+@()#%&='-]*")


def plain_languages(languages: Iterable[str], called: str) -> Tuple[str, ...]:
    """Checks that languages are safe in names of files, programs and pages.

    Args:
        languages: as a checkpoint, a file or the name of a file has them.
        called: how errors name that.

    Raises:
        ValueError: one is not a plain name.
    """
    languages = tuple(languages)
    for language in languages:
        if not isinstance(language, str) or not LANGUAGE.fullmatch(language) or ".." in language:
            raise ValueError(
                f"{called} names the language {language!r}, but a language is a name of at most 64 "
                "letters, digits and - _ . + @, such as de or zh_CN. Rename it."
            )
    return languages


def in_one_line(text: object) -> str:
    """A text as one line, for a comment or a page: line breaks become spaces."""
    return re.sub(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+", " ", str(text)).strip()


def why_no_file(path: Union[str, Path]) -> str:
    """Why a path cannot be read as a file, as the end of a sentence."""
    if not os.path.lexists(path):
        return "does not exist"
    if os.path.isdir(path):
        return "must be a file, but is a folder"
    if os.path.exists(path):
        return "must be a regular file, but is a pipe or a device"
    return "is a symbolic link that leads to no file"


def on_terminal(text: object) -> str:
    """A text with escaped control characters, so that a terminal shows them; line breaks stay.

    Those that change the direction of writing are escaped, too: they reorder what follows.
    """
    controls = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
    return controls.sub(lambda found: repr(found[0])[1:-1], str(text))


def in_markdown(text: object) -> str:
    """A text as a line of Markdown, neither HTML nor a link; `code` and *emphasis* stay."""
    return re.sub(r"(\\*)(<(?=[A-Za-z/!?])|\](?=[(\[:]))", r"\1\1\\\2", in_one_line(text))


def as_code(text: object) -> str:
    """A text as Markdown code, also if it contains backticks."""
    text = in_one_line(text)
    ticks = fence_around(text, 1)
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{blank}{text}{blank}{ticks}"


def fence_around(text: str, least: int) -> str:
    """A fence of backticks that does not occur in a text, with a minimum length."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * (least if longest < least else longest + 1)
