"""Refusals of translate, which keep all earlier results."""

import re
import shutil
from importlib.util import find_spec

import pytest
from translations import binarised, content

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")


def test_a_teacher_of_another_dictionary_is_refused(translate, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "other")
    lines = (folder / "dict.en.txt").read_text().splitlines()
    lines[3], lines[4] = lines[4], lines[3]
    (folder / "dict.en.txt").write_text("\n".join(lines) + "\n")
    assert translate(tmp_path / "out", folder=folder) == 2
    shown = capsys.readouterr().err
    assert re.search(r"The target dictionaries of --teacher \S+ and \S+ differ at index 7: ", shown)
    assert "Binarise the data with --tgtdict and the teacher's dict.en.txt." in shown


@pytest.mark.parametrize("line", ["the 3", "the 3\nthe 3 #fairseq:overwrite"])
def test_a_dictionary_with_a_word_twice_is_refused(translate, data, tmp_path, line, capsys):
    folder = shutil.copytree(data, tmp_path / "twice")
    with (folder / "dict.en.txt").open("a", encoding="utf-8") as file:
        file.write(f"the 3\n{line}\n")
    assert translate(tmp_path / "out", folder=folder) == 2
    assert f"{folder}/dict.en.txt " in capsys.readouterr().err


@pytest.mark.parametrize("token", ["t\u2028he", "a\u00a0b", "in\u3000"])
def test_a_token_at_which_text_is_split_is_refused(translate, data, tmp_path, token, capsys):
    folder = shutil.copytree(data, tmp_path / "split")
    with (folder / "dict.en.txt").open("a", encoding="utf-8") as file:
        file.write(f"{token} 3\n")
    assert translate(tmp_path / "out", folder=folder) == 2
    assert capsys.readouterr().err.endswith(
        f"{folder}/dict.en.txt holds the token {token!r}, in which there is white space: "
        "fairseq-preprocess splits text there, so no text has it. Binarise with a dictionary "
        "without it.\n"
    )


def test_a_line_that_lacks_its_pair_is_refused(translate, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "uneven")
    for suffix in ("bin", "idx"):
        shutil.copy(folder / f"valid.es-en.en.{suffix}", folder / f"train.es-en.en.{suffix}")
    assert translate(tmp_path / "out", folder=folder) == 2
    shown = capsys.readouterr().err
    counts = [len(binarised(data, *side)) for side in (("train", "es"), ("valid", "en"))]
    message = (
        f"has {counts[0]} sentences, but en has {counts[1]}: the sides have different numbers of"
    )
    assert f"{message} sentences. Binarise both again, from aligned files." in shown


def test_a_binary_file_that_is_cut_off_is_refused(translate, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "cut")
    path = folder / "train.es-en.es.bin"
    path.write_bytes(path.read_bytes()[:-20])
    assert translate(tmp_path / "out", folder=folder) == 2
    text = capsys.readouterr().err
    assert f"{path} is cut off or damaged: it has " in text
    assert text.endswith("Binarise the data again.\n")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (
            ["--beam", "4"],
            "was started with beam 5, but this command has 4. Choose another --out, or give the "
            "options of the first run.",
        ),
        (["--subset", "valid"], "was started with subset train, but this command has valid."),
        (["--sampling"], "was started with beam 5, but this command has 1."),
    ],
)
def test_another_decoding_in_the_same_folder_is_refused(translate, decoded, flags, text, capsys):
    before = content(decoded)
    assert translate(decoded, "--nbest", "4", *flags) == 2
    assert text in capsys.readouterr().err
    assert content(decoded) == before


def test_another_teacher_in_the_same_folder_is_refused(translate, decoded, teacher, capsys):
    assert translate(decoded, "--nbest", "4", teacher=teacher) == 2
    assert "was started with teacher" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--sampling", "--beam", "5"], "--beam has no effect with --sampling. Leave one"),
        (
            ["--engine", "fairseq", "--compute-type", "int8"],
            "--compute-type int8 needs CTranslate2, but --engine is fairseq. Leave one of t",
        ),
        (["--seed", "5"], "--seed has no effect without --sampling. Add that"),
        (["--temperature", "2"], "--temperature has no effect without --sampling."),
        (
            ["--engine", "fairseq", "--workers", "2"],
            "--workers has no effect when fairseq decodes. Leave it out.",
        ),
        (
            ["--engine", "fairseq", "--compute-type", "float16", "--device", "cpu"],
            "--compute-type must be float32 where fairseq decodes on cpu, but is float16.",
        ),
        (["--compute-type", "float7"], "--compute-type must be one of float32, int"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(translate, tmp_path, flags, text, capsys):
    assert translate(tmp_path / "out", *flags) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_files_are_named_as_they_were_typed(translate, data, tmp_path, capsys):
    assert translate(tmp_path / "out", teacher="no.pt") == 2
    assert "--teacher no.pt does not exist." in capsys.readouterr().err
    assert translate(tmp_path / "out", "--subset", "no") == 2
    assert f"{data} holds no no.es-en.es. Give to --data the folder" in capsys.readouterr().err
