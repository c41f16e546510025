"""Finds out why a training ended early, from the lines of its log after its last start."""

import re
from typing import Iterator, List, NamedTuple, Optional

from fairseq_kd.diagnosis.advice import Advice, Finding
from fairseq_kd.diagnosis.training_run import TrainingRun
from fairseq_kd.training_log import ENDED_LINE, figures

LOSS_SCALE = re.compile(r"Minimum loss scale reached")
GPU_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|OOM: Ran out of memory|"
    r"OOM during optimization|CUBLAS_STATUS_ALLOC_FAILED"
)
HOST_MEMORY = re.compile(
    r"can't allocate memory|Cannot allocate memory|^MemoryError|ArrayMemoryError|std::bad_alloc"
)
KILLED = re.compile(
    r"exitcode *: -9\b|Signal 9 \(SIGKILL\)|terminated with signal SIGKILL|"
    r"is killed by signal: |DataLoader worker \(pid\(s\) .*exited unexpectedly|"
    rf"^{re.escape(ENDED_LINE)}(-9|137)\b"
)
TRACEBACK = "Traceback (most recent call last):"
PREFIX = re.compile(r"^\[\w+\]:\s?")  # by torchrun, such as [rank0]:
RANK = re.compile(r"\[rank\d+\]:")  # of a process, before each line of its traceback
WRAPPERS = ("ChildFailedError", "ProcessRaisedException", "ProcessExitedException")
SHOWN_LETTERS = 160
RESUMES = Advice("the same command then continues from the last checkpoint")
LESS_GPU_MEMORY = (
    Advice(
        "a smaller --max-tokens, with a larger --update-freq for the same batch",
        "--max-tokens",
        False,
    ),
    Advice("--fp16 or --bf16, and --kd-teacher-dtype float16 or bfloat16"),
    Advice("a store (--kd-store) instead of a teacher that runs"),
    RESUMES,
)
LESS_HOST_MEMORY = (
    Advice("fewer --num-workers and fewer processes beside it", "--num-workers", False),
    Advice("a smaller --max-tokens", "--max-tokens", False),
    Advice("a machine, or a limit of the job, with more memory"),
    RESUMES,
)


class Line(NamedTuple):
    """A line of a log; the first one has number 1."""

    number: int
    text: str

    def __str__(self) -> str:
        text = self.text.strip()
        cut = text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}..."
        return f'line {self.number:,} of the log is "{cut}"'


def ending(run: TrainingRun) -> Optional[Finding]:
    """Why a training ended early or skipped batches; None if it did neither, or is running."""
    lines = [Line(i + 1, text) for i, text in enumerate(run.lines)][run.start :]
    checks = [loss_scale, out_of_memory]
    if not run.running:
        checks += [] if run.log.finished else [killed, exception, failure, stopped]
        checks += [no_figures]
    found = (check(run, lines) for check in checks)
    return next((each for each in found if each), None)


def loss_scale(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """In half precision, the gradients overflow at every scale of the loss."""
    line = _first(LOSS_SCALE, lines)
    if line is None:
        return None
    return Finding(
        "loss scale at its minimum",
        f"{line}: gradients were not finite at any scale.",
        (
            Advice("lower --lr", "--lr", False),
            Advice("clip gradients by --clip-norm 1.0", "--clip-norm", False),
            Advice("warm up longer", "--warmup-updates"),
            Advice("--bf16 instead of --fp16, which has the range of float32"),
            Advice("--kd-teacher-dtype float32, if the teacher overflows"),
            RESUMES,
        ),
    )


def out_of_memory(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """The GPU or the machine has too little memory, for some batches or for all."""
    for pattern, what, advice in (
        (GPU_MEMORY, "the GPU", LESS_GPU_MEMORY),
        (HOST_MEMORY, "the machine", LESS_HOST_MEMORY),
    ):
        line = _first(pattern, _after_figures(lines))
        if line is not None and not run.log.finished:
            return Finding("out of memory", f"{line}: {what} has too little.", advice)
        skipped = [each for each in lines if pattern.search(each.text)]
        if skipped:
            evidence = (
                f"{skipped[-1]}: {what} had too little {len(skipped)} times, and the training "
                "continued without these batches."
            )
            return Finding("out of memory", evidence, advice[:-1])
    return None


def killed(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """SIGKILL ended a process, most often by the kernel when memory ran out."""
    line = _first(KILLED, lines)
    if line is None:
        return None
    shared = "Bus error" in line.text
    return Finding(
        "killed process",
        f"{line}: a signal ended the training.",
        (
            *((Advice("more shared memory (docker run --shm-size)"),) if shared else ()),
            Advice("if nobody killed it, memory ran out: see dmesg or the log of the job"),
            *LESS_HOST_MEMORY,
        ),
    )


def exception(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """There is a traceback after the last figures."""
    raised = list(_raised(_after_figures(lines)))
    own = [line for line in raised if not any(word in line.text for word in WRAPPERS)]
    if not raised:
        return None
    texts = {line.number: line.text for line in lines}
    ends = own or raised
    rank = RANK.match(texts[ends[0].number])
    if rank:  # the other processes fail since this one did
        ends = [each for each in ends if texts[each.number].startswith(rank[0])]
    line = ends[-1]
    if re.match(r"KeyboardInterrupt|.*SignalException", line.text):
        return Finding("interruption", f"{line}: it was interrupted.", (RESUMES,))
    return Finding(
        "exception",
        f"{line}: the training ended there.",
        (Advice("correct its cause; the lines above it show where it was raised"), RESUMES),
    )


def failure(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """The command ended with a status other than 0, without a traceback."""
    status = _first(re.compile(f"^{re.escape(ENDED_LINE)}"), lines)
    if status is None:
        return None
    before = [line for line in lines if line.number < status.number and line.text.strip()]
    return Finding(
        "failure",
        f"{status}, and {before[-1]}." if before else f"{status}.",
        (Advice("correct what the last lines report"), RESUMES),
    )


def stopped(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """No process is training, and the log has no reason."""
    if run.running is None or not lines:
        return None
    return Finding(
        "sudden end",
        f"{lines[-1]}, the last one, and no process is training: it was interrupted or killed.",
        (
            Advice("run the same command again; it continues from the last checkpoint"),
            Advice(
                "if nobody ended it, check whether the machine was restarted, the time limit of "
                "the job was reached, or memory ran out (dmesg)"
            ),
        ),
    )


def no_figures(run: TrainingRun, lines: List[Line]) -> Optional[Finding]:
    """The log ends before the first figures, or they are not in JSON."""
    if run.training:
        return None
    last = f"{lines[-1]}, the last one, and none has figures" if lines else "the log is empty"
    return Finding(
        "no figures",
        f"{last}.",
        (
            Advice("if it is running, wait for the first --log-interval"),
            Advice(
                "train with --log-format json, and with a smaller --log-interval if it is short"
            ),
        ),
    )


def _first(pattern: "re.Pattern[str]", lines: List[Line]) -> Optional[Line]:
    return next((line for line in lines if pattern.search(line.text)), None)


def _after_figures(lines: List[Line]) -> List[Line]:
    """The lines after the last figures of training."""
    last = max((i for i, line in enumerate(lines) if figures(line.text, "train_inner")), default=-1)
    return lines[last + 1 :]


def _raised(lines: List[Line]) -> Iterator[Line]:
    """The line of each exception: the first line of a traceback that is not indented."""
    inside = False
    for number, text in lines:
        bare = PREFIX.sub("", text)
        if TRACEBACK in bare:
            inside = True
        elif inside and bare.strip() and not bare[0].isspace():
            inside = False
            yield Line(number, bare)
