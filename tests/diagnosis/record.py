"""Makes tests/diagnosis/logs of real runs: the figures that a diagnosis reads, and no more.

    python tests/diagnosis/record.py LADDER RUNS

LADDER is the folder of a finished scripts/progressive.sh, RUNS that of tests/diagnosis/runs.sh.
Of the running figures every fourth line is kept, and the last; of other lines, those that tell
something and, of a training without figures or an end, the last ones.
"""

import os
import re
import shutil
import sys
from pathlib import Path

LOGS = Path(__file__).with_name("logs")
EVERY = 4
TAIL, LONG = 24, 500  # the last lines that are kept, but for those with so many letters


def shortened(text: str, source: str, folders: "dict[str, str]") -> str:
    """The lines of a log that tell something, with general names for the folders."""
    for folder, name in folders.items():
        text = text.replace(folder, name)
    lines = text.splitlines()
    inner = [line for line in lines if "| train_inner | {" in line]
    kept = {*inner[::EVERY], *inner[-1:]}
    message = re.compile(r"^\$ |\] dictionary: |\| (?!train_inner|train\b)\w+ \| \{\"")
    tail = len(lines) if inner and "| done training" in text else len(lines) - TAIL
    ends = {line for line in lines[tail:] if len(line) < LONG and line not in inner}
    chosen = [line for line in lines if line in kept or line in ends or message.search(line)]
    return "\n".join([f"# {source}; of train_inner every {EVERY}th line is kept.", *chosen, ""])


def main() -> None:
    """Writes one folder a run."""
    ladder, runs = sys.argv[1:]
    folders = {ladder: "runs/progressive", runs: "runs/failed", sys.prefix: "env", os.getcwd(): "."}
    folders[sys.base_prefix] = "python"
    made = Path(ladder).glob("*/train.log")
    sources = {path.parent.name: (path, "scripts/progressive.sh") for path in made}
    for path in Path(runs).glob("*/train.log"):
        name = path.parent.name
        sources[name] = (path, f"tests/diagnosis/runs.sh runs/progressive runs/failed {name}")
    shutil.rmtree(LOGS, ignore_errors=True)
    for name, (path, source) in sources.items():
        if name != "random":
            (LOGS / name).mkdir(parents=True)
            text = shortened(path.read_text(encoding="utf-8"), f"made by {source}", folders)
            (LOGS / name / "train.log").write_text(text, encoding="utf-8")
            output = path.parent / "generate-valid.txt"
            if output.is_file():
                shutil.copy(output, LOGS / name)


if __name__ == "__main__":
    main()
