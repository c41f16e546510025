"""Brings a run to its end: builds what is missing or stale, and only that, by Snakemake."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from fairseq_kd.child_process import child
from fairseq_kd.locks import Lock, locked
from fairseq_kd.names import on_terminal
from fairseq_kd.pipeline.follower import Follower
from fairseq_kd.pipeline.history import write_history
from fairseq_kd.pipeline.side_by_side import PLACES
from fairseq_kd.pipeline.state import (
    DONE,
    STEPS,
    Verdict,
    attempts_path,
    judge,
    make_way,
    manifest_path,
)
from fairseq_kd.pipeline.workflow import FILE, LOCK, Plan, Step, plan_sha256, write_plan
from fairseq_kd.progress import PAUSE as PROGRESS_PAUSE
from fairseq_kd.progress import log_seconds
from fairseq_kd.whole_files import (
    check_own_folder,
    check_room,
    own_file,
    written_whole,
)
from fairseq_kd.write_errors import writing

SNAKEFILE = Path(__file__).with_name("Snakefile")
# Snakemake without the modules of .snakemake/pip-deployments, which it would import as its plugins
# from the folder that it is started in.
ENGINE = """\
import os, sys
start = os.getcwd()
os.chdir("/")
import snakemake
sys.path[:] = filter(os.path.isabs, sys.path)
os.chdir(start)
from snakemake.cli import main
main()
"""
LOGS, ENGINE_LOG, ENGINE_FOLDER = "logs", "snakemake.log", ".snakemake"
CODE = ("pip-deployments", "iocache/latest.pkl")  # in ENGINE_FOLDER; the other is unpickled
TAIL_LINES = 12
# Flags of Snakemake by which other machines work.
ELSEWHERE = {"--profile", "--workflow-profile", "--executor", "-e"}


def check_snakemake() -> None:
    """Refuses to begin without the engine.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec("snakemake") is None:
        raise ValueError(
            "fairseq-kd progressive needs Snakemake: pip install 'snakemake>=9', or "
            "scripts/setup.sh in the clone. Without it, --shell writes the run as a script."
        )


def wanted(plan: Plan, until: Optional[str]) -> List[str]:
    """The steps to build: all, or one and those that it needs, in the plan's order."""
    if until is None:
        return [step.name for step in plan.steps]
    needed, waiting = set(), [plan.step(until).name]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting += [each for each in plan.step(name).after if each not in needed]
    return [step.name for step in plan.steps if step.name in needed]


def overview(verdicts: Sequence[Verdict]) -> str:
    """A line for each step: how it stands, and why, which may quote files of the run."""
    width = max(len(verdict.step.name) for verdict in verdicts)
    lines = [
        on_terminal(f"  {verdict.state:<8} {verdict.step.name:<{width}}  {verdict.why}".rstrip())
        for verdict in verdicts
    ]
    return "\n".join(lines)


def commands(verdicts: Sequence[Verdict]) -> str:
    """The command lines of every step that is not done."""
    lines: List[str] = []
    for verdict in verdicts:
        if verdict.state != DONE:
            lines.append(f"# {verdict.step.name}")
            lines += [shlex.join(command) for command in verdict.step.commands]
    return "\n".join(lines)


