"""Makes docs/benchmarks.md and its plot from benchmarks/results.csv.

usage: python benchmarks/page.py
"""

import csv
import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from matplotlib.figure import Figure
from measuring import RESULTS

from fairseq_kd.evaluation.pages import markdown_table
from fairseq_kd.losses.kernel_choice import BYTES_PER_S, FLOPS_PER_S

DOCS = Path(__file__).resolve().parents[1] / "docs"
HEAD = """\
# Benchmarks

The cost of distillation. Made by `python benchmarks/page.py` from
[benchmarks/results.csv](../benchmarks/results.csv), which has every figure with its machine, date
and versions; this page has the newest figures of each kind of processor and GPU. Absolute times
depend on the machine and are noisy; ratios come from interleaved runs in one process. The spread
is the interquartile range.

![time and memory of the loss](benchmarks.png)
"""
SECTIONS = {
    "loss": "## The loss\n\nForward and backward of projection, label smoothing and forward KL "
    "for a batch of states. *plain* holds the logits of all tokens, as a direct implementation of "
    "the formula; *chunked* is torch's, *compiled* `--kd-compile`, *kernel* that of GPUs; *tokens "
    "x words, student's width <- teacher's*. `python benchmarks/loss.py`; on GPUs "
    "`benchmarks/gpu.sh`, which makes all rows of a GPU",
    "store": "## Reading a store\n\nOf an update. What is done in the data loader, beside the "
    "training, is the reading and checking of records. `python benchmarks/store_reading.py`",
    "training": "## A whole update\n\nA student of 6+6 layers, 256 wide, plain and distilled from "
    "12+12 layers, 512 wide; memory of the whole process. `python benchmarks/training.py`, "
    "on GPUs `--sentences 320 --precision fp16 --rounds 9`",
    "at_gpu_size": "## Students at the size of a GPU\n\nEnglish to Italian, batches of 16,000 "
    "tokens, fp16, one seed; two or three steps on the GPU at the same time, so that each took "
    "longer than alone. `JOBS=3 benchmarks/comparison.sh gpu-en-it`, from the logs and manifests "
    "of its run",
    "intermediate": "## Hidden states and attention\n\n`python benchmarks/intermediate.py`",
    "decoding": "## Decoding with the teacher\n\n`python benchmarks/decoding.py`",
    "shortlist": "## A lexical shortlist\n\nHow many times as fast a student translates with it as "
    "with the whole vocabulary; see [export](export.md#a-lexical-shortlist). Of an untrained model "
    "with random candidates: `python benchmarks/shortlist.py`. Of trained ones, with as many "
    "candidates of each source token + of every sentence: `python benchmarks/shortlist_bleu.py`",
    "int8": "## BLEU loss of int8\n\nOf students, against float32, on a processor without VNNI; "
    "spread: of the students. [export](export.md#int8) has the reason. `python "
    "benchmarks/int8.py`",
    "sequence": "## Students of translations\n\nSpread: of the seeds. "
    "`benchmarks/sequence_level.sh`",
    "topk": "## Accuracy loss of a store of K tokens\n\nThe mean over the tokens of the validation "
    "set. `python benchmarks/topk.py`",
}


LIMIT = (
    "*of the limit*: how often the figure contains the time that the card needs at least, on an "
    "H100: `2 N V (3 d_s + d_t)` operations for N tokens, V entries and the widths of student and "
    "teacher, at 700 TFLOP/s, and 14 bytes of memory traffic per logit at 3.35 TB/s (the student's "
    "logits are written, read, overwritten by their gradient and read twice, the teacher's written "
    "and read), without overlap. "
)
SHAPE = re.compile(r": (\d+) x (\d+), (\d+) <- (\d+), (?:float16|bfloat16)")
LOGIT_BYTES = 14


def limit_ms(tokens: int, vocab_size: int, student: int, teacher: int) -> float:
    """The least time of the loss with its gradients on an H100 in half precision.

    ``2 N V (3 d_s + d_t) / FLOPS_PER_S + LOGIT_BYTES N V / BYTES_PER_S``

    Args:
        tokens: N.
        vocab_size: V.
        student: d_s, the width of its last states: three products, one of them forwards.
        teacher: d_t, the teacher's: one product.
    """
    logits = tokens * vocab_size
    operations = 2 * logits * (3 * student + teacher)
    return 1000 * (operations / FLOPS_PER_S + LOGIT_BYTES * logits / BYTES_PER_S)


def of_the_limit(row: Dict[str, str]) -> Optional[str]:
    """How often a time of the loss in half precision contains the limit; None for other rows."""
    shape = SHAPE.search(row["case"])
    if shape is None or row["unit"] != "ms" or row["benchmark"] != "loss":
        return None
    return f"{float(row['median']) / limit_ms(*map(int, shape.groups())):.1f}x"


def newest() -> List[Dict[str, str]]:
    """The last row of each case and unit, on each kind of machine."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    rows = {(row["benchmark"], row["case"], row["unit"], machine(row)): row for row in read}
    return list(rows.values())


def machine(row: Dict[str, str]) -> Tuple[bool, str]:
    """What a figure was measured on: whether it is a GPU, and the name of it or the processor."""
    cores, of, processor = row["machine"].partition(" of ")
    return not of, processor or cores


def tables(rows: List[Dict[str, str]]) -> Iterator[str]:
    """The figures of a benchmark, a table for each kind of machine, processors before GPUs."""
    columns = ("case", "median", "unit", "spread", "n", "date")
    for kind in sorted({machine(row) for row in rows}):
        kept = [row for row in rows if machine(row) == kind]
        cells = [[row[column] for column in columns] for row in kept]
        shares = [of_the_limit(row) for row in kept]
        if kind[0] and any(shares):
            yield f"{LIMIT}\n"
            cells = [[*each, share or "-"] for each, share in zip(cells, shares, strict=True)]
            yield markdown_table((*columns, "of the limit"), cells)
        else:
            yield markdown_table(columns, cells)
        machines = ", ".join(sorted({f"{row['machine']} ({row['version']})" for row in kept}))
        yield f"\nOn {machines}.\n"


def draw(rows: List[Dict[str, str]], path: Path) -> None:
    """Time and memory of the loss, plain against chunked, at the first shape in the file."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    losses = [row for row in rows if row["benchmark"] == "loss" and not machine(row)[0]]
    shape = losses[0]["case"].partition(": ")[2]
    figure.suptitle(f"tokens x words, widths: {shape}", fontsize="medium")
    for axes, unit in zip(figure.subplots(1, 2), ("ms", "peak MiB"), strict=True):
        kept = [r for r in losses if r["unit"] == unit and r["case"].endswith(shape)]
        names = [row["case"].partition(":")[0] for row in kept]
        axes.barh(names[::-1], [float(row["median"]) for row in kept][::-1], color="#3b6ea5")
        axes.set(xlabel=unit)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Writes the page and the plot."""
    rows, page = newest(), [HEAD]
    for benchmark, text in SECTIONS.items():
        kept = [row for row in rows if row["benchmark"] == benchmark]
        if kept:
            page += [text, "", *tables(kept)]
    draw(rows, DOCS / "benchmarks.png")
    (DOCS / "benchmarks.md").write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
