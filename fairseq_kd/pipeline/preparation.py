"""Prepares a run: checks every command of its steps and records them as workflow.json.

In order: the run file and its settings, the folder of the run, the commands of all steps, the
checkpoints from which trainings start, and whether data, dictionaries and teachers fit together.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from fairseq_kd import __version__
from fairseq_kd.files.atomic_files import check_apart, check_can_be_made, check_no_link
from fairseq_kd.files.hashes import FileHashes, sha256_of
from fairseq_kd.files.json_files import read_json
from fairseq_kd.files.locks import locked
from fairseq_kd.pipeline.fit_check import check_fit
from fairseq_kd.pipeline.layout import Layout
from fairseq_kd.pipeline.run_file import RunFile, read_run
from fairseq_kd.pipeline.run_ladder import import_own_plugin, lay_out
from fairseq_kd.pipeline.start_check import check_starts
from fairseq_kd.pipeline.status import (
    HASHES,
    LOGS,
    MANIFEST_FIELDS,
    RECIPE,
    REPLACED,
    STEPS,
    replaced_by,
)
from fairseq_kd.pipeline.training_check import check_training_command
from fairseq_kd.pipeline.workflow import (
    LOCK,
    WORKFLOW_FILE,
    LaidOutStep,
    Workflow,
    holds_former_run,
    read_workflow,
    write_workflow,
)

WRITTEN = (  # files and folders that a run writes, beside those of its steps
    *(STEPS, REPLACED, LOGS, "history.md", "history.html", "report.md", "report.html"),
    *("evaluation.json", "decoded", "translations", "plots", HASHES),
)


def prepare_run(path: Path, changes: Sequence[str] = (), record: bool = True) -> Workflow:
    """The workflow of a run file, which alone determines the commands that are executed.

    It is derived from the run file each time, because anybody may have written the
    ``workflow.json`` in the folder of the run. That file only records which workflow was checked.
    The commands are checked again if the run file, its teacher or its data changed, or if the
    recorded workflow differs.

    Args:
        path: the run file.
        changes: ``KEY=VALUE`` settings that override the file.
        record: write the workflow into the folder of the run, once it is checked.

    Raises:
        FileNotFoundError: something that the file names is missing.
        ValueError: the file is invalid, or describes what cannot be built; or it has changed while
            a driver executes the recorded workflow.
    """
    run = read_run(path, changes)
    kept = _kept_workflow(run)
    inputs = {**_inputs(run), "changes": list(changes)}
    layout = lay_out(run)
    steps = [step.recorded() for step in layout.steps]
    workflow = Workflow(str(run.folder), inputs, run.get("seed", 1), steps)
    _check_apart(run, layout, workflow)
    if kept is None and not _was_begun(run.folder):
        _refuse_what_is_there(run, [step.folder for step in steps if step.folder])
    if workflow != kept:
        check_steps(run, layout)
    if workflow != kept and record:
        with locked(run.folder / LOCK, str(run.folder)):
            write_workflow(workflow)
    return workflow


def _kept_workflow(run: RunFile) -> Optional[Workflow]:
    """The workflow recorded in the folder of a run; None if the folder has none.

    Raises:
        ValueError: the folder has files with that name that are not from a run, or links.
    """
    check_apart(run.folder, folders_read(run), "run:")
    for name in WRITTEN:
        check_no_link(run.folder / name)
    if run.folder.exists() and not run.folder.is_dir():
        raise ValueError(f"run: {run.folder} must be a folder, but is a file. Give another path.")
    check_can_be_made(run.folder, "run:")
    try:
        return read_workflow(run.folder / WORKFLOW_FILE)
    except FileNotFoundError:
        there = () if holds_former_run(run.folder) else WRITTEN
    except (OSError, ValueError, TypeError, KeyError):
        there = (WORKFLOW_FILE,)
    if not _was_begun(run.folder):
        _refuse_what_is_there(run, [str(run.folder / name) for name in there])
    return None


def _was_begun(folder: Path) -> bool:
    """Whether steps of a run were started in a folder, according to their records."""
    for path in sorted((folder / STEPS).glob("*.json")):
        with suppress(OSError, ValueError):
            read_json(path, RECIPE if path.name.endswith(".recipe.json") else MANIFEST_FIELDS, "")
            return True
    return False


def _refuse_what_is_there(run: RunFile, paths: Sequence[str]) -> None:
    """Refuses a new run in a folder with files that the run would write."""
    for path in paths:
        if os.path.lexists(path):
            raise ValueError(
                f"run: {run.folder} holds {os.path.relpath(path, run.folder)}, which was not made "
                "by a run. Move that away, or give another folder."
            )


def _check_apart(run: RunFile, layout: Layout, workflow: Workflow) -> None:
    """Refuses a run that reads files in a folder that one of its steps would move aside.

    Raises:
        ValueError: naming the step and the file.
    """
    read = {path: None for step in workflow.steps for path in step.reads}
    read.update(dict.fromkeys([str(run.path), layout.user_dir, *folders_read(run).values()]))
    within = {
        place: path
        for path in filter(None, read)
        for start in (Path(os.path.abspath(path)), Path(os.path.realpath(path)))
        for place in (start, *start.parents)
    }
    for step in workflow.steps:
        for own in replaced_by(workflow, step):
            path = within.get(Path(os.path.abspath(own)), within.get(Path(os.path.realpath(own))))
            if path is not None:
                raise ValueError(
                    f"run: {run.folder} contains {path} in {own}, which the step {step.name} "
                    f"writes, but the run reads {path}. Choose another folder for the run."
                )


def folders_read(run: RunFile) -> Dict[str, Optional[str]]:
    """The folder of the text or the data of a run, under the key that names it."""
    return {"data:": run.data if isinstance(run.data, str) else run.data.get("text")}


def check_steps(run: RunFile, layout: Layout) -> None:
    """Checks every command of a run, and that data, teachers and starts fit together.

    Args:
        run: the run file.
        layout: of its steps.

    Raises:
        FileNotFoundError: something that the run needs is missing.
        ValueError: fairseq-train or fairseq-kd would refuse a command later.
    """
    import_own_plugin(layout)
    trainings: Dict[str, Dict[str, Any]] = {}
    for step in layout.steps:
        if step.kind == "train":
            trainings[step.name] = check_training_command(step.command)
        else:
            _check_options(run, step)
    check_starts(run.path, layout.steps, trainings)
    check_fit(run, layout, trainings)


def _inputs(run: RunFile) -> Dict[str, Any]:
    hashes = FileHashes(run.folder / HASHES)
    given = run.teacher if isinstance(run.teacher, list) else []
    data = Path(run.data) if isinstance(run.data, str) else None
    files = sorted(data.iterdir()) if data and data.is_dir() else []
    dictionaries = [path for path in files if path.name.startswith("dict.")]
    sets = [path for path in files if path.suffix == ".idx"]
    return {
        "file": str(run.path),
        "sha256": sha256_of([run.path]),
        "version": __version__,
        "started in": str(Path.cwd()),
        "teachers": {path: hashes.of(path) for path in given if Path(path).is_file()},
        "data": [path.name for path in files],
        "dictionaries": [sha256_of([path]) for path in dictionaries],
        "sizes": {path.name: hashes.of(str(path)) for path in sets},
    }


def _check_options(run: RunFile, step: LaidOutStep) -> None:
    """Refuses flags of a command of ours without effect, and files that are missing.

    Raises:
        FileNotFoundError, ValueError: naming the step and the flag.
    """
    try:
        step.command.check()
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{run.path}: the step {step.name} is refused: {error}") from None
