"""The cost of every step of a distillation at several sizes of the corpus, and at WMT's by line.

usage: python benchmarks/scale.py [PAIRS...] [--run runs/scale]      e.g. 10000 100000 1000000

Each pair is two short verses of data/bible.es-en, drawn with a fixed seed. The teacher of most rows
is trained first, and small, so that a million pairs are decoded in less than an hour; at the
smallest size data/teacher.es-en is measured, too. Appends the cost of each step to
benchmarks/scale.csv, and writes docs/scale.md; without PAIRS it only writes the page. Killed? Run
the same line again: steps with a row for the size are not repeated.
"""

import argparse
import csv
import datetime
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

from measuring import MIB

from fairseq_kd import __version__
from fairseq_kd.child_process import descendants
from fairseq_kd.evaluation.pages import markdown_table
from fairseq_kd.machine import machine
from fairseq_kd.parallel_text import lines_of

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("scale.csv")
PAGE = ROOT / "docs" / "scale.md"
TEXT, VOCABULARY = ROOT / "data" / "bible.es-en", ROOT / "data" / "teacher.es-en"
LONGEST = 14  # words of a verse
WMT = {"WMT14 En-De": 4_500_000, "WMT14 En-Fr": 36_000_000}
COLUMNS = ("pairs", "step", "seconds", "core_seconds", "peak_mib", "disk_mib")
COLUMNS += ("machine", "date", "version")
SMALL = "--arch transformer_kd_small_student --encoder-layers 1 --decoder-layers 1"
SMALL += " --encoder-embed-dim 64 --decoder-embed-dim 64 --encoder-ffn-embed-dim 128"
SMALL += " --decoder-ffn-embed-dim 128 --encoder-attention-heads 4 --decoder-attention-heads 4"
TRAIN = f"{SMALL} --share-all-embeddings --optimizer adam --lr 3e-3 --lr-scheduler inverse_sqrt"
TRAIN += " --warmup-updates 200 --label-smoothing 0.1 --max-tokens 2500 --disable-validation"
TRAIN += " --no-progress-bar --source-lang es --target-lang en"
PLAIN = ["--criterion", "label_smoothed_cross_entropy"]
POLL_S = 0.2  # between readings of memory
HEAD = """\
# Cost at the size of WMT

What distillation costs at 4.5 and 36 million pairs, by the line through measurements at smaller
sizes. Made by `OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/scale.py 10000 100000 1000000` from
[benchmarks/scale.csv](../benchmarks/scale.csv): on one core, so that other work on the machine does
not change the figures; `prepare` ran on two. Each pair is two verses of the sample of at most 14
words: 26 source and 28 target tokens of a joint vocabulary of 4,080, as long as WMT's.

The teacher of most rows is small (0.35 M parameters, width 64) and is decoded with a beam of 2 and
two hypotheses, in two shards; the store has K = 16. The rows *3.75 M* are those of the teacher in
data/teacher.es-en. Decoding and the store cost what the teacher's forward pass costs: for another
teacher, decode 10,000 sentences and multiply. All other steps depend on the text alone.
"""
HOUR = 3600


class Measure(NamedTuple):
    """A table of the page: what it shows of each step, and at WMT's sizes in which unit.

    A cost that is known at one size is in proportion to the size, or, of memory, the same.
    """

    title: str
    text: str
    form: str
    unit: int = 1  # of the values at WMT's sizes
    form_of_lines: str = "{:,.0f}"
    proportional: bool = True


MEASURES = {
    "core_seconds": Measure(
        "Processor time",
        "Core-seconds of all processes together; at WMT's sizes core-hours. `store` and "
        "`translate` can be shared by as many cores or machines as there are (`--shard`), and "
        "`prepare` and `distill-data` use all cores of one.",
        "{:,.0f} s",
        HOUR,
        "{:,.1f} h",
    ),
    "peak_mib": Measure(
        "Memory",
        "Peak MiB of all processes together, memory-mapped files apart.",
        "{:,.0f}",
        proportional=False,
    ),
    "disk_mib": Measure(
        "Disk", "MiB that the step leaves; at WMT's sizes GiB.", "{:,.1f}", 1024, "{:,.1f} GiB"
    ),
}


