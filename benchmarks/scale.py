"""The cost of every step of a distillation at several sizes of the corpus, and at WMT's by line.

usage: python benchmarks/scale.py PAIRS... [--run runs/scale]      e.g. 10000 100000 1000000

The text is recombined from data/bible.es-en: one or two verses a line, drawn with a fixed seed. The
teacher is data/teacher.es-en, decoded with beam 2 and two hypotheses in two shards; the store has
the 16 likeliest tokens. Appends wall-clock and processor seconds, the peak memory of the largest
process and the bytes on disk of each step to benchmarks/scale.csv, and prints the table.
Killed? Run the same line again: steps with a row for the size are not repeated.
"""

import argparse
import csv
import datetime
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

from measuring import MIB

from fairseq_kd import __version__
from fairseq_kd.machine import machine
from fairseq_kd.parallel_text import lines_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("scale.csv")
TEXT, VOCABULARY = ROOT / "data" / "bible.es-en", ROOT / "data" / "teacher.es-en"
TEACHER = VOCABULARY / "teacher.pt"
WMT = {"WMT14 En-De": 4_500_000, "WMT14 En-Fr": 36_000_000}
COLUMNS = ("pairs", "step", "seconds", "core_seconds", "peak_mib", "disk_mib")
COLUMNS += ("machine", "date", "version")
STUDENT = "--arch transformer_kd_small_student --share-all-embeddings --optimizer adam --lr 1e-3"
STUDENT += " --label-smoothing 0.1 --max-tokens 4000 --max-update 20 --disable-validation --no-save"
STUDENT += " --no-progress-bar --source-lang es --target-lang en --num-workers 2"


class Step(NamedTuple):
    """A command, and the folder in which it writes, if it does."""

    name: str
    command: List[str]
    makes: Path


def main() -> None:
    """Measures every step at every size, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=int, nargs="+")
    parser.add_argument("--run", type=Path, default=Path("runs/scale"))
    args = parser.parse_args()
    for pairs in sorted(args.pairs):
        folder = args.run / str(pairs)
        text = folder / "given"
        if not (text / "train.es").exists():
            write_text(text, pairs)
        for step in steps(folder, text):
            if (str(pairs), step.name) not in {(row["pairs"], row["step"]) for row in rows()}:
                measure(pairs, step)
    print_table(args.pairs)


def write_text(folder: Path, pairs: int) -> None:
    """Writes parallel text of one or two verses a line; valid and test as they are."""
    verses = [list(lines_of(f"{TEXT}/train.{side}.xz")) for side in ("es", "en")]
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    partial = [folder / f"train.{side}.partial" for side in ("es", "en")]
    with partial[0].open("w", encoding="utf-8") as es, partial[1].open("w", encoding="utf-8") as en:
        for _ in range(pairs):
            chosen = draw.sample(range(len(verses[0])), draw.choice((1, 2)))
            for file, side in ((es, verses[0]), (en, verses[1])):
                file.write(" ".join(side[verse] for verse in chosen) + "\n")
    for split in ("valid", "test"):
        for side in ("es", "en"):
            name = f"{split}.{side}.xz"
            shutil.copyfile(TEXT / name, folder / name)
    for path in partial[::-1]:
        path.replace(path.with_suffix(""))


def steps(folder: Path, text: Path) -> Iterator[Step]:
    """The steps of a distillation, in order."""
    data, store, translations = folder / "data", folder / "store", folder / "translations"
    distilled, binarised = folder / "distilled", folder / "data" / "bin"
    ours = [sys.executable, "-m", "fairseq_kd.cli"]
    teacher = ["--teacher", str(TEACHER), "--data", str(binarised), "--subset", "train"]
    prepare = ["prepare", "--text", str(text), "--source", "es", "--target", "en"]
    prepare += ["--vocabulary", str(VOCABULARY), "--out", str(data)]
    yield Step("prepare", [*ours, *prepare], data)
    yield Step("store", [*ours, "store", *teacher, "--topk", "16", "--out", str(store)], store)
    decode = [*ours, "translate", *teacher, "--beam", "2", "--nbest", "2"]
    for shard in ("1/2", "2/2"):
        given = ["--shard", shard, "--out", str(translations)]
        yield Step(f"translate, shard {shard}", [*decode, *given], translations)
    distil = ["distill-data", "--translations", str(translations), "--data", str(binarised)]
    distil += ["--select", "interpolation", "--out", str(distilled)]
    yield Step("distill-data", [*ours, *distil], distilled)
    train = [shutil.which("fairseq-train") or "fairseq-train"]
    user_dir = ["--user-dir", str(ROOT / "user_dir"), *STUDENT.split()]
    plain = [*train, str(distilled), *user_dir, "--criterion", "label_smoothed_cross_entropy"]
    yield Step("20 updates, distilled", plain, distilled)
    stored = ["--criterion", "word_kd", "--kd-store", str(store), "--kd-temperature", "1"]
    yield Step("20 updates, store", [*train, str(binarised), *user_dir, *stored], store)


def measure(pairs: int, step: Step) -> None:
    """Runs a step, and appends its cost to the CSV.

    Raises:
        SystemExit: the command failed.
    """
    print(f"{pairs:,} pairs: {step.name}", file=sys.stderr)
    start = time.perf_counter()
    process = subprocess.Popen(step.command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{step.name} failed: {' '.join(step.command)}")
    seconds, cores = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    disk = sum(path.stat().st_size for path in step.makes.rglob("*") if path.is_file())
    costs = (seconds, cores, usage.ru_maxrss * 1024 / MIB, disk / MIB)
    new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        made = (machine(), datetime.date.today(), __version__)
        writer.writerow([pairs, step.name, *(f"{cost:.1f}" for cost in costs), *made])


def rows() -> List[Dict[str, str]]:
    """The rows of the CSV."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def print_table(sizes: Sequence[int]) -> None:
    """Prints the costs by step, and at WMT's sizes, by the line through the last two sizes."""
    names = list(dict.fromkeys(row["step"] for row in rows()))
    shown = sorted(set(sizes))
    for column in ("core_seconds", "peak_mib", "disk_mib"):
        print(f"\n| {column} | {' | '.join(f'{size:,}' for size in shown)} | {' | '.join(WMT)} |")
        print(f"|---|{'---:|' * (len(shown) + len(WMT))}")
        for name in names:
            found = {int(row["pairs"]): float(row[column]) for row in rows() if row["step"] == name}
            costs = [found[size] for size in shown]
            costs += [at(size, list(found.items())[-2:]) for size in WMT.values()]
            print(f"| {name} | {' | '.join(f'{cost:,.0f}' for cost in costs)} |")


def at(size: int, known: Sequence[Tuple[int, float]]) -> float:
    """The cost at a size, on the line through one or two known costs."""
    (first, low), (last, high) = known[0], known[-1]
    slope = (high - low) / (last - first) if last > first else high / last
    return high + slope * (size - last)


if __name__ == "__main__":
    main()
