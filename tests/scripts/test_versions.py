"""The table of tested versions, and how it is counted from the results of pytest."""

import importlib
import sys

import pytest
from harness import ROOT

RESULTS = """<testsuites><testsuite>
<testcase classname="tests.losses.test_chunked" name="a"/>
<testcase classname="tests.losses.test_chunked" name="b"><failure message="x"/></testcase>
<testcase classname="tests.models.test_capture" name="c"><error message="x"/></testcase>
<testcase classname="tests.pipeline.test_driver" name="d"><skipped message="x"/></testcase>
<testcase classname="tests.test_training" name="e"/>
<testcase classname="tests.test_training.TestAll" name="f"/>
</testsuite></testsuites>"""


@pytest.fixture
def versions(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("versions")


def test_the_documentation_has_the_table(versions):
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert versions.page(versions.read_rows()) in page, "python scripts/versions.py"


def test_tests_are_counted_by_group_without_those_that_were_skipped(versions, tmp_path):
    path = tmp_path / "results.xml"
    path.write_text(RESULTS)
    counts = versions.counted(path)
    assert {group: each for group, each in counts.items() if each} == {
        "losses, models": "1/3",
        "end to end": "2/2",
    }
    assert [versions.cell(each) for each in ("1/3", "2/2", "")] == ["1 of 3", "2", "-"]


def test_a_second_run_of_the_same_versions_replaces_the_first(
    versions, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(versions, "TABLE", tmp_path / "versions.csv")
    path = tmp_path / "results.xml"
    path.write_text(RESULTS)
    versions.main([str(path)])
    path.write_text(RESULTS.replace('<failure message="x"/>', ""))
    versions.main([str(path)])
    (row,) = versions.read_rows()
    assert row["losses, models"] == "2/3"
    assert row["Python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert "| 2 of 3 |" in capsys.readouterr().out