class Step(NamedTuple):
    """A command, and the folder in which it writes, if it does."""

    name: str
    command: List[str]
    makes: Path


def main() -> None:
    """Measures the missing steps, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=int, nargs="*")
    parser.add_argument("--run", type=Path, default=Path("runs/scale"))
    args = parser.parse_args()
    for pairs in args.pairs:
        folder = args.run / str(pairs)
        write_text(folder / "given", pairs)
        for step in steps(folder, args.run / "teacher", smallest=pairs == min(args.pairs)):
            if (str(pairs), step.name) not in {(row["pairs"], row["step"]) for row in rows()}:
                measure(pairs, step)
            if step.name == "prepare" and not (args.run / "teacher").is_dir():
                train_teacher(folder / "data" / "bin", args.run / "teacher")
    PAGE.write_text(page(rows()), encoding="utf-8")


def write_text(folder: Path, pairs: int) -> None:
    """Writes parallel text of two short verses a line; valid and test as they are."""
    if (folder / "train.es").exists():
        return
    sides = zip(*(lines_of(f"{TEXT}/train.{side}.xz") for side in ("es", "en")), strict=True)
    verses = [pair for pair in sides if max(len(side.split()) for side in pair) <= LONGEST]
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    partial = [folder / f"train.{side}.partial" for side in ("es", "en")]
    with partial[0].open("w", encoding="utf-8") as es, partial[1].open("w", encoding="utf-8") as en:
        for _ in range(pairs):
            first, second = draw.sample(verses, 2)
            es.write(f"{first[0]} {second[0]}\n")
            en.write(f"{first[1]} {second[1]}\n")
    for split in ("valid", "test"):
        for side in ("es", "en"):
            name = f"{split}.{side}.xz"
            shutil.copyfile(TEXT / name, folder / name)
    for path in partial[::-1]:
        path.replace(path.with_suffix(""))


def train_teacher(data: Path, out: Path) -> None:
    """Trains the small teacher for 1,000 updates."""
    partial = out.with_suffix(".partial")
    command = [*fairseq_train(data), *PLAIN, "--save-dir", str(partial), "--max-update", "1000"]
    subprocess.run([*command, "--no-epoch-checkpoints"], check=True, stdout=subprocess.DEVNULL)
    partial.replace(out)


def fairseq_train(data: Path) -> List[str]:
    """The start of the command of a training."""
    program = shutil.which("fairseq-train") or "fairseq-train"
    return [program, str(data), "--user-dir", str(ROOT / "user_dir"), *TRAIN.split()]


def steps(folder: Path, small: Path, smallest: bool) -> Iterator[Step]:
    """The steps of a distillation, in order.

    Args:
        folder: of the size.
        small: folder of the small teacher's checkpoint.
        smallest: also the teacher in data/teacher.es-en.
    """
    store, translations = folder / "store", folder / "translations"
    distilled, binarised = folder / "distilled", folder / "data" / "bin"
    ours = [sys.executable, "-m", "fairseq_kd.cli"]
    prepare = ["prepare", "--text", str(folder / "given"), "--source", "es", "--target", "en"]
    prepare += ["--vocabulary", str(VOCABULARY), "--out", str(folder / "data")]
    yield Step("prepare", [*ours, *prepare], folder / "data")
    given = ["--data", str(binarised), "--subset", "train"]
    teacher = ["--teacher", str(small / "checkpoint_last.pt"), *given]
    large = ["--teacher", str(VOCABULARY / "teacher.pt"), *given]
    build, decode = [*ours, "store", "--topk", "16"], [*ours, "translate"]
    decode += ["--beam", "2", "--nbest", "2"]
    yield Step("store", [*build, *teacher, "--out", str(store)], store)
    if smallest:
        out = folder / "store-large"
        yield Step("store, 3.75 M", [*build, *large, "--out", str(out)], out)
        out = folder / "translations-large"
        yield Step("translate, 3.75 M", [*decode, *large, "--out", str(out)], out)
    for shard in ("1/2", "2/2"):
        given = ["--shard", shard, "--out", str(translations)]
        yield Step(f"translate, shard {shard}", [*decode, *teacher, *given], translations)
    yield Step("merge", [*ours, "merge", str(translations)], translations)
    distil = ["distill-data", "--translations", str(translations), "--data", str(binarised)]
    distil += ["--select", "interpolation", "--max-duplicates", "0", "--out", str(distilled)]
    yield Step("distill-data", [*ours, *distil], distilled)
    few = ["--max-update", "20", "--no-save", "--num-workers", "2"]
    yield Step("20 updates, distilled", [*fairseq_train(distilled), *PLAIN, *few], distilled)
    stored = ["--criterion", "word_kd", "--kd-store", str(store), "--kd-temperature", "1"]
    yield Step("20 updates, store", [*fairseq_train(binarised), *stored, *few], store)


def measure(pairs: int, step: Step) -> None:
    """Runs a step, and appends its cost to the CSV.

    Raises:
        SystemExit: the command failed.
    """
    print(f"{pairs:,} pairs: {step.name}", file=sys.stderr)
    start, peak, ended = time.perf_counter(), 0.0, 0
    process = subprocess.Popen(step.command, stdout=subprocess.DEVNULL)
    while not ended:
        peak = max(
            peak, sum(private_mib(each) for each in [process.pid, *descendants(process.pid)])
        )
        time.sleep(POLL_S)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    if status:
        sys.exit(f"{step.name} failed: {' '.join(step.command)}")
    seconds, cores = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    disk = sum(path.stat().st_size for path in step.makes.rglob("*") if path.is_file()) / MIB
    new = not RESULTS.exists()
    with RESULTS.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        costs = [f"{cost:.1f}" for cost in (seconds, cores, peak, disk)]
        writer.writerow([pairs, step.name, *costs, machine(), datetime.date.today(), __version__])


def private_mib(pid: int) -> float:
    """A process's share of memory that is no file's."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # it has ended
        return 0
    return sum(map(int, re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB$", text, re.M))) / 1024


def rows() -> List[Dict[str, str]]:
    """The rows of the CSV."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page(found: Sequence[Dict[str, str]]) -> str:
    """docs/scale.md: the costs of each step, also at WMT's sizes."""
    parts = [HEAD]
    sizes = sorted({int(row["pairs"]) for row in found})
    names = list(dict.fromkeys(row["step"] for row in found))
    for key, measure in MEASURES.items():
        table = []
        for name in names:
            known = {int(row["pairs"]): float(row[key]) for row in found if row["step"] == name}
            cells = [measure.form.format(known[size]) if size in known else "" for size in sizes]
            last = sorted(known.items())[-2:]
            if len(last) == 1 and not measure.proportional:
                last.append((last[0][0] + 1, last[0][1]))
            lines = [at(size, last) / measure.unit for size in WMT.values()]
            table.append([name, *cells, *map(measure.form_of_lines.format, lines)])
        columns = ["step", *(f"{size:,}" for size in sizes), *WMT]
        parts += [f"## {measure.title}\n\n{measure.text}\n\n{markdown_table(columns, table)}\n"]
    machines = ", ".join(sorted({f"{row['machine']} ({row['version']})" for row in found}))
    return "\n".join([*parts, f"On {machines}.\n"])


def at(size: int, known: Sequence[Tuple[int, float]]) -> float:
    """The cost at a size, on the line through two known costs, or through one and the origin."""
    (first, low), (last, high) = known[0], known[-1]
    slope = (high - low) / (last - first) if last > first else high / last
    return high + slope * (size - last)


if __name__ == "__main__":
    main()
