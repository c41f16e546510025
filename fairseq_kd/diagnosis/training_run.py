"""A training as diagnosis reads it: its log, flags, teacher's log and translations."""

import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional

from fairseq_kd.files.locks import is_held
from fairseq_kd.files.names import on_terminal
from fairseq_kd.parallel_text import lines_of
from fairseq_kd.training_log import (
    LOG_FILE,
    STAGE_LOCK,
    Flags,
    Record,
    TrainingLog,
    arguments_of,
    flags_of,
    read_training_log,
)


@dataclass(frozen=True)
class TrainingRun:
    """A training, finished or not."""

    name: str  # of the folder
    log: TrainingLog  # figures and command line
    flags: Flags  # by name; "" for a flag without a value
    vocab_size: Optional[int]  # of the target; None if the log has none
    teacher: Optional[TrainingLog]  # the log of the teacher's training, if there
    outputs: Dict[str, List[str]]  # translations of the model by file name
    lines: List[str]
    start: int  # index of the first line of the last start
    running: Optional[bool]  # whether a process is training; None if unknown

    @property
    def training(self) -> List[Record]:
        """The records of training."""
        return self.log.training

    @property
    def validation(self) -> List[Record]:
        """The records of validation."""
        return self.log.validation

    @property
    def distils(self) -> bool:
        """Whether it has a teacher."""
        return any("kd_loss" in record for record in self.training)

    @property
    def uniform_bits(self) -> float:
        """The loss of a uniform distribution, log2 of the vocabulary size; infinite if unknown."""
        return math.log2(self.vocab_size) if self.vocab_size else math.inf

    def number(self, flag: str, default: float) -> float:
        """The value of a numeric flag."""
        try:
            return float(self.flags.get(flag, default))
        except ValueError:
            return default

    def share_done(self) -> float:
        """The share of updates done, 0 to 1; without --max-update 0 until the training is done."""
        if self.log.finished:
            return 1.0
        last = self.number("--max-update", 0)
        return min(1.0, self.training[-1]["update"] / last) if last else 0.0


def find_training_runs(folder: Path) -> List[TrainingRun]:
    """The training in a folder, or those in its subfolders.

    Raises:
        FileNotFoundError: there is no such folder, or no log in it.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} does not exist. Give the folder of a training.")
    logs = [path for path in (folder, folder / LOG_FILE) if path.is_file()]
    logs = logs or sorted(filter(Path.is_file, folder.glob(f"*/{LOG_FILE}")))
    if not logs:
        raise FileNotFoundError(
            f"{folder} holds no {LOG_FILE}, nor does a folder in it. Give the --save-dir of "
            "fairseq-kd stage, or a file with the output of fairseq-train --log-format json."
        )
    return [_read(path) for path in logs]


def _read(path: Path) -> TrainingRun:
    path = path.resolve()  # also for a name of the folder such as .
    log = _read_log(path)
    flags = flags_of(arguments_of(log.command))
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    return TrainingRun(
        name=path.parent.name,
        log=log,
        flags=flags,
        vocab_size=_vocab_size(lines),
        teacher=_teacher(path, flags),
        outputs=_outputs(path.parent),
        lines=lines,
        start=starts[-1] if starts else 0,
        running=is_held(path.with_name(STAGE_LOCK)),
    )


def _read_log(path: Path) -> TrainingLog:
    """A log with nll_loss in every record that has a loss.

    fairseq's cross_entropy, whose loss is nll_loss, logs it as loss only.
    """
    log = read_training_log(path)
    return log._replace(
        training=_with_nll_loss(log.training),
        validation=_with_nll_loss(log.validation),
    )


def _with_nll_loss(records: List[Record]) -> List[Record]:
    """Records whose loss is also nll_loss.

    Where other losses show that it is a sum of terms, records without nll_loss are left out.
    """
    losses = {name for record in records for name in record if name.endswith("loss")}
    if losses - {"loss", "best_loss"}:
        return [each for each in records if "loss" not in each or "nll_loss" in each]
    return [{"nll_loss": each["loss"], **each} if "loss" in each else each for each in records]


def _vocab_size(lines: List[str]) -> Optional[int]:
    """The size of the last dictionary in the log, which is the target's."""
    sizes = re.findall(r"\] dictionary: (\d{1,18}) types", "\n".join(lines))
    return int(sizes[-1]) if sizes else None


def _teacher(path: Path, flags: Flags) -> Optional[TrainingLog]:
    """The log of the first teacher.

    If the teacher's path does not lead to it from here, as in runs that were moved, the folder of
    its name beside this training is searched.
    """
    named = flags.get("--kd-teacher", "").split(":")[0]
    if not named:
        return None
    folder = Path(named).parent
    unmoved = Path(flags.get("--save-dir", "checkpoints")).resolve() == path.parent
    given = [folder / LOG_FILE] if folder.is_absolute() or unmoved else []
    for candidate in (*given, path.parent.parent / folder.name / LOG_FILE):
        if candidate.is_file():
            return _read_log(candidate)
    return None


def _outputs(folder: Path) -> Dict[str, List[str]]:
    """Translations by ``fairseq-generate`` in the folder, and by ``fairseq-kd evaluate``."""
    found: Dict[str, List[str]] = {}
    generated = sorted(folder.glob("generate-*.txt"))
    texts = sorted((folder.parent / "translations").glob("*.txt"))
    texts = [path for path in texts if path.name.partition(".")[0] == folder.name]
    for path in filter(Path.is_file, [*generated, *texts]):  # neither folders nor pipes
        try:
            text = generated_translations(path) if path in generated else list(lines_of(str(path)))
        except ValueError as error:  # no text
            print(f"not diagnosed: {on_terminal(error)}", file=sys.stderr)
        else:
            found[path.name] = text
    return found


def generated_translations(path: Path) -> List[str]:
    """The detokenised translations in the output of ``fairseq-generate``, in the set's order."""
    lines = re.findall(r"^D-([0-9]{1,18})\t\S+\t(.*)$", "\n".join(lines_of(str(path))), re.M)
    by_index = {int(index): text for index, text in lines}
    return [by_index[index] for index in sorted(by_index)]
