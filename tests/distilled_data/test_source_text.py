"""Monolingual text: binarised, translated, and mixed with the bitext."""

import json
import lzma
import re
import shutil
from pathlib import Path

import pytest

from fairseq_kd import cli
from fairseq_kd.decoding.subset import read_subset

PAIR = ("es", "en")
LINES = ["En el principio crió Dios los cielos y la tierra.", "", "\tY dijo Dios: Sea la luz."]


@pytest.fixture
def binarise(data, tmp_path):
    """Binarises lines of text; returns the status."""
    codes = Path(data).parent / "codes"

    def binarise(lines=LINES, *flags, name="mono.es", codes=codes, out="mono"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        words = ["binarise-text", "--data", data, "--text", tmp_path / name, "--workers", "1"]
        words += ["--codes", codes, "--out", tmp_path / out, *flags]
        return cli.main([str(word) for word in words])

    return binarise


def tokens(folder, name="train"):
    subset = read_subset(Path(folder), name, PAIR)
    return [subset.source_dictionary.string(each) for each in subset.source]


def test_the_text_of_a_set_gives_the_sources_of_that_set(binarise, data, tmp_path):
    text = (Path(data).parent / "text" / "train.es").read_text(encoding="utf-8")
    assert binarise(text.splitlines()) == 0
    assert tokens(tmp_path / "mono") == tokens(data)


def test_a_line_is_a_sentence_even_if_it_is_empty(binarise, tmp_path):
    assert binarise() == 0
    first, empty, last = tokens(tmp_path / "mono")
    assert (first != "", empty, last != "") == (True, "", True)


def test_the_other_sets_are_those_of_the_data(binarise, data, tmp_path):
    assert binarise() == 0
    assert tokens(tmp_path / "mono", "valid") == tokens(data, "valid")
    assert read_subset(tmp_path / "mono", "valid", PAIR).target is not None
    assert read_subset(tmp_path / "mono", "train", PAIR).target is None


def test_compressed_text_is_read(binarise, data, tmp_path):
    (tmp_path / "mono.es.xz").write_bytes(lzma.compress("\n".join(LINES).encode()))
    words = ["binarise-text", "--data", data, "--text", str(tmp_path / "mono.es.xz")]
    words += ["--codes", f"{Path(data).parent}/codes", "--out", str(tmp_path / "packed")]
    assert cli.main([*words, "--workers", "1"]) == 0
    assert binarise() == 0
    assert tokens(tmp_path / "packed") == tokens(tmp_path / "mono")


def test_the_same_command_finds_its_folder(binarise, capsys, tmp_path):
    assert binarise() == binarise() == 0
    assert capsys.readouterr().err.endswith(f"{tmp_path}/mono already exists\n")


def test_a_folder_of_other_text_is_refused(binarise, capsys, tmp_path):
    assert binarise() == 0
    assert binarise(LINES[:1]) == 2
    message = f"--out {tmp_path}/mono already exists and was made of other inputs: 'text' differ."
    assert message in capsys.readouterr().err
    assert len(tokens(tmp_path / "mono")) == 3


def test_a_damaged_folder_is_named(binarise, capsys, tmp_path):
    assert binarise() == 0
    path = tmp_path / "mono" / "train.es-en.es.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert binarise() == 2
    message = f"{path} is missing, or was changed after it was written: its hash differs. Remove "
    assert f"{message}{tmp_path}/mono and run this again." in capsys.readouterr().err


def test_text_in_another_script_is_refused(binarise, capsys, tmp_path):
    assert binarise(["לא היה אור"]) == 2
    message = r"--text \S+mono.es: \d+% of its tokens, such as .*, are not in the dictionary of es "
    assert re.search(rf"{message}in .*\. Give the --tokenizer, --bpe", capsys.readouterr().err)
    assert not (tmp_path / "mono").exists()


def test_text_in_the_target_language_is_refused(binarise, data, capsys, tmp_path):
    text = (Path(data).parent / "text" / "train.en").read_text(encoding="utf-8")
    assert binarise(text.splitlines()[:30]) == 2
    message = r"--text \S+mono.es must be in the source language, es, but its tokens are more prob"
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "mono").exists()


