"""A run file executed with real trainings, and the steps that a changed option repeats."""

import random
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from forks import run_forked
from harness import ENVIRONMENT, ROOT, run, write_text

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.pipeline.history import read_manifests
from fairseq_kd.pipeline.workflow import read_workflow

pytestmark = pytest.mark.skipif(find_spec("snakemake") is None, reason="needs Snakemake")

RUN = """\
run: {folder}
data: {{text: {text}, source: es, target: en, merges: 300, max-words: 25}}
teacher:
  arch: transformer
  train:
    {{encoder-layers: 2, encoder-embed-dim: 32, encoder-ffn-embed-dim: 64, decoder-layers: 2,
      decoder-embed-dim: 32, decoder-ffn-embed-dim: 64, encoder-attention-heads: 2,
      decoder-attention-heads: 2, encoder-normalize-before: true, decoder-normalize-before: true}}
ladder: [1.0, 0.7, {{ratio: 0.25, start: inherit, soft-targets: store, data: mixed}}]
each: {{temperature: 2}}
train: {{max-update: 30, max-tokens: 500, lr: 0.01, save-interval-updates: 10, log-interval: 1}}
distilled: {{shards: 2, distill-data: {{max-repeated: 1, max-length-ratio: 100}}}}
store: {{topk: 8}}
evaluate: {{rounds: 0, no-memory: true, beam: 1, bootstrap: 100}}
"""
STEPS = [
    "data",
    "teacher",
    "stage-70",
    "teacher-translations-1-of-2",
    "teacher-translations-2-of-2",
]
STEPS += ["teacher-translations", "mixed", "stage-70-store-mixed", "student-start", "student"]
STEPS += ["undistilled", "inherited", "evaluation"]
MODELS = ("teacher", "stage-70", "student", "undistilled", "inherited")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    sizes = {"train": 400, "valid": 40, "test": 40}
    return write_text(tmp_path_factory.mktemp("text") / "text", sizes)


def write_run(folder, text):
    path = folder / "run.yaml"
    path.write_text(RUN.format(folder=folder / "run", text=text), encoding="utf-8")
    return path


def progressive(*words):
    """The messages of a run."""
    return run_forked("fairseq-kd", "progressive", *words).stderr


def weights(folder, name):
    workflow = read_workflow(Path(folder) / "workflow.json")
    (path,) = workflow.step(name).makes
    return read_checkpoint(path)["model"]


def table(folder):
    """The first rows of its report."""
    return re.findall(r"^\|.*\|$", (folder / "report.md").read_text(), re.M)[:6]


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


class Whole(NamedTuple):
    """A run that nothing disturbed: its file, folder, messages and results."""

    path: Path
    folder: Path
    message: str
    models: "dict[str, Any]"
    table: "list[str]"


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    path = write_run(tmp_path_factory.mktemp("whole"), text)
    folder, message = path.parent / "run", progressive(path)
    models = {name: weights(folder, name) for name in MODELS}
    return Whole(path, folder, message, models, table(folder))


def begun(message):
    return re.findall(r"^\[\d+/\d+\] ([\w-]+)$", message, re.M)


def test_every_step_is_made_in_the_order_of_work(whole):
    folder = whole.folder
    assert begun(whole.message) == STEPS, whole.message
    manifests = {
        each["step"]: each for each in read_manifests(read_workflow(folder / "workflow.json"))
    }
    assert list(manifests) == STEPS
    assert manifests["student"]["updates"] == manifests["undistilled"]["updates"] == 30
    assert {"nll_loss", "kd_loss"} <= manifests["stage-70"]["scores"].keys()
    for page in ("report.html", "report.md", "history.html", "evaluation.json"):
        assert (folder / page).stat().st_size > 1000


def test_the_student_has_the_size_of_the_ladder(whole):
    models = whole.models
    sizes = {name: len(model["encoder.layers.0.fc1.bias"]) for name, model in models.items()}
    assert sizes["teacher"] > sizes["student"] == sizes["undistilled"]
    student = models["student"]
    assert not any("encoder.layers.1" in key or "teacher" in key for key in student)


@pytest.mark.slow
def test_a_changed_option_makes_only_what_depends_on_it(whole):
    path, folder = whole.path, whole.folder
    changes = ["--set", "ladder.2.temperature=1"]
    shown = run_forked("fairseq-kd", "progressive", path, *changes, "--dry-run")
    assert re.search(r"changed +student +--kd-temperature was 2, is 1", shown.stdout)
    message = progressive(path, *changes)
    assert begun(message) == ["student", "evaluation"]
    assert same(whole.models["stage-70"], weights(folder, "stage-70"))
    assert not same(whole.models["student"], weights(folder, "student"))
    assert (folder / "replaced" / "student.1" / "train.log").is_file()
    assert begun(progressive(path, *changes)) == []


@pytest.mark.slow
def test_the_script_gives_the_same_student_as_the_driver(whole, text, tmp_path):
    script = tmp_path / "run.sh"
    progressive(whole.path, "--shell", script)
    run("shellcheck", script)
    run_forked("bash", script, env={"RUN": str(tmp_path / "run")})
    (made,) = (tmp_path / "run" / "student").glob("checkpoint_last.pt")
    assert same(read_checkpoint(made)["model"], whole.models["student"])


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_models(whole, text, tmp_path):
    path, chance, killed = write_run(tmp_path, text), random.Random(1), 0
    while killed < 20:
        command = [sys.executable, "-m", "fairseq_kd.cli", "progressive", str(path)]
        driver = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(5, 25))
        if driver.poll() is not None:
            break
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        killed += 1
    progressive(path)
    assert killed >= 3
    assert not (tmp_path / "run" / "replaced").exists()
    for name, model in whole.models.items():
        assert same(weights(tmp_path / "run", name), model), name
    assert table(tmp_path / "run") == whole.table
