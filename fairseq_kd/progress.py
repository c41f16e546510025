"""How far a long work is: a bar on a terminal, a new line now and then in a log."""

import sys

from tqdm import tqdm

LOG_SECONDS = 15.0


def progress_bar(name: str, total: int, unit: str) -> tqdm:
    """Units done, their rate and the time left, on standard error.

    Args:
        name: of the work.
        total: units to do.
        unit: what is counted, in the plural.
    """
    if sys.stderr.isatty():
        return tqdm(total=total, desc=name, unit=f" {unit}", unit_scale=True)
    return _Log(total=total, desc=name, unit=f" {unit}", mininterval=LOG_SECONDS, ascii=True)


class _Log(tqdm):
    """Prints a line where tqdm would overwrite one."""

    @staticmethod
    def status_printer(file):
        """What shows a state."""
        return lambda state: print(state, file=file, flush=True) if state else None
