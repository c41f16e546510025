"""Prints BLEU of every model of some runs of ``fairseq-kd progressive``, seed by seed.

python benchmarks/ladder.py runs/ladder/1 runs/ladder/2 runs/ladder/3
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Dict, List

from fairseq_kd.evaluation.pages import markdown_table
from fairseq_kd.evaluation.results import EvaluationResult


def main(folders: List[str]) -> None:
    """Prints the table."""
    found: Dict[str, List[float]] = {}
    parameters: Dict[str, int] = {}
    for folder in folders:
        text = (Path(folder) / "evaluation.json").read_text(encoding="utf-8")
        measured = EvaluationResult.from_json(json.loads(text))
        for system in measured.systems:
            parameters[system.name] = system.total_parameters
            found.setdefault(system.name, []).append(measured.score(system.name))
    rows = [
        [name, f"{parameters[name]:,}", ", ".join(f"{x:.1f}" for x in each), f"{mean(each):.1f}"]
        for name, each in found.items()
    ]
    print(markdown_table(["model", "parameters", "BLEU of each seed", "mean"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
