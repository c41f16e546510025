"""One training as a diagnosis reads it: its log, its flags, its teacher's log, its translations."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

from fairseq_kd.evaluation.generated import translations
from fairseq_kd.locks import is_held
from fairseq_kd.parallel_text import lines_of
from fairseq_kd.training_log import (
    FILE,
    STAGE_LOCK,
    Flags,
    Record,
    TrainingLog,
    flags_of,
    read_training_log,
)


@dataclass(frozen=True)
class Stage:
    """A training, finished or not.

    Args:
        name: of its folder.
        log: what fairseq-train printed.
        flags: of its command line, by name; a flag without a value has "".
        words: number of words of the target dictionary; None if the log does not tell.
        teacher: the log of its teacher's training, if it lies where the flag says, or beside.
        outputs: by file, translations that were made with it.
        lines: of the log.
        start: the place among them at which the last start begins.
        running: whether a process still works on it; None if that cannot be known.
    """

    name: str
    log: TrainingLog
    flags: Flags
    words: Optional[int]
    teacher: Optional[TrainingLog]
    outputs: Dict[str, List[str]]
    lines: List[str]
    start: int
    running: Optional[bool]

    @property
    def training(self) -> List[Record]:
        """The running figures."""
        return self.log.training

    @property
    def validation(self) -> List[Record]:
        """Those of the validations."""
        return self.log.validation

    @property
    def distils(self) -> bool:
        """Whether it has a teacher."""
        return any("kd_loss" in record for record in self.training)

    @property
    def uniform_bits(self) -> float:
        """The loss of one who knows nothing: log2 of the number of words."""
        return math.log2(self.words) if self.words else math.inf

    def number(self, flag: str, default: float) -> float:
        """A flag that is a number."""
        try:
            return float(self.flags.get(flag, default))
        except ValueError:
            return default

    def share_done(self) -> float:
        """Of all updates, 0 to 1; 0 until its end if the command does not say how many."""
        if self.log.finished:
            return 1.0
        last = self.number("--max-update", 0)
        return min(1.0, self.training[-1]["update"] / last) if last else 0.0


def find_stages(run: Path) -> List[Stage]:
    """The trainings in a folder: its own, or those of the folders in it.

    Raises:
        FileNotFoundError: there is no such folder, or no log in it.
    """
    if not run.exists():
        raise FileNotFoundError(f"{run} does not exist. Give the folder of a training.")
    logs = [run] if run.is_file() else [run / FILE] if (run / FILE).is_file() else []
    logs = logs or sorted(run.glob(f"*/{FILE}"))
    if not logs:
        raise FileNotFoundError(
            f"{run} holds no {FILE}, nor does a folder in it. Give the --save-dir of fairseq-kd "
            f"stage, or a file of what fairseq-train --log-format json printed."
        )
    return [_read(path) for path in logs]


def _read(path: Path) -> Stage:
    path = path.resolve()  # the folder's own name counts, however it was given
    log = _read_log(path)
    try:
        flags = flags_of(log.command)
    except ValueError as error:  # by shlex
        raise ValueError(
            f"{path} has a command line that no shell reads: {error}. Mend its line that begins "
            "with $."
        ) from error
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    return Stage(
        name=path.parent.name,
        log=log,
        flags=flags,
        words=_words(lines),
        teacher=_teacher(path, flags),
        outputs=_outputs(path.parent),
        lines=lines,
        start=starts[-1] if starts else 0,
        running=is_held(path.with_name(STAGE_LOCK)),
    )


def _read_log(path: Path) -> TrainingLog:
    """A log in which every record of a loss has nll_loss, too.

    fairseq's cross_entropy leaves nll_loss out where it is the loss.
    """
    log = read_training_log(path)
    return log._replace(
        training=[_with_nll_loss(record) for record in log.training],
        validation=[_with_nll_loss(record) for record in log.validation],
    )


def _with_nll_loss(record: Record) -> Record:
    return {"nll_loss": record["loss"], **record} if "loss" in record else record


def _words(lines: List[str]) -> Optional[int]:
    """The size of the last dictionary that the log names, which is the target's."""
    found = re.findall(r"\] dictionary: (\d{1,18}) types", "\n".join(lines))
    return int(found[-1]) if found else None


def _teacher(path: Path, flags: Flags) -> Optional[TrainingLog]:
    """The log of the first teacher.

    Where its path leads elsewhere from here, as in runs that were moved, it is sought in the folder
    of its name beside.
    """
    named = flags.get("--kd-teacher", "").split(":")[0]
    if not named:
        return None
    folder = Path(named).parent
    unmoved = Path(flags.get("--save-dir", "checkpoints")).resolve() == path.parent
    there = [folder / FILE] if folder.is_absolute() or unmoved else []
    for candidate in (*there, path.parent.parent / folder.name / FILE):
        if candidate.is_file():
            return _read_log(candidate)
    return None


def _outputs(folder: Path) -> Dict[str, List[str]]:
    """What fairseq-generate printed into the folder, and what evaluate translated."""
    found: Dict[str, List[str]] = {}
    for path in sorted(folder.glob("generate-*.txt")):
        found[path.name] = list(translations(path).values())
    for path in sorted((folder.parent / "translations").glob("*.txt")):
        if path.name.partition(".")[0] == folder.name:
            found[path.name] = list(lines_of(str(path)))
    return found
