"""Hashes of files: their names, and the damage that they detect."""

import subprocess

import pytest

from fairseq_kd.files.hashes import first_damaged, read_sums, sums_of, write_sums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "one.bin").write_bytes(bytes(range(256)) * 9000)
    (tmp_path / "below" / "two words.txt").write_text("two\n")
    write_sums(tmp_path)
    return tmp_path


def test_coreutils_read_what_is_written(folder):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["below/two words.txt: OK", "one.bin: OK"]
    before = (folder / "SHA256SUMS").read_bytes()
    write_sums(folder)
    assert (folder / "SHA256SUMS").read_bytes() == before  # it does not name itself


def test_the_first_file_that_is_missing_or_another_is_reported(folder):
    sums = read_sums(folder)
    assert first_damaged(folder, sums) is None
    assert {**sums, "SHA256SUMS": sums_of(folder)["SHA256SUMS"]} == sums_of(folder)
    content = bytearray((folder / "one.bin").read_bytes())
    content[-1] ^= 4
    (folder / "one.bin").write_bytes(content)
    assert first_damaged(folder, sums) == folder / "one.bin"
    (folder / "below" / "two words.txt").unlink()
    assert first_damaged(folder, sums) == folder / "below" / "two words.txt"


def test_damaged_sums_are_no_sums_of_atomic_files(folder):
    path = folder / "SHA256SUMS"
    path.write_bytes(path.read_bytes()[:80])
    assert first_damaged(folder, read_sums(folder)) is not None
    path.unlink()
    assert read_sums(folder) is None
