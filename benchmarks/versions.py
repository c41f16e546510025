"""Tries every part of fairseq_kd with the fairseq of this environment, for docs/install.md.

    python benchmarks/versions.py                  tries all parts, in about 20 minutes
    python benchmarks/versions.py --only export    tries one part again
    python benchmarks/versions.py --page           only writes the table of docs/install.md again

Writes a column of benchmarks/versions.json, part by part, and from this file the table. Needs the
clone and its environment; fairseq 0.12.2 is what scripts/setup.sh installs on Python 3.10. For the
main branch, install it over that from a source tree, and name its commit:

    PYTHON=python3.10 scripts/setup.sh && source .venv/bin/activate
    pip install --constraint constraints.txt scikit-learn
    pip install --force-reinstall --no-deps --no-build-isolation TREE
    python benchmarks/versions.py --source 'main branch, 3d262bb of 2025-09-30'
"""

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from versions_trial import PARTS, Trial, reason, run

from fairseq_kd import __version__
from fairseq_kd.evaluation.pages import markdown_table
from fairseq_kd.machine import machine

RESULTS = Path(__file__).with_name("versions.json")
PAGE = RESULTS.parents[1] / "docs" / "install.md"
BEGIN, END = "<!-- made by benchmarks/versions.py -->\n\n", "\n<!-- end -->\n"
Row = Dict[str, Any]


def fairseq_here(source: Optional[str]) -> str:
    """The fairseq of this environment with its version, or with its commit if built from source.

    Raises:
        ValueError: ``--source`` is missing, or has no effect.
    """
    name = packages_distributions()["fairseq"][0]
    found = distribution(name)
    from_tree = found.read_text("direct_url.json") is not None
    if from_tree and source is None:
        raise ValueError(
            "fairseq was installed from a source tree here: give the commit of the tree by "
            "--source, such as --source 'main branch, 3d262bb of 2025-09-30'."
        )
    if source is not None and not from_tree:
        raise ValueError(f"--source has no effect: {name} {found.version} is a release. Remove it.")
    return source or f"{name} {found.version}"


def tried(trial: Trial, parts: List[str]) -> Iterator[Tuple[str, str]]:
    """Each part and its result in a few words; "fails: " and the first line of its failure."""
    for name in parts:
        began = time.monotonic()
        try:
            result = PARTS[name][1](trial)
        except AssertionError as error:
            result = f"fails: {reason(str(error))}"
        print(f"{name}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
        yield name, result


def row_of(fairseq: str, results: Dict[str, str], failed: Dict[str, str]) -> Row:
    """A column of the table, as versions.json holds it."""
    commit = run("git", "describe", "--always", "--dirty").stdout.strip()
    return {
        "fairseq": fairseq,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "plugin": f"{__version__}, {commit}",
        "results": results,
        "failed_tests": failed,
    }


def recorded(rows: List[Row], new: Row) -> List[Row]:
    """The rows with a new one, which replaces that of the same fairseq and Python.

    Parts that were not tried now keep their earlier result.
    """
    same = [
        row for row in rows if (row["fairseq"], row["python"]) == (new["fairseq"], new["python"])
    ]
    for old in same:
        results = {**old["results"], **new["results"]}
        failed = new["failed_tests"] if "unit tests" in new["results"] else old["failed_tests"]
        new = {**new, "failed_tests": failed}
        new["results"] = {name: results[name] for name in PARTS if name in results}
    at = rows.index(same[0]) if same else len(rows)
    kept = [row for row in rows if row not in same]
    return [*kept[:at], new, *kept[at:]]


def table(rows: List[Row]) -> str:
    """The results as Markdown, a column for each fairseq."""
    fields = ("python", "torch", "machine", "date", "plugin")
    heads = ("Python", "torch", "on", "tried on", "fairseq_kd, commit")
    lines = [[head, *(row[key] for row in rows)] for key, head in zip(fields, heads, strict=True)]
    for name, (text, _) in PARTS.items():
        lines.append([text, *(row["results"].get(name, "not tried") for row in rows)])
    return markdown_table(["", *(row["fairseq"] for row in rows)], lines, figures=False)


def page(text: str, rows: List[Row]) -> str:
    """The text of docs/install.md with the table of some results."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}{table(rows)}\n{end}{after}"


def read_rows() -> List[Row]:
    """The results so far."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", help="what fairseq was built from, if from a source tree")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument("--page", action="store_true", help="only write the table")
    args = parser.parse_args()
    rows = read_rows()
    if not args.page:
        try:
            fairseq = fairseq_here(args.source)
        except ValueError as error:
            sys.exit(str(error))
        with tempfile.TemporaryDirectory(prefix="versions") as folder:
            trial = Trial(Path(folder))
            for name, result in tried(trial, args.only or list(PARTS)):
                rows = recorded(rows, row_of(fairseq, {name: result}, trial.failed))
                text = json.dumps(rows, indent=2, ensure_ascii=False)
                RESULTS.write_text(f"{text}\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
