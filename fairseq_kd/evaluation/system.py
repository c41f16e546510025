"""One trained and tested system: its size, translations, speed and training, from its folder."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

from fairseq_kd.checkpoints import count_parameters, read_checkpoint
from fairseq_kd.training_log import figures

CHECKPOINT = "checkpoint_best.pt"
TRANSLATIONS = "generate-test.txt"
TRANSLATION_LOG = "generate-test.log"
TRAINING_LOG = "train.log"


@dataclass(frozen=True)
class System:
    """The measured facts of one system.

    Args:
        name: as it stands in the report.
        parameters: numbers in the model, shared ones counted once.
        hypotheses: detokenised translations of the test set, in its order.
        sentences_per_s: translated in a second, as ``fairseq-generate`` measured it.
        updates: of its training.
        validation: (update, nll_loss in bits a token) of every validation.
        command: the command line that trained it.
    """

    name: str
    parameters: int
    hypotheses: List[str]
    sentences_per_s: float
    updates: int
    validation: List[Tuple[int, float]]
    command: str


def read_system(name: str, path: str) -> System:
    """Reads the checkpoint, the translations and the training log in a folder.

    Raises:
        FileNotFoundError: one of the three files is missing.
        ValueError: the translations are not the complete output of ``fairseq-generate``.
    """
    folder = Path(path)
    for file in (CHECKPOINT, TRANSLATIONS, TRANSLATION_LOG, TRAINING_LOG):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder / file} is missing, so that {name} cannot be reported. Make it first."
            )
    command, validation = read_training_log(folder / TRAINING_LOG)
    state = read_checkpoint(folder / CHECKPOINT)
    return System(
        name=name,
        parameters=count_parameters(state["model"]),
        hypotheses=read_translations(folder / TRANSLATIONS),
        sentences_per_s=read_speed(folder / TRANSLATION_LOG),
        updates=validation[-1][0] if validation else state["optimizer_history"][-1]["num_updates"],
        validation=validation,
        command=command,
    )


def read_translations(path: Path) -> List[str]:
    """The detokenised hypotheses that ``fairseq-generate`` printed, in the test set's order."""
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^D-(\d+)\t\S+\t(.*)$", text, re.M)
    found = {int(number): hypothesis for number, hypothesis in lines}
    if not found or sorted(found) != list(range(len(found))):
        raise ValueError(
            f"{path} does not hold a translation of every sentence. Remove it and translate again, "
            "with --required-batch-size-multiple 1."
        )
    return [found[number] for number in range(len(found))]


def read_speed(path: Path) -> float:
    """The sentences per second in the log of ``fairseq-generate``."""
    told = re.search(r"Translated .*\(([\d.,]+) sentences/s", path.read_text(encoding="utf-8"))
    if told is None:
        raise ValueError(
            f"{path} does not say how fast fairseq-generate was. Remove it and translate again."
        )
    return float(told[1].replace(",", ""))


def read_training_log(path: Path) -> Tuple[str, List[Tuple[int, float]]]:
    """The command line in a stage's log and its validations; one that a restart repeated, once."""
    command, validation = "", {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("$ "):
            command = line[2:]
        stats = figures(line, of="valid")
        if stats is not None:
            validation[int(stats["valid_num_updates"])] = float(stats["valid_nll_loss"])
    return command, sorted(validation.items())
