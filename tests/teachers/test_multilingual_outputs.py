"""A folder that a multilingual teacher fills is one of its language pairs, never of two."""

import shutil
from pathlib import Path

import pytest

from fairseq_kd import cli


@pytest.fixture(scope="module")
def into_french(multilingual, data, tmp_path_factory):
    """A model of three languages with the dictionaries of all, as published ones have them."""
    folder = tmp_path_factory.mktemp("m2m")
    shutil.copy(multilingual("m2m"), folder / "teacher.pt")
    for language in ("es", "en", "fr"):
        shutil.copy(Path(data) / "dict.es.txt", folder / f"dict.{language}.txt")
    return str(folder / "teacher.pt")


COMMANDS = {
    "store": ["--topk", "8", "--subset", "valid"],
    "translate": ["--subset", "valid", "--engine", "fairseq", "--max-len-b", "5"],
}


@pytest.mark.parametrize("shard", [[], ["--shard", "2/2"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_other_languages_of_the_teacher_are_refused(
    into_french, data, tmp_path, capsys, command, shard
):
    words = [command, "--teacher", into_french, "--data", data, "--out", str(tmp_path / "out")]
    words += [*COMMANDS[command], "--teacher-source-lang", "es", "--teacher-target-lang"]
    first = ["--shard", "1/2"] if shard else []
    assert cli.main([*words, "fr", *first]) == 0
    assert cli.main([*words, "en", *shard]) == 2
    message = {
        "store": "a store that was built for its languages es-fr. Choose another folder, or remove",
        "translate": 'was started with teacher_languages ["es", "fr"], but this command has '
        '["es", "en"]. Choose another --out',
    }
    assert message[command] in capsys.readouterr().err
    assert cli.main([*words, "fr", *shard]) == 0
