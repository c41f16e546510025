"""The progress line in a log: how far, how fast, how long still, and not too often."""

import re

from fairseq_kd import progress
from fairseq_kd.progress import ProgressLine


def test_it_tells_units_time_left_and_what_is_added(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with ProgressLine("store train", 2000, "sentences", done=500) as line:
        line.start -= 10
        line.add(500, "K=64")
        assert 49 < line.per_second < 51
    shown = capsys.readouterr().err
    told = r"store train:  50% \|#+ *\| 1,000/2,000 sentences, 00:\d\d left, K=64\n"
    assert re.fullmatch(told, shown)


def test_a_log_gets_no_line_for_every_unit_but_the_last_one(capsys):
    with ProgressLine("work", 100, "units") as line:
        for _ in range(100):
            line.add(1)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert shown[-1].startswith("work: 100%")


def test_no_work_at_all_shows_nothing(capsys):
    with ProgressLine("work", 0, "units") as line:
        line.show(0)
    assert capsys.readouterr().err == ""
