"""Writes the history of a run, from the manifests of its steps: how each model was made."""

import shlex
from pathlib import Path
from typing import Any, Dict, List

from fairseq_kd.evaluation.pages import (
    Block,
    Code,
    Section,
    Table,
    count_text,
    html_page,
    markdown_page,
)
from fairseq_kd.evaluation.results import bleu_by_system
from fairseq_kd.files.atomic_files import atomic_write
from fairseq_kd.pipeline.status import manifest_path, step_manifest
from fairseq_kd.pipeline.workflow import Workflow

Manifest = Dict[str, Any]
PAGE = "history"


def write_history(workflow: Workflow) -> Path:
    """Writes ``history.html`` and ``history.md`` about the finished steps.

    Returns:
        The HTML page.
    """
    manifests = read_manifests(workflow)
    page = [_models(workflow, manifests), _steps(manifests), *_details(manifests)]
    title = f"How the models of {workflow.folder} were made"
    folder = Path(workflow.folder)
    with atomic_write(folder / f"{PAGE}.md") as file:
        file.write(markdown_page(title, page, "plots"))
    with atomic_write(folder / f"{PAGE}.html") as file:
        file.write(html_page(title, _cards(manifests), page))
    return folder / f"{PAGE}.html"


def read_manifests(workflow: Workflow) -> List[Manifest]:
    """The manifests of the finished steps, in the workflow's order."""
    manifests = [step_manifest(workflow, step) for step in workflow.steps]
    return [each for each in manifests if each is not None]


def ancestors(name: str, manifests: List[Manifest]) -> List[str]:
    """The teachers of a model, their teachers and so on, the first ancestor first."""
    line = _lineage(name, manifests)
    return [each["step"] for each in line if each["step"] != name and each["kind"] == "train"]


def _lineage(name: str, manifests: List[Manifest]) -> List[Manifest]:
    """A step and all that it depends on, each after what it depends on."""
    by_name = {each["step"]: each for each in manifests}
    lineage: Dict[str, Manifest] = {}
    seen = set()

    def visit(name: str) -> None:
        if name in by_name and name not in seen:
            seen.add(name)
            for parent in by_name[name]["parents"]:
                visit(parent)
            lineage[name] = by_name[name]  # after its parents

    visit(name)
    return list(lineage.values())


def stands_on(model: Manifest, manifests: List[Manifest]) -> str:
    """The ancestors of a model as text, beginning with the given checkpoints.

    These teach, live or by a store or translations, or give their layers.
    """
    line = _lineage(model["step"], manifests)
    reads = [path for each in line for path in each["recipe"]["reads"]]
    given = dict.fromkeys(path for path in reads if path.endswith(".pt"))
    return " → ".join([*given, *ancestors(model["step"], manifests)]) or "the references"


def _cards(manifests: List[Manifest]) -> List["tuple[str, str]"]:
    trained = [each for each in manifests if each["kind"] == "train"]
    seconds = sum(each["seconds"] for each in manifests)
    again = sum(each["attempts"] - 1 for each in manifests)
    return [
        (str(len(trained)), "models trained"),
        (_duration(seconds), "of work in all"),
        (str(again), "resumed interruptions"),
    ]


def _models(workflow: Workflow, manifests: List[Manifest]) -> Section:
    """The table of trainings: ancestors, updates, scores and times."""
    bleu = _bleu(workflow)
    rows = []
    for each in manifests:
        if each["kind"] != "train":
            continue
        nll = each.get("scores", {}).get("nll_loss")
        rows.append(
            [
                each["step"],
                stands_on(each, manifests),
                f"{each.get('updates', 0):,}",
                count_text(each.get("updates_behind")),
                f"{nll:.2f}" if isinstance(nll, (int, float)) else "-",
                f"{bleu[each['step']]:.1f}" if each["step"] in bleu else "-",
                _duration(each["seconds"]),
                str(each["attempts"]),
                str(each["seed"]),
            ]
        )
    columns = ["model", "stands on", "updates", "updates behind", "nll, valid", "BLEU, test"]
    columns += ["time", "attempts", "seed"]
    return Section("Models", [Table(columns, rows)])


def _bleu(workflow: Workflow) -> Dict[str, float]:
    """BLEU by model, if the run was evaluated."""
    path = Path(workflow.folder) / "evaluation.json"
    if path.is_file() and manifest_path(workflow, workflow.step("evaluation")).is_file():
        return bleu_by_system(path, "Remove it, and the evaluation is run again.")
    return {}


def _steps(manifests: List[Manifest]) -> Section:
    rows = [
        [
            each["step"],
            each["kind"],
            each["begun"].replace("T", " "),
            each["finished"].replace("T", " "),
            _duration(each["seconds"]),
            str(each["attempts"]),
        ]
        for each in manifests
    ]
    columns = ["step", "what", "begun", "finished", "time", "attempts"]
    return Section("Steps", [Table(columns, rows)])


def _details(manifests: List[Manifest]) -> List[Section]:
    """A section for each step: its commands, and the hashes of its inputs and outputs."""
    sections = []
    for each in manifests:
        blocks: List[Block] = [
            f"On {each['machine']}, fairseq_kd {each['version']}; {each['versions']}."
        ]
        blocks.append(
            Code("\n".join(shlex.join(command) for command in each["recipe"]["commands"]))
        )
        rows = [[path, "read", digest] for path, digest in each["recipe"]["reads"].items()]
        rows += [[path, "made", made["sha256"]] for path, made in each["outputs"].items()]
        if rows:
            blocks.append(Table(["file", "", "SHA-256"], rows))
        sections.append(Section(each["step"], blocks))
    return sections


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
