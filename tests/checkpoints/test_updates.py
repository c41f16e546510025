"""The number of updates behind the weights of a checkpoint."""

from pathlib import Path

import pytest
import torch

from fairseq_kd.checkpoints.updates import inherited_history, updates_behind


def entry(updates):
    """The entry of a training in the history of a checkpoint."""
    names = {"criterion_name": "C", "optimizer_name": "O", "lr_scheduler_state": {"best": None}}
    return {**names, "num_updates": updates}


def write(path, updates, start=None, **options):
    """A checkpoint with the records of its training, after those of its start."""
    before = torch.load(start)["optimizer_history"] if start and Path(start).is_file() else []
    checkpoint = {"finetune_from_model": str(start) if start else None, **options}
    history = [*before, entry(updates)]
    torch.save({"cfg": {"checkpoint": checkpoint}, "optimizer_history": history}, path)
    return path


def test_updates_of_a_whole_line_of_starts_are_counted(tmp_path):
    teacher = write(tmp_path / "teacher.pt", 1500)
    middle = write(tmp_path / "middle.pt", 300, teacher)
    student = write(tmp_path / "student.pt", 500, middle)
    assert [updates_behind(each) for each in (teacher, middle, student)] == [1500, 1800, 2300]


def test_updates_of_inherited_weights_are_known_when_their_file_is_gone(tmp_path):
    start = tmp_path / "start.pt"
    history = inherited_history(start, 1800)
    torch.save({"cfg": {"checkpoint": {}}, "optimizer_history": history}, start)
    student = write(tmp_path / "student.pt", 500, start)
    assert updates_behind(start) == 1800
    start.unlink()
    assert updates_behind(student) == 2300


def test_updates_are_unknown_where_the_start_is_gone_or_another_file(tmp_path):
    start = write(tmp_path / "start.pt", 1500)
    student = write(tmp_path / "student.pt", 500, start)
    write(start, 9000)
    assert updates_behind(student) is None
    start.unlink()
    assert updates_behind(student) is None
    assert updates_behind(write(tmp_path / "next.pt", 10, student)) is None


def test_a_training_that_was_restored_goes_on_counting_unless_its_optimizer_is_reset(tmp_path):
    first = write(tmp_path / "first.pt", 100)
    on = write(tmp_path / "on.pt", 250, restore_file=str(first))
    options = {"restore_file": str(first), "reset_optimizer": True}
    state = {"cfg": {"checkpoint": options}, "optimizer_history": [entry(100), entry(50)]}
    torch.save(state, tmp_path / "reset.pt")
    assert updates_behind(on) == 250
    assert updates_behind(tmp_path / "reset.pt") == 150


RESUMED = {  # what the history of a checkpoint shows that names no start, and the updates behind it
    "as it was begun": ([entry(3), entry(5)], 5),
    "at the same update": ([entry(5), entry(5)], 5),
    "from the start of an inherit": (
        [*inherited_history("start.pt", 1800), entry(3), entry(5)],
        1805,
    ),
    "from one of unknown updates": ([*inherited_history("start.pt", None), entry(3)], None),
    "after a reset": ([entry(6), entry(3), entry(5)], 11),
    "with another criterion": ([{**entry(3), "criterion_name": "D"}, entry(5)], 8),
    "with another optimizer": ([{**entry(3), "optimizer_name": "P"}, entry(5)], 8),
}


@pytest.mark.parametrize("how", RESUMED)
def test_a_training_that_was_resumed_without_its_start_shows_its_updates(tmp_path, how):
    history, updates = RESUMED[how]
    path = tmp_path / "resumed.pt"
    torch.save({"cfg": {"checkpoint": {}}, "optimizer_history": history}, path)
    assert updates_behind(path) == updates


def test_a_checkpoint_that_names_itself_as_its_start_does_not_go_round(tmp_path):
    path = tmp_path / "round.pt"
    torch.save(
        {
            "cfg": {"checkpoint": {"finetune_from_model": str(path)}},
            "optimizer_history": [{"num_updates": 5}],
        },
        path,
    )
    assert updates_behind(path) is None
