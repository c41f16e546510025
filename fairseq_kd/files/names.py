"""Names from files, command lines and checkpoints: checked to be plain, or escaped in output."""

import re
from typing import Iterable, Tuple

LANGUAGE = re.compile(r"[^\W_][\w@.+-]{0,63}")
SYSTEM = re.compile(r"[^\W_][\w .,:;+@()#%&='-]*")


def plain_languages(languages: Iterable[str], called: str) -> Tuple[str, ...]:
    """Languages that may stand in names of files, programs and pages.

    Args:
        languages: as a checkpoint, a file or the name of a file has them.
        called: how errors name that.

    Raises:
        ValueError: one is no plain name.
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
    """A text in one line, for a comment or a page: what would end the line is a blank."""
    return re.sub(r"[\s\x00-\x1f\x7f\x85\u2028\u2029]+", " ", str(text)).strip()


def on_terminal(text: object) -> str:
    """A text whose control characters a terminal shows and does not obey; lines stay lines."""
    controls = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
    return controls.sub(lambda found: repr(found[0])[1:-1], str(text))


def in_markdown(text: object) -> str:
    """A text as a line of Markdown, neither HTML nor a link; `code` and *emphasis* stay."""
    return re.sub(r"<(?=[A-Za-z/!?])|\](?=[(\[:])", r"\\\g<0>", in_one_line(text))


def as_code(text: object) -> str:
    """A text between backticks, as Markdown shows it, whatever backticks it holds."""
    text = in_one_line(text)
    ticks = fence_around(text, 1)
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{blank}{text}{blank}{ticks}"


def fence_around(text: str, least: int) -> str:
    """Backticks that end nowhere in a text, at least so many."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * (least if longest < least else longest + 1)
