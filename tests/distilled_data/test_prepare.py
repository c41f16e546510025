"""The command prepare on real verses, and on the mistakes that corpora have."""

import gzip
import json
import os
import shutil

import pytest
from disks import files_up_to
from fairseq.data import Dictionary, data_utils
from forks import run_forked
from harness import write_text

from fairseq_kd import cli
from fairseq_kd.files.json_files import sealed


def words_of(text, out, *flags, pair=("es", "en")):
    command = ["prepare", "--text", text, "--source", pair[0], "--target", pair[1], "--out", out]
    return [str(word) for word in (*command, "--workers", "1", *flags)]


def prepare(text, out, *flags):
    """Prepares a text in a process of its own, whose parts are forks."""
    return run_forked("fairseq-kd", *words_of(text, out, "--merges", "100", *flags))


@pytest.fixture
def refused(capsys):
    """The message with which the command, called in this process, refuses something."""

    def refused(*args, **how):
        assert cli.main(words_of(*args, **how)) == 2
        return capsys.readouterr().err.removeprefix("fairseq-kd prepare: ")

    return refused


@pytest.fixture
def text(tmp_path):
    return write_text(tmp_path / "text", {"train": 60, "valid": 10, "test": 10})


@pytest.fixture
def vocabulary(prepared, tmp_path):
    """A folder such as a teacher's, with codes and dictionaries."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    for path in (prepared / "codes", *(prepared / "bin").glob("dict.*.txt")):
        shutil.copy(path, folder)
    return folder


def test_lines_stay_together_and_come_back_as_written(prepared):
    sides = {
        lang: (prepared / "text" / f"valid.{lang}").read_text().splitlines()
        for lang in ("es", "en")
    }
    dictionary = Dictionary.load(str(prepared / "bin" / "dict.en.txt"))
    for lang, lines in sides.items():
        split = (prepared / "bpe" / f"valid.{lang}").read_text().splitlines()
        binary = data_utils.load_indexed_dataset(
            str(prepared / "bin" / f"valid.es-en.{lang}"), dictionary
        )
        assert len(lines) == len(split) == len(binary)
        assert max(len(line.split()) for line in lines) <= 25
        for number, line in enumerate(lines):
            words = split[number].replace("@@ ", "").split()
            letters = "".join(words).replace("&apos;", "'").replace("&quot;", '"')
            assert letters == "".join(line.split())
            known = dictionary.encode_line(split[number], add_if_not_exist=False)
            assert binary[number].tolist() == known.tolist()


def moses(path):
    """The tokens of a file by the command of sacremoses, which reads its standard input."""
    command = 'sacremoses --quiet --language "$1" tokenize < "$2"'
    return run_forked("bash", "-c", command, "moses", path.suffix[1:], path).stdout


@pytest.mark.parametrize("lang", ["es", "en"])
def test_the_tokens_are_those_of_sacremoses_and_subword_nmt(prepared, tmp_path, lang):
    (tmp_path / "tokens").write_text(moses(prepared / "text" / f"test.{lang}"))
    files = ("--codes", prepared / "codes", "--input", tmp_path / "tokens")
    split = run_forked("subword-nmt", "apply-bpe", *files).stdout
    assert split == (prepared / "bpe" / f"test.{lang}").read_text()


def test_the_merges_are_those_of_subword_nmt(text, tmp_path):
    prepare(text, tmp_path / "out")
    tokens = [moses(tmp_path / "out" / "text" / f"train.{lang}") for lang in ("es", "en")]
    (tmp_path / "tokens").write_text("".join(tokens))
    learned = run_forked("subword-nmt", "learn-bpe", "-s", "100", "-i", tmp_path / "tokens")
    assert (tmp_path / "out" / "codes").read_text() == learned.stdout


@pytest.mark.parametrize("words", ["a b c", "ab cd ef"])
def test_text_without_a_pair_for_bpe_is_refused(tmp_path, refused, words):
    text = tmp_path / "text"
    text.mkdir()
    for name in ("train", "valid", "test"):
        for language, line in (("es", "\u6211 \u7231\n"), ("en", f"{words}\n")):
            (text / f"{name}.{language}").write_text(line, encoding="utf-8")
    assert refused(text, tmp_path / "out").endswith(
        f"fairseq-kd prepare: --text {text} has no pair of characters that occurs twice in the "
        "words of train, so that there is nothing for BPE to learn. Give more text, or words that "
        "are not split into characters.\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_made_from_other_text_or_settings_is_not_taken(text, tmp_path, refused):
    out = tmp_path / "out"
    prepare(text, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert prepare(text, out).stderr == f"{out} already exists\n"
    message = "--out {} already exists and was made of other inputs: '{}' differ. Remove it or"
    assert message.format(out, "merges") in refused(text, out, "--merges", "99")
    for lang, line in (("es", "una más"), ("en", "one more")):
        with (text / f"train.{lang}").open("a") as file:
            print(line, file=file)
    assert message.format(out, "text") in refused(text, out, "--merges", "100")
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_folder_is_not_taken(text, tmp_path, refused):
    out = tmp_path / "out"
    prepare(text, out)
    (out / "bpe" / "train.es").write_text("damaged")
    message = (
        f"{out}/bpe/train.es is missing, or was changed after it was written: its hash differs"
    )
    assert refused(text, out, "--merges", "100").startswith(message)


def test_a_forged_record_is_refused_by_name(text, tmp_path, refused):
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepared.json").write_text(json.dumps(sealed({"made_of": {"text": 1}, "files": {}})))
    message = "prepared.json is damaged: 'made_of.text' must be a text, but is a whole number."
    assert message in refused(text, out)


def test_a_folder_of_the_user_is_not_filled(text, tmp_path, refused):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    assert "already exists and holds mine. Remove it or choose" in refused(text, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]


@pytest.mark.parametrize("flag", ["--merges", "--workers"])
@pytest.mark.parametrize("value", ["abc", "0", "-5", "1.5"])
def test_a_setting_that_is_no_number_above_0_is_refused(flag, value, text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(words_of(text, tmp_path / "out", flag, value))
    assert f"argument {flag}: it must be a whole number from 1 to " in capsys.readouterr().err


@pytest.mark.parametrize("language", ["es;touch made;:", "../es", "-es", "e" * 65])
def test_a_language_that_is_no_plain_name_is_refused(language, text, tmp_path, capsys):
    words = words_of(text, tmp_path / "out")
    words[words.index("--source") : words.index("--target")] = [f"--source={language}"]
    assert cli.main(words) == 2
    assert f"names the language {language!r}, but a language is a nam" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_languages_must_differ(text, tmp_path, refused):
    message = "--source and --target must differ, but both are es.\n"
    assert refused(text, tmp_path / "out", pair=("es", "es")) == message


def test_both_sides_share_one_dictionary(prepared):
    source, target = ((prepared / "bin" / f"dict.{lang}.txt").read_text() for lang in ("es", "en"))
    assert source == target


def test_sets_out_of_step_are_refused(text, tmp_path, refused):
    lines = (text / "valid.en").read_text().splitlines()
    (text / "valid.en").write_text("\n".join(lines[:-1]) + "\n")
    message = f"{text}/valid.es has 10 lines but {text}/valid.en has 9;"
    assert refused(text, tmp_path / "out").startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_byte_that_is_no_text_is_named_by_file_and_line(text, tmp_path, refused):
    lines = (text / "valid.es").read_bytes().splitlines()
    (text / "valid.es").write_bytes(b"\n".join([*lines[:3], b"cant\xf3", *lines[4:]]))
    message = f'{text}/valid.es, line 4, is not UTF-8: after "cant" comes the byte 0xf3. If the'
    assert refused(text, tmp_path / "out").startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_missing_side_is_named(text, tmp_path, refused):
    (text / "test.es").unlink()
    assert refused(text, tmp_path / "out").startswith(f"{text}/test.es is missing")


def test_a_pipe_is_refused_and_not_waited_for(text, tmp_path, refused):
    (text / "train.es").unlink()
    os.mkfifo(text / "train.es")
    message = f"{text}/train.es must be a text file, but is a pipe or a device.\n"
    assert refused(text, tmp_path / "out") == message


def test_text_of_which_nothing_is_kept_is_refused(text, tmp_path, refused):
    message = f"{text}/train.es and .en leave no pairs of at most 1 words.\n"
    assert refused(text, tmp_path / "out", "--max-words", "1") == message


def test_empty_lines_drop_out_on_both_sides_and_gzip_is_read(text, tmp_path):
    lines = (text / "test.en").read_text().splitlines()
    (text / "test.en").write_bytes("\r\n".join(["", *lines[1:], ""]).encode())  # from Windows
    source = (text / "test.es").read_bytes()
    (text / "test.es").unlink()
    (text / "test.es.gz").write_bytes(gzip.compress(source))
    prepare(text, tmp_path / "out")
    for lang, want in (("es", source.decode().splitlines()), ("en", lines)):
        kept = (tmp_path / "out" / "text" / f"test.{lang}").read_bytes().decode()
        assert kept == "".join(line + "\n" for line in want[1:])


def test_the_vocabulary_of_a_teacher_is_taken(prepared, text, tmp_path, vocabulary):
    out = tmp_path / "out"
    run_forked("fairseq-kd", *words_of(text, out, "--vocabulary", vocabulary))
    assert (out / "codes").read_text() == (prepared / "codes").read_text()
    for lang in ("es", "en"):
        name = f"dict.{lang}.txt"
        assert (out / "bin" / name).read_text() == (vocabulary / name).read_text()
        kept, again = (each / "bpe" / f"valid.{lang}" for each in (prepared, out))
        assert len({*again.read_text().splitlines()} & {*kept.read_text().splitlines()}) > 3


def test_a_vocabulary_without_its_codes_is_refused(text, tmp_path, vocabulary, refused):
    (vocabulary / "codes").unlink()
    message = f"--vocabulary: {vocabulary}/codes is missing or not a file. Give a folder with the"
    assert refused(text, tmp_path / "out", "--vocabulary", vocabulary).startswith(message)
    assert not (tmp_path / "out").exists()


def test_merges_beside_a_vocabulary_are_refused(text, tmp_path, vocabulary, refused):
    flags = ("--vocabulary", vocabulary, "--merges", "9")
    message = (
        "--merges has no effect beside --vocabulary, which has codes. Leave one of them out.\n"
    )
    assert refused(text, tmp_path / "out", *flags) == message


def test_a_failure_of_fairseq_preprocess_is_shown(text, tmp_path, vocabulary, refused):
    (vocabulary / "dict.en.txt").write_text("not a dictionary\n")
    message = refused(text, tmp_path / "out", "--vocabulary", vocabulary)
    assert "Incorrect dictionary format" in message
    assert message.endswith("fairseq-preprocess failed with status 1.\n")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_named_and_nothing_is_left(text, tmp_path, refused):
    with files_up_to(2000):
        message = refused(text, tmp_path / "out")
    assert message.startswith(f"The disk of {tmp_path}/out is full;")
    assert os.listdir(tmp_path) == ["text"]


def test_a_place_in_the_text_is_refused(text, refused):
    message = f"--out {text}/out lies inside --text {text}, which is only read."
    assert refused(text, text / "out").startswith(message)
