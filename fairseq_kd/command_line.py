"""Command-line options as frozen dataclasses: parsed from arguments, and written as arguments.

A field of the dataclass is a flag, made by ``number_field`` or ``option_field``. ``remove_bpe`` is
``--remove-bpe``, and ``False`` as default makes a flag without a value. Its metadata:

* ``help``, and one of ``range``, ``choices`` and ``read``, a function of the typed text;
* ``flag``: another name, such as ``--set``;
* ``positional``: it has no name; ``nargs``: as argparse has it, where ``*`` and ``+`` take the
  arguments after ``--``, which another program reads;
* ``repeated``: it may be given several times, and is a tuple;
* ``metavar``, and ``group``, a ``Group``.
"""

import re
from argparse import ArgumentTypeError, Namespace
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from typing import (
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

from fairseq_kd.flag_types import file_path, flag_name, one_line, option_field

PROGRAM = "fairseq-kd"
NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")  # which argparse does not take for a flag
REST = ("*", "+")  # nargs of the arguments after --


@dataclass(frozen=True)
class Group:
    """Flags that form a group in the help.

    Args:
        title: the heading; None for the flags of the command itself.
        description: the text below the heading.
        exclusive: at most one of the flags may be given.
        required: exactly one of them must be given.
    """

    title: Optional[str] = None
    description: Optional[str] = None
    exclusive: bool = False
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a command; a subclass has ``COMMAND``, its name, and the flags as fields.

    Args:
        given: fields and values that a file gave, in that order. ``argv`` writes them unchanged,
        defaults included, so that a recorded command line stays the same.
    """

    COMMAND: ClassVar[str]
    given: Tuple[Tuple[str, Any], ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def flags(cls) -> List["Field[Any]"]:
        """The fields that are flags, in the order of the help."""
        return [each for each in fields(cls) if "help" in each.metadata]

    @classmethod
    def parsed(cls, args: Namespace) -> Any:
        """The options of a parsed command line."""
        values = {each.name: getattr(args, each.name) for each in cls.flags()}
        several = {each.name: tuple(values[each.name] or ()) for each in cls.flags() if many(each)}
        return cls(**{**values, **several})

    @classmethod
    def of(cls, flags: Union[Mapping[str, Any], Iterable[Tuple[str, Any]]]) -> Any:
        """The options of flags in a file.

        Args:
            flags: their names without dashes, and their values: True for a flag without a value;
                False and None leave the flag out. Pairs if one is repeated.

        Raises:
            ValueError: a flag is unknown, or its value is not allowed.
        """
        known = {flag_of(each).lstrip("-"): each for each in cls.flags()}
        values: Dict[str, Any] = {}
        given = []
        for name, value in flags.items() if isinstance(flags, Mapping) else flags:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                advice = f"Did you mean --{near[0]}?" if near else "Leave it out."
                raise ValueError(f"--{name} is not a flag of {PROGRAM} {cls.COMMAND}. {advice}")
            if value is not None and value is not False:
                each = known[name]
                read = _read(each, value)
                repeated = each.metadata.get("repeated")
                values[each.name] = (*values.get(each.name, ()), read) if repeated else read
                given.append((each.name, value))
        return cls(**values, given=tuple(given))

    def check(self) -> None:
        """Checks the flags together, before anything is loaded.

        Raises:
            FileNotFoundError: a file of a flag is missing.
            ValueError: a flag has no effect, or contradicts another.
        """

    def argv(self) -> List[str]:
        """The command line; flags that were not given are left out at their defaults."""
        known, pairs = {each.name: each for each in self.flags()}, []
        for name, value in self.given:
            now, repeated = getattr(self, name), known[name].metadata.get("repeated")
            pairs.append((name, value if repeated or _read(known[name], value) == now else now))
        for name, each in known.items():
            value = getattr(self, name)
            if name not in dict(self.given) and value != each.default:
                several = value if each.metadata.get("repeated") else [value]
                pairs += [(name, one) for one in several]
        arguments, rest = [PROGRAM, self.COMMAND], []
        for name, value in pairs:
            if known[name].metadata.get("nargs") in REST:
                rest = ["--", *map(str, value)]
            else:
                arguments += _arguments(known[name], value)
        return [*arguments, *rest]


def flag_of(each: "Field[Any]") -> str:
    """The flag of a field as the user types it; its bare name if it is positional."""
    if each.metadata.get("positional"):
        return each.name
    return each.metadata.get("flag") or flag_name(each.name)


def many(each: "Field[Any]") -> bool:
    """Whether the value of a field is a tuple."""
    return each.metadata.get("repeated", False) or each.metadata.get("nargs") in REST


def reader_of(each: "Field[Any]") -> Optional[Callable[[str], Any]]:
    """The function that parses the typed text; None: the value is the text itself."""
    return each.metadata.get("range") or each.metadata.get("read")


def _read(each: "Field[Any]", value: Any) -> Any:
    """The value of a flag in a file, parsed as on the command line.

    Raises:
        ValueError: it is not one of the flag's; the message names the flag.
    """
    flag, choices = flag_of(each), each.metadata.get("choices")
    if each.default is False:
        if value is not True:
            raise ValueError(f"{flag} must be true or false, but is {value!r}.")
        return True
    if each.metadata.get("nargs") in REST:
        return tuple(map(str, value))
    if value is True:
        raise ValueError(f"{flag} needs a value, but is true.")
    if choices is not None:
        if str(value) not in choices:
            raise ValueError(f"{flag} must be one of {', '.join(choices)}, but is {value}.")
        return str(value)
    try:
        return reader_of(each)(str(value))
    except ArgumentTypeError as error:
        raise ValueError(f"{flag} {str(error).removeprefix('it ')}.") from None


def _arguments(each: "Field[Any]", value: Any) -> List[str]:
    """A flag with its value on the command line."""
    if value is True or value is False:
        return [flag_of(each)] * value
    text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if each.metadata.get("positional"):
        return [text]
    if text.startswith("-") and not NEGATIVE.fullmatch(text):
        return [f"{flag_of(each)}={text}"]
    return [flag_of(each), text]


def user_dir_field() -> Any:
    """The flag ``--user-dir`` of a command that loads models."""
    return option_field(
        None,
        "your own fairseq plugin, if a model needs it; its code is run (default: none)",
        read=one_line,
        metavar="DIR",
    )


def teacher_language_field(side: str) -> Any:
    """The flag ``--teacher-source-lang`` or ``--teacher-target-lang``; see ``teacher_pair``."""
    return option_field(
        None,
        f"the teacher's name for the {side} language of the data, of a multilingual teacher or one "
        "whose name differs, such as es_XX (default: as the data call it)",
        read=one_line,
        metavar="LANG",
    )


def teacher_pair(options: Any) -> Optional[Tuple[str, str]]:
    """The languages that ``teacher_language_field`` gave, or None.

    Raises:
        ValueError: one is given alone.
    """
    pair = (options.teacher_source_lang, options.teacher_target_lang)
    if (pair[0] is None) != (pair[1] is None):
        raise ValueError(
            "Give --teacher-source-lang and --teacher-target-lang, or neither of them."
        )
    return None if pair[0] is None else pair


def cache_field(what: str, group: Optional[Group] = None) -> Any:
    """The flag ``--cache`` of a command that converts models.

    Args:
        what: is kept there.
        group: of the flag.
    """
    return option_field(
        None,
        f"folder for {what} (default: fairseq_kd in $XDG_CACHE_HOME or ~/.cache)",
        read=file_path,
        group=group,
    )


def codes_field(group: Optional[Group] = None) -> Any:
    """The flag ``--codes`` of a command that splits text as the data were split."""
    return option_field(
        None,
        "the BPE merges, or the model of SentencePiece (default: the file codes or "
        "sentencepiece.model beside DATA)",
        read=file_path,
        group=group,
    )


@dataclass(frozen=True)
class Subcommand:
    """A command of ``fairseq-kd``.

    Args:
        options: its options.
        run: executes it, and returns the exit status.
        help: its line in ``fairseq-kd --help``; None: only our own processes call it.
        description, epilog: of its help; with an epilog both keep their line breaks.
        usage: of its help; None: argparse's.
        aliases: its other names.
        kept: the end of the message after a failure to write: what is unchanged.
    """

    options: Type[Options]
    run: Callable[[Any], int]
    help: Optional[str] = None
    description: Optional[str] = None
    epilog: Optional[str] = None
    usage: Optional[str] = None
    aliases: Sequence[str] = ()
    kept: str = "existing files are unchanged"
