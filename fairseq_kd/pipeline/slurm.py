"""How Slurm's job states are read (sacct or squeue), and where the logs of its jobs are."""

import re
import shutil
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from fairseq_kd.child_process import run

EXECUTOR = "slurm"
STATES = "slurm-status-command"  # sacct or squeue, a setting of the executor
JOB_LOGS = ".snakemake/slurm_logs"  # in the folder of the run; those of finished jobs are removed
AGE = re.compile(r"^MinJobAge\s*=\s*(\d+)", re.M)
LONGEST_PAUSE_SECONDS = 180  # between two times that the executor reads the states of jobs
PING_SECONDS = 60.0  # between two times that the driver looks whether Slurm answers


def state_flags(executor: Optional[str], command: Optional[str]) -> Tuple[List[str], List[str]]:
    """The flags with which the executor learns that jobs ended.

    By default it calls ``sacct`` if that is installed, else ``squeue``. In a cluster without
    accounting ``sacct`` fails, and the executor would wait for ever.

    Args:
        executor: the executor of Snakemake.
        command: with which it reads the states of jobs; None for its default.

    Returns:
        The flags, none if ``sacct`` works, and lines that explain them.
    """
    flags: List[str] = []
    lines: List[str] = []
    if executor == EXECUTOR and command != "squeue" and shutil.which("sacct"):
        found = run(["sacct", "-X", "-n"])
        if found.returncode != 0:
            flags, command = [f"--{STATES}", "squeue"], "squeue"
            lines = [
                f"The states of jobs are read by squeue, as with {STATES}: squeue in the profile, "
                f"since sacct fails: {' '.join(found.stderr.split()) or found.returncode}."
            ]
    if executor == EXECUTOR and command == "squeue" and shutil.which("scontrol"):
        age = AGE.search(run(["scontrol", "show", "config"]).stdout)
        if age is not None and int(age[1]) <= LONGEST_PAUSE_SECONDS:
            lines.append(
                f"Slurm forgets a job {age[1]} seconds after its end (MinJobAge), but its state is "
                f"read only every {LONGEST_PAUSE_SECONDS} seconds in a long job. If the run does "
                "not go on after a job, stop it and run the same command again."
            )
    return flags, lines


@contextmanager
def watched(executor: Optional[str]) -> Iterator[None]:
    """Prints when Slurm stops to answer, and when it answers again, while the context is open.

    The executor itself then waits without a message.

    Args:
        executor: the executor of Snakemake.
    """
    ended = threading.Event()
    if executor == EXECUTOR and shutil.which("squeue"):
        threading.Thread(target=_watch, args=(ended,), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(ended: threading.Event) -> None:
    answers = True
    while not ended.wait(PING_SECONDS):
        found = run(["squeue", "--noheader", "--name", "fairseq_kd"])
        if ended.is_set() or answers == (found.returncode == 0):
            continue
        answers = not answers
        line = "Slurm answers again."
        if not answers:
            reason = " ".join(found.stderr.split()) or f"squeue ends with {found.returncode}"
            line = (
                f"Slurm does not answer: {reason}. Jobs that run go on, and this run does when "
                "Slurm answers again. To end it, press Ctrl+C; the same command resumes it."
            )
        start = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{start}{line}", file=sys.stderr, flush=True)


def job_logs(folder: Path, step: str, since: float) -> List[Path]:
    """The logs of the failed jobs of a step in a run, in order, without those before a time."""
    times = {
        path: path.stat().st_mtime for path in (folder / JOB_LOGS).glob(f"rule_*/{step}/*.log")
    }
    return [path for path in sorted(times, key=times.__getitem__) if times[path] >= since]
