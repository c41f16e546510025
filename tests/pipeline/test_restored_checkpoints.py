"""Restart of a stage if checkpoints are missing, cut off or damaged."""

import re

import pytest
from workflows import checkpoint

from fairseq_kd.pipeline import stage


def test_a_half_copied_last_checkpoint_is_replaced_by_its_source(tmp_path, capsys):
    last = checkpoint(tmp_path / "run" / "checkpoint_last.pt", 20)
    checkpoint(tmp_path / "run" / "checkpoint_1_10.pt", 10)
    checkpoint(tmp_path / "run" / "checkpoint_2_20.pt", 20)
    half = last.read_bytes()[:3000]
    last.write_bytes(half)
    stage.restore_last_checkpoint(last.parent)
    assert last.read_bytes() == (last.parent / "checkpoint_2_20.pt").read_bytes()
    assert (last.parent / "checkpoint_last.pt.damaged").read_bytes() == half
    assert capsys.readouterr().err == (
        f"{last} is now checkpoint_last.pt.damaged\n{last} was cut off while it was written; "
        "resuming from checkpoint_2_20.pt\n"
    )
    last.unlink()  # a kill between the two
    stage.restore_last_checkpoint(last.parent)
    assert last.read_bytes() == (last.parent / "checkpoint_2_20.pt").read_bytes()


@pytest.mark.parametrize("source", ["checkpoint2.pt", "checkpoint_best.pt"])
def test_it_is_restored_from_whatever_it_was_copied_from(tmp_path, source):
    last = checkpoint(tmp_path / "run" / "checkpoint_last.pt", 20)
    checkpoint(tmp_path / "run" / "checkpoint1.pt", 10)
    checkpoint(tmp_path / "run" / source, 20)
    checkpoint(tmp_path / "run" / "checkpoint_avg.pt", 30)  # the user's own
    last.write_bytes(last.read_bytes()[:3000])
    stage.restore_last_checkpoint(last.parent)
    assert last.read_bytes() == (last.parent / source).read_bytes()


@pytest.mark.parametrize("old_format", [False, True])
def test_a_half_written_checkpoint_without_a_source_is_put_aside(tmp_path, old_format, capsys):
    last = checkpoint(tmp_path / "run" / "checkpoint_last.pt", 20, old_format)
    whole = last.read_bytes()
    for number, size in enumerate((3000, 0), 1):
        last.write_bytes(whole[:size])
        stage.restore_last_checkpoint(last.parent)
        assert not last.exists()
        assert "starting from the first update" in capsys.readouterr().err
        aside = f"checkpoint_last.pt.damaged{'' if number == 1 else f'.{number}'}"
        assert (last.parent / aside).read_bytes() == whole[:size]


@pytest.mark.parametrize("old_format", [False, True])
def test_a_whole_last_checkpoint_is_left_alone(tmp_path, old_format):
    last = checkpoint(tmp_path / "run" / "checkpoint_last.pt", 10, old_format)
    checkpoint(tmp_path / "run" / "checkpoint_2_20.pt", 20)
    before = last.read_bytes()
    stage.restore_last_checkpoint(last.parent)
    assert last.read_bytes() == before
    assert len(list(last.parent.iterdir())) == 2


@pytest.mark.parametrize("last", ["missing", "zeros", "flipped"])
def test_a_training_goes_on_from_the_newest_whole_checkpoint(tmp_path, last, capsys):
    path = checkpoint(tmp_path / "checkpoint_last.pt", 30)
    newest = checkpoint(tmp_path / "checkpoint_2_20.pt", 20)
    checkpoint(tmp_path / "checkpoint_best.pt", 10)
    (tmp_path / "checkpoint_3_30.pt").write_bytes(bytes(len(path.read_bytes())))
    content = bytearray(path.read_bytes())
    if last == "missing":
        path.unlink()
    else:
        content[content.index(b"num_updates")] ^= 1
        path.write_bytes(bytes(len(content)) if last == "zeros" else content)
    stage.restore_last_checkpoint(tmp_path)
    assert path.read_bytes() == newest.read_bytes()
    fault = "is missing" if last == "missing" else "cannot be read"
    assert f"{path} {fault}; resuming from checkpoint_2_20.pt\n" in capsys.readouterr().err
    assert (tmp_path / "checkpoint_last.pt.damaged").exists() == (last != "missing")


@pytest.mark.parametrize("best", ["cut off", "missing"])
def test_a_kill_while_the_first_checkpoint_is_copied_loses_none(tmp_path, best, capsys):
    first = checkpoint(tmp_path / "checkpoint_1_10.pt", 10, val_loss=4.2, best=4.2)
    if best == "cut off":
        (tmp_path / "checkpoint_best.pt").write_bytes(first.read_bytes()[:3000])
    stage.restore_last_checkpoint(tmp_path)
    stage.restore_best_checkpoint(tmp_path)
    for name in ("last", "best"):
        assert (tmp_path / f"checkpoint_{name}.pt").read_bytes() == first.read_bytes()
    assert "checkpoint_best.pt" in capsys.readouterr().err


def test_a_best_checkpoint_without_a_copy_is_put_aside(tmp_path, capsys):
    checkpoint(tmp_path / "checkpoint_last.pt", 20, val_loss=4.5, best=4.2)
    checkpoint(tmp_path / "checkpoint_1_20.pt", 20, val_loss=4.5, best=4.2)
    best = tmp_path / "checkpoint_best.pt"
    best.write_bytes(b"PK\3\4")
    stage.restore_best_checkpoint(tmp_path)
    assert not best.exists()
    assert "and no other checkpoint is a copy of it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checkpoint_last.pt", "checkpoint_best.pt"])
def test_checkpoints_of_which_none_can_be_read_are_neither_replaced_nor_moved(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"the only copy of something else")
    fault = "cannot be read" if "last" in name else "is missing"
    message = (
        f"{tmp_path}/checkpoint_last.pt {fault}, and {tmp_path} holds no other checkpoint that can "
        "be read. Copy one there from elsewhere, or move all of them away to start again."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        stage.restore_last_checkpoint(tmp_path)
    assert path.read_bytes() == b"the only copy of something else"
