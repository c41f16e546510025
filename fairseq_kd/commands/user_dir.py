"""The flag ``--user-dir`` of the commands that load models."""

import argparse
from typing import Any, Optional

from fairseq_kd.flag_types import one_line


def add_user_dir(flags: Any) -> None:
    """Adds the flag to a command line."""
    flags.add_argument(
        "--user-dir",
        type=one_line,
        metavar="DIR",
        help="your own fairseq plugin, if a model needs it; its code is run (default: none)",
    )


def register_models(args: argparse.Namespace) -> None:
    """Registers our architectures, tasks and criterions with fairseq, and those of the user's own.

    Raises:
        FileNotFoundError: the folder of the flag is no Python package.
    """
    from fairseq_kd.plugin import import_user_dir

    user_dir: Optional[str] = args.user_dir
    import_user_dir(user_dir)
