"""The costs of the steps at several sizes: how they are measured, and how they are extrapolated."""

import importlib
import re
import subprocess
import sys

import pytest
from harness import ROOT

HELD = 200 * 2**20
HOLD = f"""
import subprocess, sys
inner = "import time; held = bytearray(b'x') * {HELD}; print('held', flush=True); time.sleep(60)"
subprocess.run([sys.executable, "-c", inner])
"""


@pytest.fixture
def scale(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("scale")


def test_memory_is_that_of_the_process_and_of_those_that_it_started(scale):
    outer = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE)
    try:
        assert outer.stdout.readline() == b"held\n"
        family = [outer.pid, *scale.descendants(outer.pid)]
        total = sum(map(scale.private_mib, family))
    finally:
        for process in family[::-1]:
            subprocess.run(["kill", str(process)], check=False)
        outer.wait()
    assert len(family) == 2
    assert HELD / 2**20 < total < HELD / 2**20 + 60


def test_a_file_in_memory_is_not_counted(scale, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * HELD)
    code = (
        "import mmap; file = open('file', 'rb'); held = mmap.mmap(file.fileno(), 0, prot=1);"
        "sum(held[::4096]); print('held', flush=True); import time; time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-1, cwd=tmp_path)
    try:
        assert process.stdout.readline() == b"held\n"
        assert scale.private_mib(process.pid) < 60
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("known", "cost"), [([(10, 3.0), (20, 5.0)], 17.0), ([(20, 5.0)], 20.0), ([(1, 4.0)], 320.0)]
)
def test_a_cost_lies_on_the_line_through_two_sizes_or_through_one_and_nothing(scale, known, cost):
    assert scale.at(80, known) == cost


def test_the_page_has_the_costs_of_each_step_and_their_lines(scale):
    made = {"machine": "2 cores of X", "version": "1.0", "disk_mib": "1.0", "peak_mib": "300.0"}
    rows = [
        {"pairs": pairs, "step": step, "core_seconds": seconds, **made}
        for step, pairs, seconds in (
            ("prepare", "10000", "20.0"),
            ("merge", "10000", "8.0"),
            ("prepare", "100000", "110.0"),
        )
    ]
    page = scale.page(rows)
    assert re.search(r"^\| prepare +\| +20 s \| +110 s \| +1\.3 h \| +10\.0 h \|$", page, re.M)
    assert re.search(r"^\| merge +\| +8 s \| +\| +1\.0 h \| +8\.0 h \|$", page, re.M)
    assert re.search(r"^\| merge +\| +300 \| +\| +300 \| +300 \|$", page, re.M)
    assert re.search(r"^\| prepare +\| +300 \| +300 \| +300 \| +300 \|$", page, re.M)
    assert page.endswith("On 2 cores of X (1.0).\n")
