"""The flags of our criterions as text and as a page, made from the dataclasses that define them."""

import textwrap
from argparse import ArgumentParser, HelpFormatter
from typing import Dict, Iterator, Optional, Tuple, Type

from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY

import fairseq_kd.criterions
import fairseq_kd.tasks  # noqa: F401  (registers them, as the line above)
from fairseq_kd.criterions.word_kd import WordKDCriterion

INTRODUCTION = """\
# Flags

`fairseq-train --help` lists no flags of criterions and tasks, so this page lists the flags of this
package; `fairseq-kd flags word_kd` prints them too. This page is made by `fairseq-kd flags
--markdown > docs/flags.md`. In a YAML file of `fairseq-hydra-train` the same names, with
underscores, are keys under `criterion:` or `task:`.
"""


def criterion_classes() -> Dict[str, Type]:
    """Our criterions by the name that ``--criterion`` takes."""
    registered = REGISTRIES["criterion"]["registry"]
    return {
        name: cls for name, cls in registered.items() if cls.__module__.startswith("fairseq_kd.")
    }


def task_classes() -> Dict[str, Type]:
    """Our tasks by the name that ``--task`` takes."""
    return {n: cls for n, cls in TASK_REGISTRY.items() if cls.__module__.startswith("fairseq_kd.")}


def flags_of(cls: Type) -> Iterator[Tuple[str, str]]:
    """(flag, help) of every flag that a criterion reads, or that a task of ours adds."""
    parser = ArgumentParser(add_help=False)
    cls.add_args(parser)
    expand = HelpFormatter(prog="")._expand_help
    alone = "--kd-" if cls in task_classes().values() else "--"  # of a task, what it adds
    for action in parser._actions:
        names = action.option_strings
        if names and names[0].startswith(alone):
            yield names[0], expand(action)


def flags_text(criterion: Optional[str] = None) -> str:
    """The flags of one criterion or task, or of all, for a terminal.

    Raises:
        ValueError: nothing of ours has that name.
    """
    classes = {**criterion_classes(), **task_classes()}
    if criterion is not None and criterion not in classes:
        raise ValueError(f"The criterion must be one of {', '.join(classes)}, but is {criterion}.")
    lines = []
    for name, cls in classes.items():
        if criterion not in (None, name):
            continue
        kind = "--task" if name in task_classes() else "--criterion"
        lines += [f"{kind} {name}: {cls.__doc__.splitlines()[0]}", ""]
        for flag, text in flags_of(cls):
            lines += [
                f"  {flag}",
                *textwrap.wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6),
            ]
        lines.append("")
    return "\n".join(lines)


def flags_page() -> str:
    """The page ``docs/flags.md``: flags shared with word_kd are listed once."""
    parts, shared = [INTRODUCTION], set(flags_of(WordKDCriterion))
    for name, cls in {**criterion_classes(), **task_classes()}.items():
        parts += [f"## {name}\n", f"{cls.__doc__.splitlines()[0]}\n"]
        derived = cls is not WordKDCriterion and issubclass(cls, WordKDCriterion)
        if derived:
            parts.append(
                "The flags of [word_kd](#word_kd), and the following, which replace flags of the "
                "same name:\n"
            )
        known = shared if derived else ()
        rows = [
            f"| `{flag}` | {_cell(text)} |"
            for flag, text in flags_of(cls)
            if (flag, text) not in known
        ]
        parts.append("\n".join(["| flag | meaning |\n|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    """Text as a table cell, with escaped bars."""
    return text.replace("|", "\\|")
