"""The worked examples: their help, and a whole small run of each."""

import re

import pytest
from forks import run_forked
from harness import ROOT, run, write_text

EXAMPLES = ("multi_teacher", "mutual_learning", "cross_lingual")
SMALL = {"SEEDS": "1 2", "UPDATES": "20", "TEACHER_UPDATES": "20"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_header_is_the_help(name):
    script = ROOT / "scripts" / f"{name}.sh"
    shown = run(script, "--help").stdout
    assert f"usage: scripts/{name}.sh" in shown
    assert "Killed? Run" in shown
    assert "set -euo" not in shown
    wrong = ["too", "many"]
    assert run(script, *wrong, check=False).returncode == 2


def test_paths_start_where_the_script_is_called(tmp_path):
    (tmp_path / "three").mkdir()
    called = run(
        ROOT / "scripts/cross_lingual.sh", "three", cwd=tmp_path, env={"RUN": "r"}, check=False
    )
    assert called.returncode == 1
    assert f"{tmp_path}/three/train.fr is missing" in called.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_whole_and_a_second_time_at_once(name, tmp_path):
    text = write_text(tmp_path / "text", {"train": 600, "valid": 60, "test": 40})
    for path in text.glob("*.es"):  # a third language: Spanish backwards
        lines = (" ".join(reversed(line.split())) for line in path.read_text().splitlines())
        path.with_suffix(".xx").write_text("".join(f"{line}\n" for line in lines))
    env = {**SMALL, "RUN": str(tmp_path / "run"), "TEXT": str(text), "MERGES": "300"}
    env |= {"LOW": "xx", "HIGH": "es", "TARGET": "en", "LOW_LINES": "200"}
    words = [text] if name == "cross_lingual" else []
    first = run_forked(ROOT / "scripts" / f"{name}.sh", *words, env=env).stdout
    table = re.findall(r"^\| .*\|$", first, re.M)
    assert table[0].startswith("| student")
    assert len(table) >= 4
    assert all(re.search(r"\| [\d.]+, [\d.]+ ", row) for row in table[2:])
    second = run_forked(ROOT / "scripts" / f"{name}.sh", *words, env=env).stdout
    assert re.findall(r"^\| .*\|$", second, re.M) == table
    if name == "mutual_learning":
        assert list((tmp_path / "run").glob("students/*/2/peer/peer.pt"))
