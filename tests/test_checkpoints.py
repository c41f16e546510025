"""Checkpoints as files."""

import torch

from fairseq_kd.checkpoints import read_checkpoint, updates_done


def test_a_file_of_torchs_old_format_is_read_too(teacher, tmp_path):
    old = tmp_path / "old.pt"
    state = read_checkpoint(teacher)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    assert updates_done(old) == updates_done(teacher) > 0
    model = read_checkpoint(old)["model"]
    assert all(torch.equal(model[name], weight) for name, weight in state["model"].items())
