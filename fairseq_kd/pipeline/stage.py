"""Runs one stage: a ``fairseq-train`` command, resumed until its last update.

fairseq resumes from ``checkpoint_last.pt`` by itself, but for six cases that this module handles:
it trains one more update if it is restarted after its last one, and many if ``--patience`` ended
it; it copies ``checkpoint_last.pt`` into place byte by byte, so that a kill can leave half a file
on which every later start fails; it starts again from the first update if that file is missing; it
can abort after its end; and a trainer whose parent was killed keeps running, beside a second one
when the stage is restarted.
"""

import argparse
import collections
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Deque, Dict, List, Tuple

from fairseq_kd.checkpoints.reading import check_start, is_cut_off, read_state
from fairseq_kd.checkpoints.updates import LAST, updates_done
from fairseq_kd.child_process import child
from fairseq_kd.fairseq_flags import TRAIN_ALONE
from fairseq_kd.files.atomic_files import (
    atomic_write,
    check_no_link,
    check_room,
    make_sole,
    moved_aside,
    own_file,
)
from fairseq_kd.files.locks import Lock, locked
from fairseq_kd.files.names import on_terminal
from fairseq_kd.files.write_errors import writing
from fairseq_kd.flag_types import COUNT, Range, flag_name, one_line
from fairseq_kd.pipeline.train_command import FIRST, ON_EACH_NODE, on_each_machine
from fairseq_kd.pipeline.training_check import AT_RESTARTS
from fairseq_kd.pipeline.workflow import same_commands, same_word
from fairseq_kd.progress import ProgressLine
from fairseq_kd.training_log import (
    ENDED_LINE,
    LOG_FILE,
    STAGE_LOCK,
    arguments_of,
    figures,
    flags_of,
    last_command,
)

BEST = "checkpoint_best.pt"
ENDED = "ended.txt"  # the command that ended by --patience, which fairseq does not remember
COPIED = re.compile(r"checkpoint(\d+|_\d+_\d+|_best|\.best_.+)\.pt")  # what fairseq writes first
ENDING = ("max_epoch", "stop_time_hours", "stop_min_lr")  # end a training before --max-update
PATIENCE = Range(int, 1, 1_000_000, also=(-1, 0))  # -1 and 0: no limit
SAME_TRAINING = {"--save-dir", "--max-update", "--log-interval", "--num-workers"}
HARMLESS = {"restore_file": LAST, "optimizer_overrides": "{}", "checkpoint_suffix": ""}
SHOWN_FLAGS = 4
WORKERS = re.compile(r"--nproc[-_]per[-_]node[ =]([02-9]\d*|1\d+|\D\S*)")  # not 1
CUT_OFF = "was cut off while it was written"
LOG_TAIL_LINES = 15
SHOWN = ("loss", "nll_loss", "kd_loss", "agreement")  # in the progress line


def run_stage(name: str, command: List[str]) -> int:
    """Runs a training command to its ``--max-update``, resuming an earlier attempt.

    The output goes to ``train.log`` in the command's ``--save-dir``; one line on standard error
    shows the progress.

    Args:
        name: the name of the stage in that line.
        command: ``fairseq-train ...``, with ``--save-dir`` and ``--max-update``.

    Returns:
        The exit status: 0 when the last update is done or a flag ended the training before; 1 if
        the command ended earlier without an error; else that of the command, negative if a signal
        ended it.

    Raises:
        FileNotFoundError: there is no such program, or no such checkpoint to start from.
        ValueError: the command lacks one of the two options, the file that it starts from is not a
        checkpoint, or another stage writes into the folder.
        OSError: the folder cannot be written, such as on a full disk.
    """
    options = _stage_options(command)
    start, there = options.finetune_from_model, Path(options.save_dir).glob("checkpoint*.pt")
    if start is not None and not any(there):  # otherwise it resumes from one of these
        check_start(start, f"--finetune-from-model {start}")
    with locked(Path(options.save_dir) / STAGE_LOCK, f"--save-dir {options.save_dir}") as lock:
        return _run_alone(name, command, options, lock)


