"""Files and folders that are written atomically, next to files of the user."""

import errno
import fcntl
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from disks import files_up_to, left_by_a_kill, small_disk
from harness import ENVIRONMENT

from fairseq_kd.files.atomic_files import (
    MARK,
    UNTIL_MADE,
    atomic_folder,
    atomic_write,
    check_apart,
    check_new_file,
    check_own_folder,
    check_vacant,
    make_folder,
)
from fairseq_kd.files.write_errors import explained


def test_a_file_appears_when_it_is_whole_and_replaces_its_own(tmp_path):
    path = tmp_path / "file"
    for text in ("one", "two"):
        with atomic_write(path) as file:
            file.write(text)
            assert path.exists() == (text == "two")
        assert path.read_text() == text
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_file_replaces_nothing_even_if_that_comes_while_it_is_written(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileExistsError), atomic_write(path, new=True) as file:  # noqa: PT012
        file.write("ours")
        path.write_text("theirs")
    assert path.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["file"]


def test_a_temporary_name_that_is_taken_is_left_alone(tmp_path):
    theirs = tmp_path / f"file.{os.getpid()}.fairseq_kd.partial"
    theirs.write_text("theirs")
    with theirs.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with atomic_write(tmp_path / "file") as file:
            file.write("ours")
    assert theirs.read_text() == "theirs"
    assert (tmp_path / "file").read_text() == "ours"


def test_what_a_kill_left_of_a_file_is_removed_when_it_is_written_again(tmp_path):
    begun = "with atomic_write(Path('file')): os.kill(os.getpid(), 9)"
    head = "import os\nfrom pathlib import Path\n"
    head += "from fairseq_kd.files.atomic_files import atomic_write\n"
    subprocess.run([sys.executable, "-c", head + begun], cwd=tmp_path, env=ENVIRONMENT)
    (left,) = os.listdir(tmp_path)
    theirs = ["file.77.partial", "file.x.fairseq_kd.partial", "file2.7.fairseq_kd.partial"]
    for name in (*theirs, "precious"):
        (tmp_path / name).touch()
    (tmp_path / "file.5.fairseq_kd.partial").symlink_to("precious")
    with atomic_write(tmp_path / "file"):
        assert left not in os.listdir(tmp_path)
    theirs += ["file.5.fairseq_kd.partial", "precious"]
    assert sorted(os.listdir(tmp_path)) == sorted(["file", *theirs])


LINKED = ("made", "decoded", "decoded/journal")


@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_temporary_folder_is_refused_and_not_followed(tmp_path, name):
    partial, precious = tmp_path / "out.partial", tmp_path / "precious"
    (partial / name).parent.mkdir(parents=True)
    precious.mkdir()
    (precious / "file").write_text("precious")
    (partial / MARK).touch()
    (partial / name).symlink_to(precious)
    message = f"{partial / name} is a symbolic link. Replace it by the folder itself, or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        atomic_folder(tmp_path / "out").__enter__()
    assert (precious / "file").read_text() == "precious"
    (partial / name).unlink()
    with atomic_folder(tmp_path / "out"):
        pass


def test_a_folder_of_ours_may_hold_a_file_of_two_names(tmp_path):
    ours, backup = tmp_path / "ours", tmp_path / "backup"
    (ours / "in").mkdir(parents=True)
    (ours / "in" / "file").write_text("both")
    os.link(ours / "in" / "file", backup)
    check_own_folder(ours)
    assert backup.stat().st_nlink == 1
    assert (ours / "in" / "file").read_text() == "both"
    assert (ours / "in" / "file").stat().st_mtime_ns == backup.stat().st_mtime_ns
    check_own_folder(tmp_path / "none")


def test_a_link_in_a_folder_of_ours_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("file")
    message = f"{tmp_path}/in/link is a symbolic link. Replace it by the file itself, or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_own_folder(tmp_path)


@pytest.mark.parametrize("place", [".", "in/pipe"])
def test_a_pipe_in_a_folder_of_ours_is_refused(tmp_path, place):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe")
    message = f"{tmp_path}/in/pipe must be a regular file, but is a pipe or"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        check_own_folder(tmp_path / place)


