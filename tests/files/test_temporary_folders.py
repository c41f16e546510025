"""Temporary folders, and the removal of those that killed processes left."""

import os
import signal
from contextlib import suppress

from fairseq_kd.files.temporary_folders import BEGIN, temporary_folder


def test_it_is_removed_after_the_block_and_may_be_moved_elsewhere(tmp_path):
    with temporary_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(BEGIN)
    with suppress(KeyboardInterrupt), temporary_folder(tmp_path) as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with temporary_folder(tmp_path) as folder:
        (folder / "whole").touch()
        folder.rename(tmp_path / "made")
    assert os.listdir(tmp_path / "made") == ["whole"]


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    ours = [tmp_path / f"{BEGIN}{end}" for end in ("20261129", "old_1234")]
    names = ("fairseq_kd-20261129", f"{BEGIN}x", f"{BEGIN}20261129.b")
    others = [tmp_path / name for name in names]
    for each in (*ours, *others):
        each.mkdir()
        (each / "file").touch()
    link = tmp_path / f"{BEGIN}linked__"
    link.symlink_to(others[0])
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with temporary_folder(tmp_path) as folder:
            os.write(writer, folder.name.encode())
            signal.pause()
    killed = tmp_path / os.read(reader, 100).decode()
    with temporary_folder(tmp_path) as folder:
        assert set(tmp_path.iterdir()) == {folder, killed, link, *others}  # it still works
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with temporary_folder(tmp_path) as folder:
        assert set(tmp_path.iterdir()) == {folder, link, *others}
    assert all((each / "file").exists() for each in others)
