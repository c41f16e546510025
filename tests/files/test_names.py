"""Names are data: in a program, a script, a page and a path they stay what they are."""

import ast
import os
import re
import subprocess
from pathlib import Path

import hostile
import pytest
from workflows import small_workflow

from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.evaluation.pages import Code, Section, Table, markdown_page
from fairseq_kd.evaluation.systems import NamedCheckpoint
from fairseq_kd.evaluation.tables import wrapped
from fairseq_kd.export.card import Licences, Measured, MeasurementSetup, card
from fairseq_kd.export.example import translate_py
from fairseq_kd.export.lineage import Ancestor
from fairseq_kd.files.names import (
    as_code,
    in_markdown,
    in_one_line,
    on_terminal,
    plain_languages,
    why_no_file,
)
from fairseq_kd.pipeline.corpus import language_pair
from fairseq_kd.pipeline.run_file import read_run
from fairseq_kd.pipeline.shell_script import write_script
from fairseq_kd.teachers.loading import load_teacher, teacher_languages
from fairseq_kd.teachers.store import TeacherStore
from fairseq_kd.teachers.stored_teacher import stored_task

PROGRAM = f'en");getattr(__import__("os"),"system")("touch {hostile.MARK}")#'
MARKUP = "<img src=x onerror=alert(1)> [a](http://b) | \n# head `"
LANGUAGES = [PROGRAM, "../en", "en/x", "e n", "en\n", "-en", ".en", "e..n", "", "x" * 65, None, 3]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_a_plain_name(language):
    sentence = f"^T.pt names the language {re.escape(repr(language))}, but a language is a name of"
    with pytest.raises(ValueError, match=sentence):
        plain_languages(("es", language), "T.pt")
    assert plain_languages(("zh_CN", "sr@latin"), "T.pt") == ("zh_CN", "sr@latin")


@pytest.mark.parametrize("side", ["source_lang", "target_lang"])
@pytest.mark.parametrize("read", [load_teacher, teacher_languages])
def test_the_languages_of_a_checkpoint_are_plain_names(side, read, teacher, tmp_path):
    def change(state):
        state["cfg"]["task"][side] = PROGRAM

    path = hostile.changed(teacher, tmp_path, change)
    with pytest.raises(ValueError, match=f"^--kd-teacher {re.escape(path)} names the language 'en"):
        read(path)


def test_the_languages_of_a_subset_are_plain_names(data):
    with pytest.raises(ValueError, match=r"names the language '\.\./\.\./x'"):
        read_subset(Path(data), "test", ("es", "../../x"))


def test_the_languages_of_a_data_folder_are_plain_names(tmp_path):
    (tmp_path / "train.es-e n.es.idx").touch()
    with pytest.raises(ValueError, match=r"^data: .* names the language 'e n', but"):
        language_pair(tmp_path)


def test_the_languages_of_a_store_are_plain_names(tmp_path):
    store = TeacherStore.__new__(TeacherStore)
    store.path, store.identity = tmp_path, {"languages": ["es", "../../x"]}
    with pytest.raises(ValueError, match=r"names the language '\.\./\.\./x'"):
        stored_task(store)


def test_the_exported_program_holds_languages_as_texts():
    tree = ast.parse(translate_py((PROGRAM, PROGRAM), "moses", "none", "int8", Search(), (9, 9)))
    assert [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)].count(
        PROGRAM
    ) == 2


def test_the_header_of_a_script_is_a_comment_whatever_the_names_of_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = f"\ntouch {hostile.MARK}\n# '`$(touch {hostile.MARK})`\""
    plan = small_workflow(f"run{command}")
    plan.inputs.update({"file": f"a.yaml{command}", "started in": f"/x{command}"})
    script = tmp_path / f"run.sh{command}".replace("/", "")
    write_script(plan, script)
    for flag in ("--help", "--unknown"):
        subprocess.run(["bash", script, flag], capture_output=True)
    assert not hostile.ran_code(tmp_path)
    header = script.read_text().partition("\nset -euo")[0].splitlines()
    assert all(line.startswith("#") for line in header)


