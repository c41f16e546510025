"""One trained and tested system: what its folder tells of its size, its translations, its speed and
its training.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Tuple

from fairseq_kd.checkpoints import count_parameters, read_checkpoint
from fairseq_kd.training_log import figures

CHECKPOINT = "checkpoint_best.pt"
TRANSLATIONS = "generate-test.txt"
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
    for file in (CHECKPOINT, TRANSLATIONS, TRAINING_LOG):
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder / file} is missing, so that {name} cannot be reported. Make it first."
            )
    hypotheses, sentences_per_s = read_translations(folder / TRANSLATIONS)
    command, validation = read_training_log(folder / TRAINING_LOG)
    state = read_checkpoint(folder / CHECKPOINT)
    return System(
        name=name,
        parameters=count_parameters(state["model"]),
        hypotheses=hypotheses,
        sentences_per_s=sentences_per_s,
        updates=validation[-1][0] if validation else state["optimizer_history"][-1]["num_updates"],
        validation=validation,
        command=command,
    )


def read_translations(path: Path) -> Tuple[List[str], float]:
    """The hypotheses in an output of ``fairseq-generate``, in input order, and sentences/s."""
    text = path.read_text(encoding="utf-8")
    found = {
        int(line_id): hypothesis
        for line_id, hypothesis in re.findall(r"^D-(\d+)\t\S+\t(.*)$", text, re.M)
    }
    speed = re.search(r"Translated [\d,]+ sentences .*\(([\d.,]+) sentences/s", text)
    if not found or speed is None or sorted(found) != list(range(len(found))):
        raise ValueError(
            f"{path} is not the whole output of fairseq-generate. Remove it and translate again."
        )
    return [found[line_id] for line_id in range(len(found))], float(speed.group(1).replace(",", ""))


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
