"""The progress line in a log: how far, how fast, how long still, and not too often."""

import re

import pytest

from fairseq_kd.pipeline.execution import places
from fairseq_kd.progress import ProgressLine


def test_it_tells_units_time_left_and_what_is_added(capsys, monkeypatch):
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", "0")
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


@pytest.mark.parametrize("given", ["abc", "-1", "nan", "inf", "1e9", " 3", "9" * 5000])
def test_a_pause_that_is_none_is_refused_by_its_variable(monkeypatch, given):
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", given)
    told = "FAIRSEQ_KD_LOG_SECONDS must be a number from 0 to 86,400, but is "
    with pytest.raises(ValueError, match=rf"^{told}.{{,60}}\. Correct it, or unset it\.$"):
        ProgressLine("work", 1, "units")


@pytest.mark.parametrize("given", ["abc", "0", "1.5", "1" * 5000])
def test_a_number_of_places_that_is_none_is_refused_by_its_variable(monkeypatch, given):
    monkeypatch.setenv("FAIRSEQ_KD_PLACES", given)
    told = "FAIRSEQ_KD_PLACES must be a whole number from 1 to 1,000, but is "
    with pytest.raises(ValueError, match=rf"^{told}.{{,60}}\. Correct it, or unset it\.$"):
        places()


def test_a_variable_that_is_empty_is_not_set(monkeypatch):
    monkeypatch.setenv("FAIRSEQ_KD_PLACES", "")
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", "")
    assert places() == 1
    ProgressLine("work", 1, "units")
