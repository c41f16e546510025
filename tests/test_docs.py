"""The documentation against the software: generated pages are current, named things exist."""

import re
import shlex

import pytest
from harness import ROOT, Setup, run

from fairseq_kd import cli, models
from fairseq_kd.criterions.flags import (
    criterion_classes,
    flags_of,
    flags_page,
    flags_text,
    task_classes,
)

CRITERIONS = ("word_kd", "feature_kd", "attention_kd", "hybrid_kd", "multi_teacher_kd")
CRITERIONS += ("mutual_learning", "cross_lingual_kd")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_page_of_flags_is_current():
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == flags_page()


def test_the_command_flags_prints_a_criterions_flags(capsys):
    assert cli.main(["flags", "word_kd"]) == 0
    shown = capsys.readouterr().out
    assert "--kd-temperature-schedule" in shown
    assert "default: 0.8)" in shown
    assert shown == flags_text("word_kd")


def test_the_command_flags_names_the_criterions_that_it_knows(capsys):
    assert cli.main(["flags", "word"]) == 2
    known = ", ".join([*criterion_classes(), *task_classes()])
    message = f"The criterion must be one of {known}, but is word."
    assert message in capsys.readouterr().err
    assert "word_kd" in known


def test_every_flag_of_ours_is_prefixed_and_explained():
    for cls in (*criterion_classes().values(), *task_classes().values()):
        for flag, text in flags_of(cls):
            ours = flag not in ("--label-smoothing", "--report-accuracy", "--ignore-prefix-size")
            assert flag.startswith("--kd-") == ours
            assert not ours or "default" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_figure_is_left_open(page):
    assert "MEASURED" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_scripts_flags_and_architectures_exist(page):
    text = page.read_text(encoding="utf-8")
    for script in re.findall(r"\bscripts/\w+\.sh", text):
        assert (ROOT / script).is_file(), script
    ours = [*criterion_classes().values(), *task_classes().values()]
    known = {flag for cls in ours for flag, _ in flags_of(cls)}
    assert set(re.findall(r"--kd-[\w-]+", text)) <= known
    named = set(re.findall(r"\btransformer_kd_\w+", text)) - {"transformer_kd_"}
    assert named <= set(models.ARCHITECTURES)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in CRITERIONS)])
def test_the_training_command_builds_what_it_names(page, data, teacher, three_way):
    """Of cross_lingual_kd on other data, whose languages stand in for those of the page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    command = re.search(r"```bash\nfairseq-train DATA (.*?)```", text, re.S)[1]
    flags = re.sub(r"\b(?:teacher|a|b)\.pt", teacher, command.replace("\\\n", " "))
    if "pivot_translation" in flags:
        for ours, theirs in (("fr", "xx"), ("it", "TARGET"), ("en", "es"), ("TARGET", "en")):
            flags = flags.replace(f"lang {ours} ", f"lang {theirs} ")
        data = three_way
    setup = Setup(data, *shlex.split(flags), "--encoder-layers", "1", training=[])
    loss, _, log = setup.criterion(setup.model, setup.batch(0, 1))
    assert loss.isfinite()
    assert log.get("kd_loss", log.get("kd_mutual")) > 0


def test_the_table_of_architectures_is_current():
    text = (ROOT / "docs" / "model_sizes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+)\+(\d+) \| (\d+) \| (\d+) \| (\d+) \|", text, re.M)
    message = {name: tuple(int(number) for number in numbers) for name, *numbers in rows}
    assert message == {
        name: (a.encoder_layers, a.decoder_layers, a.width, a.heads, a.feed_forward)
        for name, a in models.ARCHITECTURES.items()
    }


def test_the_command_line_has_help():
    assert "usage: fairseq-kd" in run("python", "-m", "fairseq_kd.cli", "--help").stdout


@pytest.mark.parametrize("subcommand", [each.options.COMMAND for each in cli.SUBCOMMANDS])
def test_every_command_has_help(subcommand, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([subcommand, "--help"])
    assert ended.value.code == 0
    assert f"usage: fairseq-kd {subcommand}" in capsys.readouterr().out
