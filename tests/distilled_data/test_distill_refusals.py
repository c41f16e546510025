"""Refusals of distill-data: one sentence, before anything is written."""

import os
import shutil

import numpy as np
import pytest
import torch
from fairseq.data.indexed_dataset import make_builder

from fairseq_kd.files.locks import lock_beside, locked


def refused(distill, tmp_path, capsys, text, *flags, **other):
    assert distill(tmp_path / "refused", *flags, **other) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_a_raw_text_that_is_no_text_is_named_with_its_line(distill, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    (folder / "train.es-en.es").write_bytes(b"a\nb\xe9\n")
    text = f'{folder}/train.es-en.es, line 2, is not UTF-8: after "b" comes the byte 0xe9. '
    refused(distill, tmp_path, capsys, text, folder=folder)


def test_a_changed_dictionary_is_refused(distill, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    with (folder / "dict.en.txt").open("a") as file:
        file.write("another 1\n")
    text = f"The target dictionary of train in {folder} is not the one that "
    refused(distill, tmp_path, capsys, text, folder=folder)


def test_another_source_is_refused(distill, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    for language in ("es", "en"):
        for suffix in ("bin", "idx"):
            name = f"{{}}.es-en.{language}.{suffix}"
            shutil.copy(folder / name.format("valid"), folder / name.format("train"))
    text = f"The source of train in {folder} is not the one that "
    refused(distill, tmp_path, capsys, text, folder=folder)


def test_a_folder_that_another_process_makes_is_refused(distill, tmp_path, capsys):
    with locked(lock_beside(tmp_path / "refused"), "it"):
        assert distill(tmp_path / "refused") == 2
    text = capsys.readouterr().err
    assert text.startswith(f"fairseq-kd distill-data: --out {tmp_path}/refused is in use")
    assert f" by process {os.getpid()} on " in text
    assert list(tmp_path.iterdir()) == []


def continue_training_set(folder):
    for path in list(folder.glob("train.es-en.*")):
        shutil.copy(path, folder / path.name.replace("train.", "train1."))


@pytest.mark.parametrize("mix", ["gold", "extra"])
def test_gold_that_goes_on_in_another_split_is_refused(distill, data, tmp_path, mix, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    continue_training_set(folder)
    text = (
        f"{folder} has train1 beside train, which fairseq-train reads as one set, but --mix {mix} "
        "takes train alone. Binarise both as one subset of another name, and give that to"
    )
    refused(distill, tmp_path, capsys, text, "--mix", mix, folder=folder)
    assert distill(tmp_path / "other", "--mix", mix, "--gold-subset", "valid", folder=folder) == 0
    assert distill(tmp_path / "alone", folder=folder) == 0


def test_a_missing_line_is_refused(distill, decoded_copy, tmp_path, capsys):
    path = decoded_copy / "hypotheses.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join(lines[:8] + lines[12:]), encoding="utf-8")
    text = f"{path} was changed after it was written: its hash differs."
    refused(distill, tmp_path, capsys, text, translations=decoded_copy)


def test_a_cut_off_decoding_is_refused(distill, decoded_copy, tmp_path, capsys):
    path = decoded_copy / "hypotheses.txt"
    path.write_bytes(path.read_bytes()[:-90])
    refused(distill, tmp_path, capsys, f"{path} is cut off", translations=decoded_copy)
    path.unlink()
    text = f"{path} is missing. Finish fairseq-kd translate, all its shards."
    refused(distill, tmp_path, capsys, text, translations=decoded_copy)


def test_a_folder_without_a_decoding_is_refused(distill, tmp_path, capsys):
    folder = tmp_path / "empty"
    folder.mkdir()
    text = f"{folder} holds no decoding.json. Give the folder that fairseq-kd translate --out"
    refused(distill, tmp_path, capsys, text, translations=folder)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--copies", "2"], "--copies has no effect without --select nbest."),
        (["--metric", "chrf"], "--metric has no effect without --select interpolation or mbr, or"),
        (["--upsample-gold", "2"], "--upsample-gold has no effect without --mix gold."),
        (["--mix", "extra", "--tag-gold", "x"], "--tag-gold has no effect without --mix gold."),
        (["--gold-subset", "valid"], "--gold-subset has no effect without --mix gold or extra."),
        (["--mix", "gold", "--tag-gold", "<gold>"], "--tag-gold <gold> is not in "),
        (["--mix", "gold", "--tag-gold", "<pad>"], "--tag-gold <pad> is a special symbol of fai"),
        (["--mix", "gold", "--tag-distilled", "<s>"], "--tag-distilled <s> is a special symbol"),
        (["--min-words", "1000"], "The filters left no pair. Loosen the thresholds."),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(distill, tmp_path, flags, text, capsys):
    refused(distill, tmp_path, capsys, text, *flags)


@pytest.mark.parametrize("select", ["nbest", "interpolation", "mbr"])
def test_a_choice_among_one_is_refused(distill, translate, tmp_path, select, capsys):
    single = tmp_path / "single"
    assert translate(single, "--subset", "valid") == 0
    text = f"--select {select} has no effect: {single} holds one hypothesis per sentence."
    refused(distill, tmp_path, capsys, text, "--select", select, translations=single)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--tag-distilled", ","], "--tag-distilled , also occurs in this sentence: "),
        (["--tag-gold", ","], "--tag-gold , also occurs in this sentence: "),
        (
            ["--tag-gold", "madeupword0000", "--tag-distilled", "madeupword0000"],
            "--tag-distilled and --tag-gold must differ",
        ),
    ],
)
def test_a_tag_that_tells_nothing_apart_is_refused(distill, tmp_path, flags, text, capsys):
    refused(distill, tmp_path, capsys, text, "--mix", "gold", *flags)


def no_index(folder, secret):
    """A link beside which there is no index."""
    (folder / "other.es-en.es.bin").symlink_to(secret)
    return "other.es-en.es.bin"


def in_place_of_data(folder, secret):
    (folder / "valid.es-en.es.bin").unlink()
    (folder / "valid.es-en.es.bin").symlink_to(secret)
    return "valid.es-en.es.bin"


def with_an_index_of_its_own(folder, secret):
    """The bytes of the secret as tokens."""
    builder = make_builder(f"{folder}/other.es-en.es.bin", "mmap", 100)
    builder._dtype = np.uint8
    builder.add_item(torch.frombuffer(bytearray(secret.read_bytes()), dtype=torch.uint8))
    builder.finalize(f"{folder}/other.es-en.es.idx")
    (folder / "other.es-en.es.bin").unlink()
    (folder / "other.es-en.es.bin").symlink_to(secret)
    return "other.es-en.es.bin"


def as_raw_text(folder, secret):
    (folder / "other.es-en.es").symlink_to(secret)
    return "other.es-en.es"


LINKS = (no_index, in_place_of_data, with_an_index_of_its_own, as_raw_text)


@pytest.mark.parametrize("link", LINKS)
def test_links_to_anything_else_are_refused(distill, data, tmp_path, capsys, link):
    folder, secret = shutil.copytree(data, tmp_path / "data"), tmp_path / "secret"
    secret.write_bytes(bytes([5, 6, 7]) * 4)
    name = link(folder, secret)
    assert distill(tmp_path / "out", folder=folder) == 2
    text = capsys.readouterr().err
    assert f"{folder}/{name} is a link, but not to binarised text that ends as fairseq" in text
    assert not (tmp_path / "out").exists()
