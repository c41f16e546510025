"""Adds a run of the tests to docs/versions.csv, and prints the table of tested versions.

usage: python -m pytest --junitxml RESULTS.xml; python scripts/versions.py [RESULTS.xml]

Run both in the environment that is tested. docs/install.md has the table; a test compares them.
"""

import csv
import datetime
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Tuple
from xml.etree import ElementTree

TABLE = Path(__file__).resolve().parents[1] / "docs" / "versions.csv"
VERSIONS = ("fairseq", "Python", "torch")
GROUPS = {  # columns of the table, and the folders of their tests; others are end to end
    "losses, models": ("losses", "models", "checkpoints", "files"),
    "criterions": ("criterions", "tasks"),
    "teachers, stores": ("teachers",),
    "translate, distill": ("decoding", "distilled_data"),
    "evaluate": ("evaluation",),
    "export": ("export",),
    "runs": ("pipeline", "sizing", "scripts", "diagnosis"),
    "end to end": ("", "gpu"),
}
PASSED, ALL = "passed", "all"


def main(results: List[str]) -> None:
    """Adds the results if a file is given, and prints the table."""
    rows = read_rows()
    for path in results:
        versions = installed()
        rows = [row for row in rows if any(row[name] != versions[name] for name in VERSIONS)]
        rows.append({**versions, "date": str(datetime.date.today()), **counted(Path(path))})
        write_rows(rows)
    print(page(rows))


def installed() -> Dict[str, str]:
    """The versions of this environment."""
    names = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    name = "fairseq-fixed" if "fairseq-fixed" in names else "fairseq"
    python = ".".join(map(str, sys.version_info[:2]))
    return dict(zip(VERSIONS, (f"{name} {names[name]}", python, names["torch"]), strict=True))


def counted(path: Path) -> Dict[str, str]:
    """For each group the tests that passed of those that were not skipped, such as 310/312."""
    counts: Counter = Counter()
    for case in ElementTree.parse(path).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        group = group_of(case.get("classname", ""))
        counts[group, ALL] += 1
        counts[group, PASSED] += case.find("failure") is None and case.find("error") is None
    return {
        group: f"{counts[group, PASSED]}/{counts[group, ALL]}" if counts[group, ALL] else ""
        for group in GROUPS
    }


def group_of(test: str) -> str:
    """The group of a test by the name of its module, such as tests.losses.test_chunked."""
    parts: Tuple[str, ...] = tuple(test.split("."))
    folder = parts[1] if len(parts) > 2 and not parts[1].startswith("test_") else ""
    return next(group for group, folders in GROUPS.items() if folder in folders)


def read_rows() -> List[Dict[str, str]]:
    """The runs so far."""
    if not TABLE.is_file():
        return []
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(rows: List[Dict[str, str]]) -> None:
    """Replaces the file."""
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*VERSIONS, "date", *GROUPS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def page(rows: List[Dict[str, str]]) -> str:
    """The table as Markdown: how many tests passed, and of how many if some failed."""
    columns = (*VERSIONS, "date", *GROUPS)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [row[name] for name in (*VERSIONS, "date")]
        cells += [cell(row[group]) for group in GROUPS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(counts: str) -> str:
    """A cell, such as 312, or 310 of 312, or - if no test of the group was run."""
    passed, _, whole = counts.partition("/")
    if not whole:
        return "-"
    return passed if passed == whole else f"{passed} of {whole}"


if __name__ == "__main__":
    main(sys.argv[1:])