def run_plan(
    plan: Plan, until: Optional[str], engine: Sequence[str], jobs: int = 1, verify: bool = False
) -> int:
    """Builds what is not done.

    Args:
        plan: the run.
        until: the last step to build; None for all.
        engine: flags for Snakemake, such as a profile; without an executor it works here.
        jobs: steps at the same time, if it works here.
        verify: hash all that was made, as ``judge`` does.

    Returns:
        0, or the status of Snakemake.

    Raises:
        ValueError: another driver works on the run, or its steps cannot share this machine.
        OSError: the folder of the run cannot be written, such as when a step failed for that.
    """
    folder = Path(plan.folder)
    names = wanted(plan, until)
    log_seconds()  # a value that is none would end the first step
    cores = _cores() if _works_here(engine) else 1
    if jobs != 1:
        _check_jobs([plan.step(name) for name in names], engine, jobs)
    with writing(folder), locked(folder / LOCK, plan.folder) as lock:
        write_plan(plan)
        verdicts = [verdict for verdict in judge(plan, verify) if verdict.step.name in names]
        print(f"{plan.folder}: {len(verdicts)} steps\n{overview(verdicts)}", file=sys.stderr)
        open_steps = [verdict for verdict in verdicts if verdict.state != DONE]
        if open_steps:
            for moved in make_way(plan, open_steps):
                print(moved, file=sys.stderr)
            (folder / LOGS).mkdir(exist_ok=True)
            _check_places(folder, [verdict.step for verdict in open_steps])
            started = time.time()
            targets, threads = [v.step.name for v in open_steps], max(1, cores // jobs)
            status = _snakemake(plan, targets, engine, jobs, threads, lock)
            left = [v for v in open_steps if not manifest_path(plan, v.step).is_file()]
            if status != 0 or left:
                _tell_failure(plan, [v.step for v in left], started, status)
                check_room(folder)
                return 128 - status if status < 0 else status or 1
        page = write_history(plan)
    print(f"{page} tells how everything was made.", file=sys.stderr)
    return 0


def _check_places(folder: Path, steps: Sequence[Step]) -> None:
    """Makes sure that Snakemake and the commands of steps write into a run, and run nothing of it.

    Raises:
        ValueError: there is a link or a pipe where they would write, or code for Snakemake.
    """
    for name in (ENGINE_FOLDER, LOGS):
        check_own_folder(folder / name)
    for name in CODE:
        if os.path.lexists(folder / ENGINE_FOLDER / name):
            raise ValueError(
                f"{folder / ENGINE_FOLDER / name} holds what Snakemake would run as its own code, "
                "which no run needs. Remove it."
            )
    named = [Path(path) for step in steps for path in (step.folder, *step.makes) if path]
    inside = [path.relative_to(folder).parts[0] for path in named if folder in path.parents]
    for name in dict.fromkeys(inside):
        check_own_folder(folder / name)


def _works_here(engine: Sequence[str]) -> bool:
    """Whether this machine does the steps."""
    given = {word.partition("=")[0] for word in engine}
    return not (ELSEWHERE & given or os.environ.get("SNAKEMAKE_PROFILE"))


def _cores() -> int:
    """The threads that this machine shall have: as OMP_NUM_THREADS says, or as many as its cores.

    Raises:
        ValueError: it says no number.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    first = given.partition(",")[0].strip()  # the others are of nested parallel regions
    if not first:
        return os.cpu_count() or 1
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", first):
        raise ValueError(
            f"OMP_NUM_THREADS must be a number of threads, such as 4, but is {given!r:.60}. "
            "Correct it, or unset it for all cores."
        )
    return int(first)


def _sets_cores(engine: Sequence[str]) -> bool:
    return any(re.match(r"--cores(=|$)|-c", word) for word in engine)


def _check_jobs(steps: Sequence[Step], engine: Sequence[str], jobs: int) -> None:
    several = [step.name for step in steps if step.gpus > 1]
    if not _works_here(engine):
        raise ValueError(
            "--jobs shares out one machine, but --profile, --workflow-profile, an executor or "
            "SNAKEMAKE_PROFILE has others work. Say there how many jobs: -- --jobs N."
        )
    if _sets_cores(engine):
        raise ValueError(
            "--jobs shares out all cores, or as many as OMP_NUM_THREADS says. Leave out --cores."
        )
    if several:
        raise ValueError(
            f"--jobs is {jobs}, but {several[0]} has several GPUs. Leave out --jobs, or gpus."
        )


def _snakemake(
    plan: Plan, targets: List[str], engine: Sequence[str], jobs: int, threads: int, lock: Lock
) -> int:
    """Runs Snakemake, which sets OMP_NUM_THREADS to ``threads``, and returns its status."""
    folder = Path(plan.folder).resolve()
    here = _works_here(engine)
    told = {"plan": str(folder / FILE), "sha256": plan_sha256(plan)}
    told |= {"start": str(Path.cwd()), "python": sys.executable}
    told |= {"targets": targets, "one_by_one": here and jobs == 1}
    told |= {"threads": threads, "all_threads": threads * jobs}
    text = json.dumps(told)
    with written_whole(folder / STEPS / "driver.json") as file:
        file.write(text)
    own = ["--snakefile", str(SNAKEFILE), "--directory", str(folder), "--nolock"]
    own += ["--ignore-incomplete", "--keep-incomplete"]  # a manifest is whole or not there
    own += ["--rerun-triggers", "mtime"]
    # Neither modules (-P) nor settings, which may be code, of the folder that we were started in.
    own += ["--workflow-profile", "none"]  # not ./profiles/default; a flag in engine wins
    # Of what lies in the folder of the run, only what was written here may say what runs.
    sealed = ["--config", f"driver=sha256-{hashlib.sha256(text.encode()).hexdigest()}"]
    words = [sys.executable, "-P", "-c", ENGINE, *own, *engine, *sealed]
    if here and not _sets_cores(engine):
        words += ["--cores", "all" if jobs == 1 else str(threads * jobs)]
    environment = {PROGRESS_PAUSE: "3", **os.environ, PLACES: str(jobs)}
    environment["PYTHONSAFEPATH"] = "1"  # for the jobs of executors, which begin in the folder
    environment.update(_cache(folder))
    log_path = folder / LOGS / ENGINE_LOG
    with open(log_path, "ab", opener=own_file) as log, Follower(folder / LOGS):
        output = {"stdout": log, "stderr": subprocess.STDOUT, "env": environment}
        held = {"token": lock.token, "pass_fds": [lock.descriptor]}
        # Snakemake cancels its jobs at SIGINT; at SIGTERM it waits for them.
        with child(words, stop=signal.SIGINT, **output, **held) as process:
            return process.wait()


def _cache(folder: Path) -> Dict[str, str]:
    """Where Snakemake keeps copies of its sources: as usual, or in a run if that cannot be."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        Path(home, "snakemake").mkdir(parents=True, exist_ok=True)
        writable = os.access(Path(home, "snakemake"), os.W_OK | os.X_OK)
    except (OSError, RuntimeError):
        writable = False
    return {} if writable else {"XDG_CACHE_HOME": str(folder / ENGINE_FOLDER / "cache")}


def _tell_failure(plan: Plan, left: Sequence[Step], started: float, status: int) -> None:
    """Says which step failed and where its story is; of the engine's own failures, its words."""
    logs = Path(plan.folder) / LOGS
    if status < 0:
        number = signal.Signals(-status).name
        advice = "What is finished is kept, and the same command goes on."
        print(f"Not finished: Snakemake was ended by {number}. {advice}", file=sys.stderr)
        return
    attempts = {step.name: attempts_path(plan, step) for step in left}
    failed = [
        name
        for name, path in attempts.items()
        if path.is_file() and path.stat().st_mtime >= started
    ]
    if failed:
        told = ", ".join(f"{name} (log: {logs / name}.log)" for name in failed)
        advice = "The log says why; when that is mended, the same command goes on."
        print(f"Not finished: {told}. {advice}", file=sys.stderr)
        return
    lines = (logs / ENGINE_LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [*map(on_terminal, lines[-TAIL_LINES:]), f"Snakemake failed; see {logs / ENGINE_LOG}."]
    print(*lines, sep="\n", file=sys.stderr)
