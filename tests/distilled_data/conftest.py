"""The command distill-data as a function."""

import shutil

import pytest

from fairseq_kd import cli


@pytest.fixture
def decoded_copy(decoded, tmp_path):
    """A copy of them to damage."""
    return shutil.copytree(decoded, tmp_path / "decoded")


@pytest.fixture
def distill(decoded, data):
    """Runs distill-data in this process, on one worker."""

    def run_command(out, *flags, translations=decoded, folder=data):
        words = ["distill-data", "--translations", translations, "--data", folder, "--out", out]
        return cli.main([str(word) for word in (*words, "--workers", "1", *flags)])

    return run_command
