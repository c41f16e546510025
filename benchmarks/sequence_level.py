"""The table of benchmarks/sequence_level.sh: gains over undistilled students, by seed."""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Dict, Tuple

from measuring import record

GOLD = "gold"


def main() -> None:
    """Prints and records the medians of BLEU and of the gains within a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="set, seed, beam and BLEU, parted by tabs")
    parser.add_argument("--updates", required=True, help="of each student")
    args = parser.parse_args()
    scores: Dict[Tuple[str, str], Dict[str, float]] = defaultdict(dict)
    with args.results.open(encoding="utf-8") as file:
        for name, seed, beam, bleu in csv.reader(file, delimiter="\t"):
            scores[name, beam][seed] = float(bleu)
    for (name, beam), by_seed in scores.items():
        case = f"student on {name}, {args.updates} updates, beam {beam}"
        record("sequence", case, "BLEU", list(by_seed.values()))
        if name != GOLD:
            undistilled = scores[GOLD, beam]
            gains = [bleu - undistilled[seed] for seed, bleu in by_seed.items()]
            record("sequence", f"{case}, over {GOLD} by seed", "BLEU", gains)


if __name__ == "__main__":
    main()
