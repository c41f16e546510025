"""Executes a run by Snakemake: only the steps that are missing or out of date."""

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
from typing import Dict, List, Optional, Sequence, Tuple

from fairseq_kd.child_process import TOKEN, child
from fairseq_kd.files.atomic_files import (
    atomic_write,
    check_own_folder,
    check_room,
    own_file,
)
from fairseq_kd.files.locks import Lock, locked
from fairseq_kd.files.names import on_terminal
from fairseq_kd.files.write_errors import writing
from fairseq_kd.machine import cores
from fairseq_kd.pipeline.execution import SLOTS, visible_gpus
from fairseq_kd.pipeline.follower import SNAKEMAKE_LOG, Follower
from fairseq_kd.pipeline.history import write_history
from fairseq_kd.pipeline.slurm import job_logs, watched
from fairseq_kd.pipeline.snakemake_flags import WITH_SNAKEMAKE, checked_flags
from fairseq_kd.pipeline.status import (
    DONE,
    DRIVER,
    LOGS,
    STEPS,
    StepStatus,
    attempts_path,
    manifest_path,
    prepare_steps,
    step_statuses,
)
from fairseq_kd.pipeline.train_command import on_each_machine
from fairseq_kd.pipeline.workflow import (
    LOCK,
    WORKFLOW_FILE,
    Step,
    Training,
    Workflow,
    workflow_sha256,
    write_workflow,
)
from fairseq_kd.progress import PAUSE as PROGRESS_PAUSE
from fairseq_kd.progress import log_seconds

SNAKEFILE = Path(__file__).with_name("Snakefile")
SNAKEMAKE_PROGRAM = f"{WITH_SNAKEMAKE}main()\n"
# Jobs do not inherit the mark of this process's children: they go on when it is killed, also on
# this machine.
SNAKEMAKE_ELSEWHERE = f"{WITH_SNAKEMAKE}del os.environ[{TOKEN!r}]\nmain()\n"
SNAKEMAKE_FOLDER = ".snakemake"
CODE = ("pip-deployments", "iocache/latest.pkl")  # in SNAKEMAKE_FOLDER; the other is unpickled
TAIL_LINES = 12
# Flags of Snakemake that let other machines execute the steps.
ELSEWHERE = {"--profile", "--workflow-profile", "--executor", "-e"}


def check_snakemake() -> None:
    """Checks that Snakemake is installed.

    Raises:
        ValueError: it is not.
    """
    if find_spec("snakemake") is None:
        raise ValueError(
            "fairseq-kd progressive needs Snakemake: pip install 'snakemake>=9', or "
            "scripts/setup.sh in the clone. Without it, --shell writes the run as a script."
        )


def wanted(workflow: Workflow, until: Optional[str]) -> List[str]:
    """The names of the steps to execute: all, or one and those that it needs, in order."""
    if until is None:
        return [step.name for step in workflow.steps]
    needed, waiting = set(), [workflow.step(until).name]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting += [each for each in workflow.step(name).after if each not in needed]
    return [step.name for step in workflow.steps if step.name in needed]


def overview(statuses: Sequence[StepStatus]) -> str:
    """A line for each step: its name, its state, and the reason."""
    width = max(len(status.step.name) for status in statuses)
    lines = [
        on_terminal(f"  {status.state:<11} {status.step.name:<{width}}  {status.why}".rstrip())
        for status in statuses
    ]
    return "\n".join(lines)


def commands(statuses: Sequence[StepStatus]) -> str:
    """The command lines of every step that is not done."""
    lines: List[str] = []
    for status in statuses:
        if status.state != DONE:
            lines.append(f"# {status.step.name}")
            lines += [shlex.join(command) for command in status.step.commands]
            nodes = (status.step.training or Training()).nodes
            if nodes > 1:
                lines.append(
                    "# or, without Slurm, when progressive has stopped at this step, on each of "
                    f"{nodes} machines, FIRST being one:"
                )
                lines.append(shlex.join(on_each_machine(status.step.commands[0])))
    return "\n".join(lines)


