"""One page that tells how the models of a run were made, from the manifests of its steps."""

import shlex
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq_kd.evaluation.pages import (
    Block,
    Code,
    Section,
    Table,
    count_text,
    html_page,
    markdown_page,
)
from fairseq_kd.json_files import read_json
from fairseq_kd.pipeline.state import manifest_path, step_manifest
from fairseq_kd.pipeline.workflow import Plan
from fairseq_kd.whole_files import written_whole

Manifest = Dict[str, Any]
PAGE = "history"


def write_history(plan: Plan) -> Path:
    """Writes ``history.html`` and ``history.md`` of what is finished.

    Returns:
        The HTML page.
    """
    manifests = read_manifests(plan)
    page = [_models(plan, manifests), _steps(manifests), *_details(manifests)]
    title = f"How the models of {plan.folder} were made"
    folder = Path(plan.folder)
    with written_whole(folder / f"{PAGE}.md") as file:
        file.write(markdown_page(title, page, "plots"))
    with written_whole(folder / f"{PAGE}.html") as file:
        file.write(html_page(title, _cards(manifests), page))
    return folder / f"{PAGE}.html"


def read_manifests(plan: Plan) -> List[Manifest]:
    """The manifests of the finished steps, in the plan's order."""
    manifests = [step_manifest(plan, step) for step in plan.steps]
    return [each for each in manifests if each is not None]


def ancestors(name: str, manifests: List[Manifest]) -> List[str]:
    """The models that a model learned from, and those that they learned from; the oldest first."""
    by_name = {each["step"]: each for each in manifests}
    found: Dict[str, Manifest] = {}
    seen = set()

    def visit(name: str) -> None:
        if name in by_name and name not in seen:
            seen.add(name)
            for parent in by_name[name]["parents"]:
                visit(parent)
            found[name] = by_name[name]  # behind its parents

    visit(name)
    return [each for each in found if each != name and found[each]["kind"] == "train"]


def stands_on(model: Manifest, manifests: List[Manifest]) -> str:
    """The line that a model learned from, with the teacher that was given at its beginning."""
    line = ancestors(model["step"], manifests)
    oldest = next((each for each in manifests if each["step"] in line[:1]), model)
    given = [path for path in oldest["recipe"]["reads"] if path.endswith(".pt")]
    return " → ".join([*given, *line]) or "the references"


def _cards(manifests: List[Manifest]) -> List["tuple[str, str]"]:
    trained = [each for each in manifests if each["kind"] == "train"]
    seconds = sum(each["seconds"] for each in manifests)
    again = sum(each["attempts"] - 1 for each in manifests)
    return [
        (str(len(trained)), "models trained"),
        (_duration(seconds), "of work in all"),
        (str(again), "interruptions that were gone on after"),
    ]


def _models(plan: Plan, manifests: List[Manifest]) -> Section:
    """The trainings, each with what it learned from and what came of it."""
    bleu = _bleu(plan)
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
    columns += ["time", "starts", "seed"]
    return Section("Models", [Table(columns, rows)])


def _bleu(plan: Plan) -> Dict[str, float]:
    """BLEU by model, if the run was evaluated."""
    path = Path(plan.folder) / "evaluation.json"
    measured: Optional[Dict[str, Any]] = None
    if path.is_file() and manifest_path(plan, plan.step("evaluation")).is_file():
        form = {"quality": {"scores": {str: {"BLEU": {"score": float}}}}}
        measured = read_json(path, form, "Remove it, and the evaluation is run again.")
    scores = measured["quality"]["scores"] if measured else {}
    return {name: found["BLEU"]["score"] for name, found in scores.items()}


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
    columns = ["step", "what", "begun", "finished", "time", "starts"]
    return Section("Steps", [Table(columns, rows)])


def _details(manifests: List[Manifest]) -> List[Section]:
    """For each step its commands, and the hashes of what it read and made."""
    sections = []
    for each in manifests:
        blocks: List[Block] = [
            f"On {each['machine']}, fairseq_kd {each['version']}; {each['versions']}."
        ]
        blocks.append(Code("\n".join(shlex.join(words) for words in each["recipe"]["commands"])))
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
