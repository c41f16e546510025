"""A damaged store is detected when it is read, and repaired by the command that built it."""

import json
import logging
import os
import re
import shutil

import numpy as np
import pytest
import torch
from harness import Setup
from stores import rewrite

from fairseq_kd import cli
from fairseq_kd.losses import TopK
from fairseq_kd.teachers import store_building
from fairseq_kd.teachers.store import (
    SENTENCE,
    UNCHECKED,
    TeacherStore,
    open_part,
    write_array,
)
from fairseq_kd.teachers.store_merging import merge_subset
from fairseq_kd.teachers.store_records import largest_id, pack

FALLING = ["--kd-temperature-schedule", "linear"]
AGAIN = "Run the fairseq-kd store command that built it again: it rebuilds damaged parts."


@pytest.fixture
def copied(store, tmp_path):
    """A copy of a store to damage."""
    return shutil.copytree(store, tmp_path / "store")


@pytest.fixture
def former(build, tmp_path, monkeypatch):
    """A store of format 1, as it was built before there were checksums."""
    with monkeypatch.context() as patched:
        patched.setattr(store_building, "FORMAT", 1)
        out = build(tmp_path / "former", subsets=["valid"])
    for path in (out / "valid").glob("*sentences.npy"):
        table = np.load(path)
        write_array(path, np.array(table[["length", "checksum"]].tolist(), UNCHECKED))
    rewrite(out / "store.json", dictionaries=None)
    rewrite(out / "valid" / "subset.json", table=None)
    return out


def flip(path, place=-1, bit=1):
    """Changes a bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def contents(store):
    return {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def train_on(data, store, *flags):
    flags = ["--criterion", "word_kd", "--train-subset", "valid", "--kd-store", store, *flags]
    return Setup(data, *flags)


def test_a_flipped_bit_of_a_part_is_noticed_when_its_sentence_is_read_and_built_anew(
    copied, build, data
):
    before = contents(copied)
    path = copied / "valid" / "00002.npy"  # the last record of sentence 14
    flip(path)
    setup = train_on(data, copied)
    setup.criterion(setup.model, setup.batch(0, 13, 15))
    fault = "in sentence 14, the records were changed, or belong to another teacher"
    text = f"{path} is damaged: {fault}. {AGAIN}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        setup.criterion(setup.model, setup.batch(0, 14, 15))
    with pytest.raises(ValueError, match=r"lacks 1 of its 5 parts, .* damaged \(numbers 2; part"):
        merge_subset(copied, "valid")
    others = {each: each.stat().st_mtime_ns for each in (copied / "valid").glob("0000[0134].npy")}
    build(copied, subsets=["valid"])
    assert contents(copied) == before
    assert {each: each.stat().st_mtime_ns for each in others} == others


@pytest.mark.parametrize("name", ["sentences.npy", "00002.sentences.npy"])
def test_a_damaged_table_of_sentences_is_mended_by_the_same_command(copied, build, name):
    before = contents(copied)
    path = copied / "valid" / name
    flip(path, place=-5)  # a checksum of words
    if name == "sentences.npy":
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is damaged. {AGAIN}')}$"):
            TeacherStore(copied).subset("valid")
    flip(path, place=-12)  # a length
    build(copied, subsets=["valid"])
    assert contents(copied) == before


def test_parts_of_other_sentences_are_built_anew(copied, build):
    before = contents(copied)
    folder = copied / "valid"
    flip(folder / "00002.sentences.npy", place=-5)  # a checksum of words
    for name in ("npy", "sentences.npy"):
        one, two = (folder / f"0000{part}.{name}" for part in (0, 1))
        swapped = one.read_bytes(), two.read_bytes()
        two.write_bytes(swapped[0])
        one.write_bytes(swapped[1])
    whole = {each: each.stat().st_mtime_ns for each in folder.glob("0000[34].npy")}
    build(copied, subsets=["valid"])
    assert contents(copied) == before
    assert {each: each.stat().st_mtime_ns for each in whole} == whole


@pytest.fixture
def of_another(copied):
    """A store with the parts of another teacher's."""
    identity = json.loads((copied / "store.json").read_text())
    rewrite(copied / "store.json", fingerprint=identity["fingerprint"][::-1])
    return copied


