"""Processes that do not outlive the one that started them."""

import ctypes
import signal
import sys


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent dies: no trainer outlives a killed script."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
