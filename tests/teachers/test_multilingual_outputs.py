"""A folder that a multilingual teacher fills is one of its language pairs, never of two."""

import shutil
from pathlib import Path

import pytest

from fairseq_kd import cli
from fairseq_kd.pipeline.preparation import prepare_run


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


def prepared(tmp_path, text):
    """Prepares a run of a tiny student, without running it."""
    path = tmp_path / "run.yaml"
    path.write_text(f"{text}\ntrain: {{max-update: 4, max-tokens: 1000}}\n", encoding="utf-8")
    return prepare_run(path, ())


def test_teachers_that_cannot_translate_together_are_refused_before_any_step(
    multilingual, teacher, data, tmp_path
):
    stages = "[{ratio: 0.562, criterion: multi_teacher_kd, data: mixed}]"
    message = (
        r"run\.yaml: the teachers read different language tokens, so that they cannot translate "
        r"together, as data: distilled and mixed need\. Give teachers of one kind, or data: gold\."
    )
    with pytest.raises(ValueError, match=message):
        prepared(
            tmp_path, f"data: {data}\nteacher: [{multilingual('m2m')}, {teacher}]\nladder: {stages}"
        )


def test_layers_of_a_model_of_several_pairs_need_their_names_before_any_step(
    multilingual, data, tmp_path
):
    path = multilingual("m2m")
    run = f"data: {data}\nteacher: {path}\nladder: [{{ratio: 0.562, start: inherit}}]"
    message = (
        rf"run\.yaml: the teacher {path} translates several language pairs, such as es-en, en-es\. "
        r"Give teacher-languages: {source: NAME, target: NAME}\."
    )
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, run)
    assert prepared(tmp_path, f"{run}\nteacher-languages: {{source: es, target: en}}").steps
