"""Registers architectures, tasks and criterions with fairseq; imported by ``--user-dir``.

Importing this module registers the criterions, the tasks and the architectures, and makes
fairseq's own checkpoints readable where torch loads weights only. What it replaces in fairseq, so
that no code in a checkpoint runs, is in ``safe_loading``.
"""

from argparse import Namespace
from pathlib import Path
from typing import List, Optional

from fairseq.utils import import_user_module

from fairseq_kd import criterions, models, rank_messages, tasks  # noqa: F401
from fairseq_kd.checkpoints import safe_loading  # noqa: F401


def import_user_dir(folder: Optional[str]) -> None:
    """Imports a plugin of the user's own, as fairseq's ``--user-dir`` does.

    Args:
        folder: a Python package that registers models or tasks; None for none.

    Raises:
        FileNotFoundError: it is not a Python package.
    """
    if folder is None:
        return
    if not (Path(folder) / "__init__.py").is_file():
        raise FileNotFoundError(
            f"--user-dir {folder} has no __init__.py. Give the folder of a fairseq plugin."
        )
    import_user_module(Namespace(user_dir=folder))


def imported_user_dirs() -> List[str]:
    """The plugins that this process has imported, for other processes that load its models."""
    return sorted(getattr(import_user_module, "memo", ()))
