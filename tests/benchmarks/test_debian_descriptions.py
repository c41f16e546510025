"""benchmarks/debian_descriptions.sh: the corpus that it builds from small Translation files."""

import hashlib
import random
import re

import pytest
from debian import (
    SETS,
    build,
    entry,
    everything,
    made,
    packages,
    pairs,
    parts,
    refused,
    sentence,
    word,
    write,
)


def test_descriptions_meet_by_md5_and_lines_stay_together(built, texts):
    out, _ = built
    want = {(sentence(n, "en").rstrip("."), sentence(n, "de").rstrip(".")) for n in range(360)}
    got = everything(out)
    assert {(source.rstrip("."), target.rstrip(".")) for source, target in got} == want
    assert len(got) == 360


def test_a_description_without_translation_and_one_without_english_are_left_out(tmp_path):
    entries = [*packages(20), entry("alone", ["Only in English"], [])]
    folder = write(tmp_path / "texts", entries)
    with (folder / "Translation-de").open("a") as file:
        file.write("\nPackage: odd\nDescription-md5: 0\nDescription-de: Nur auf Deutsch\n")
    result = build(folder, tmp_path / "out")
    assert "[2/5] 41 descriptions, 40 of them translated" in result.stdout
    assert not re.search("Only|Nur", str(everything(tmp_path / "out")))


def test_list_items_and_paragraphs_belong_together_one_by_one():
    english = ["Features are", "wrapped:", " * one", "   and a half", " * two", "The end."]
    german = ["Merkmale:", "  - eins", "  - zwei", ".", "Das", "Ende."]
    assert parts(english, german) == [
        ("Features are wrapped:", "Merkmale:"),
        ("one and a half", "eins"),
        ("two", "zwei"),
        ("The end.", "Das Ende."),
    ]


def test_lines_with_an_indent_stand_for_themselves():
    english = ["See:", "  first line", "  second line"]
    assert parts(english, ["Siehe:", "  Zeile", "  noch eine"])[1:] == [
        ("first line", "Zeile"),
        ("second line", "noch eine"),
    ]


def test_where_counts_differ_what_still_agrees_is_kept():
    english = ["One.", ".", " * a", " * b", ".", "Three. Four."]
    fewer_items = ["Eins.", ".", " * a und b", ".", "Drei. Vier."]
    assert parts(english, fewer_items) == [
        ("One.", "Eins."),
        ("Three.", "Drei."),
        ("Four.", "Vier."),
    ]
    assert parts(english, ["Eins.", ".", "Drei. Vier."]) == []
    sides = (made.Description("some", "Short", tuple(body)) for body in (english, ["Eins."]))
    assert made.aligned(*sides) == ([("Short", "Short")], 4)


def test_paragraphs_with_differing_numbers_of_sentences_stay_whole():
    english, german = "It is small. It is fast.", "Es ist klein und schnell."
    assert parts([english], [german]) == [(english, german)]


def test_a_paragraph_is_not_aligned_with_an_item():
    assert parts(["Text", " * item"], [" * Text", ".", "Punkt"]) == []


def test_a_word_is_no_bullet():
    assert parts(["One thing", "or another."], ["Una cosa", "o un'altra."]) == [
        ("One thing or another.", "Una cosa o un'altra.")
    ]


@pytest.mark.parametrize(
    ("want", "between"),
    [
        (["It reads e.g. ODT files.", "Is it fast?", "(Yes.)", "Version 2.0 is."], " "),
        (["Es liest z. B. ODT-Dateien u.a. Formate.", "Nr. 3 ist schnell!", "Ende"], " "),
        (["Use it (or not).", "Then stop... or go on."], " "),
        (["これは速い。", "小さい。"], ""),
    ],
)
def test_sentences_end_where_a_reader_would_say_so(want, between):
    assert made.sentences(between.join(want)) == want


def test_white_space_is_single_and_untranslated_or_empty_pairs_go(tmp_path):
    extra = [
        entry("one", ["Some\u00a0 spaced\t text"], ["Ein  \u2003weiter Text"]),
        entry("two", ["Left in English"], ["Left in English"]),
        entry("three", ["Half done"], ["<trans>"]),
        entry("four", ["Nothing here"], [""]),
        entry("five", ["1.0"], ["Eins"]),
    ]
    result = build(write(tmp_path / "texts", [*packages(20), *extra]), tmp_path / "out")
    found = everything(tmp_path / "out")
    assert ("Some spaced text", "Ein weiter Text") in found
    assert len(found) == 121
    assert "[3/5] 125 pairs aligned; 0 English" in result.stdout
    assert "[4/5] 121 pairs kept; dropped: 2 untranslated, 2 without letters" in result.stdout


def test_pairs_that_differ_by_numbers_only_are_kept_once(tmp_path):
    extra = [
        entry("perl5.36", ["Perl 5.36 for all"], ["Perl 5.36 für alle"]),
        entry("perl5.40", ["perl 5.40 for all"], ["Perl 5.40 für alle"]),
        entry("perl6", ["Perl 6 for all"], ["Perl 6 für jeden"]),
    ]
    result = build(write(tmp_path / "texts", [*packages(20), *extra]), tmp_path / "out")
    targets = [target for source, target in everything(tmp_path / "out") if "for all" in source]
    assert sorted(targets) == ["Perl 5.36 für alle", "Perl 6 für jeden"]
    assert "dropped: 1 duplicates" in result.stdout


