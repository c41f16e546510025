"""Plain text files: encodings, line ends, damage, and the messages about them."""

import gzip
import lzma

import pytest

from fairseq_kd.parallel_text import AS_BEFORE, SplitWords, lines_of, main, text_file


@pytest.fixture
def clean(tmp_path, monkeypatch, capsys):
    """Cleans two sides, given as text or bytes; returns the status and what was printed."""
    monkeypatch.chdir(tmp_path)

    def clean(source, target="one\ntwo\nthree\n", max_words="0"):
        for language, side in (("es", source), ("en", target)):
            data = side.encode() if isinstance(side, str) else side
            (tmp_path / f"train.{language}").write_bytes(data)
        return main(["train", "out", max_words, "es", "en"]), *capsys.readouterr()

    return clean


def kept(folder):
    return [
        (folder / f"out.{each}").read_bytes().decode().split("\n")[:-1] for each in ("es", "en")
    ]


@pytest.mark.parametrize(
    ("source", "target"),
    [("a\nb\nc", "x\ny\nz"), ("a\nb\nc", "x\ny\nz\n"), ("a\r\nb\r\nc\r\n", "x\ny\nz\n")],
)
def test_the_last_line_counts_with_an_end_and_without(clean, tmp_path, source, target):
    assert clean(source, target) == (0, "train: 3 of 3 pairs kept\n", "")
    assert kept(tmp_path) == [["a", "b", "c"], ["x", "y", "z"]]


@pytest.mark.parametrize("more", ["four", "four\n", "\n"])
def test_sides_of_different_lengths_are_refused(clean, more):
    message = "train.es has 3 lines but train.en has 4; line N of both must be the same sentence.\n"
    assert clean("a\nb\nc", f"one\ntwo\nthree\n{more}") == (1, "", message)


def test_a_byte_order_mark_is_left_out_wherever_files_were_joined(clean, tmp_path):
    status, out, err = clean("\ufeffa\nb\n\ufeffc\n")
    assert (status, out) == (0, "train: 3 of 3 pairs kept\n")
    assert "train.es begins with a byte-order mark, which is left out\n" in err
    assert kept(tmp_path)[0] == ["a", "b", "c"]


@pytest.mark.parametrize("odd", ["\t", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_what_other_programs_end_lines_at_becomes_a_space(clean, tmp_path, odd):
    message = "train.es: control characters, such as tabs, became spaces in 1 line\n"
    assert clean(f"a\nb{odd}c\nd\n") == (0, "train: 3 of 3 pairs kept\n", message)
    assert kept(tmp_path)[0] == ["a", "b c", "d"]


@pytest.mark.parametrize(
    "nothing",
    ["", "  ", "\x01\x1f", "\x7f", "\u200b", "\xa0\u3000", "\u200d\xad", "\ufeff", "\x90"],
)
def test_a_pair_in_which_a_side_shows_nothing_goes(clean, tmp_path, nothing):
    status, out, _ = clean(f"a\n{nothing}\nc\n")
    assert (status, out) == (0, "train: 2 of 3 pairs kept\n")
    assert kept(tmp_path) == [["a", "c"], ["one", "three"]]


def test_marks_inside_words_stay(clean, tmp_path):
    words = ["\u0645\u06cc\u200c\u062e", "co\xadop", "10\xa0km"]
    assert clean("\n".join(words))[0] == 0
    assert kept(tmp_path)[0] == words


def test_pairs_with_more_words_go(clean, tmp_path):
    status, out, _ = clean("a b\na  b \na b c\n", max_words="2")
    assert (status, out) == (0, "train: 2 of 3 pairs kept\n")
    assert kept(tmp_path)[0] == ["a b", "a  b "]


LATIN1 = "If the file has another encoding, convert it, as iconv -f LATIN1 -t UTF-8 does; if "
LATIN1 += "the line is damaged, correct it, or remove it in every language."


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "a\nél fue cantó\nc\n".encode("latin-1"),
            f'train.es, line 2, is not UTF-8: after "" comes the byte 0xe9. {LATIN1}',
        ),
        (
            "a\ncantó bien".encode() + b"\xff\nc\n",
            f'train.es, line 2, is not UTF-8: after "cantó bien" comes the byte 0xff. {LATIN1}',
        ),
        (
            "a\nb\nc\n".encode("utf-16"),
            "train.es must be UTF-8, but is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8.",
        ),
        (
            "a\nb\nc\n".encode("utf-16-le"),
            "train.es, line 1, has a zero byte, which text must not contain. "
            + LATIN1.replace("LATIN1", "UTF-16"),
        ),
        ("", "train.es is empty."),
        ("\n \n\n", "train.es and .en leave no pairs."),
    ],
)
def test_what_is_no_text_is_refused(clean, source, message):
    assert clean(source) == (1, "", f"{message}\n")


