"""The log line that explains the end of a training is named, and no other line."""

import json
from pathlib import Path

import pytest

from fairseq_kd import cli
from fairseq_kd.diagnosis.advice import Advice, Finding, consistent
from fairseq_kd.diagnosis.ending import ending
from fairseq_kd.diagnosis.training_run import find_training_runs
from fairseq_kd.files.locks import locked

LOGS = Path(__file__).parent / "logs"
# Real runs of runs.sh, each with its finding and a part of the line that says how it ended.
DIED = {
    "host_memory": ("out of memory", "DefaultCPUAllocator: can't allocate memory"),
    "killed": ("killed process", "# the command ended with status -9 (SIGKILL)"),
    "worker_killed": ("killed process", "exitcode  : -9"),
    "raised": ("exception", "Exception: The dataset is empty."),
    "unknown_flag": ("failure", "# the command ended with status 2"),
    "plain_format": ("no figures", "| done training in"),
}


def ended(folder):
    (training,) = find_training_runs(folder)
    return ending(training)


def quoted(text, line):
    """How a finding begins that quotes the first line of a log with some text in it."""
    number, whole = next((i, each) for i, each in enumerate(text.splitlines(), 1) if line in each)
    return f'line {number} of the log is "{whole.strip()[:160]}'


@pytest.mark.parametrize("name", DIED)
def test_a_run_that_died_is_named_by_the_line_that_says_why(name):
    kind, line = DIED[name]
    found = ended(LOGS / name)
    assert found.name == kind
    assert found.evidence.startswith(quoted((LOGS / name / "train.log").read_text(), line))


def figures(update):
    record = {"num_updates": str(update), "loss": "3.65", "nll_loss": "3.0"}
    return f"2026-11-23 10:00:00 | INFO | train_inner | {json.dumps(record)}\n"


def raised(last):
    return (
        f'Traceback (most recent call last):\n  File "train.py", line 1, in main\n    f()\n{last}\n'
    )


# As fairseq 0.12.3's trainer.py and dynamic_loss_scaler.py, and torch 2.13, word them on a GPU.
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"
LOGGED = f"2026-11-23 | WARNING | fairseq.trainer | OOM: Ran out of memory with exception: {CUDA}\n"
RECOVERING = (
    "| WARNING | fairseq.trainer | attempting to recover from OOM in forward/backward pass\n"
)
SCALE = (
    "FloatingPointError: Minimum loss scale reached (0.0001). Your loss is probably exploding. Try "
    "lowering the learning rate, using gradient clipping or increasing the batch size."
)
SPAWNED = (
    "torch.multiprocessing.spawn.ProcessExitedException: process 0 terminated with signal SIGKILL"
)
CAUGHT = "RuntimeError: DataLoader worker (pid 5) is killed by signal: Killed. "
BUS = (
    "RuntimeError: DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that "
    "dataloader's workers are out of shared memory. Please try to raise your shared memory limit."
)
LINES = {  # what a log ends with: the finding, the line that is quoted, and what is advised
    raised(SCALE): ("loss scale at its minimum", SCALE[:60], "lower --lr; clip gradients by"),
    raised(f"torch.OutOfMemoryError: {CUDA}"): (
        "out of memory",
        "torch.Out",
        "a smaller --max-tok",
    ),
    LOGGED + raised(f"RuntimeError: {CUDA}"): (
        "out of memory",
        "OOM: Ran",
        "a smaller --max-tokens",
    ),
    LOGGED + RECOVERING: ("out of memory", "OOM: Ran out", "a smaller --max-tokens, with a larger"),
    raised("MemoryError"): ("out of memory", "MemoryError", "fewer --num-workers"),
    raised(SPAWNED): (
        "killed process",
        SPAWNED[:40],
        "if nobody killed it, memory ran out: see dmesg",
    ),
    raised(CAUGHT): ("killed process", CAUGHT[:40], "if nobody killed it, memory ran out"),
    raised(BUS): ("killed process", BUS[:40], "more shared memory (docker run --shm-size)"),
    "# the command ended with status 137\n": ("killed process", "status 137", "if nobody killed"),
    raised("KeyError: 'x'"): ("exception", "KeyError: 'x'", "correct its cause"),
    "[rank1]: " + raised("ValueError: no").replace("\n", "\n[rank1]: "): (
        *("exception", "ValueError: no", "correct its cause"),
    ),
    raised("KeyError: 'x'") + raised("torch.elastic.ChildFailedError: "): (
        *("exception", "KeyError: 'x'", "correct its cause"),
    ),
    raised("KeyboardInterrupt"): (
        "interruption",
        "KeyboardInterrupt",
        "the same command then continues",
    ),
    "fairseq-train: error: no\n# the command ended with status 2\n": (
        *("failure", "# the command", "correct what the last lines report"),
    ),
}


