"""Slurm as the executor of a run: how the states of its jobs are read, and where their logs are."""

import re
import shutil
from pathlib import Path
from typing import List, Optional, Tuple

from fairseq_kd.child_process import run

EXECUTOR = "slurm"
STATES = "slurm-status-command"  # sacct or squeue, a setting of the executor
JOB_LOGS = ".snakemake/slurm_logs"  # in the folder of the run; those of finished jobs are removed
AGE = re.compile(r"^MinJobAge\s*=\s*(\d+)", re.M)
LONGEST_PAUSE_SECONDS = 180  # between two times that the executor reads the states of jobs


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


def job_logs(folder: Path, step: str, since: float) -> List[Path]:
    """The logs of the failed jobs of a step in a run, in order, without those before a time."""
    times = {
        path: path.stat().st_mtime for path in (folder / JOB_LOGS).glob(f"rule_*/{step}/*.log")
    }
    return [path for path in sorted(times, key=times.__getitem__) if times[path] >= since]
