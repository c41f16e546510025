"""Damaged data, dictionaries and JSON, given to every command that reads them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import Setup, copy_dictionaries
from hostile_files import crossed, refused
from stores import build, rewrite

from fairseq_kd import cli
from fairseq_kd.binarised import HEADER
from fairseq_kd.decoding.decode import agree_on, read_settings, settings_id
from fairseq_kd.decoding.hypothesis_files import Hypothesis, lines_of, write_shard
from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.diagnosis.training_run import generated_translations
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.json_files import sealed
from fairseq_kd.pipeline.preparation import prepare_run
from fairseq_kd.shard import Shard

AGAIN = "Binarise the data again"


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path):
    path.write_text("hello\n")


def empty(path):
    path.write_bytes(b"")


def foreign_tokens(path):
    np.memmap(path, "<u2", "r+")[3] = 60_000


def next_to_each_other(path):
    content = bytearray(path.read_bytes())
    content[-8:] = bytes(8)  # the place of the last sentence
    path.write_bytes(content)


def no_sentence(path):
    path.write_bytes(path.read_bytes()[: HEADER.size - 8] + bytes(8))
    path.with_suffix(".bin").write_bytes(b"")


def no_token(path):
    """The third sentence loses its tokens to the second."""
    count = (path.stat().st_size - HEADER.size) // 12
    sizes = np.memmap(path, "<i4", "r+", HEADER.size, count)
    starts = np.memmap(path, "<i8", "r+", HEADER.size + 4 * count, count)
    starts[2] = starts[3]
    sizes[1:3] = sizes[1] + sizes[2], 0


DATA = {
    "content cut off": ("es.bin", half, "valid.es-en.es.bin is cut off or damaged: it has"),
    "text for content": (
        "en.bin",
        text,
        "valid.es-en.en.bin is cut off or damaged: it has 6 bytes",
    ),
    "no content": ("es.bin", empty, "valid.es-en.es.bin is cut off or damaged: it has 0 bytes"),
    "a lost content": ("es.bin", Path.unlink, "valid.es-en.es.bin is missing, but"),
    "foreign tokens": ("en.bin", foreign_tokens, "valid.es-en.en.bin holds token 60000, but its"),
    "index cut off": ("es.idx", half, "valid.es-en.es.idx is cut off or damaged"),
    "text for an index": ("en.idx", text, "valid.es-en.en.idx is not a fairseq index"),
    "no index": ("es.idx", empty, "valid.es-en.es.idx is not a fairseq index"),
    "a lost index": ("en.idx", Path.unlink, "valid.es-en.en.idx is missing, but"),
    "sentences in disorder": (
        "es.idx",
        next_to_each_other,
        "valid.es-en.es.idx is damaged: its sentences do not follow each other",
    ),
    "no sentence": (
        "es.idx",
        no_sentence,
        "valid.es-en.es.idx holds no sentences. Give a data set with sentences.",
    ),
    "no token": (
        "es.idx",
        no_token,
        "valid.es-en.es.idx: sentence 2 has no tokens, not even end-of-sentence.",
    ),
}


def latin(path):
    path.write_bytes("über 3\n".encode("latin1") + path.read_bytes())


def twice(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *lines]))


def uncounted(path):
    path.write_text("word\n" + path.read_text())


DICTIONARIES = {
    "no UTF-8": (latin, "line 1, is not UTF-8: after"),
    "a word twice": (twice, "is not a fairseq dictionary: Duplicate word found when loading"),
    "no count": (
        uncounted,
        'is not a fairseq dictionary: a line is not a word and its count, "word',
    ),
    "missing": (Path.unlink, ""),
}
READ_DATA = {
    "store": lambda teacher, data, out: ["store", "--teacher", teacher, "--subset", "valid"],
    "translate": lambda teacher, data, out: [
        *("translate", "--teacher", teacher, "--subset", "valid", "--engine", "fairseq")
    ],
    "export": lambda teacher, data, out: ["export", teacher, "--subset", "valid"],
    "evaluate": lambda teacher, data, out: [
        *("evaluate", "--teacher", teacher, "--student", teacher, "--subset", "valid")
    ],
}


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A checkpoint with random weights and its dictionaries beside it."""
    folder = copy_dictionaries(data, tmp_path_factory.mktemp("good"))
    plain = ["--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"]
    return Setup(data, *plain).save(folder / "teacher.pt")