def test_want_of_memory_is_reported():
    message = explained(MemoryError(), "out", "the teacher is unchanged")
    assert message == (
        "This machine is out of memory, or this process has reached its memory limit; the teacher "
        "is unchanged. Free some memory or use a larger machine, and run the same command again."
    )


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    message = "pipe must be a file to write, but is not a regular file. Give another path."
    with pytest.raises(ValueError, match=message), atomic_write(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("mark", [True, False, "link"])
def test_of_temporary_folders_ours_is_taken_again_and_no_other(tmp_path, mark):
    ours, folder = mark is True, tmp_path / "folder"
    partial = left_by_a_kill(folder / "out.partial", mark)
    with atomic_folder(folder / "out") as work:
        (work / "file").write_text("whole")
        assert os.listdir(folder / "out.partial" / "made") == (["file"] if ours else ["half"])
    assert os.listdir(folder / "out") == ["file"]
    assert partial.exists() != ours
    assert not (folder / "out.2.partial").exists()
    assert mark != "link" or (tmp_path / "precious").read_text() == "precious"


def test_what_somebody_else_puts_beside_what_is_made_stays(tmp_path):
    partial = left_by_a_kill(tmp_path / "out.partial", mark=True)
    (partial / "theirs").write_text("precious")
    with atomic_folder(tmp_path / "out") as work:
        (work / "file").write_text("whole")
        work.with_name(UNTIL_MADE).mkdir()
    assert os.listdir(tmp_path / "out") == ["file"]
    assert os.listdir(partial) == ["theirs"]


@pytest.mark.parametrize(("error", "kept"), [(KeyboardInterrupt, ["of use"]), (KeyError, [])])
def test_what_is_of_use_later_outlives_an_interruption_alone(tmp_path, error, kept):
    with pytest.raises(error), atomic_folder(tmp_path / "out") as work:  # noqa: PT012
        (work / "file").touch()
        until_made = work.with_name(UNTIL_MADE)
        until_made.mkdir()
        (until_made / "of use").touch()
        raise error
    assert [path.name for path in tmp_path.glob("out.partial/until_made/*")] == kept
    with atomic_folder(tmp_path / "out") as work:
        assert os.listdir(work) == []
        assert [path.name for path in work.with_name(UNTIL_MADE).glob("*")] == kept
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_another_process_makes_is_waited_for(tmp_path):
    message = f"{tmp_path}/out is being made by another process. Wait for it, or give another path."
    refused = pytest.raises(ValueError, match=message)
    with atomic_folder(tmp_path / "out"), refused, atomic_folder(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_fails_leaves_nothing_and_an_empty_one_is_filled(tmp_path):
    out = tmp_path / "real"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(KeyError), atomic_folder(tmp_path / "link") as work:  # noqa: PT012
        (work / "file").touch()
        raise KeyError
    assert os.listdir(out) == []
    with atomic_folder(tmp_path / "link") as work:
        (work / "file").touch()
    assert os.listdir(out) == ["file"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


@pytest.fixture
def taken(tmp_path):
    """A folder with a file, one with lock files only, and a link that leads nowhere."""
    for name in ("folder/x", "locks/.lock", "locks/.train.lock", "locks/store.json.12.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "nowhere").symlink_to("none")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "--out {} already exists and holds x. Remove it or choose another."),
        (
            "folder/x",
            "--out {} must be a folder, but is an existing file. Remove it or choose another.",
        ),
        (
            "nowhere",
            "--out {} must be a folder, but is an existing file. Remove it or choose another.",
        ),
    ],
)
def test_an_output_folder_that_exists_is_refused(taken, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(taken / name))}$"):
        check_vacant(taken / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", "--chart {} must be a file to write, but is a folder. Choose another."),
        ("folder/x", "--chart {} already exists. Remove it or choose another."),
        ("nowhere", "--chart {} already exists. Remove it or choose another."),
    ],
)
def test_an_output_file_that_exists_is_refused(taken, name, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(taken / name))}$"):
        check_new_file(taken / name, "--chart")


def test_a_path_that_does_not_exist_is_a_valid_output(tmp_path):
    check_vacant(tmp_path / "new")
    check_new_file(tmp_path / "new")


