"""The command ``fairseq-kd COMMAND``; every command has its own ``--help``."""

import argparse
import os
import signal
import sys
from contextlib import suppress
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from fairseq_kd.child_process import Terminated, end_on_signals, import_nothing_from_here
from fairseq_kd.command_line import PROGRAM, Group, Subcommand, flag_of, many, reader_of
from fairseq_kd.commands import (
    binarise_text,
    diagnose,
    distill_data,
    evaluate,
    export,
    extract_peer,
    flags,
    import_translations,
    inherit,
    merge,
    plan,
    prepare,
    progressive,
    stage,
    step,
    store,
    store_merge,
    translate,
    translate_text,
    user_dir,
)
from fairseq_kd.files.names import in_one_line, on_terminal
from fairseq_kd.files.write_errors import explained, writing

DESCRIPTION = (
    "Knowledge distillation for fairseq. Training itself is fairseq-train ... --user-dir "
    '"$(fairseq-kd user-dir)".'
)
INSTALL = "docs/install.md lists the requirements; scripts/setup.sh installs them."
COMMANDS = (  # in the order of --help
    *(
        prepare,
        plan,
        inherit,
        store,
        binarise_text,
        translate,
        translate_text,
        import_translations,
        distill_data,
        extract_peer,
        progressive,
        stage,
        step,
    ),
    *(diagnose, evaluate, export, flags, user_dir),
    *(merge, store_merge),  # for shards that lie on several machines
)
SUBCOMMANDS = tuple(command.SUBCOMMAND for command in COMMANDS)


class CommandParser(argparse.ArgumentParser):
    """A parser whose command line may end in ``--`` and the arguments of another program.

    argparse alone finds no arguments after ``--`` for ``[WORD ...]`` if a flag is between a
    positional argument and them. Flags are not abbreviated: a new one would change what an
    abbreviation means.
    """

    rest: Optional[str] = None  # the name of the arguments after --

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_known_args(
        self,
        args: Optional[Sequence[str]] = None,
        namespace: Optional[argparse.Namespace] = None,
    ) -> Tuple[argparse.Namespace, List[str]]:
        """As argparse, without the arguments after ``--``."""
        arguments = list(sys.argv[1:] if args is None else args)
        at = arguments.index("--") if self.rest and "--" in arguments else len(arguments)
        parsed, unknown = super().parse_known_args(arguments[:at], namespace)
        if self.rest and at < len(arguments):
            setattr(parsed, self.rest, [*getattr(parsed, self.rest), *arguments[at + 1 :]])
        return parsed, unknown


def main(argv: Optional[List[str]] = None) -> int:
    """Runs a command; a user error ends with one sentence and status 2.

    A signal also ends it with one sentence, and with status 128 plus its number.

    Args:
        argv: the arguments of the command line; None for those of this process.
    """
    if argv is None:
        end_on_signals()
        import_nothing_from_here()
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # unprintable characters must not cause a failure
            stream.reconfigure(errors="backslashreplace")
    args = parser().parse_args(argv)
    subcommand = args.invoked
    options = subcommand.options.parsed(args)
    try:
        _check_current_folder()
        from fairseq_kd import quiet  # noqa: F401

        options.check()
        status = subcommand.run(options)
        with writing(Path("standard output")):
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, OSError, ValueError, RuntimeError) as error:
        message = explained(error, getattr(options, "out", None), subcommand.kept)
        if message is None and isinstance(error, RuntimeError):
            raise
        sentence = on_terminal(in_one_line(message or error))  # a path may hold line breaks
        print(f"fairseq-kd {args.subcommand}: {sentence}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"fairseq-kd {args.subcommand}: {on_terminal(error)}. {INSTALL}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as ended:
        number = ended.number if isinstance(ended, Terminated) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
        with suppress(OSError):  # the terminal may be gone
            print(
                f"\nfairseq-kd {args.subcommand}: {how}; run the same command again to resume",
                file=sys.stderr,
            )
        return 128 + number


def _check_current_folder() -> None:
    """Refuses to work where the current folder was removed, as many libraries fail there."""
    try:
        os.getcwd()
    except OSError as error:
        raise ValueError(
            "The current folder no longer exists. Change to another folder."
        ) from error


def _open_standard_streams() -> None:
    """Opens the standard streams that the caller closed, as by ``>&-``, to /dev/null.

    Otherwise the next opened file would get their number, and printed text would go into it.
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
    top = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    subparsers = top.add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND", parser_class=CommandParser
    )
    for subcommand in SUBCOMMANDS:
        _add_subcommand(subparsers, subcommand)
    return top


def _add_subcommand(subparsers: Any, subcommand: Subcommand) -> None:
    raw = argparse.RawDescriptionHelpFormatter if subcommand.epilog else argparse.HelpFormatter
    parser = subparsers.add_parser(
        subcommand.options.COMMAND,
        aliases=subcommand.aliases,
        description=subcommand.description,
        epilog=subcommand.epilog,
        usage=subcommand.usage,
        formatter_class=raw,
        **({} if subcommand.help is None else {"help": subcommand.help}),
    )
    groups = {None: parser}
    for each in subcommand.options.flags():
        group = each.metadata.get("group")
        if group not in groups:
            groups[group] = _add_group(parser, group)
        _add_flag(groups[group], each)
        if each.metadata.get("nargs") == "*":
            parser.rest = each.name
    parser.set_defaults(invoked=subcommand)


def _add_group(parser: CommandParser, group: Group) -> Any:
    titled = group.title is not None
    added = parser.add_argument_group(group.title, group.description) if titled else parser
    return added.add_mutually_exclusive_group(required=group.required) if group.exclusive else added


def _add_flag(parser: Any, each: "Field[Any]") -> None:
    settings = {key: each.metadata.get(key) for key in ("help", "choices", "metavar", "nargs")}
    settings["type"] = reader_of(each)
    if not each.metadata.get("positional"):
        settings |= {"dest": each.name, "required": each.default is MISSING}
    if each.metadata.get("repeated"):
        settings["action"] = "append"
    elif each.default is False:
        settings["action"] = "store_true"
    if each.default is not MISSING and not many(each):
        settings["default"] = each.default
    settings = {key: value for key, value in settings.items() if value is not None}
    parser.add_argument(flag_of(each), **settings)


if __name__ == "__main__":
    sys.exit(main())
