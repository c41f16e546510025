"""Options as data: parsed from a command line, read from a file, and written as a command line."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_kd import cli
from fairseq_kd.command_line import flag_of
from fairseq_kd.decoding.options import MergeOptions, TranslateOptions
from fairseq_kd.distilled_data.options import DistillDataOptions
from fairseq_kd.evaluation.options import EvaluateOptions
from fairseq_kd.inheritance.options import InheritOptions
from fairseq_kd.pipeline.options import StageOptions
from fairseq_kd.shard import Shard
from fairseq_kd.teachers.options import StoreOptions

STORE = {"teacher": "t.pt", "data": "bin", "out": "store"}
LINES = [  # with every kind of flag
    "prepare --text t --source es --target en --out o --vocabulary v --max-words 9",
    "prepare --text t --source es --target en --out o --merges 9 --workers 2",
    "user-dir",
    "plan --teacher t.pt --ladder 1,0.5 --strategy depth --chart a.svg",
    "plan --arch transformer --vocab-size 100,200 --target 0.25 -- --share-all-embeddings",
    "inherit --teacher t.pt --arch a --out s.pt --encoder-layers 0,2 -- --encoder-layers 2",
    "inherit --teacher t.pt --arch a --out s.pt --importance data --data b --sentences 9",
    "store --teacher t.pt --data bin --out store --topk 8 --shard 2/3 --user-dir plugin",
    "store-merge --out store --subset valid",
    "binarise-text --text t.es --data bin --out o --tokenizer none --codes codes",
    "translate --teacher t.pt --data bin --out out --sampling --seed 3 --max-len-a 1.5",
    "translate --teacher t.pt --data bin --out out --lenpen -1",
    "translate-text --ct2-model m --text t.es --out o --target-prefix de --nbest 5 --beam 6",
    "import-translations --data bin --hypotheses t.en --out o --format tsv --bpe none --workers 2",
    "merge out",
    "distill-data --translations t --data bin --out out --min-score=-inf --min-words=-inf",
    "distill-data --translations t --data bin --out out --mix gold --gold-data b --tag-gold=-x",
    "evaluate --teacher t.pt --student a=a.pt --student b.pt --data bin --out out --no-memory",
    "export s.pt --out out --license MIT --codes codes",
    "export s.pt --out out --shortlist --data bin",
    "extract-peer c.pt --peer 2 --out p.pt",
    "flags word_kd --markdown",
    "flags",
    "diagnose runs/one",
    "progressive run.yaml --set seed=2 --set run=b --dry-run",
    "progressive run.yaml --jobs 3 -- --executor slurm -n",
    "stage name -- fairseq-train data --save-dir out --max-update 3",
    "step run/workflow.json name --sha256 abc",
]


def parsed(words):
    args = cli.parser().parse_args(words)
    return args.invoked.options.parsed(args)


@pytest.mark.parametrize("line", LINES)
def test_what_is_written_is_parsed_to_the_same_options(line):
    options = parsed(line.split())
    program, *words = options.argv()
    assert program == "fairseq-kd"
    assert parsed(words) == options


def test_every_command_is_tried():
    assert {line.split()[0] for line in LINES} == {each.options.COMMAND for each in cli.SUBCOMMANDS}


def test_defaults_are_left_out():
    line = ["store", "--teacher", "t.pt", "--data", "bin", "--out", "store"]
    assert parsed([*line, "--topk", "64", "--shard", "1/1"]).argv() == ["fairseq-kd", *line]
    assert MergeOptions(folder=Path("out")).argv() == ["fairseq-kd", "merge", "out"]


def test_what_a_file_gives_is_written_as_it_stands_there():
    flags = {"user-dir": None, **STORE, "topk": 64, "dtype": "float32"}
    options = StoreOptions.of(flags)
    assert options == StoreOptions(teacher="t.pt", data=Path("bin"), out=Path("store"))
    assert " ".join(options.argv()) == (
        "fairseq-kd store --teacher t.pt --data bin --out store --topk 64 --dtype float32"
    )
    changed = dataclasses.replace(options, topk=8)
    assert changed.argv()[-4:] == ["--topk", "8", "--dtype", "float32"]
    search = {"sampling": False, "lenpen": 1, "nbest": "3"}
    options = TranslateOptions.of({**STORE, **search})
    assert (options.sampling, options.lenpen, options.nbest) == (False, 1.0, 3)
    assert options.argv()[-4:] == ["--lenpen", "1", "--nbest", "3"]


def test_flags_in_a_file_may_be_repeated_and_keep_their_order():
    pairs = [("data", "bin"), ("out", "out"), ("teacher", "t.pt"), ("student", "a=a.pt")]
    pairs += [("control", "c=c.pt"), ("student", "b=b.pt"), ("no-memory", True)]
    options = EvaluateOptions.of(pairs)
    assert (options.student, options.control) == (("a=a.pt", "b=b.pt"), ("c=c.pt",))
    words = options.argv()[2:]
    assert words == [
        *("--data", "bin", "--out", "out", "--teacher", "t.pt", "--student", "a=a.pt"),
        *("--control", "c=c.pt", "--student", "b=b.pt", "--no-memory"),
    ]


def test_words_for_another_program_come_last():
    flags = {"model_flags": ["--encoder-layers", 2], "teacher": "t.pt", "arch": "a", "out": "s.pt"}
    options = InheritOptions.of(flags)
    assert options.model_flags == ("--encoder-layers", "2")
    line = "fairseq-kd inherit --teacher t.pt --arch a --out s.pt -- --encoder-layers 2"
    assert options.argv() == line.split()
    assert InheritOptions.of({**flags, "model_flags": []}).argv()[-1] == "--"
    assert StageOptions(name="a", command=("b", "-c")).argv()[2:] == ["a", "--", "b", "-c"]


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        (
            StoreOptions,
            {"tokp": 8},
            r"^--tokp is not a flag of fairseq-kd store\. Did you mean --topk",
        ),
        (StoreOptions, {"x": False}, r"^--x is not a flag of fairseq-kd store\. Leave it out\.$"),
        (
            StoreOptions,
            {"topk": 0},
            r"^--topk must be a whole number from 1 to 65,536, but is 0\.$",
        ),
        (StoreOptions, {"topk": True}, r"^--topk needs a value, but is true\.$"),
        (StoreOptions, {"dtype": "f"}, r"^--dtype must be one of float32, bfloat16, float16, but "),
        (
            StoreOptions,
            {"shard": "3/2"},
            r"^--shard must be I/N with .* such as 3/64, but is 3/2\.$",
        ),
        (StoreOptions, {"out": ""}, r"^--out must be a path, but is ''\.$"),
        (TranslateOptions, {"sampling": 1}, r"^--sampling must be true or false, but is 1\.$"),
        (TranslateOptions, {"subset": "a b"}, r"^--subset must be a name such as test, but is a b"),
    ],
)
def test_a_flag_of_a_file_is_refused_by_its_name(kind, flags, message):
    with pytest.raises(ValueError, match=message):
        kind.of({**STORE, **flags})


def test_a_value_that_looks_like_a_flag_is_written_so_that_it_is_read():
    flags = {"translations": "t", "data": "bin", "out": "out", "min-score": "-inf"}
    options = DistillDataOptions.of(flags)
    assert options.min_score == -math.inf
    assert options.argv()[-1] == "--min-score=-inf"
    assert StoreOptions(**{**STORE, "shard": Shard(2, 3)}).argv()[-2:] == ["--shard", "2/3"]


def test_every_flag_has_a_help_and_one_kind_of_value():
    for each in (field for one in cli.SUBCOMMANDS for field in one.options.flags()):
        kinds = [each.metadata.get(key) for key in ("range", "choices", "read")]
        others = each.default is False or each.metadata.get("nargs") in ("*", "+")
        assert sum(kind is not None for kind in kinds) == (0 if others else 1), flag_of(each)
        assert each.metadata["help"], flag_of(each)


def test_help_loads_neither_torch_nor_fairseq():
    code = """\
import sys
from fairseq_kd import cli
cli.parser().format_help()
heavy = {"torch", "fairseq", "numpy", "ctranslate2", "snakemake", "sacrebleu", "yaml"}
sys.exit(", ".join(sorted(heavy & sys.modules.keys())) or 0)
"""
    result = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_current_folder_that_was_removed_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["plan", "--teacher", "t.pt", "--target", "0.5"]) == 2
    message = "fairseq-kd plan: The current folder no longer exists. Change to another folder.\n"
    assert capsys.readouterr().err == message
