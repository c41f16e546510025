"""The table of tested versions: its results are counted, kept and written into the page."""

import importlib
import shutil
import sys

import pytest
from harness import ROOT

TESTS = """\
import pytest

def test_passes():
    pass

def test_fails():
    assert [1] == [2], "first line\\nsecond line"

@pytest.fixture
def broken():
    raise OSError("no disk")

def test_has_an_error(broken):
    pass

@pytest.mark.skip
def test_is_skipped():
    pass
"""
ROW = {
    "fairseq": "fairseq 1",
    "python": "3.10",
    "torch": "2",
    "machine": "m",
    "date": "d",
    "plugin": "p",
    "results": {"unit tests": "fails: 1 failed", "store": "passes"},
    "failed_tests": {"test_x": "why"},
}


@pytest.fixture
def versions(monkeypatch):
    """The program that tries the parts."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("versions")


def test_the_page_is_current(versions):
    text = versions.PAGE.read_text(encoding="utf-8")
    assert text == versions.page(text, versions.read_rows()), "benchmarks/versions.py --page"


def test_three_kinds_of_fairseq_were_tried_and_nothing_failed(versions):
    rows = versions.read_rows()
    assert {row["fairseq"].split()[0] for row in rows} == {"fairseq-fixed", "fairseq", "main"}
    results = [(name, text) for row in rows for name, text in row["results"].items()]
    assert {name for name, _ in results} <= set(versions.PARTS)
    assert [text for _, text in results if text.startswith("fails")] == []


def test_ci_runs_the_unit_tests_on_fairseq_0_12_2(versions):
    versions_trial = importlib.import_module("versions_trial")
    jobs = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert (
        f'python: "3.10"\n            tests: scripts/test.sh {" ".join(versions_trial.UNIT_TESTS)}'
        in jobs
    )


def test_passed_failed_and_skipped_tests_are_counted(versions, tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    trial = versions.Trial(tmp_path)
    assert trial.run_tests([tmp_path]) == "fails: 1 passed, 2 failed, 1 skipped"
    messages = {name.rpartition("::")[2]: why for name, why in trial.failed.items()}
    assert messages.keys() == {"test_fails", "test_has_an_error"}
    assert messages["test_fails"] == "AssertionError: first line"


def test_the_parts_that_fail_are_recorded_with_their_reason(versions, tmp_path, monkeypatch):
    def broken(trial):
        versions.run("fairseq-kd", "plan", "--teacher", tmp_path / "none.pt", "--target", "0.5")

    parts = {"good": ("good", lambda trial: "passes"), "broken": ("broken", broken)}
    monkeypatch.setattr(versions, "PARTS", parts)
    results = dict(versions.tried(versions.Trial(tmp_path), ["good", "broken"]))
    assert results["good"] == "passes"
    assert results["broken"].startswith(f"fails: fairseq-kd plan: --teacher {tmp_path}/none.pt")


@pytest.mark.parametrize(
    ("output", "first"),
    [
        ("Traceback\n  x\nValueError: a b\nwhy\n", "ValueError: a b"),
        ("a.b.ConfigError: A\nx.KeyError: 'b'\n", "x.KeyError: 'b'"),
        ("INFO: good\nlast\n\n", "last"),
        ("", "no output"),
    ],
)
def test_a_reason_is_the_first_line_of_the_last_exception(versions, output, first):
    assert versions.reason(output) == first


def test_a_part_that_is_tried_again_replaces_its_own_result(versions):
    other = {**ROW, "python": "3.11"}
    new = {**ROW, "date": "later", "results": {"store": "fails: full"}, "failed_tests": {}}
    first, second = versions.recorded([ROW, other], new)
    assert second == other
    assert first == {**new, "failed_tests": ROW["failed_tests"], "results": first["results"]}
    assert first["results"] == {"unit tests": "fails: 1 failed", "store": "fails: full"}
    assert versions.recorded([], ROW) == [ROW]


def test_tests_that_pass_now_are_no_longer_listed(versions):
    new = {**ROW, "results": {"unit tests": "2 passed"}, "failed_tests": {}}
    (row,) = versions.recorded([ROW], new)
    assert row["failed_tests"] == {}


@pytest.mark.parametrize(
    ("url", "source", "message"),
    [
        ("{}", None, "was installed from a source tree here: give the commit of the tree by"),
        (None, "main", "--source has no effect: fairseq 1 is a release. Remove it."),
    ],
)
def test_a_source_tree_is_named(versions, monkeypatch, url, source, message):
    class Installed:
        version = "1"

        def read_text(self, name):
            return url if name == "direct_url.json" else None

    monkeypatch.setattr(versions, "packages_distributions", lambda: {"fairseq": ["fairseq"]})
    monkeypatch.setattr(versions, "distribution", lambda name: Installed())
    with pytest.raises(ValueError, match=message):
        versions.fairseq_here(source)
    assert versions.fairseq_here("main" if url else None) == ("main" if url else "fairseq 1")


@pytest.mark.slow
def test_a_killed_training_resumes(versions, data, teacher, tmp_path):
    trial = versions.Trial(tmp_path)
    corpus = tmp_path / "corpus" / "data"
    shutil.copytree(data, corpus / "bin")
    (tmp_path / "teacher").mkdir()
    shutil.copy(teacher, tmp_path / "teacher" / "checkpoint_last.pt")
    trial._made.update(corpus=tmp_path / "corpus", teacher=tmp_path / "teacher")
    assert trial.resume() == "passes, same weights"
