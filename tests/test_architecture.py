"""The map of the code is current, and imports point down."""

import importlib
import sys

import pytest
from harness import ROOT


@pytest.fixture
def architecture(monkeypatch):
    """The program that prints the page."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    return importlib.import_module("architecture")


def test_the_page_is_current(architecture):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert page == architecture.page(), "python scripts/architecture.py > docs/architecture.md"


def test_imports_point_down(architecture):
    assert list(architecture.imports_up()) == []


def test_no_file_is_longer_than_400_lines():
    files = [*(ROOT / "fairseq_kd").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > 400} == {}
