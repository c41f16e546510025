"""Prints docs/architecture.md: every package and module of fairseq_kd with its first line.

python scripts/architecture.py > docs/architecture.md
"""

import ast
from pathlib import Path
from typing import Iterable, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parents[1]
INTRODUCTION = """\
# Architecture

A map of the code for those who change it. `python scripts/architecture.py > docs/architecture.md`
makes it from the first line of every module. Imports point down: a package imports only from
packages below it on this page, and from the shared modules at the end.

`user_dir/` is what fairseq's `--user-dir` points at. `tests/` follows the packages, `scripts/` has
the scripts for users, and `benchmarks/` reproduces the figures of the documentation.

CONTRIBUTING.md lists [where to add](../CONTRIBUTING.md#where-to-add) a divergence, a filter, a
criterion, a flag and more, and follows a sentence, a temperature, a stage and a translation through
the code ([four call paths](../CONTRIBUTING.md#four-call-paths)).
"""
ENTRIES = ("cli.py", "plugin.py")  # modules that stand above the packages
OTHERS = ("pipeline/Snakefile", "pipeline/run.schema.yaml")
# Top-down. A package that is not listed here is an error, so that the map stays whole.
PACKAGES: List[str] = [
    *(
        "commands",
        "pipeline",
        "inheritance",
        "sizing",
        "export",
        "evaluation",
        "diagnosis",
        "distilled_data",
    ),
    *("criterions", "tasks", "decoding", "teachers", "models", "losses", "checkpoints", "files"),
]


def page() -> str:
    """The page as Markdown.

    Raises:
        ValueError: a package is not in ``PACKAGES``, or a module has no docstring.
    """
    root = ROOT / "fairseq_kd"
    there = {path.parent.name for path in root.glob("*/__init__.py")}
    if there != set(PACKAGES):
        differing = ", ".join(sorted(there ^ set(PACKAGES)))
        raise ValueError(f"scripts/architecture.py lists other packages than exist: {differing}.")
    parts = [INTRODUCTION, "## Entries", "The command line, and what `--user-dir` imports."]
    parts.append(table(root / name for name in ENTRIES))
    for name in PACKAGES:
        parts += [f"## {name}/", first_line(root / name / "__init__.py")]
        others = [root / each for each in OTHERS if each.startswith(f"{name}/")]
        parts.append(table([*sorted((root / name).glob("*.py")), *others]))
    parts += [
        "## Shared modules",
        "Modules that any package may import, as `checkpoints` and `files`.",
    ]
    parts.append(table(path for path in sorted(root.glob("*.py")) if path.name not in ENTRIES))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def table(paths: Iterable[Path]) -> str:
    """A row for each module."""
    rows = ["| module | content |", "|---|---|"]
    for path in paths:
        if path.name != "__init__.py":
            text = first_line(path).replace("|", "\\|").replace("``", "`")
            rows.append(f"| [{path.name}](../{path.relative_to(ROOT).as_posix()}) | {text} |")
    return "\n".join(rows)


def imports_up() -> Iterator[Tuple[str, str]]:
    """(module, imported module) of every import that does not point down.

    ``cli`` stands above the packages; the other modules beside it are the ground floor, with
    ``checkpoints`` and ``files``. ``plugin`` imports all that fairseq must know, for its effect.
    """
    root = ROOT / "fairseq_kd"
    ground = len(PACKAGES)
    level = {name: number for number, name in enumerate(PACKAGES)}
    level.update({"checkpoints": ground, "files": ground, "cli": -1})
    for path in sorted(root.rglob("*.py")):
        module = ".".join(("fairseq_kd", *path.relative_to(root).with_suffix("").parts))
        for imported in _imports(path):
            own, other = (name.split(".")[1] for name in (module, imported))
            if own not in (other, "plugin") and level.get(other, ground) < level.get(own, ground):
                yield module, imported


def _imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            package = node.module == "fairseq_kd"
            names = [f"fairseq_kd.{each.name}" for each in node.names] if package else [node.module]
        yield from (name for name in names if name and name.startswith("fairseq_kd."))


def first_line(path: Path) -> str:
    """The first line of a module's docstring, or of the comment at the head of another file.

    Raises:
        ValueError: there is none.
    """
    if path.suffix != ".py":
        return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise ValueError(f"{path} has no docstring.")
    return docstring.splitlines()[0]


if __name__ == "__main__":
    print(page(), end="")
