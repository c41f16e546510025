"""Prints BLEU of every model of some runs of ``fairseq-kd progressive``, seed by seed.

python benchmarks/ladder.py runs/ladder/1 runs/ladder/2 runs/ladder/3
"""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Dict, List

from fairseq_kd.evaluation.pages import markdown_table


def main(folders: List[str]) -> None:
    """Prints the table."""
    found: Dict[str, List[float]] = {}
    parameters: Dict[str, int] = {}
    for folder in folders:
        measured = json.loads((Path(folder) / "evaluation.json").read_text(encoding="utf-8"))
        for system in measured["systems"]:
            name = system["name"]
            parameters[name] = sum(system["parameters"].values())
            scores = measured["quality"]["scores"][name]
            found.setdefault(name, []).append(scores["BLEU"]["score"])
    rows = [
        [name, f"{parameters[name]:,}", ", ".join(f"{x:.1f}" for x in each), f"{mean(each):.1f}"]
        for name, each in found.items()
    ]
    print(markdown_table(["model", "parameters", "BLEU of each seed", "mean"], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