@pytest.fixture
def copied(data, tmp_path, monkeypatch):
    """A copy of the data to damage; a command is run beside it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(data, tmp_path / "bin"))


def words_of(command, teacher, data, out="out"):
    return [*READ_DATA[command](teacher, data, out), "--data", data, "--out", out]


@pytest.mark.parametrize(("command", "kind"), crossed(READ_DATA, DATA))
def test_damaged_data_are_named(command, kind, teacher, copied, capsys):
    name, spoil, message = DATA[kind]
    spoil(copied / f"valid.es-en.{name}")
    refused(capsys, words_of(command, teacher, copied), [copied.parent], f"{copied}/{message}")


@pytest.mark.parametrize(("command", "kind"), crossed([*READ_DATA, "plan"], DICTIONARIES))
def test_a_dictionary_of_the_data_that_cannot_be_used_is_named(
    command, kind, teacher, copied, capsys
):
    spoil, message = DICTIONARIES[kind]
    path = copied / "dict.en.txt"
    spoil(path)
    words = ["plan", "--arch", "transformer", "--data", copied, "--ladder", "0.5"]
    words = words if command == "plan" else words_of(command, teacher, copied)
    named = copied if command == "plan" and kind == "missing" else path
    refused(capsys, words, [copied.parent], named, message)


@pytest.mark.parametrize(
    ("command", "kind"),
    crossed(
        ["store", "translate", "evaluate", "inherit"],
        [each for each in DICTIONARIES if each != "missing"],
    ),
)
def test_a_dictionary_beside_the_teacher_that_cannot_be_used_is_named(
    command, kind, teacher, data, copied, capsys
):  # one that is missing there is read from the data that the teacher was trained on
    spoil, message = DICTIONARIES[kind]
    shutil.copy(teacher, copied)
    spoil(copied / "dict.en.txt")
    words = ["inherit", "--teacher", copied / "teacher.pt", "--arch", "transformer", "--out", "out"]
    words = words if command == "inherit" else words_of(command, copied / "teacher.pt", data)
    refused(capsys, words, [copied.parent], copied / "dict.en.txt", message)


def test_text_without_a_line_is_a_set_without_sentences(copied):
    for path in copied.glob("valid.es-en.*"):
        path.unlink()
    (copied / "valid.es-en.es").touch()  # --dataset-impl raw
    with pytest.raises(ValueError, match=rf"^{copied}/valid\.es-en\.es holds no sentences\. Give"):
        read_subset(copied, "valid", ("es", "en"))


# ---- JSON

JSON = {
    "empty": ("", "is damaged: it is empty."),
    "half": ('{"sentences": 3, "su', "is damaged: it is not JSON from line 1, column 18 on."),
    "a list": ("[1, 2]", "is damaged: it must be an object, but is a list."),
    "no keys": ("{}", "is damaged: it lacks '"),
}


@pytest.fixture
def decoded(data, tmp_path, monkeypatch):
    """A folder of translate, of one sentence, with a token that the dictionary lacks."""
    monkeypatch.chdir(tmp_path)
    subset = read_subset(Path(data), "valid", ("es", "en"))
    settings = {"subset": "valid", "pair": ["es", "en"], "sentences": len(subset), "nbest": 1}
    settings = {**settings, **subset.hashes, "teacher": ["0" * 64]}
    (tmp_path / "decoded").mkdir()
    (tmp_path / "decoded" / "decoding.json").write_text(json.dumps(settings))
    lines = [lines_of(i, [Hypothesis("the" if i != 2 else "xyzzy", -1.0)]) for i in range(4)]
    encoded = (line.encode() for line in lines)
    write_shard(tmp_path / "decoded" / "hypotheses.txt", Shard(), settings_id(settings), encoded)
    return tmp_path / "decoded"


def distill(decoded, data):
    words = ["distill-data", "--translations", decoded, "--data", data, "--out", "new"]
    return [*words, "--workers", "1"]


def test_a_hypothesis_with_a_token_of_no_dictionary_is_named(decoded, data, capsys):
    message = f'{decoded}/hypotheses.txt, line 3, holds "xyzzy", which the dictionary lacks. Decode'
    assert cli.main([str(word) for word in distill(decoded, data)]) == 2
    *progress, printed = capsys.readouterr().err.splitlines()
    assert all(line.startswith("distilled: ") or "made of" in line for line in progress)
    assert printed.startswith(f"fairseq-kd distill-data: {message}")
    assert not (decoded.parent / "new").exists()


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("command", ["merge", "distill-data", "translate"])
def test_a_damaged_description_of_a_decoding_is_named(
    command, kind, teacher, decoded, data, capsys
):
    content, message = JSON[kind]
    (decoded / "decoding.json").write_text(content)
    (decoded / ".lock").touch()  # which each command makes
    words = {"merge": ["merge", decoded], "distill-data": distill(decoded, data)}
    words["translate"] = [*READ_DATA["translate"](teacher, data, decoded), "--data", data]
    words["translate"] += ["--out", decoded]
    refused(capsys, words[command], [decoded.parent], f"{decoded}/decoding.json {message}")


@pytest.mark.parametrize("command", ["merge", "distill-data"])
def test_a_changed_digit_of_the_description_of_a_decoding_is_reported_from_damaged_hypotheses(
    command, decoded, data, capsys
):
    path = decoded / "decoding.json"
    settings = read_settings(decoded)
    words = {"merge": ["merge", decoded], "distill-data": distill(decoded, data)}[command]
    path.write_text(json.dumps(sealed(settings)).replace('"nbest": 1', '"nbest": 3'))
    (decoded / ".lock").touch()
    message = (
        f"{path} is damaged: its values do not match its checksum. Copy it from the --out of "
        "another shard, or start the same fairseq-kd translate with another --out, which writes "
        "the file first; hypotheses in this folder stay valid."
    )
    refused(capsys, words, [decoded.parent], message)
    path.write_text(json.dumps({**settings, "nbest": 3}))  # by a version that sealed nothing
    message = (
        f"{decoded}/hypotheses.txt belongs to another decoding (teacher, data or options) than "
    )
    refused(capsys, words, [decoded.parent], message)
    path.unlink()
    agree_on(settings, decoded.parent / "another")
    shutil.copy(decoded.parent / "another" / "decoding.json", path)
    assert cli.main(["merge", str(decoded)]) == 0


def test_a_damaged_manifest_of_a_distilled_set_is_named(decoded, data, capsys):
    made = decoded.parent / "new"
    made.mkdir()
    (made / "manifest.json").write_text('{"made_of": {"decoding": []}}')
    message = (
        f"{made.name}/manifest.json is damaged: it lacks 'counts'. Remove new and run fairseq-kd "
        "distill-data again."
    )
    refused(capsys, distill(decoded, data), [decoded.parent], message)


@pytest.fixture(scope="module")
def whole_store(teacher, data, tmp_path_factory):
    """A store of the validation set."""
    return Path(build(tmp_path_factory.mktemp("store") / "store", str(teacher), data, 380))


@pytest.fixture
def store(whole_store, tmp_path, monkeypatch):
    """A copy of it to damage."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole_store, tmp_path / "store"))


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("name", ["store.json", "valid/subset.json"])
def test_a_damaged_description_of_a_store_is_named(name, kind, teacher, store, data, capsys):
    content, message = JSON[kind]
    (store / name).write_text(content)
    words = ["store-merge", "--out", store, "--subset", "valid"]
    refused(capsys, words, [store.parent], f"{store / name} {message}")
    training = ["--criterion", "word_kd", "--kd-store", store, "--valid-subset", "valid"]
    with pytest.raises(ValueError, match=r"\.$") as error:
        Setup(data, *training, "--train-subset", "valid")
    assert f"{store / name} {message}" in str(error.value)