@pytest.mark.parametrize("name", ['"a\\n"', '"a b"', "../a", '"a;b"'])
def test_a_stage_is_called_by_one_line(tmp_path, name):
    path = tmp_path / "run.yaml"
    path.write_text(f"data: d\nteacher: t.pt\nladder: [{{ratio: 0.5, name: {name}}}]\n")
    with pytest.raises(ValueError, match=r"ladder\[0\]\.name must be a name of letters"):
        read_run(path)


@pytest.mark.parametrize("name", ["a\nb", "a|b", "<b>", "$x$", "_a", "`a`", "[a](b)", "*a*", "a\\"])
def test_a_system_is_called_by_a_plain_name(name):
    with pytest.raises(ValueError, match=r"^--student .*: a name is made of letters, digits, bla"):
        NamedCheckpoint.parse("student", f"{name}=S.pt")
    assert NamedCheckpoint.parse("student", "deep, 4+1 (T = 2)=S.pt").path.endswith("S.pt")


def test_a_page_shows_names_as_they_are():
    sections = [
        Section(MARKUP, [MARKUP, Table((MARKUP, "n"), [[MARKUP, "1"]]), Code("a\n```\n<b>\n````")])
    ]
    lines = markdown_page(MARKUP, sections, "plots").splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        f"{head} {in_markdown(MARKUP)}" for head in ("#", "##")
    ]
    assert "# head" not in lines
    assert not [line for line in lines if re.search(r"(?<!\\)<img|(?<!\\)\]\(", line)]
    table = [line for line in lines if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [3, 3, 3]
    assert lines[lines.index("`````bash") + 1 :][:5] == ["a", "```", "<b>", "````", "`````"]


def test_a_card_shows_the_names_of_a_checkpoint_as_they_are():
    measured = [Measured("checkpoint", 1, 10.0, 1.0, 1.0, 1.0)] * 2
    measurement = MeasurementSetup("test", 1, "", beam=5, threads=1, compute_type="int8")
    ancestors = [Ancestor(MARKUP, MARKUP, {"data": MARKUP}, f"fairseq-train '{MARKUP}'\n```")]
    lines = card(
        ("es", "en"), "int8", measured, measurement, ancestors, Licences(MARKUP, MARKUP)
    ).splitlines()
    assert f"### {in_markdown(MARKUP)}: {as_code(MARKUP)}" in lines
    assert f"- data: {in_markdown(MARKUP)}" in lines
    assert f"- model: {in_markdown(MARKUP)}" in lines
    assert "````bash" in lines


def test_names_lose_no_more_than_the_ends_of_their_lines():
    assert in_one_line("a\n\u2028b\x1b c") == "a b c"
    assert on_terminal("a\u202eb\u2066") == "a\\u202eb\\u2066"
    assert on_terminal("a\n\x1b[2J\x9b1mé\tb\r") == "a\n\\x1b[2J\\x9b1mé\tb\\r"
    assert in_markdown(r"\<b> [a\](b)") == r"\\\<b> [a\\\](b)"
    assert in_markdown("p < 0.05, [x] <b> [c](d)") == "p < 0.05, [x] \\<b> [c\\](d)"
    assert as_code("a`` b`") == "``` a`` b` ```"
    assert as_code("a") == "`a`"


def test_a_command_with_an_open_quote_is_shown_as_it_is():
    assert wrapped("train 'a b' --x 'open") == "train 'a b' --x 'open"
    assert wrapped("train 'a b' --x 1") == "train 'a b' \\\n    --x 1"


def test_a_path_that_is_no_file_is_told_from_one_that_is_missing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("gone")
    pipe = "must be a regular file, but is a pipe or a device"
    assert why_no_file(tmp_path / "pipe") == why_no_file("/dev/zero") == pipe
    assert why_no_file(tmp_path) == "must be a file, but is a folder"
    assert why_no_file(tmp_path / "link") == "is a symbolic link that leads to no file"
    assert why_no_file(tmp_path / "gone") == "does not exist"
