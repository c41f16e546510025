"""``fairseq-kd plan`` on the command line: its output, charts and refusals."""

import re
import shlex
import sys

import pytest
from harness import ROOT, Setup, run

from fairseq_kd import cli
from fairseq_kd.commands import plan
from fairseq_kd.evaluation.size import folder_bytes
from fairseq_kd.sizing import budgets
from fairseq_kd.sizing.ladder import FACTOR, STRATEGIES

TEACHER = ["--arch", "transformer_kd_small_teacher", "--vocab-size", "1000"]
SHARED = ["--", "--share-all-embeddings"]
LADDER = ["--ladder", "1.0,0.7,0.49,0.25"]
REST = ["--source-lang", "es", "--target-lang", "en", "--optimizer", "adam", "--lr", "0.003"]
REST += ["--max-tokens", "1000", "--cpu", "--criterion", "cross_entropy"]
WEIGH = """
import resource, sys
from fairseq_kd import cli
status = cli.main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(f"used {used.ru_utime + used.ru_stime:.1f} s, {used.ru_maxrss // 1024} MiB", file=sys.stderr)
sys.exit(status)
"""


def rows_of(shown):
    """The rows of the printed table, split into cells."""
    lines = [line for line in shown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_table_has_the_formulas_sizes_and_the_true_parameters(data, capsys):
    flags = ["--arch", "transformer_kd_small_teacher", "--data", data, *LADDER, *SHARED]
    assert cli.main(["plan", *flags]) == 0
    shown = capsys.readouterr().out
    rows = rows_of(shown)
    assert [row[:6] for row in rows] == [
        ["teacher", "1.0", "3+2", "160", "4", "640"],
        ["stage-70", "0.7", "2+1", "120", "3", "480"],
        ["stage-49", "0.49", "1+1", "120", "3", "480"],
        ["student", "0.25", "1+1", "80", "2", "320"],
    ]
    printed = dict(re.findall(r"^([\w-]+):\n  (--arch .*)$", shown, re.M))
    assert list(printed) == ["stage-70", "stage-49", "student"]
    printed["teacher"] = "--arch transformer_kd_small_teacher --share-all-embeddings"
    counts = [int(row[6].replace(",", "")) for row in rows]
    for row, count in zip(rows, counts, strict=True):
        model = Setup(data, *REST, *shlex.split(printed[row[0]]), training=[]).model
        assert count == sum(parameter.numel() for parameter in model.parameters())
    assert [row[7] for row in rows] == [f"{count / counts[0]:.1%}" for count in counts]
    steps = [f"{counts[i] / counts[i + 1]:.2f}x" for i in range(3)]
    assert [row[8] for row in rows] == ["-", *steps]
    assert "strategy: balanced\nladder: [1.0, 0.7, 0.49, 0.25]\n" in shown


def test_bars_are_as_long_as_models_are_large(capsys):
    assert cli.main(["plan", *TEACHER, *LADDER, *SHARED]) == 0
    shown = capsys.readouterr().out
    counts = [int(row[6].replace(",", "")) for row in rows_of(shown)]
    bars = re.findall(r"^[\w-]+ +([#:]+) +([\d.]+) M$", shown, re.M)
    assert [len(bar) for bar, _ in bars] == [round(40 * count / counts[0]) for count in counts]
    assert [float(number) for _, number in bars] == [round(count / 1e6, 1) for count in counts]
    embeddings = 1000 * 80 / counts[-1]
    assert bars[-1][0].count(":") == round(embeddings * len(bars[-1][0]))


def test_a_trained_teacher_needs_nothing_but_its_checkpoint(teacher, capsys):
    assert cli.main(["plan", "--teacher", teacher, "--ladder", "0.25"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [row[2:6] for row in rows] == [["1+1", "16", "2", "32"], ["1+1", "8", "1", "16"]]


def test_steep_steps_and_heavy_embeddings_are_noted(capsys):
    assert (
        cli.main(["plan", *TEACHER[:2], "--vocab-size", "20000", "--ladder", "0.1", *SHARED]) == 0
    )
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: ")]
    assert [re.sub(r"[\d.]+ times, ", "N times, ", note) for note in notes] == [
        "Note: From 1.0 to 0.1, parameters fall N times, where 3 to 4 times is aggressive and the "
        "width falls by more than half, from 160 to 40. A stage between, such as 0.32, makes two "
        "easier steps of it.",
        "Note: 95% of the student's parameters are embeddings: a smaller vocabulary or shared "
        "embeddings "
        "would save more than fewer layers.",
    ]


@pytest.mark.parametrize(
    "budget",
    [["--parameters", "600000"], ["--size-mb", "1"], ["--latency-ms", "9", "--threads", "1"]],
)
def test_a_budget_gives_a_ladder_to_a_student_within_it(budget, capsys, monkeypatch):
    in_proportion = lambda model, threads: folder_bytes(model) / 1e5  # noqa: E731
    monkeypatch.setattr(budgets, "median_latency_ms", in_proportion)
    teacher = [*TEACHER, "--strategy", "deep-shallow"]
    assert cli.main(["plan", *teacher, *budget, *SHARED]) == 0
    shown = capsys.readouterr()
    rows = rows_of(shown.out)
    counts = [int(row[6].replace(",", "")) for row in rows]
    assert counts == sorted(set(counts), reverse=True)
    if budget[0] == "--parameters":
        assert counts[-1] <= 600_000
    else:
        student = f"measured {rows[-1][2]} layers of width {rows[-1][3]} with {rows[-1][4]} heads: "
        cost = float(re.search(re.escape(student) + r"([\d.]+) M?[Bm]s?\n", shown.err)[1])
        assert cost <= float(budget[1])


@pytest.mark.parametrize("name", ["ladder.svg", "ladder.png"])
def test_a_chart_is_drawn(tmp_path, name):
    chart = tmp_path / name
    assert cli.main(["plan", *TEACHER, *LADDER, "--chart", str(chart), *SHARED]) == 0
    begin = {"ladder.svg": b"<svg", "ladder.png": b"\x89PNG"}[name]
    assert chart.read_bytes().startswith(begin)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_a_large_teacher_is_planned_in_seconds_and_little_memory():
    big = [
        "--arch",
        "transformer_vaswani_wmt_en_de_big",
        "--vocab-size",
        "40000",
        "--target",
        "0.25",
    ]
    layers = ["--", "--encoder-layers", "24", "--decoder-layers", "24"]
    result = run(sys.executable, "-c", WEIGH, "plan", *big, *layers)
    seconds, mebibytes = re.search(r"used ([\d.]+) s, (\d+) MiB", result.stderr).groups()
    assert float(seconds) < 10
    assert int(mebibytes) < 1000
    assert rows_of(result.stdout)[0][2:4] == ["24+24", "1024"]
    assert rows_of(result.stdout)[-1][2:6] == ["6+6", "512", "8", "2048"]


def test_a_target_leaves_out_stages_that_would_be_the_same(capsys):
    assert cli.main(["plan", *TEACHER, "--target", "0.25", *SHARED]) == 0
    assert "ladder: [1.0, 0.7, 0.49, 0.25]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([*TEACHER, "--ladder", "0.7,0.343,0.2401", *SHARED], "The stages at 0.343 and 0.2401 "
         "would be the same by the strategy balanced: 1+1 layers of width 80 with 2 heads. The "
         "nearest "
         "ladder that can be built is 1.0,0.7,0.2401."),
        ([*TEACHER, "--parameters", "100", *SHARED], "--parameters allows 100 parameters, but the "
         "smallest stage that the strategy balanced builds at a ratio of at least 0.01 has "),
        ([*TEACHER, "--ladder", "0.5", "--factor", "0.5"], "--factor has no effect with --ladder, "
         "which names every stage. Leave it out."),
        ([*TEACHER, "--target", "0.5", "--threads", "2"], "--threads has no effect without "
         "--latency-ms. Leave it out."),
        ([*TEACHER, "--target", "0.5", "--chart", "x.pdf"], "--chart must end with .png or .svg, "
         "but is x.pdf."),
        ([*TEACHER[:2], "--data", f"{ROOT}/data", "--ladder", "0.5", "--chart",
          f"{ROOT}/data/x.svg"],
         f"--chart {ROOT}/data/x.svg lies inside --data {ROOT}/data, which is only read. Choose "),
        (["--arch", "transformer", "--target", "0.5"], "--arch needs --vocab-size N or --data BIN, "
         "since embeddings are a part of every stage."),
        (["--arch", "transformer", "--data", "nowhere", "--target", "0.5"], "--data nowhere is not "
         "what fairseq-preprocess wrote: it needs a set such as train.de-en.de.bin and both "
         "dictionaries. Give that folder, or --vocab-size N."),
        (["--teacher", "t.pt", "--vocab-size", "9", "--target", ".5"], "--vocab-size has no effect "
         "with --teacher, whose dictionaries are used. Leave it out."),
        (["--teacher", "t.pt", "--target", "0.5", *SHARED], "What follows -- has no effect with "
         "--teacher, whose architecture is known. Leave it out."),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_sentence(flags, message, capsys):
    assert cli.main(["plan", *flags]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"fairseq-kd plan: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_the_help_names_what_the_ladder_knows():
    assert list(plan.STRATEGIES) == list(STRATEGIES)
    assert plan.FACTOR == FACTOR


def test_the_page_shows_what_the_command_prints(capsys):
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    command, output = re.search(
        r"```text\n\$ fairseq-kd (plan .*?)\n\n?(\|.*?)```", text, re.S
    ).groups()
    assert cli.main(shlex.split(command.replace("\\\n", " "))) == 0
    printed = capsys.readouterr().out
    for part in output.split("...\n"):
        assert part.strip("\n") in printed
