"""Systems as users have them, evaluated once."""

import json

import pytest

from fairseq_kd import cli


@pytest.fixture(scope="session")
def evaluate_words(ending_teacher, teacher, data, cache):
    """The words of an evaluate command: a student that was hardly trained, and is its control."""

    def words(out, *flags):
        command = ["evaluate", "--teacher", ending_teacher, "--student", f"small={teacher}"]
        command += ["--control", f"left alone={teacher}", "--data", data, "--subset", "test"]
        command += ["--out", out, "--cache", cache, "--threads", "1", "--beam", "2"]
        command += ["--latency-sentences", "3", "--batch-sentences", "8", "--rounds", "1"]
        return [str(word) for word in (*command, *flags)]

    return words


@pytest.fixture(scope="session")
def evaluated(evaluate_words, tmp_path_factory):
    """The folder of one evaluation."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    assert cli.main(evaluate_words(out)) == 0
    return out


@pytest.fixture(scope="session")
def measured(evaluated):
    """Its figures."""
    return json.loads((evaluated / "evaluation.json").read_text(encoding="utf-8"))