def test_families_are_what_packages_of_one_software_share():
    for names, name in (
        (("libboost1.74-dev", "boost", "libboost2"), "boost"),
        (("python3-numpy", "python-doc"), "python"),
        (("7zip-rar",), "7zip"),
        (("lib32-x",), "lib32-x"),  # nothing would be left
    ):
        assert {made.family(package) for package in names} == {name}


def test_families_are_held_out_whole(built):
    out, said = built
    numbers = {sentence(n, "en").rstrip("."): n for n in range(360)}
    families = {
        name: {numbers[source.rstrip(".")] // 6 for source, _ in pairs(out, name)}
        for name in ("train", "valid", "test")
    }
    assert len(families["train"] | families["valid"] | families["test"]) == 60
    assert sum(len(found) for found in families.values()) == 60
    assert [len(pairs(out, name)) for name in ("train", "valid", "test")] == [348, 6, 6]
    assert "train 348, valid 6, test 6 pairs; 2 families held out, 0 training pairs" in said


def test_more_packages_leave_the_families_where_they_are(built, tmp_path):
    out, _ = built
    more = packages(70)
    build(write(tmp_path / "texts", more), tmp_path / "out")
    trained = set(pairs(out, "train"))
    for name in ("valid", "test"):
        both = [set(pairs(folder, name)) for folder in (out, tmp_path / "out")]
        assert both[0] == both[1] or not both[1] & trained


def large_family(name, first):
    """Forty packages of a family, with a pair each."""
    return [
        entry(f"{name}-{word(n)}", [sentence(first + n, "en")], [sentence(first + n, "de")])
        for n in range(40)
    ]


def test_large_families_are_trained_on_and_small_corpora_hold_out_a_share(tmp_path):
    names = sorted((word(n) for n in range(900, 1900)), key=made.fingerprint)
    large = large_family(names[0], 1000) + large_family(names[-1], 2000)  # first in test and valid
    build(write(tmp_path / "texts", [*packages(20), *large]), tmp_path / "out", TEST="1000")
    assert len(pairs(tmp_path / "out", "test")) == 12  # two families: a twentieth of 200 is 10
    trained = {source for source, _ in pairs(tmp_path / "out", "train")}
    assert {each[1][0] for each in large} <= trained


def test_a_family_is_not_taken_for_both_valid_and_test(tmp_path):
    large = [each for n in range(4) for each in large_family(word(900 + n), 1000 * (n + 1))]
    folder = write(tmp_path / "texts", [*packages(2), *large])  # both small families go into test
    result = build(folder, tmp_path / "out", check=False, TEST="8")
    refused(result, "172 pairs are too few for a training set, valid and test.")


@pytest.mark.parametrize("lang", ["en", "de"])
def test_training_pairs_near_to_a_held_out_side_go(built, tmp_path, lang):
    """Nine words have seven trigrams: a word changed at the end leaves six of eight, in the middle
    four of ten.
    """
    out, _ = built
    words = next(pair for pair in pairs(out, "test") if pair[0].endswith("."))[lang == "de"].split()
    near, far = [*words[:8], "Changed."], [*words[:4], "changed", *words[5:]]
    entries = packages()
    trained = next(each for each in entries if (each[1][0], each[2][0]) in pairs(out, "train"))
    for number, text in enumerate((near, far)):
        sides = {code: sentence(2000 + number, code) for code in ("en", "de")}
        sides[lang] = " ".join(text)
        entries.append(entry(trained[0], [sides["en"]], [sides["de"]]))
    result = build(write(tmp_path / "texts", entries), tmp_path / "out")
    found = everything(tmp_path / "out")
    sides = [pair[lang == "de"] for pair in found]
    assert " ".join(near) not in sides
    assert " ".join(far) in sides
    assert len(found) == 361
    assert "1 training pairs near to them" in result.stdout


def test_overlap_is_found_as_by_comparing_with_each():
    choose = random.Random(5)
    texts = [
        " ".join(choose.choice("abcd") for _ in range(choose.randrange(1, 9))) for _ in range(300)
    ]
    others, asked = texts[:60], texts[60:]
    near = made.Neighbours(others)

    def trigrams(text):
        words = text.split()
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} or {tuple(words)}

    def jaccard(one, other):
        shared = [gram for gram in trigrams(one) if gram in trigrams(other)]
        return len(shared) / (len(trigrams(one)) + len(trigrams(other)) - len(shared))

    want = [max(jaccard(text, other) for other in others) >= 0.5 for text in asked]
    assert [near.overlap(text) for text in asked] == want
    assert 30 < sum(want) < 210


def test_the_same_files_give_the_same_corpus(built, texts, tmp_path):
    out, _ = built
    build(texts, tmp_path / "out")
    for name in SETS:
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
    shown = [(folder / "README.md").read_text() for folder in (out, tmp_path / "out")]
    assert len({re.sub(r"Built \S+ ", "", text) for text in shown}) == 1


def test_the_readme_tells_counts_licence_and_checksums(built, texts):
    out, said = built
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"Built \d{{4}}-\d\d-\d\d by \S+ from the files below {texts}\.", readme)
    for line in said.splitlines()[1:5]:
        assert line.split(" ", 1)[1] in readme
    assert "Use, do not redistribute." in readme
    for path in [*(out / name for name in SETS), *texts.iterdir()]:
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" in readme
    assert sorted(path.name for path in out.iterdir()) == sorted(["README.md", *SETS])
