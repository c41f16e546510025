"""The command ``fairseq-kd COMMAND``; every command has its own ``--help``."""

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from fairseq_kd.child_process import Terminated, end_on_signals
from fairseq_kd.commands import (
    diagnose,
    distill_data,
    evaluate,
    export,
    extract_peer,
    flags,
    inherit,
    merge,
    plan,
    progressive,
    stage,
    step,
    store,
    store_merge,
    translate,
)
from fairseq_kd.files.names import on_terminal
from fairseq_kd.files.write_errors import explained, writing
from fairseq_kd.flag_types import Range, Several, with_range

DESCRIPTION = (
    "Knowledge distillation for fairseq. Training itself is fairseq-train ... --user-dir user_dir."
)
INSTALL = "README.md says what the commands need; scripts/setup.sh installs all of it."
SUBCOMMANDS = (  # in the order of --help
    *(plan, inherit, store, translate, distill_data, extract_peer, progressive, stage, step),
    *(diagnose, evaluate, export, flags),
    *(merge, store_merge),  # run by the commands above unless shards lie on several machines
)


class CommandHelp(argparse.HelpFormatter):
    """Help that shows the range of every number."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        text = super()._get_help_string(action)
        if text is None or not isinstance(action.type, (Range, Several)):
            return text
        return with_range(text, action.type)


class CommandParser(argparse.ArgumentParser):
    """A command line that may end in ``--`` and words for another program, also behind flags.

    argparse alone finds no words after ``--`` for ``[WORD ...]`` if a flag stands between a
    positional argument and them. Flags are not abbreviated: a new one would change what an
    abbreviation means.
    """

    others: Optional[str] = None  # where the words after -- go

    def __init__(
        self, *args: Any, formatter_class: type = argparse.HelpFormatter, **kwargs: Any
    ) -> None:
        shows_ranges = type("CommandHelp", (CommandHelp, formatter_class), {})
        super().__init__(*args, formatter_class=shows_ranges, allow_abbrev=False, **kwargs)

    def parse_known_args(
        self,
        args: Optional[Sequence[str]] = None,
        namespace: Optional[argparse.Namespace] = None,
    ) -> Tuple[argparse.Namespace, List[str]]:
        """As argparse does, without the words after ``--``."""
        words = list(sys.argv[1:] if args is None else args)
        at = words.index("--") if self.others and "--" in words else len(words)
        found, unknown = super().parse_known_args(words[:at], namespace)
        if self.others and at < len(words):
            setattr(found, self.others, [*getattr(found, self.others), *words[at + 1 :]])
        return found, unknown


def main(argv: Optional[List[str]] = None) -> int:
    """Runs a command; a mistake of the user's ends in one sentence and status 2.

    A signal that ends the process does so in one sentence, too, with status 128 and its number.

    Args:
        argv: the words of the command line; None for those of this process.
    """
    if argv is None:
        end_on_signals()
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    from fairseq_kd import quiet  # noqa: F401

    try:
        status = args.run(args)
        with writing(Path("standard output")):
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, OSError, ValueError, RuntimeError) as error:
        message = explained(error, getattr(args, "out", None), args.kept)
        if message is None and isinstance(error, RuntimeError):
            raise
        print(f"fairseq-kd {args.subcommand}: {on_terminal(message or error)}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"fairseq-kd {args.subcommand}: {on_terminal(error)}. {INSTALL}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as ended:
        number = ended.number if isinstance(ended, Terminated) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        with suppress(OSError):  # the terminal may be gone
            print(
                f"\nfairseq-kd {args.subcommand}: {how}; the same command goes on", file=sys.stderr
            )
        return 128 + number


def _open_standard_streams() -> None:
    """Opens those that the caller closed, as by ``>&-``, to nothing.

    Else the next file that is opened would have their number, and what is printed be written to it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def parser() -> argparse.ArgumentParser:
    """The command line of all commands."""
    top = argparse.ArgumentParser(prog="fairseq-kd", description=DESCRIPTION)
    subcommands = top.add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subcommands)
    top.set_defaults(parser=top)  # for the command that tries the command lines of others
    top.set_defaults(kept="what was there before is as it was")
    return top


if __name__ == "__main__":
    sys.exit(main())
