"""The progress line in a log: work done, speed, time left, and the interval between lines."""

import json
import re

import pytest

from fairseq_kd.pipeline.execution import slots
from fairseq_kd.progress import Progress, ProgressLine


def test_it_tells_units_time_left_and_what_is_added(capsys, monkeypatch):
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", "0")
    with ProgressLine("store train", 2000, "sentences", done=500) as line:
        line.start -= 10
        line.add(500, "K=64")
    shown = capsys.readouterr().err
    message = r"store train:  50% \|#+ *\| 1,000/2,000 sentences, 00:\d\d left, K=64\n"
    assert re.fullmatch(message, shown)


def test_a_log_gets_no_line_for_every_unit_but_the_last_one(capsys):
    with ProgressLine("work", 100, "units") as line:
        for _ in range(100):
            line.add(1)
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2
    assert shown[-1].startswith("work: 100%")


def test_each_line_of_a_step_is_recorded_as_it_stands_in_the_log(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_KD_PROGRESS", str(tmp_path / "student.progress"))
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", "0")
    with ProgressLine("üb", 2000, "updates", done=500) as line:
        line.show(500)
        line.start -= 100
        line.add(500, "loss 2.5")
        line.show(2000)
    with ProgressLine("next", 7, "units") as line:
        line.show(7)
    shown = capsys.readouterr().err.splitlines()
    text = (tmp_path / "student.progress").read_text()
    records = [Progress.of_record(line) for line in text.splitlines()]
    assert [each.line() for each in records] == shown
    assert [each.ended for each in records] == [False, False, True, True]
    assert [each.seconds_left for each in records] == [None, pytest.approx(200, 0.01), 0, 0]
    assert json.loads(text.splitlines()[1]) == {
        **{"name": "üb", "done": 1000, "total": 2000, "unit": "updates", "note": "loss 2.5"},
        "seconds_left": records[1].seconds_left,
    }


def test_progress_is_recorded_no_oftener_than_it_is_shown(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_KD_PROGRESS", str(tmp_path / "records"))
    with ProgressLine("work", 100, "units") as line:
        for _ in range(100):
            line.add(1)
    assert len((tmp_path / "records").read_text().splitlines()) == 2


def test_progress_is_not_recorded_through_a_link(monkeypatch, tmp_path):
    (tmp_path / "records").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("FAIRSEQ_KD_PROGRESS", str(tmp_path / "records"))
    with pytest.raises(ValueError, match=r"is a symbolic link\. Replace it by the file itself"):
        ProgressLine("work", 1, "units").show(1)
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_that_is_full_of_other_things_ends_no_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_KD_PROGRESS", str(tmp_path / "no folder" / "records"))
    ProgressLine("work", 1, "units").show(1)
    assert capsys.readouterr().err.startswith("work: 100% |####")


def test_no_work_at_all_shows_nothing(capsys):
    with ProgressLine("work", 0, "units") as line:
        line.show(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", ["abc", "-1", "nan", "inf", "1e9", " 3", "9" * 5000])
def test_a_pause_that_is_none_is_refused_by_its_variable(monkeypatch, given):
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", given)
    message = "FAIRSEQ_KD_LOG_SECONDS must be a number from 0 to 86,400, but is "
    with pytest.raises(ValueError, match=rf"^{message}.{{,60}}\. Correct it, or unset it\.$"):
        ProgressLine("work", 1, "units")


@pytest.mark.parametrize("given", ["abc", "0", "1.5", "1" * 5000])
def test_a_number_of_places_that_is_none_is_refused_by_its_variable(monkeypatch, given):
    monkeypatch.setenv("FAIRSEQ_KD_SLOTS", given)
    message = "FAIRSEQ_KD_SLOTS must be a whole number from 1 to 1,000, but is "
    with pytest.raises(ValueError, match=rf"^{message}.{{,60}}\. Correct it, or unset it\.$"):
        slots()


def test_a_variable_that_is_empty_is_not_set(monkeypatch):
    monkeypatch.setenv("FAIRSEQ_KD_SLOTS", "")
    monkeypatch.setenv("FAIRSEQ_KD_LOG_SECONDS", "")
    assert slots() == 1
    ProgressLine("work", 1, "units")