def run_workflow(
    workflow: Workflow,
    until: Optional[str],
    flags: Sequence[str],
    jobs: int = 1,
    verify: bool = False,
) -> int:
    """Executes the steps that are not done.

    Args:
        workflow: the run.
        until: the last step to execute; None for all.
        flags: flags for Snakemake, such as a profile; without an executor it uses this machine.
        jobs: how many steps run at the same time on this machine.
        verify: hash all outputs, as in ``step_statuses``.

    Returns:
        0, or the exit status of Snakemake.

    Raises:
        ValueError: another driver executes the run, or its steps cannot share this machine.
        OSError: the folder of the run cannot be written, such as when a step failed for that.
    """
    folder = Path(workflow.folder)
    names = wanted(workflow, until)
    log_seconds()  # an invalid value would end the first step
    cores = _cores() if _works_here(flags) else 1
    steps = [workflow.step(name) for name in names]
    if jobs != 1:
        _check_jobs(steps, flags, jobs)
    if _works_here(flags):
        _check_gpus(steps)
    further, executor = checked_flags(flags)
    flags = [*flags, *further]
    with writing(folder), locked(folder / LOCK, workflow.folder) as lock:
        write_workflow(workflow)
        statuses = [
            status for status in step_statuses(workflow, verify) if status.step.name in names
        ]
        print(f"{workflow.folder}: {len(statuses)} steps\n{overview(statuses)}", file=sys.stderr)
        open_steps = [status for status in statuses if status.state != DONE]
        if open_steps:
            for moved in prepare_steps(workflow, open_steps):
                print(moved, file=sys.stderr)
            (folder / LOGS).mkdir(exist_ok=True)
            _check_paths(folder, [status.step for status in open_steps])
            started, log = time.time(), folder / LOGS / SNAKEMAKE_LOG
            logged = log.stat().st_size if log.is_file() else 0  # by earlier calls
            targets, threads = [each.step.name for each in open_steps], max(1, cores // jobs)
            with watched(executor):
                status = _snakemake(workflow, targets, flags, jobs, threads, lock)
            left = [each.step for each in open_steps]
            left = [step for step in left if not manifest_path(workflow, step).is_file()]
            if status != 0 or left:
                _print_failure(workflow, left, started, status, logged)
                check_room(folder)
                return 128 - status if status < 0 else status or 1
        page = write_history(workflow)
    print(f"{page} documents how every result was made.", file=sys.stderr)
    return 0


def _check_paths(folder: Path, steps: Sequence[Step]) -> None:
    """Checks that Snakemake and the steps write into the folder of the run, and run no code there.

    Raises:
        ValueError: a path that they would write is a link or a pipe, or code for Snakemake.
    """
    for name in (SNAKEMAKE_FOLDER, LOGS):
        check_own_folder(folder / name)
    for path in (folder / SNAKEMAKE_FOLDER / name for name in CODE):
        if os.path.lexists(path):
            raise ValueError(
                f"{path} would be executed by Snakemake, and no run needs it. Remove it."
            )
    named = [Path(path) for step in steps for path in (step.folder, *step.makes) if path]
    inside = [path.relative_to(folder).parts[0] for path in named if folder in path.parents]
    for name in dict.fromkeys(inside):
        check_own_folder(folder / name)


def _works_here(flags: Sequence[str]) -> bool:
    """Whether the steps run on this machine."""
    given = {word.partition("=")[0] for word in flags}
    return not (ELSEWHERE & given or os.environ.get("SNAKEMAKE_PROFILE"))


def _cores() -> int:
    """The number of threads to use on this machine: OMP_NUM_THREADS, or the number of cores.

    Raises:
        ValueError: OMP_NUM_THREADS is not a number.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    first = given.partition(",")[0].strip()  # the others are of nested parallel regions
    if not first:
        return cores()
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", first):
        raise ValueError(
            f"OMP_NUM_THREADS must be a number of threads, such as 4, but is {given!r:.60}. "
            "Correct it, or unset it for all cores."
        )
    return int(first)


def _sets_cores(flags: Sequence[str]) -> bool:
    return any(re.match(r"--cores(=|$)|-c", word) for word in flags)


def _check_gpus(steps: Sequence[Step]) -> None:
    """Refuses steps that need GPUs, or more than there are, on this machine.

    Raises:
        ValueError: naming the first of them.
    """
    there = len(visible_gpus())
    for step in steps:
        needed, why = _needed_gpus(step)
        if needed > there:
            raise ValueError(
                f"{step.name} needs {needed} GPU{'s' if needed > 1 else ''}, since {why}, but this "
                f"process can use {there or 'none'} on this machine. Leave that out, or run it on "
                "another machine."
            )


def _needed_gpus(step: Step) -> Tuple[int, str]:
    """The number of GPUs without which a step fails on this machine, and the reason."""
    training = step.training or Training()
    if step.kind == "evaluate" and step.gpus:
        return step.gpus, "evaluate.device is cuda or both"
    if step.kind != "train" or training.nodes > 1 or training.on_cpu:
        return 0, ""
    if step.gpus > 1:
        return step.gpus, f"gpus is {step.gpus}"
    return int(training.needs_gpu is not None), f"{training.needs_gpu} is given"


def _check_jobs(steps: Sequence[Step], flags: Sequence[str], jobs: int) -> None:
    several = [step.name for step in steps if step.gpus > 1]
    if not _works_here(flags):
        raise ValueError(
            "--jobs divides this machine, but --profile, --workflow-profile, an executor or "
            "SNAKEMAKE_PROFILE runs the steps elsewhere. Give the number of jobs to Snakemake: -- "
            "--jobs N."
        )
    if _sets_cores(flags):
        raise ValueError(
            "--jobs divides all cores, or as many as OMP_NUM_THREADS gives. Leave out --cores."
        )
    if several:
        raise ValueError(
            f"--jobs is {jobs}, but {several[0]} uses several GPUs. Leave out --jobs or gpus."
        )


def _snakemake(
    workflow: Workflow,
    targets: List[str],
    flags: Sequence[str],
    jobs: int,
    threads: int,
    lock: Lock,
) -> int:
    """Runs Snakemake, which sets OMP_NUM_THREADS to ``threads``, and returns its status."""
    folder = Path(workflow.folder).resolve()
    here = _works_here(flags)
    message = {"workflow": str(folder / WORKFLOW_FILE), "sha256": workflow_sha256(workflow)}
    message |= {"start": str(Path.cwd()), "python": sys.executable}
    message |= {"targets": targets, "one_by_one": here and jobs == 1}
    message |= {"threads": threads, "all_threads": threads * jobs}
    text = json.dumps(message)
    with atomic_write(folder / STEPS / f"{DRIVER}.json") as file:
        file.write(text)
    own = ["--snakefile", str(SNAKEFILE), "--directory", str(folder), "--nolock"]
    own += ["--ignore-incomplete", "--keep-incomplete"]  # a manifest is whole or not there
    own += ["--rerun-triggers", "mtime"]
    # Take neither modules (-P) nor settings, which may be code, from the current folder.
    own += ["--workflow-profile", "none"]  # not ./profiles/default; a later flag wins
    # Snakemake executes only what this process wrote into the folder of the run.
    sealed = ["--config", f"driver=sha256-{hashlib.sha256(text.encode()).hexdigest()}"]
    program = SNAKEMAKE_PROGRAM if here else SNAKEMAKE_ELSEWHERE
    command = [sys.executable, "-P", "-c", program, *own, *flags, *sealed]
    if here and not _sets_cores(flags):
        command += ["--cores", "all" if jobs == 1 else str(threads * jobs)]
    environment = {PROGRESS_PAUSE: "3", **os.environ, SLOTS: str(jobs)}
    environment["PYTHONSAFEPATH"] = "1"  # for the jobs of executors, which begin in the folder
    environment.update(_cache(folder))
    log_path = folder / LOGS / SNAKEMAKE_LOG
    with open(log_path, "ab", opener=own_file) as log, Follower(folder / LOGS):
        output = {"stdout": log, "stderr": subprocess.STDOUT, "env": environment}
        held = {"token": lock.token, "pass_fds": [lock.descriptor]}
        # Snakemake cancels its jobs at SIGINT; at SIGTERM it waits for them.
        with child(command, stop=signal.SIGINT, **output, **held) as process:
            return process.wait()


def _cache(folder: Path) -> Dict[str, str]:
    """The environment of Snakemake's cache: its usual one, or one in the run if not writable."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        Path(home, "snakemake").mkdir(parents=True, exist_ok=True)
        writable = os.access(Path(home, "snakemake"), os.W_OK | os.X_OK)
    except (OSError, RuntimeError):
        writable = False
    return {} if writable else {"XDG_CACHE_HOME": str(folder / SNAKEMAKE_FOLDER / "cache")}


def _print_failure(
    workflow: Workflow, left: Sequence[Step], started: float, status: int, logged: int
) -> None:
    """Prints which step failed and where its log is, or the last lines of Snakemake's own log."""
    logs = Path(workflow.folder) / LOGS
    if status < 0:
        number = signal.Signals(-status).name
        advice = "Finished steps are kept; run the same command again to resume."
        print(f"Not finished: Snakemake was ended by {number}. {advice}", file=sys.stderr)
        return
    failed = {}
    for step in left:
        path = attempts_path(workflow, step)
        begun = path.is_file() and path.stat().st_mtime >= started
        own = [f"log: {logs / step.name}.log"] if begun else []
        jobs = job_logs(Path(workflow.folder), step.name, started)
        failed[step.name] = own + ([f"of its last job: {jobs[-1]}"] if jobs else [])
    named = ", ".join(f"{name} ({', '.join(paths)})" for name, paths in failed.items() if paths)
    if named:
        advice = "The log has the reason; after fixing it, run the same command again to resume."
        print(f"Not finished: {named}. {advice}", file=sys.stderr)
        return
    output = (logs / SNAKEMAKE_LOG).read_bytes()[logged:]
    lines = output.decode("utf-8", errors="replace").splitlines()
    lines = [
        *map(on_terminal, lines[-TAIL_LINES:]),
        f"Snakemake failed; see {logs / SNAKEMAKE_LOG}.",
    ]
    print(*lines, sep="\n", file=sys.stderr)
