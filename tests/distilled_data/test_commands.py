"""docs/sequence_level.md against the commands translate, merge and distill-data."""

import re
import shlex

import pytest
from harness import ROOT

from fairseq_kd import cli
from fairseq_kd.decoding.translation_formats import FORMATS
from fairseq_kd.distilled_data.filters import FILTERS
from fairseq_kd.distilled_data.selection import SCORERS, SELECTIONS

PAGE = (ROOT / "docs" / "sequence_level.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_documented_commands_are_understood():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    commands = re.findall(r"fairseq-kd ([^'\n\\]*(?:\\\n[^'\n\\]*)*)", "\n".join(blocks))
    commands += re.findall(r"`fairseq-kd (merge [^`]*)`", PAGE)
    used = set()
    for command in commands:
        words = shlex.split(command.replace("\\\n", " ").replace("$SLURM_ARRAY_TASK_ID", "3"))
        used.add(words[0])
        options_of(words).check()
    assert used == {
        *("binarise-text", "translate", "translate-text", "import-translations", "distill-data"),
        "merge",
    }


def test_the_tables_list_all_selections_and_filters():
    rows = re.findall(r"^\| `(--m[\w-]+)` \| .* \| (\S+) \|$", PAGE, re.M)
    documented = {flag: None if default == "none" else float(default) for flag, default in rows}
    assert documented == {each.flag: each.default for each in FILTERS}
    selections, formats = (
        re.findall(r"^\| `(\w+)` \|", PAGE.partition(f"| `{flag}` |")[2].partition("\n\n")[0], re.M)
        for flag in ("--select", "--format")
    )
    assert selections == [*SELECTIONS, "score"]
    assert formats == list(FORMATS)


def test_every_choice_that_is_offered_can_be_dispatched():
    for action in subparser("distill-data")._actions:
        if action.dest == "select":
            assert tuple(action.choices) == (*SELECTIONS, "score")
        if action.dest == "metric":
            assert tuple(action.choices) == tuple(SCORERS)


@pytest.mark.parametrize("command", ["translate", "import-translations", "merge", "distill-data"])
def test_help_explains_every_flag(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: fairseq-kd {command}" in capsys.readouterr().out
    for action in subparser(command)._actions:
        assert action.help, action.dest
    assert f"`{command}`" in README or f"`fairseq-kd {command}" in PAGE


def options_of(words):
    """The options of a command line."""
    args = cli.parser().parse_args(words)
    return args.invoked.options.parsed(args)


def subparser(command):
    commands = next(action for action in cli.parser()._actions if action.dest == "subcommand")
    return commands.choices[command]


@pytest.mark.parametrize(
    ("flags", "beam"),
    [
        ([], 5),
        (["--nbest", "3"], 5),
        (["--nbest", "8"], 8),
        (["--beam", "5", "--nbest", "8"], 8),
        (["--beam", "2"], 2),
    ],
)
def test_the_beam_is_at_least_what_is_kept_of_it(flags, beam):
    words = ["translate", "--teacher", "t.pt", "--data", "data", "--out", "out", *flags]
    assert options_of(words).search.beam == beam
