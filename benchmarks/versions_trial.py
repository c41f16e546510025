"""Tries every part of fairseq_kd with the fairseq of this environment; see ``versions.py``.

Each part is one or several processes such as a user starts, with small models that fairseq-train
makes of a few hundred verses.
"""

import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from every_criterion import CRITERIONS, filled
from harness import PAIR, TRAINING, USER_DIR, run, write_text
from layered import SHAPE
from three_languages import PIVOT, binarise_three_ways
from trained import train_to_an_end

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.checkpoints.weights import NO_WEIGHTS
from fairseq_kd.child_process import own_programs
from fairseq_kd.models import ARCHITECTURES

UNIT_TESTS = [f"tests/{name}" for name in ("losses", "checkpoints", "models", "files", "tasks")]
UNIT_TESTS += ["tests/criterions", "tests/teachers", "tests/inheritance"]
SMALL = "transformer_kd_small_student"
UPDATES = 3  # of each criterion
PLAIN = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
LANGUAGES = {"source_lang": "es", "target_lang": "en"}
LAST = "checkpoint_last.pt"
ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception)\b.*: .|fairseq-kd [\w-]+: ")  # its first line


class Trial:
    """Tries the parts, each in processes such as a user starts.

    Args:
        folder: an empty folder for data and models.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.failed: Dict[str, str] = {}  # unit tests, with the first line of the failure
        self._made: Dict[str, Path] = {}

    def unit_tests(self) -> str:
        """The tests of the folders that compute, load and store, counted."""
        return self.run_tests(UNIT_TESTS)

    def run_tests(self, paths: List[str]) -> str:
        """Runs pytest on files or folders and counts what passed, failed and was skipped."""
        report = self.folder / "tests.xml"
        flags = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = run(sys.executable, "-m", "pytest", *flags, *paths, check=False)
        if not report.exists():
            raise AssertionError(done.stdout + done.stderr)
        cases = list(ElementTree.parse(report).iter("testcase"))
        skipped = [each for each in cases if each.find("skipped") is not None]
        for case in cases:
            for part in case:
                if part.tag in ("failure", "error"):
                    name = f"{case.get('classname')}::{case.get('name')}"
                    self.failed[name] = (part.get("message") or "").partition("\n")[0][:200]
        passed = len(cases) - len(skipped) - len(self.failed)
        counts = f"{passed:,} passed, {len(self.failed)} failed, {len(skipped)} skipped"
        return f"fails: {counts}" if self.failed else counts

    def criterions(self) -> str:
        """A few updates of every criterion, with a validation."""
        failures = []
        for name in CRITERIONS:
            flags = filled(
                name, TEACHER=str(self.teacher()), LARGE=str(self.large()), STORE=str(self.stored())
            )
            data, pair = (self.three_way(), []) if PIVOT[0] in flags else (self.data(), PAIR)
            words = [*TRAINING[len(PAIR) :], *pair, *flags, "--max-update", str(UPDATES)]
            done = self.train(data, name.replace(" ", "_"), *words, check=False)
            if done.returncode:
                failures.append(f"{name}: {reason(done.stderr)}")
        passed = f"{len(CRITERIONS) - len(failures)} of {len(CRITERIONS)}"
        return f"fails: {passed}; {failures[0]}" if failures else passed

    def store(self) -> str:
        """A store of the validation and the training set."""
        return f"passes, {sum(1 for path in self.stored().rglob('*.npy'))} files of records"

    def translate(self) -> str:
        """The validation set in both engines, in float32; only texts that end are compared."""
        texts = []
        for engine in ("ctranslate2", "fairseq"):
            out = self.folder / f"translated-{engine}"
            flags = ["--subset", "valid", "--engine", engine, "--out", out]
            flags += ["--compute-type", "float32"] if engine == "ctranslate2" else []
            self.command("translate", *self.taught(), *flags, *self.cache())
            lines = (out / "hypotheses.txt").read_text(encoding="utf-8").splitlines()
            texts.append([line.split("\t")[-1] for line in lines if line.startswith("H-")])
        ended = [pair for pair in zip(*texts, strict=True) if pair[0].endswith(" .")]
        if not ended or any(one != other for one, other in ended):
            raise AssertionError(f"the engines translate {len(ended)} sentences differently")
        return f"passes, {len(ended)} complete translations alike"

    def evaluate(self) -> str:
        """Teacher and student in both engines: quality, size, memory and speed."""
        flags = [
            "--student",
            self.student(),
            "--subset",
            "valid",
            "--rounds",
            "1",
            "--threads",
            "1",
        ]
        flags += ["--bootstrap", "100", "--beam", "2", "--out", self.folder / "report"]
        self.command("evaluate", *self.taught(), *flags, *self.cache())
        return "passes"

    def export(self) -> str:
        """The student as a folder for CTranslate2, which its own program translates with."""
        flags = ["--data", self.data(), "--subset", "valid", "--threads", "1", "--beam", "2"]
        self.command("export", self.student(), *flags, "--out", self.folder / "ct2", *self.cache())
        return "passes"

    def generate(self) -> str:
        """fairseq-generate with the student and the plugin."""
        flags = [*PAIR, "--gen-subset", "valid", "--cpu", "--user-dir", USER_DIR, "--beam", "2"]
        run("fairseq-generate", self.data(), "--path", self.student(), *flags)
        return "passes"

    def hydra(self) -> str:
        """fairseq-hydra-train with word_kd and an architecture, whose size the checkpoint has."""
        config = {
            "common": {"user_dir": USER_DIR, "cpu": True},
            "task": {"_name": "translation", "data": str(self.data()), **LANGUAGES},
            "model": {
                "_name": SMALL,
                "share_all_embeddings": True,
            },
            "criterion": {"_name": "word_kd", "label_smoothing": 0.1},
            "optimizer": {"_name": "adam", "lr": [0.003]},
            "lr_scheduler": {"_name": "fixed"},
            "optimization": {"max_update": UPDATES, "lr": [0.003]},
            "dataset": {"max_tokens": 1000},
            "checkpoint": {"save_dir": str(self.folder / "hydra"), "no_epoch_checkpoints": True},
        }
        config["criterion"]["kd_teacher"] = str(self.teacher())
        (self.folder / "hydra.yaml").write_text(json.dumps(config), encoding="utf-8")
        named = ["--config-dir", self.folder, "--config-name", "hydra"]
        run("fairseq-hydra-train", *named, f"hydra.run.dir={self.folder}")
        state = read_checkpoint(self.folder / "hydra" / LAST)
        done = state["optimizer_history"][-1]["num_updates"]
        width = state["model"]["decoder.embed_tokens.weight"].size(1)
        if (done, width) != (UPDATES, ARCHITECTURES[SMALL].width):
            raise AssertionError(f"the checkpoint is of update {done} and {width} wide")
        return "passes"

    def shell(self) -> str:
        """A run that is written as a script, without Snakemake, and its trainings and report."""
        content = {
            "data": str(self.data()),
            "teacher": str(self.teacher()),
            "ladder": [{"arch": "transformer_kd_tiny_student"}],
            "train": {"max-update": UPDATES},
            "evaluate": {"subset": "valid", "rounds": 0, "beam": 1, "bootstrap": 100},
            "run": str(self.folder / "run"),
        }
        file = self.folder / "run.yaml"
        file.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        self.command("progressive", file, "--shell", self.folder / "run.sh")
        run("bash", self.folder / "run.sh")
        return "passes"

    def resume(self) -> str:
        """A training that is killed and started again, against one that is not killed."""
        flags = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--kd-teacher"]
        flags += [str(self.teacher()), "--max-update", "16", "--save-interval-updates", "2"]
        whole, killed = self.folder / "whole", self.folder / "killed"
        train = ["fairseq-train", self.data(), *TRAINING, *flags, "--user-dir", USER_DIR]
        stage = ["fairseq-kd", "stage", "student", "--", *train, "--save-dir"]
        run(*stage, whole)
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        options["env"] = own_programs()
        process = subprocess.Popen([*map(str, stage), str(killed)], **options)
        while process.poll() is None and not (killed / "checkpoint_1_2.pt").exists():
            time.sleep(0.02)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            raise AssertionError("the training ended before it was killed")
        run(*stage, killed)
        one, other = (read_checkpoint(folder / LAST)["model"] for folder in (whole, killed))
        weights = [name for name in one if not name.endswith(NO_WEIGHTS)]
        if any(not torch.equal(one[name], other[name]) for name in weights):
            raise AssertionError("the resumed student differs from that of an unbroken training")
        return "passes, same weights"

    def data(self) -> Path:
        """A few hundred verses, binarised."""
        return self.once("corpus", self._prepare) / "data" / "bin"

    def _prepare(self, folder: Path) -> None:
        text = write_text(folder / "text", {"train": 400, "valid": 40, "test": 40})
        words = ["--text", text, "--source", "es", "--target", "en", "--out", folder / "data"]
        self.command("prepare", *words, "--merges", "300", "--max-words", "25", "--workers", "1")

    def three_way(self) -> Path:
        """The same with a third language, for cross_lingual_kd."""
        prepared = self.data().parent
        return self.once("three", lambda to: binarise_three_ways(prepared, to / "bin")) / "bin"

    def teacher(self) -> Path:
        """A small teacher of a few hundred updates, whose translations end."""
        return self.once("teacher", lambda to: train_to_an_end(str(self.data()), to)) / LAST

    def large(self) -> Path:
        """A teacher of more layers and heads than the student, hardly trained."""
        words = [*TRAINING, *SHAPE, *PLAIN, "--max-update", "2"]
        return self.once("large", lambda to: self.train(self.data(), to.name, *words)) / LAST

    def student(self) -> Path:
        """The student of a short word_kd."""
        words = [*TRAINING, *filled("word_kd", TEACHER=str(self.teacher())), "--max-update", "200"]
        words += ["--disable-validation"]
        return self.once("student", lambda to: self.train(self.data(), to.name, *words)) / LAST

    def stored(self) -> Path:
        """The top-k store of the teacher."""

        def build(folder: Path) -> None:
            self.command("store", *self.taught(), "--topk", "8", "--out", folder / "store")

        return self.once("stored", build) / "store"

    def once(self, name: str, make: Callable[[Path], Any]) -> Path:
        """A folder that is made by the first part that needs it."""
        if name not in self._made:
            (self.folder / name).mkdir()
            make(self.folder / name)
            self._made[name] = self.folder / name
        return self._made[name]

    def train(self, data: Path, name: str, *words: str, check: bool = True) -> Any:
        """Runs fairseq-train with the plugin into a folder."""
        to = ["--user-dir", USER_DIR, "--save-dir", self.folder / name]
        return run("fairseq-train", data, *words, *to, check=check)

    def command(self, *words: Any) -> None:
        """Runs a command of fairseq-kd."""
        run("fairseq-kd", *words)

    def taught(self) -> List[Any]:
        """The flags for the teacher and its data."""
        return ["--teacher", self.teacher(), "--data", self.data()]

    def cache(self) -> List[Any]:
        """The flags for the models that are converted for CTranslate2."""
        return ["--cache", self.folder / "cache"]


PARTS: Dict[str, Tuple[str, Callable[[Trial], str]]] = {  # their rows in the table
    "unit tests": (
        f"unit tests of {', '.join(Path(each).name for each in UNIT_TESTS)}",
        Trial.unit_tests,
    ),
    "criterions": (f"every criterion, {UPDATES} updates", Trial.criterions),
    "resume": ("a training is killed and resumed", Trial.resume),
    "store": ("`store`", Trial.store),
    "translate": ("`translate` with CTranslate2 and with fairseq", Trial.translate),
    "evaluate": ("`evaluate`", Trial.evaluate),
    "export": ("`export`", Trial.export),
    "shell": ("`progressive --shell`, and the script", Trial.shell),
    "generate": ("`fairseq-generate`", Trial.generate),
    "hydra": ("`fairseq-hydra-train`", Trial.hydra),
}


def reason(output: str) -> str:
    """The first line of the failure at the end of an output: its last exception or message."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    return (errors or lines or ["no output"])[-1][:200]