@pytest.mark.parametrize("end", LINES)
def test_the_line_that_ended_a_training_is_quoted_with_its_number(end, tmp_path):
    kind, line, advice = LINES[end]
    text = f"$ fairseq-train data --max-update 9\n{figures(1)}{end}"
    (tmp_path / "train.log").write_text(text)
    found = ended(tmp_path)
    assert found.name == kind
    number = next(i for i, each in enumerate(text.splitlines(), 1) if line in each)
    assert found.evidence.startswith(f"line {number} of the log is ")
    assert line in found.evidence
    assert found.advice_text.startswith(advice)
    assert cli.main(["diagnose", str(tmp_path)]) == 1
    # Started again it goes on, and what ended it before counts no more.
    with (tmp_path / "train.log").open("a") as log:
        log.write(f"$ fairseq-train data --max-update 9\n{figures(2)}")
    assert ended(tmp_path) is None


def test_batches_that_were_left_out_for_want_of_memory_are_counted(tmp_path):
    done = "2026-11-24 12:12:04 | INFO | fairseq_cli.train | done training in 120.1 seconds\n"
    text = f"{figures(1)}{LOGGED}{RECOVERING}{figures(2)}{LOGGED}{RECOVERING}{figures(3)}"
    for end in ("", done):
        (tmp_path / "train.log").write_text(text + end)
        evidence = ended(tmp_path).evidence
        assert evidence.startswith("line 5 of the log is ")
        assert "the GPU had too little 2 times, and the training continued without th" in evidence


def test_of_several_processes_the_first_that_failed_is_named(tmp_path):
    text = figures(1)
    for rank, error in (("rank1", "ValueError: a bad sentence"), ("rank0", "RuntimeError: closed")):
        lines = ["Traceback (most recent call last):", '  File "x", line 1', error]
        text += "".join(f"[{rank}]: {line}\n" for line in lines)
    (tmp_path / "train.log").write_text(text)
    assert 'is "ValueError: a bad sentence"' in ended(tmp_path).evidence


def test_an_exception_before_the_last_figures_ended_nothing(tmp_path):
    (tmp_path / "train.log").write_text(f"{raised('KeyError: 1')}{figures(1)}")
    assert ended(tmp_path) is None


def test_a_log_without_figures_is_a_finding_unless_it_still_runs(tmp_path, capsys):
    log = tmp_path / "train.log"
    log.write_text("$ fairseq-train data\nepoch 001:  10 / 20 loss=3\n")
    assert cli.main(["diagnose", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert (
        'no figures\n  evidence: line 2 of the log is "epoch 001:  10 / 20 loss=3", the last'
        in shown
    )
    assert "train with --log-format json, and with a smaller --log-interval" in shown
    with locked(tmp_path / ".stage.lock", "it"):
        assert cli.main(["diagnose", str(tmp_path)]) == 0
    log.write_text("")
    assert ended(tmp_path).evidence == "the log is empty."


def test_a_log_that_just_stops_is_a_finding_if_its_process_is_gone(tmp_path):
    (tmp_path / "train.log").write_text(f"$ fairseq-train data\n{figures(1)}")
    assert ended(tmp_path) is None  # it may run in a place that is not seen from here
    with locked(tmp_path / ".stage.lock", "it"):
        assert ended(tmp_path) is None
        left = (tmp_path / ".stage.lock").read_text()
    (tmp_path / ".stage.lock").write_text(left)  # as a kill leaves it
    found = ended(tmp_path)
    assert found.name == "sudden end"
    assert found.evidence.startswith(
        'line 2 of the log is "2026-11-23 10:00:00 | INFO | train_inner'
    )
    assert found.evidence.endswith("no process is training: it was interrupted or killed.")


def test_advice_that_contradicts_that_of_a_cause_is_left_out():
    less, more = Advice("lower --lr", "--lr", False), Advice("a higher --lr", "--lr")
    other, plain = Advice("more updates", "--max-update"), Advice("look at it")
    found = [
        Finding("a", "", (more, plain)),
        Finding("b", "", (less, other)),
        Finding("c", "", (less,)),
    ]
    kept = consistent(found)
    assert [each.advice for each in kept] == [(more, plain), (other,), ()]