def test_parts_of_another_teachers_store_are_noticed_when_they_are_read(of_another):
    with pytest.raises(
        ValueError, match=r"in sentence 0, the records were changed, or belong to another teacher"
    ):
        TeacherStore(of_another).subset("valid").records(0)


def test_parts_of_another_teachers_store_are_not_merged(of_another):
    with pytest.raises(ValueError, match=r"lacks 5 of its 5 parts, or they are damaged"):
        merge_subset(of_another, "valid")


INDEX_AGAIN = (
    "Remove that file and run the fairseq-kd store command that built it again: it keeps complete "
    "parts."
)


READERS = {
    "merging": lambda copied, build, data: merge_subset(copied, "valid"),
    "building": lambda copied, build, data: build(copied, subsets=["valid"]),
    "training": lambda copied, build, data: train_on(data, copied),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("name", "digit", "other", "repair"),
    [
        ("valid/subset.json", '"sentences": 2', '"sentences": 1', INDEX_AGAIN),
        ("store.json", '"topk": 8', '"topk": 9', "Copy it from another --out of the same fairseq"),
    ],
)
def test_a_changed_digit_in_the_description_of_a_store_is_detected(
    copied, build, data, name, digit, other, repair, read
):
    path = copied / name
    text = path.read_text()
    assert digit in text
    path.write_text(text.replace(digit, other))
    message = f"{path} is damaged: its values do not match its checksum. {repair}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        read(copied, build, data)


def test_a_removed_index_is_written_again_and_complete_parts_are_kept(copied, build):
    before = contents(copied)
    (copied / "valid" / "subset.json").unlink()  # as the sentence of a damaged one advises
    times = {each: each.stat().st_mtime_ns for each in (copied / "valid").glob("0*.npy")}
    build(copied, subsets=["valid"])
    assert contents(copied) == before
    assert {each: each.stat().st_mtime_ns for each in times} == times


@pytest.mark.parametrize(
    ("sentences", "there"),
    [
        ("5", "its parts have at least 21"),
        ("20", "its parts have at least 21"),
        ("21", "its parts have {whole}"),
        ("0", "its parts have at least 21"),
        ("-5", "its parts have at least 21"),
        ("100000000000", ""),
    ],
)
def test_no_number_of_sentences_shortens_a_subset_that_has_no_seal(copied, sentences, there):
    whole = len(TeacherStore(copied).subset("valid"))
    rewrite(copied / "valid" / "subset.json", sentences=int(sentences))
    before = contents(copied)
    number = f"{int(sentences):,}"
    text = f"{copied}/valid/subset.json is damaged: it lists {number} sentences, but "
    text += f"{there.format(whole=whole)}. {INDEX_AGAIN}"
    if not there:
        text = f"{copied}/valid lacks 19,999,999,995 of its 20,000,000,000 parts, or they are "
        text += "damaged (numbers 5, 6, 7, 8, 9, 10, 11, 12, ...; part P"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        merge_subset(copied, "valid")
    assert contents(copied) == before


def test_a_whole_table_is_not_replaced_by_one_of_other_sentences(copied):
    flip(copied / "valid" / "00002.sentences.npy", place=-5)  # a checksum of words
    before = contents(copied)
    text = f"{copied}/valid/00002.sentences.npy is damaged. {AGAIN}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        merge_subset(copied, "valid")
    rewrite(copied / "valid" / "subset.json", table=None)  # parts of which none was merged
    merge_subset(copied, "valid")
    assert contents(copied) != before