def _run_alone(name: str, command: List[str], options: argparse.Namespace, lock: Lock) -> int:
    save_dir = Path(options.save_dir)
    for path in sorted(save_dir.glob("checkpoint*.pt*")):  # which fairseq would write through
        check_no_link(path)
        make_sole(path)
    restore_last_checkpoint(save_dir)
    restore_best_checkpoint(save_dir)
    done, ended = updates_done(save_dir / LAST), save_dir / ENDED
    if done:
        _print_changed_flags(name, command, save_dir)
    if done >= options.max_update:
        print(f"{name}: all {done} updates are done", file=sys.stderr)
        return 0
    if (
        done
        and ended.is_file()
        and same_commands([_words(ended.read_text(encoding="utf-8", errors="replace"))], [command])
    ):
        print(f"{name}: it ended early, after update {done}", file=sys.stderr)
        return 0
    _check_machines(name, command)
    if done:
        print(f"{name}: resuming after update {done}", file=sys.stderr)
    with ProgressLine(name, options.max_update, "updates", done) as progress:
        status, tail = _run_logged(command, save_dir / LOG_FILE, progress, lock)
    done = updates_done(save_dir / LAST) if status in (0, -signal.SIGABRT) else 0
    if status == -signal.SIGABRT and done >= options.max_update:
        return 0  # its reading thread, cut off at the very end, took the process with it
    early = options.patience > 0 or any(getattr(options, name) for name in ENDING)
    if status == 0 and done < options.max_update and not (done and early):
        print(
            f"{name}: the command ended without an error, but after update {done} of "
            f"{options.max_update}; its output is in {save_dir / LOG_FILE}",
            file=sys.stderr,
        )
        return 1
    if status == 0 and options.patience > 0:
        with atomic_write(ended) as file:
            file.write(shlex.join(command))
    if status != 0:
        print(
            *map(on_terminal, tail),
            f"{name} failed with status {_status_text(status)}; the whole log is in "
            f"{save_dir / 'train.log'}",
            sep="\n",
            file=sys.stderr,
        )
        check_room(save_dir)
    return status


def _check_machines(name: str, command: List[str]) -> None:
    """Refuses a training on several nodes outside of a job of Slurm, which has them.

    Raises:
        ValueError: with the line that each machine can run instead.
    """
    if command[0] == ON_EACH_NODE[0] and "SLURM_JOB_ID" not in os.environ:
        raise ValueError(
            f"{name} needs several machines, as a job of Slurm has them: execute the run with "
            f"--profile. Or run this line on each machine, {FIRST.partition(':')[0]} being one of "
            f"them, and then the same command again: {shlex.join(on_each_machine(command))}"
        )


def _words(text: str) -> List[str]:
    """The arguments of a recorded command line; none if it was cut off."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _print_changed_flags(name: str, command: List[str], save_dir: Path) -> None:
    """Prints the data and flags that differ from those of the training's last attempt."""
    then = last_command(save_dir / LOG_FILE)
    before, now = flags_of(arguments_of(then)), flags_of(command)
    data = [_data_of(_words(then)), _data_of(command)]
    if all(data):
        before["data"], now["data"] = data
    flags = sorted({**before, **now}.keys() - SAME_TRAINING)
    changed = [
        flag
        for flag in flags
        if before.keys() & {flag} != now.keys() & {flag} or not same_word(before[flag], now[flag])
    ]
    if before and changed:
        former = [
            f"{flag} {before[flag]}".strip() if flag in before else f"no {flag}"
            for flag in changed[:SHOWN_FLAGS]
        ]
        print(
            f"{name}: the training in {save_dir} was started with "
            f"{on_terminal(', '.join(former))}, and is resumed with the new flags. For a new "
            "training give another --save-dir.",
            file=sys.stderr,
        )


