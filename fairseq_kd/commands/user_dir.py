"""The command ``fairseq-kd user-dir``: prints the folder for ``--user-dir`` of fairseq."""

from dataclasses import dataclass

from fairseq_kd.command_line import Options, Subcommand
from fairseq_kd.installation import USER_DIR


@dataclass(frozen=True, kw_only=True)
class UserDirOptions(Options):
    """It has no flags."""

    COMMAND = "user-dir"


def run(options: UserDirOptions) -> int:
    """Prints the folder."""
    print(USER_DIR)
    return 0


SUBCOMMAND = Subcommand(
    UserDirOptions,
    run,
    help="print the folder for fairseq-train --user-dir",
    description="Prints the folder of this installation to give to the commands of fairseq.",
    epilog='example:\n  fairseq-train data-bin --user-dir "$(fairseq-kd user-dir)" '
    "--criterion word_kd ...\n",
)