@pytest.mark.parametrize("name", ["00002.npy", "00002.sentences.npy", "sentences.npy"])
@pytest.mark.parametrize(
    "shape",
    [
        "(99999999999,)",
        "(9999999999999999999,)",
        "(-1,)",
        "(True,)",
        "({},)",
        f"({'-' * 90}1,)",
        "no array",
    ],
)
def test_an_array_that_claims_more_than_its_file_has_is_damaged(copied, name, shape):
    path = copied / "valid" / name
    header = re.compile(rb"\(\d+,\), \}( +)\n")
    content = path.read_bytes()
    blank = len(header.search(content)[0]) - 4
    forged = header.sub(f"{shape}, }}".encode().ljust(blank + 3) + b"\n", content, count=1)
    path.write_bytes(b"PK\x03\x04" if shape == "no array" else forged)
    if name == "sentences.npy":
        rewrite(copied / "valid" / "subset.json", table=None)
        with pytest.raises(ValueError, match=f"^{path} is missing or cut off. {AGAIN}$"):
            TeacherStore(copied).subset("valid")
    else:
        with pytest.raises(ValueError, match=r"lacks 1 of its 5 parts, .* damaged \(numbers 2; "):
            merge_subset(copied, "valid")


@pytest.mark.parametrize("value", [[], "dict.en.txt", {"dict.en.txt": 5}])
def test_dictionaries_of_another_form_are_named(copied, build, value):
    rewrite(copied / "store.json", dictionaries=value)
    with pytest.raises(
        ValueError, match=rf"^{copied}/store\.json is damaged: 'dictionaries.* must"
    ):
        build(copied, subsets=["valid"])


@pytest.mark.parametrize("writer", ["merging", "building"])
def test_a_subset_that_is_a_link_is_not_written_through(copied, build, tmp_path, writer):
    (copied / "valid").rename(tmp_path / "theirs")
    (copied / "valid").symlink_to(tmp_path / "theirs")
    (tmp_path / "theirs" / "00002.npy").write_text("precious")
    before = contents(tmp_path / "theirs")
    text = f"{copied}/valid is a symbolic link. Replace it by the folder itself, or remove it."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        READERS[writer](copied, build, None)
    assert contents(tmp_path / "theirs") == before


def test_what_was_read_undamaged_is_not_checked_again(copied, monkeypatch):
    subset = TeacherStore(copied).subset("valid")
    first = subset.records(3).tobytes()
    monkeypatch.setattr("fairseq_kd.teachers.store.records_fault", lambda *rest: "was checked")
    assert subset.records(3).tobytes() == first
    with pytest.raises(ValueError, match="in sentence 4, was checked"):
        subset.records(4)


def test_a_damaged_header_of_an_array_is_named(copied):
    path = copied / "valid" / "sentences.npy"
    path.write_bytes(path.read_bytes().replace(b"}", b"=", 1))
    (copied / "valid" / "subset.json").write_text('{"data": "", "sentences": 0}')
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is missing or cut off. {AGAIN}')}"):
        TeacherStore(copied).subset("valid")


@pytest.mark.parametrize("side", ["es", "en"])
def test_a_damaged_dictionary_is_named_and_written_anew(copied, build, data, side):
    before = contents(copied)
    path = copied / f"dict.{side}.txt"
    flip(path, place=0)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is missing or damaged. {AGAIN}')}"):
        train_on(data, copied)
    path.unlink()
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is missing or damaged. {AGAIN}')}"):
        train_on(data, copied)
    build(copied, subsets=["valid"])
    assert contents(copied) == before
    train_on(data, copied)


def test_a_number_of_words_that_is_not_the_dictionarys_is_refused(copied, data):
    path = copied / "store.json"
    words = json.loads(path.read_text())["words"]
    rewrite(path, words=words + 8)
    text = f"{path} gives the dictionary {words + 8} entries, but {copied}/dict.en.txt has"
    with pytest.raises(ValueError, match=f"^{re.escape(text)} {words}: one of them is damaged"):
        train_on(data, copied)


def test_a_token_beyond_the_vocabulary_is_refused_where_no_checksum_tells(former, data):
    path, words = former / "valid" / "00000.npy", TeacherStore(former).vocab_size
    records = np.load(path, mmap_mode="r+")
    records["ids"][0, 0] = words
    records.flush()
    setup = train_on(data, former)
    text = f"{path} is damaged: in sentence 0, a record has token {words} of {words}. {AGAIN}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        setup.criterion(setup.model, setup.batch(0, 1))
    with pytest.raises(ValueError, match=r"lacks 1 of its 5 parts, .* damaged \(numbers 0; part"):
        merge_subset(former, "valid")


