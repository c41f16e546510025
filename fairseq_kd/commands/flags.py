"""The command ``fairseq-kd flags``: lists the flags of our criterions."""

from dataclasses import dataclass
from typing import Optional

from fairseq_kd.command_line import Options, Subcommand
from fairseq_kd.flag_types import one_line, option_field


@dataclass(frozen=True, kw_only=True)
class FlagsOptions(Options):
    """Which flags are listed, and how."""

    COMMAND = "flags"
    criterion: Optional[str] = option_field(
        None,
        "one criterion or task, such as word_kd (default: all)",
        read=one_line,
        positional=True,
        nargs="?",
    )
    markdown: bool = option_field(False, "as the page docs/flags.md")


def run(options: FlagsOptions) -> int:
    """Prints the flags."""
    from fairseq_kd.criterions.flags import flags_page, flags_text

    print(flags_page() if options.markdown else flags_text(options.criterion), end="")
    return 0


SUBCOMMAND = Subcommand(
    FlagsOptions, run, help="list the flags of our criterions, which fairseq-train --help omits"
)
