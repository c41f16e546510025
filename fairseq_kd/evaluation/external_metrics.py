"""Scores by programs of the user's own, such as COMET or MetricX in an environment of theirs."""

import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, TextIO, Tuple

from sacrebleu.metrics.base import Score, Signature

from fairseq_kd.child_process import child
from fairseq_kd.evaluation.results import METRICS
from fairseq_kd.files.names import on_terminal
from fairseq_kd.files.temporary_folders import temporary_folder

NAME = re.compile(r"[A-Za-z][\w.-]{0,29}", re.ASCII)
LARGEST = 1e12  # score: sums of larger ones lose digits, or overflow
LONGEST = 1000  # characters of a line
WRONG = "lines for {:,} sentences. It must print one number per line, one for each sentence."
FILES = ("SRC", "HYP", "REF")  # variables with the names of the files of text


class Scorer(NamedTuple):
    """A program that scores translations: ``--scorer NAME=COMMAND``."""

    name: str  # of the metric in the report
    command: str  # for the shell

    @classmethod
    def parse(cls, text: str) -> "Scorer":
        """Reads ``NAME=COMMAND``.

        Raises:
            ValueError: it has another form, or the name is that of a metric of sacreBLEU.
        """
        name, _, command = text.partition("=")
        if not NAME.fullmatch(name) or not command.strip():
            raise ValueError(
                "--scorer must be NAME=COMMAND with a name of letters, digits, - and _, such as "
                f"'COMET=score.sh $SRC $HYP $REF', but is {text!r:.80}."
            )
        if name.lower() in {"chrf", *map(str.lower, METRICS)}:
            raise ValueError(f"--scorer {name} has the name of another metric. Give another name.")
        return cls(name, command)


class ExternalMetric:
    """A metric of ``sacrebleu.significance`` whose score is the mean of sentence scores.

    Args:
        scorer: the program.
        sources: plain source sentences.
    """

    def __init__(self, scorer: Scorer, sources: Sequence[str]):
        self.scorer, self.sources, self.command = scorer, sources, scorer.command
        self._scores: Dict[Tuple[str, ...], List[float]] = {}  # by text: programs may be slow

    def _extract_corpus_statistics(self, hypotheses: Sequence[str], references: Any) -> Any:
        key = tuple(hypotheses)
        if key not in self._scores:
            self._scores[key] = sentence_scores(
                self.scorer, self.sources, hypotheses, references[0]
            )
        return [(score, 1.0) for score in self._scores[key]]

    def _aggregate_and_compute(self, statistics: Sequence[Tuple[float, float]]) -> Score:
        return Score(self.scorer.name, math.fsum(each for each, _ in statistics) / len(statistics))

    def _compute_score_from_stats(self, sums: Sequence[float]) -> Score:
        return Score(self.scorer.name, float(sums[0]) / float(sums[1]))

    def get_signature(self) -> Signature:
        """A signature for the test, which adds to it; the report shows the command instead."""
        return Signature({"num_refs": 1})


def sentence_scores(
    scorer: Scorer, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> List[float]:
    """The scores of a program, one per sentence.

    The command is run by the shell, with the names of three files of plain text, one sentence a
    line, in the variables SRC, HYP and REF. It prints one number per sentence, each on a line.

    Args:
        scorer: the program.
        sources: plain source sentences.
        hypotheses: plain translations of one system.
        references: plain references.

    Raises:
        ValueError: the program fails, or prints something else.
    """
    with temporary_folder() as folder:
        variables = {}
        for name, lines in zip(FILES, (sources, hypotheses, references), strict=True):
            path = Path(folder, name.lower())
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            variables[name] = str(path)
        output = {"stdout": subprocess.PIPE, "encoding": "utf-8", "errors": "replace"}
        environment = {**os.environ, **variables}
        called = f"--scorer {scorer.name}: {scorer.command}"
        with child(["bash", "-c", scorer.command], env=environment, **output) as process:
            lines = _printed(process.stdout, len(sources), called)
    if process.returncode != 0:
        raise ValueError(f"{called} ended with status {process.returncode}. See its messages.")
    if len(lines) != len(sources):
        raise ValueError(f"{called} printed {len(lines):,} {WRONG.format(len(sources))}")
    return [_number(line, i, called) for i, line in enumerate(lines, 1)]


def _printed(stream: TextIO, sentences: int, called: str) -> List[str]:
    """The lines that a program prints, which may be endless.

    Raises:
        ValueError: they are more than sentences.
    """
    lines: List[str] = []
    while line := stream.readline(LONGEST):
        lines.append(line.rstrip("\n"))
        if len(lines) > sentences:
            raise ValueError(f"{called} printed more than {sentences:,} {WRONG.format(sentences)}")
    return lines


def _number(line: str, number: int, called: str) -> float:
    try:
        score = math.nan if "_" in line else float(line)  # Python reads 1_0 as 10
    except ValueError:
        score = math.nan
    if not abs(score) <= LARGEST:  # NaN neither
        raise ValueError(
            f"{called} printed {on_terminal(line[:40])!r} as line {number}, which is not a number "
            f"from -{LARGEST:g} to {LARGEST:g}."
        )
    return score