def test_the_largest_id_has_all_its_bits():
    ids = torch.tensor([[5, 70_000, 3], [65_536, 0, 99_999]])
    zeros = torch.zeros(2, 3)
    for row in (0, 1):
        records = pack(TopK(ids, zeros, torch.zeros(2, 8), 100_000))[row : row + 1]
        assert largest_id(records) == ids[row].max()
    assert largest_id(records[:0]) == -1


def test_a_store_of_the_former_format_is_read_with_a_warning_until_merging_adds_checksums(
    former, data, caplog, capsys
):
    text = (
        f"--kd-store {former} was built without checksums, so that damage is not detected. "
        f"fairseq-kd store-merge --out {former} --subset valid adds them."
    )
    with caplog.at_level(logging.WARNING):
        setup = train_on(data, former)
    assert [record.getMessage() for record in caplog.records] == [text]
    sample = setup.batch(0, 1)
    before = setup.criterion(setup.model.eval(), sample)[2]["kd_loss"]
    caplog.clear()
    assert cli.main(["store-merge", "--out", str(former), "--subset", "valid"]) == 0
    assert re.search(r"valid: \d+ sentences, [\d,]+ tokens, 48 bytes", capsys.readouterr().out)
    setup = train_on(data, former)
    assert not caplog.records
    assert setup.criterion(setup.model.eval(), sample)[2]["kd_loss"] == before
    assert np.load(former / "valid" / "00001.sentences.npy").dtype == SENTENCE
    flip(former / "valid" / "00001.npy")
    with pytest.raises(ValueError, match=r"00001\.npy is damaged: in sentence 9, the records"):
        setup.criterion(setup.model, setup.batch(9))
    flip(former / "dict.en.txt", place=0)
    with pytest.raises(ValueError, match=r"dict\.en\.txt is missing or damaged\."):
        train_on(data, former)


def test_a_store_of_the_former_format_is_gone_on_with_in_that(former, build):
    before = (former / "valid" / "00003.npy").read_bytes()
    (former / "valid" / "00003.npy").unlink()
    build(former, subsets=["valid"])
    assert (former / "valid" / "00003.npy").read_bytes() == before
    assert TeacherStore(former).identity["format"] == 1


@pytest.mark.parametrize(
    ("flags", "lowest"),
    [
        (["--kd-temperature", "0.4"], 0.4),
        ([*FALLING, "--kd-temperature-final", "0.3", "--kd-temperature-updates", "9"], 0.3),
    ],
)
def test_a_temperature_below_what_a_store_is_accurate_for_is_refused(store, data, flags, lowest):
    text = f"--kd-store {store} requires T >= 0.5, but the lowest T is {lowest}."
    with pytest.raises(ValueError, match=f"^{re.escape(text)} Raise T, or train"):
        train_on(data, store, *flags)


def test_a_store_of_the_former_format_is_refused_below_temperature_1(former, data):
    text = f"--kd-store {former} requires T >= 1, but the lowest T is 0.8."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        train_on(data, former, "--kd-temperature", "0.8")
    train_on(data, former, "--kd-temperature", "1")


def test_the_temperature_of_a_store_among_several_teachers_is_its_own(store, teacher, data):
    flags = ["--criterion", "multi_teacher_kd", "--kd-teacher", teacher, "--kd-store", store]
    flags += ["--train-subset", "valid", "--kd-teacher-temperatures"]
    Setup(data, *flags, "0.3,0.5")
    text = f"--kd-store {store} requires T >= 0.5, but the lowest T is 0.4."
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        Setup(data, *flags, "2,0.4")


def test_a_pipe_in_the_place_of_a_part_is_not_waited_for(tmp_path):
    path = tmp_path / "00000.npy"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=rf"^{path} is missing or cut off\. Run the fairseq-kd"):
        open_part(path, np.dtype("u1"), 1)