def _data_of(command: List[str]) -> str:
    """The data of a training command; "" if it does not stand before the flags, as usual."""
    after = command[command.index("fairseq-train") + 1 :] if "fairseq-train" in command else []
    return after[0] if after and not after[0].startswith("-") else ""


def restore_last_checkpoint(save_dir: Path) -> None:
    """Replaces a ``checkpoint_last.pt`` that is missing or unreadable by the newest whole one.

    fairseq writes a checkpoint once, as ``checkpoint_EPOCH_UPDATE.pt``, ``checkpointEPOCH.pt`` or,
    if it keeps neither, ``checkpoint_best.pt``, and copies it, to ``checkpoint_last.pt`` last of
    all. Without that file it would train from the first update on, and replace the others.

    Raises:
        ValueError: there are checkpoints, and none that can be read.
    """
    last = save_dir / LAST
    fault = _fault(last)
    others = _others(save_dir)
    if not fault or (not last.exists() and not others):
        return
    whole = [path for path in others if not _fault(path)]
    if whole:
        newest = max(whole, key=updates_done)
        with atomic_write(last, "wb", new=True) as file, newest.open("rb") as source:
            shutil.copyfileobj(source, file)
            _put_aside(last)  # killed after this, the next start copies again
        print(f"{last} {fault}; resuming from {newest.name}", file=sys.stderr)
    elif fault == CUT_OFF and not others:
        _put_aside(last)
        print(f"{last} {fault}; starting from the first update", file=sys.stderr)
    else:
        raise ValueError(
            f"{last} {fault}, and {save_dir} holds no other checkpoint that can be read. Copy one "
            "there from elsewhere, or move all of them away to start again."
        )


def restore_best_checkpoint(save_dir: Path) -> None:
    """Replaces a ``checkpoint_best.pt`` that cannot be read by another copy of it.

    fairseq copies a new checkpoint to it before it does so to ``checkpoint_last.pt``. If a kill
    leaves half a file, or none beside the first checkpoint, it stays so until a later validation is
    better.
    """
    best, last = save_dir / BEST, save_dir / LAST
    fault = _fault(best)
    if not last.exists() or not fault or (not best.exists() and not _saved_once(save_dir)):
        return
    value = _extra_state(last).get("best")
    copies = [path for path in _others(save_dir) if path != best and not _fault(path)]
    copies = [path for path in copies if _extra_state(path).get("val_loss") == value is not None]
    if copies:
        with atomic_write(best, "wb", new=True) as file, copies[0].open("rb") as source:
            shutil.copyfileobj(source, file)
            _put_aside(best)
        print(f"{best} {fault}; it was replaced by a copy of {copies[0].name}", file=sys.stderr)
    elif best.exists():
        _put_aside(best)
        print(
            f"{best} {fault}, and no other checkpoint is a copy of it; the next better validation "
            "writes a new one",
            file=sys.stderr,
        )


def _saved_once(save_dir: Path) -> bool:
    """Whether the only checkpoint beside the last one is that from which it was copied."""
    updates = [updates_done(path) for path in _others(save_dir) if not _fault(path)]
    return updates == [updates_done(save_dir / LAST)]


def _extra_state(checkpoint: Path) -> Dict[str, Any]:
    return read_state(checkpoint, str(checkpoint))["extra_state"] or {}


def _others(save_dir: Path) -> List[Path]:
    """The checkpoints beside the last one."""
    return sorted(path for path in save_dir.glob("*.pt") if COPIED.fullmatch(path.name))


def _fault(checkpoint: Path) -> str:
    """The reason why a training cannot resume from a checkpoint; "" if it can."""
    if not checkpoint.exists():
        return "is missing"
    if is_cut_off(checkpoint):
        return CUT_OFF
    try:
        updates_done(checkpoint)
    except ValueError:
        return "cannot be read"
    return ""