@pytest.mark.parametrize(
    ("line", "by"),
    [
        ("the Le@@ vi@@ tes", "BPE"),
        ("end@@", "BPE"),
        ("\u2581the \u2581Le vi tes", "SentencePiece"),
        ("a \u2581 b", "SentencePiece"),
    ],
)
def test_text_that_is_split_into_subwords_is_refused(clean, line, by):
    message = f"train.es must be plain text, but is split by {by}, as {line!r} shows. "
    assert clean(f"a\n{line}\nc\n") == (1, "", f"{message}{AS_BEFORE}\n")


@pytest.mark.parametrize("plain", ["a@@b", "@@ -1,4 @@", "@@", "a\u2581b \u2582\u2581", "x@ y"])
def test_signs_of_plain_text_are_no_marks_of_subwords(clean, tmp_path, plain):
    assert clean(f"a\n{plain}\nc\n") == (0, "train: 3 of 3 pairs kept\n", "")


def test_marks_in_a_tenth_of_the_lines_are_those_of_plain_text(clean):
    target = "one\n" * 10
    assert clean("a\n" * 9 + "b@@\n", target)[:2] == (0, "train: 10 of 10 pairs kept\n")
    assert clean("a\n" * 8 + "b@@\nc@@\n", target)[0] == 1


def test_a_long_text_that_is_split_is_refused_at_its_beginning():
    words = SplitWords("train.es")
    message = "^train.es must be plain text, but is split by BPE, as 'a@@ b' shows. Give the text "
    for _ in range(249):
        words.add("a@@ b")
    with pytest.raises(ValueError, match=message):
        words.add("c")


def test_a_limit_that_is_no_number_is_refused(clean):
    message = "MAX_WORDS must be a whole number, 0 or more, but is -1.\n"
    assert clean("a\n", "b\n", max_words="-1") == (1, "", message)


@pytest.mark.parametrize(("ending", "pack"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_a_compressed_file_is_read_and_refused_if_it_is_cut_off(tmp_path, ending, pack):
    path, lines = tmp_path / f"train.es{ending}", [str(number**9) for number in range(9999)]
    packed = pack("".join(f"{line}\n" for line in lines).encode())
    path.write_bytes(packed)
    assert list(lines_of(text_file(str(tmp_path / "train.es")))) == lines
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(
        ValueError, match=rf"^{path} is cut off or damaged after line \d+\. Download"
    ):
        list(lines_of(str(path)))
    path.write_bytes(b"plain text\n")
    with pytest.raises(ValueError, match=f"^{path} is cut off or damaged after line 0. Download"):
        list(lines_of(str(path)))


def test_of_two_files_of_a_text_the_plain_one_is_read_and_a_folder_is_none(tmp_path, capsys):
    name = str(tmp_path / "train.es")
    for ending in (".xz", ""):
        (tmp_path / f"train.es{ending}").touch()
    assert text_file(name) == name
    assert capsys.readouterr().err == f"{name}.xz is ignored: {name} is read\n"
    (tmp_path / "train.es").unlink()
    (tmp_path / "train.es").mkdir()
    with pytest.raises(ValueError, match=f"^{name} must be a text file, but is a folder.$"):
        text_file(name)