def test_a_folder_of_lock_files_alone_is_vacant_but_not_replaced(taken):
    check_vacant(taken / "locks")
    message = f"--out {taken}/locks already exists and holds .lock. Remove it or choose another."
    refused = pytest.raises(ValueError, match=f"^{re.escape(message)}$")
    with refused, atomic_folder(taken / "locks"):
        pytest.fail("the work is begun")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("data", "--out {out} and --data {data} are the same. Choose another path."),
        ("link", "--out {out} and --data {data} are the same. Choose another path."),
        ("data/new/out", "--out {out} lies inside --data {data}, which is only read."),
        ("link/out", "--out {out} lies inside --data {data}, which is only read."),
        ("hard", "--out {out} and --teacher {teacher} are the same. Choose another path."),
        ("beside", None),
        (".", None),
    ],
)
def test_an_output_is_a_place_apart_from_the_inputs(tmp_path, out, message):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    (tmp_path / "t.pt").touch()
    os.link(tmp_path / "t.pt", tmp_path / "hard")
    inputs = {"--data": tmp_path / "data", "--teacher": tmp_path / "t.pt", "--codes": None}
    if message is None:
        check_apart(tmp_path / out, inputs)
        return
    message = message.format(out=tmp_path / out, data=tmp_path / "data", teacher=tmp_path / "t.pt")
    with pytest.raises(ValueError, match=message):
        check_apart(tmp_path / out, inputs)


WRITES = {
    "text": lambda file: file.write(b"x" * 99_999),
    "torch": lambda file: torch.save({"x": torch.zeros(30_000)}, file),
    "torch, old format": lambda file: torch.save(
        torch.zeros(30_000), file, _use_new_zipfile_serialization=False
    ),
    "numpy": lambda file: np.save(file, np.zeros(30_000)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_full_disk_is_recognised_whoever_writes(tmp_path, write, in_folder):
    def attempt():
        if not in_folder:
            with atomic_write(tmp_path / "out", "wb") as file:
                write(file)
        else:
            with atomic_folder(tmp_path / "out") as work, (work / "file").open("wb") as file:
                write(file)

    with files_up_to(20_000), pytest.raises(OSError, match="out") as raised:
        attempt()
    assert explained(raised.value, None, "all is kept") == (
        f"The disk of {tmp_path}/out is full; all is kept. Free some space and run the same "
        "command again."
    )
    assert os.listdir(tmp_path) == []


def test_an_error_of_reading_keeps_the_name_of_what_is_read(tmp_path):
    (tmp_path / "input").mkdir()
    with pytest.raises(IsADirectoryError) as raised, atomic_folder(tmp_path / "out"):
        (tmp_path / "input").open()
    assert explained(raised.value, None, "all is kept") == (
        f"{tmp_path}/input must be a file, but is a folder; all is kept. Give another path."
    )


def test_other_errors_are_not_explained():
    for error in (RuntimeError("size mismatch"), OSError("odd"), OSError(errno.EIO, "bad disk")):
        assert explained(error, "out", "all is kept") is None


NOWHERE = {
    "below a file": ("file/out", "{} lies below a file instead of a folder; all is kept."),
    "too long": ("n" * 300, "The name of {} is too long for its disk; all is kept."),
    "to itself": ("loop/out", "{} is a symbolic link that leads to itself; all is kept."),
}


@pytest.mark.parametrize(("name", "message"), NOWHERE.values(), ids=NOWHERE)
@pytest.mark.parametrize("make", [make_folder, atomic_write, atomic_folder])
def test_a_place_where_nothing_can_be_is_explained(tmp_path, name, message, make):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((OSError, ValueError)) as raised, make(tmp_path / name):
        pass
    path = tmp_path / name
    if make is atomic_folder and name == "file/out":
        assert str(raised.value).startswith(f"{path.parent} must be a folder, but is a file.")
        return
    if make is atomic_folder and name == "loop/out":
        message = f"{path.parent} already exists; all is kept. Remove it"
    assert explained(raised.value, None, "all is kept").startswith(message.format(path))


@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
def test_a_disk_that_is_read_only_is_explained(tmp_path, make):
    with small_disk(tmp_path / "disk", "ro") as disk:
        with pytest.raises(OSError, match="Read-only") as raised, make(disk / "out"):
            pass
        assert explained(raised.value, None, "all is kept") == (
            f"The disk of {disk}/out is read-only; all is kept. Give a path on another disk."
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("make", [atomic_write, atomic_folder])
def test_a_folder_without_permission_is_explained(tmp_path, make):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as raised, make(tmp_path / "out"):
        pass
    assert explained(raised.value, None, "all is kept") == (
        f"{tmp_path}/out may not be used by this user; all is kept. Allow it, or give another path."
    )