def _put_aside(path: Path) -> None:
    if path.exists():
        print(f"{path} is now {moved_aside(path).name}", file=sys.stderr)


def _stage_options(command: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("fairseq-kd stage", add_help=False, allow_abbrev=False)
    parser.add_argument("--save-dir", type=one_line)
    parser.add_argument("--max-update", type=COUNT)
    parser.add_argument("--patience", type=PATIENCE, default=-1)
    parser.add_argument("--finetune-from-model")
    for name in ENDING:
        parser.add_argument(flag_name(name))
    options, _ = parser.parse_known_args(command)
    _check_restarts(command)
    _check_processes(command)
    trains = any(Path(each).name == "fairseq-train" for each in command)
    if trains and not any(each.partition("=")[0] in ("--arch", "-a") for each in command):
        raise ValueError(
            f"fairseq-train needs --arch in its command line, which is: {shlex.join(command)}"
        )
    for flag, value in (("--save-dir", options.save_dir), ("--max-update", options.max_update)):
        if value is None:
            raise ValueError(
                f"A stage needs {flag} in its command line, which is: {shlex.join(command)}"
            )
    return options


def _check_processes(command: List[str]) -> None:
    """Refuses several processes on CPUs without ranks in the flags, which would train alone.

    Raises:
        ValueError: ``torchrun`` starts them, whose ranks fairseq ignores on CPUs.
    """
    several = WORKERS.search(" ".join(command))
    ranks = any("--distributed-rank" in each for each in command)
    if several and "--cpu" in command and not ranks:
        raise ValueError(f"torchrun starts {several[1]} processes, but {TRAIN_ALONE}")


def _check_restarts(command: List[str]) -> None:
    """Refuses flags that would apply at every restart, or that prevent a restart.

    Raises:
        ValueError: naming the flag and why.
    """
    for given, value in flags_of(command).items():
        # As argparse, fairseq takes the beginning of a flag for it.
        named = (name for name in AT_RESTARTS if flag_name(name).startswith(given))
        name = next(named, None) if given not in ("--", "--optimizer") else None
        if name is not None and value != HARMLESS.get(name):
            why = AT_RESTARTS[name].format(start="give --finetune-from-model FILE")
            raise ValueError(f"{given} cannot be used in a stage: {why}. Leave it out.")


def _run_logged(
    command: List[str], log: Path, progress: ProgressLine, lock: Lock
) -> Tuple[int, List[str]]:
    """Runs the command with its output in the log; returns its exit status and last lines."""
    tail: Deque[str] = collections.deque(maxlen=LOG_TAIL_LINES)
    if log.is_file():
        make_sole(log)
    cut_off = log.is_file() and log.read_bytes()[-1:] not in (b"", b"\n")
    with writing(log), open(log, "a", encoding="utf-8", opener=own_file) as file:
        file.write("\n" * cut_off + f"$ {shlex.join(command)}\n")
        file.flush()
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        output |= {"encoding": "utf-8", "errors": "replace"}
        held = {"token": lock.token, "pass_fds": [lock.descriptor]}
        line = "\n"
        with child(command, **output, **held) as process:
            for line in process.stdout:
                file.write(line)
                file.flush()
                tail.append(line.rstrip())
                stats = figures(line, of="train_inner")
                if stats is not None:
                    values = [f"{key} {stats[key]:.2f}" for key in SHOWN if key in stats]
                    progress.show(int(stats["update"]), ", ".join(values))
        if process.returncode != 0:
            cut_off = not line.endswith("\n")
            file.write("\n" * cut_off + f"{ENDED_LINE}{_status_text(process.returncode)}\n")
    return process.returncode, list(tail)


def _status_text(status: int) -> str:
    """An exit status as text, with the name of the signal if one ended the process."""
    return str(status) if status >= 0 else f"{status} ({signal.Signals(-status).name})"
