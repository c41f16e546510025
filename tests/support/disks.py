"""Disks that are small or read-only, where one may mount them, and a limit of size elsewhere."""

import resource
from contextlib import contextmanager

import pytest
from harness import run

from fairseq_kd.files.atomic_files import MARK


def left_by_a_kill(folder, mark):
    """A temporary folder as a killed command leaves it, with our mark in it or without.

    The mark "link" leads to a file outside.
    """
    (folder / "made").mkdir(parents=True)
    (folder / "made" / "half").write_text("half")
    if mark == "link":
        precious = folder.parent.parent / "precious"
        precious.write_text("precious")
        (folder / MARK).symlink_to(precious)
    elif mark:
        (folder / MARK).touch()
    return folder


@contextmanager
def small_disk(folder, options):
    """A file system in memory, mounted at a folder, with options such as ``size=40k`` or ``ro``."""
    folder.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder, check=False)
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        run("umount", "--lazy", folder)


def make_read_only(disk):
    """Changes a ``small_disk`` so that nothing on it can be changed any more."""
    run("mount", "-o", "remount,ro", disk)


@contextmanager
def files_up_to(size_bytes):
    """No file of this process grows beyond a size, as if the disk were full."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