def test_text_of_empty_lines_is_refused(binarise, capsys, tmp_path):
    assert binarise(["", " "]) == 2
    assert f"{tmp_path}/mono.es has only empty lines. Give another" in capsys.readouterr().err


def changed(folder):
    path = next(folder.glob("valid.*.es.bin"))
    path.write_bytes(path.read_bytes()[:-2] + b"\4\0")


def renamed(folder):
    for path in folder.glob("valid.*"):
        path.rename(folder / path.name.replace("valid", "dev"))


@pytest.mark.parametrize("change", [changed, renamed])
def test_another_valid_set_makes_another_folder(binarise, data, capsys, tmp_path, change):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    words = ["--data", str(copied)]
    assert binarise(LINES, *words) == 0
    change(copied)
    assert binarise(LINES, *words) == 2
    message = "mono already exists and was made of other inputs: 'other_splits' differ."
    assert message in capsys.readouterr().err


def test_an_empty_text_is_refused(binarise, capsys, tmp_path):
    assert binarise([]) == 2
    assert f"{tmp_path}/mono.es is empty." in capsys.readouterr().err
    assert not (tmp_path / "mono").exists()


@pytest.fixture
def translated(binarise, ending_teacher, tmp_path, cache):
    """Monolingual text, and its translations."""
    assert binarise([*LINES, *LINES]) == 0
    words = ["translate", "--teacher", ending_teacher, "--data", str(tmp_path / "mono")]
    words += ["--beam", "1", "--engine", "fairseq", "--cache", str(cache)]
    assert cli.main([*words, "--out", str(tmp_path / "translations")]) == 0
    return tmp_path


def distilled(folder, *flags):
    words = ["distill-data", "--translations", f"{folder}/translations", "--data", f"{folder}/mono"]
    words += ["--max-repeated", "inf", "--max-copied", "inf", "--max-length-ratio", "inf"]
    return cli.main([*words, "--out", f"{folder}/out", *flags])


def test_translations_of_the_text_are_mixed_with_the_bitext(translated, data):
    assert distilled(translated, "--mix", "gold", "--gold-data", data) == 0
    gold, mixed = tokens(data), tokens(translated / "out")
    kept = json.loads((translated / "out" / "manifest.json").read_text())["counts"]["kept"]
    assert 0 < kept <= 4  # of six lines two are empty
    assert mixed[: len(gold)] == gold
    assert set(mixed[len(gold) :]) <= set(tokens(translated / "mono"))
    assert len(mixed) == len(gold) + kept
    assert tokens(translated / "out", "valid") == tokens(data, "valid")


def test_a_damaged_folder_is_not_read(translated, capsys):
    path = translated / "mono" / "train.es-en.es.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"\4\0")
    assert distilled(translated) == 2
    message = f"{path} is missing, or was changed after it was written: its hash differs. Remove "
    assert message in capsys.readouterr().err


def test_gold_data_with_other_dictionaries_are_refused(translated, data, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for path in Path(data).iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    with (other / "dict.en.txt").open("a") as file:
        file.write("more 1\n")
    assert distilled(translated, "--mix", "gold", "--gold-data", str(other)) == 2
    message = f"{other}/dict.en.txt is not the dictionary of --data, {translated}/mono/dict.en.txt."
    assert message in capsys.readouterr().err
    assert not (translated / "out").exists()


def test_monolingual_text_is_not_mixed_with_itself(translated, capsys):
    assert distilled(translated, "--mix", "gold") == 2
    message = (
        f"--mix gold needs pairs with references, and {translated}/mono has monolingual text. Give "
        "--gold-data, the data folder of the bitext.\n"
    )
    assert capsys.readouterr().err.endswith(message)


def test_gold_data_without_mixing_have_no_effect(translated, data, capsys):
    assert distilled(translated, "--gold-data", data) == 2
    message = "--gold-data has no effect without --mix gold or extra. Add that, or leave it out.\n"
    assert capsys.readouterr().err.endswith(message)
