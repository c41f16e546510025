"""Scores the models of a run of the comparison, and appends them to benchmarks/comparison.csv.

usage: python benchmarks/comparison.py TABLE RUN_DIR [ROW...]

Called by benchmarks/comparison.sh. Models are scored by ``fairseq-kd evaluate``; the costs are what
the manifests of the steps say.
"""

import csv
import datetime
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

from fairseq_kd import __version__, cli
from fairseq_kd.child_process import child
from fairseq_kd.evaluation.options import EvaluateOptions
from fairseq_kd.evaluation.results import EvaluationResult, SystemResult
from fairseq_kd.evaluation.scores import metrics, paired_scores
from fairseq_kd.machine import with_gpus
from fairseq_kd.pipeline.status import manifest_path
from fairseq_kd.pipeline.workflow import WORKFLOW_FILE, Workflow, read_workflow
from fairseq_kd.training_log import LOG_FILE as LOG
from fairseq_kd.training_log import read_training_log

RESULTS = Path(__file__).with_name("comparison.csv")
CURVES = Path(__file__).with_name("curves.csv")
COLUMNS = ("table", "row", "seed", "pair", "parameters", "updates", "behind", "BLEU", "chrF")
COLUMNS += ("p_undistilled", "p_word", "seconds", "signature", "machine", "date", "version")
UNDISTILLED, WORD = "undistilled", "word"
SAMPLES = 1000


def main(table: str, folder: Path, rows: Sequence[str]) -> None:
    """Scores a run, or some rows of it, and appends their figures.

    Args:
        table: what the figures belong to.
        folder: of the run.
        rows: models to score; all if there are none.
    """
    workflow = read_workflow(folder / WORKFLOW_FILE)
    measured = evaluated(workflow, rows)
    texts = translations(folder if not rows else folder / "rows", measured)
    references = references_of(workflow)
    p_values = {
        name: against(texts, texts[name], references)
        for name in (UNDISTILLED, WORD)
        if name in texts
    }
    new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for system in measured.systems:
            if rows and system.name not in (*rows, "teacher"):
                continue
            writer.writerow(row_of(table, workflow, measured, system, p_values))
            write_curve(table, workflow, system.name)
            bleu = f"{measured.score(system.name):.2f} BLEU"
            print(f"{table} {system.name}, seed {workflow.seed}: {bleu}")


def evaluated(workflow: Workflow, rows: Sequence[str]) -> EvaluationResult:
    """The evaluation of the run, or one of these rows alone, made now."""
    folder = Path(workflow.folder)
    if not rows:
        return result_in(folder)
    out = folder / "rows"
    options = of_rows(evaluation_of(workflow), rows, out)
    with child(options.argv(), stdout=subprocess.DEVNULL) as process:
        if process.wait() != 0:
            sys.exit(f"fairseq-kd evaluate failed with status {process.returncode}")
    return result_in(out)


def result_in(folder: Path) -> EvaluationResult:
    """What an evaluation measured."""
    text = (folder / "evaluation.json").read_text(encoding="utf-8")
    return EvaluationResult.from_json(json.loads(text))


def evaluation_of(workflow: Workflow) -> EvaluateOptions:
    """The options of the evaluation of a run."""
    command = workflow.step("evaluation").commands[0]
    return EvaluateOptions.parsed(cli.parser().parse_args(command[1:]))


def of_rows(options: EvaluateOptions, rows: Sequence[str], out: Path) -> EvaluateOptions:
    """The options of an evaluation of some models alone, all of them as students."""
    students = [each for each in options.systems() if each.name in rows]
    named = tuple(f"{each.name}={each.path}" for each in students if each.role != "teacher")
    return replace(options, student=named, control=(), out=out)


def translations(folder: Path, measured: EvaluationResult) -> Dict[str, List[str]]:
    """The translations of the test set by each model of an evaluation."""
    names = [system.name for system in measured.systems]
    files = {name: folder / "translations" / f"{name}.txt" for name in names}
    return {name: path.read_text(encoding="utf-8").splitlines() for name, path in files.items()}


def references_of(workflow: Workflow) -> List[str]:
    """The test set's plain references, which fairseq-kd prepare keeps beside the data."""
    data = evaluation_of(workflow).data
    target = next(data.glob("test.*.bin")).name.split(".")[1].partition("-")[2]
    return (data.parent / "text" / f"test.{target}").read_text(encoding="utf-8").splitlines()


def against(
    texts: Dict[str, List[str]], base: List[str], references: List[str]
) -> Dict[str, float]:
    """p-values of the differences in BLEU from a base, by paired bootstrap."""
    found = paired_scores({**texts, "base": base}, references, "base", SAMPLES, metrics())
    return {name: found.scores[name]["BLEU"].p for name in texts}


def row_of(
    table: str,
    workflow: Workflow,
    measured: EvaluationResult,
    system: SystemResult,
    p_values: Dict[str, Dict[str, float]],
) -> Dict[str, Any]:
    """One line of the CSV."""
    name, made = system.name, measured.made
    p_of = {f"p_{base}": f"{found[name]:.4f}" for base, found in p_values.items() if name != base}
    return {
        **{"table": table, "row": name, "seed": workflow.seed, "pair": "-".join(made.pair)},
        **{"parameters": system.total_parameters, "updates": system.updates},
        "behind": system.updates_behind,
        **{"BLEU": f"{measured.score(name):.2f}"},
        **{"chrF": f"{measured.score(name, 'chrF2'):.2f}"},
        **p_of,
        "seconds": seconds(workflow, name),
        "signature": measured.quality.signatures["BLEU"],
        **{"machine": with_gpus(), "date": datetime.date.today(), "version": __version__},
    }


def write_curve(table: str, workflow: Workflow, name: str) -> None:
    """Appends the validation losses of a training to ``curves.csv``, in bits a token."""
    log = Path(workflow.folder) / name / LOG
    if not log.is_file():  # a model that was given
        return
    new = not CURVES.exists()
    with CURVES.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(["table", "row", "seed", "updates", "nll_loss"])
        for record in read_training_log(log).validation:
            losses = [int(record["update"]), record["nll_loss"]]
            writer.writerow([table, name, workflow.seed, *losses])


def seconds(workflow: Workflow, name: str) -> int:
    """The cost of a model in seconds: its training and its inputs, except text and teachers."""
    steps = {step.name: step for step in workflow.steps}
    needed: Set[str] = set()
    waiting = [name]
    while waiting:
        step = waiting.pop()
        if step in steps and step not in ("data", "teacher", *needed):
            needed.add(step)
            waiting += steps[step].after
    paths = [manifest_path(workflow, steps[each]) for each in needed]
    return sum(json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in paths)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