@pytest.mark.parametrize(
    "change", [{"topk": 0}, {"words": 10}, {"part_sentences": 0}, {"languages": ["es"]}]
)
def test_a_store_of_impossible_sizes_is_named(change, store, capsys):
    path = store / "store.json"
    rewrite(path, **change)
    words = ["store-merge", "--out", store, "--subset", "valid"]
    refused(capsys, words, [store.parent], f"{path} is damaged: its languages, words, topk or")


def test_a_table_of_a_store_that_is_none_is_named(store, data):
    path = store / "valid" / "sentences.npy"
    np.save(path, np.zeros(3))
    index = store / "valid" / "subset.json"
    rewrite(index, table=sha256_of([path]))  # as if it were meant
    training = ["--criterion", "word_kd", "--kd-store", store, "--valid-subset", "valid"]
    with pytest.raises(
        ValueError, match=rf"^{path} is not a table of sentences\. Run the fairseq-kd"
    ):
        Setup(data, *training, "--train-subset", "valid")


@pytest.fixture
def run_file(data, teacher, tmp_path, monkeypatch):
    """A run of one student, whose plan can be shown."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    lines = [f"data: {data}", f"teacher: {teacher}", "ladder: [{arch: transformer_kd_6_3}]"]
    path.write_text("\n".join([*lines, "controls: []", "train: {max-update: 9}"]) + "\n")
    return path


@pytest.mark.parametrize("kind", JSON)
@pytest.mark.parametrize("name", ["hashes.json", "steps/student.json"])
def test_a_damaged_file_of_a_run_is_named(name, kind, run_file, capsys):
    content, message = JSON[kind]
    path = Path("runs/run") / name
    words = ["progressive", str(run_file), "--dry-run"]
    prepare_run(run_file)  # a dry run records nothing
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if (name, kind) == ("hashes.json", "no keys"):  # which is how it begins
        assert cli.main(words) == 0
        return
    refused(capsys, words, [run_file.parent], f"{path} {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold keys and values, such as data: DATA_BIN."),
        (b"- 1\n", "must hold keys and values, such as data: DATA_BIN."),
        (b"data: [\n", "cannot be read as YAML: while parsing"),
        (b"data: \xff\n", "line 1, is not UTF-8: after"),
        (b"data: 7\nteacher: t.pt\ntarget: 0.5\n", "data is 7, which YAML reads as a number"),
    ],
)
def test_a_run_file_that_describes_no_run_is_named(content, message, run_file, capsys):
    run_file.write_bytes(content)
    words = ["progressive", run_file, "--dry-run"]
    refused(capsys, words, [run_file.parent], f"{run_file}", message)


def test_a_translation_whose_number_is_too_long_is_none(tmp_path):
    path = tmp_path / "generate-test.txt"
    path.write_text("D-0\t-1\tone\nD-" + "1" * 5000 + "\t-1\ttwo\n")
    assert generated_translations(path) == ["one"]
    path.write_text("D-" + "1" * 5000 + "\t-1\ttwo\n")
    assert generated_translations(path) == []
