"""The folder of this installation that fairseq's ``--user-dir`` needs."""

from pathlib import Path

ABOVE = Path(__file__).resolve().parents[1]  # the clone, or site-packages
CLONED, INSTALLED = ABOVE / "user_dir", ABOVE / "fairseq_kd_user_dir"
USER_DIR = INSTALLED if INSTALLED.is_dir() else CLONED
USER_DIRS = (CLONED.name, INSTALLED.name)  # the names that it may have
