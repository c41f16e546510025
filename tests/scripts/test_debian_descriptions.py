"""scripts/debian_descriptions.sh on small Translation files, made here, and a made apt-get."""

import bz2
import gzip
import hashlib
import importlib.util
import itertools
import lzma
import os
import random
import re
import shutil

import pytest
from harness import ENVIRONMENT, ROOT, run

SCRIPT = ROOT / "scripts" / "debian_descriptions.sh"
SETS = [f"{name}.{lang}" for name in ("train", "valid", "test") for lang in ("en", "de")]

_spec = importlib.util.spec_from_file_location("made", SCRIPT.with_suffix(".py"))
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def word(number):
    """A word of its own for each number, without digits."""
    return "w" + "".join(chr(ord("a") + int(digit)) for digit in str(number))


def sentence(number, language):
    """Nine words that no other sentence has."""
    words = [f"{language}{word(9 * number + position)}" for position in range(9)]
    return " ".join(words).capitalize() + "."


def entry(package, english, german):
    """A package with its descriptions: lists of lines, the first of them the short one."""
    return package, list(english), list(german)


def packages(families=60):
    """So many families with two packages each, and three pairs in each package."""
    numbers = itertools.count()
    entries = []
    for number in range(families):
        for package in (f"lib{word(number)}2", f"{word(number)}-data"):
            parts = [next(numbers) for _ in range(3)]
            sides = []
            for language in ("en", "de"):
                short, *rest = (sentence(part, language) for part in parts)
                sides.append([short.rstrip("."), " ".join(rest)])
            entries.append(entry(package, *sides))
    return entries


def write(folder, entries, lang="de", name="Translation-{}", compress=lambda data: data):
    """Both Translation files of some packages."""
    folder.mkdir(exist_ok=True, parents=True)
    for code, side in (("en", 1), (lang, 2)):
        stanzas = []
        for each in entries:
            if each[side]:
                md5 = hashlib.md5("\n".join(each[1]).encode()).hexdigest()
                short, *body = each[side]
                lines = [f"Package: {each[0]}", f"Description-md5: {md5}"]
                lines += [f"Description-{code}: {short}", *(f" {line}" for line in body)]
                stanzas.append("".join(line + "\n" for line in lines))
        (folder / name.format(code)).write_bytes(compress("\n".join(stanzas).encode()))
    return folder


def build(texts, out, *flags, check=True, lang="de", **env):
    env = {"VALID": "6", "TEST": "6", **env}
    return run(SCRIPT, lang, out, "--local", texts, *flags, env=env, check=check)


def pairs(out, name):
    sides = ((out / f"{name}.{lang}").read_text(encoding="utf-8") for lang in ("en", "de"))
    return list(zip(*(side.splitlines() for side in sides), strict=True))


def everything(out):
    return [pair for name in ("train", "valid", "test") for pair in pairs(out, name)]


def parts(english, german):
    """The aligned parts of two descriptions without their short ones."""
    sides = (made.Description("some", "Short", tuple(body)) for body in (english, german))
    return made.aligned(*sides)[0][1:]


def refused(result, message):
    """One sentence, and nothing else, says what is wrong."""
    assert result.returncode == 1
    assert result.stderr == f"{message}\n"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write(tmp_path_factory.mktemp("texts"), packages())


@pytest.fixture(scope="module")
def built(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "corpus"
    result = build(texts, out)
    return out, result.stdout


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
    for packages, name in (
        (("libboost1.74-dev", "boost", "libboost2"), "boost"),
        (("python3-numpy", "python-doc"), "python"),
        (("7zip-rar",), "7zip"),
        (("lib32-x",), "lib32-x"),  # nothing would be left
    ):
        assert {made.family(package) for package in packages} == {name}


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


@pytest.mark.parametrize(
    ("ending", "compress"),
    [(".xz", lzma.compress), (".bz2", bz2.compress), (".gz", gzip.compress)],
)
def test_compressed_files_are_read_in_subfolders(built, tmp_path, ending, compress):
    out, _ = built
    name = "dists_sid_main_i18n_Translation-{}" + ending
    write(tmp_path / "texts" / "sid", packages(), name=name, compress=compress)
    build(tmp_path / "texts", tmp_path / "out")
    for name in SETS:
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()


def test_of_two_translations_that_of_the_last_file_counts(tmp_path):
    entries = packages(20)
    for suite, text in (("1.old", "Ein alter Text"), ("2.new", "Ein neuer Text")):
        both = [*entries, entry("one", ["Some text"], [text])]
        write(tmp_path / "texts", both, name=suite + ".Translation-{}")
    build(tmp_path / "texts", tmp_path / "out")
    assert [pair for pair in everything(tmp_path / "out") if pair[0] == "Some text"] == [
        ("Some text", "Ein neuer Text")
    ]


def apt(folder, body):
    """A PATH on which apt-get is a script of these lines."""
    folder.mkdir()
    (folder / "apt-get").write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / "apt-get").chmod(0o755)
    return f"{folder}{os.pathsep}{ENVIRONMENT['PATH']}"


def test_apt_get_fetches_into_folders_of_its_own_and_later_suites_win(tmp_path):
    entries = packages(20)
    for suite, text in (("zeta", "Ein alter Text"), ("alpha", "Ein neuer Text")):
        both = [*entries, entry("one", ["Some text"], [text])]
        name = f"localhost_debian_dists_{suite}_main_i18n_Translation-{{}}"
        write(tmp_path / "lists", both, name=name)
    body = f"""
        [[ $1 == -c && $3 == update ]] || exit 9
        cp "$2" "$(sed -n 's/^Dir::Etc::sourcelist "\\(.*\\)";/\\1/p' "$2")" {tmp_path}
        cp {tmp_path}/lists/* "$(sed -n 's/^Dir::State "\\(.*\\)";/\\1/p' "$2")/lists"
    """
    env = {"PATH": apt(tmp_path / "bin", body), "SUITES": "zeta alpha", "VALID": "6", "TEST": "6"}
    env |= {"MIRROR": "http://localhost/debian", "KEYRING": str(tmp_path / "none")}
    result = run(SCRIPT, "de", "out", env=env, cwd=tmp_path)
    said = "fetching Translation-en and Translation-de of zeta alpha from http://localhost/debian"
    assert result.stdout.startswith(f"[1/5] {said}\n")
    assert ("Some text", "Ein neuer Text") in everything(tmp_path / "out")
    want = "".join(f"deb http://localhost/debian {suite} main\n" for suite in ("zeta", "alpha"))
    assert (tmp_path / "sources.list").read_text() == want
    conf = (tmp_path / "apt.conf").read_text()
    for name in ("State", "Cache", "Etc::sourcelist"):
        assert re.search(rf'^Dir::{name} "{tmp_path}/out.partial/apt/', conf, re.M)
    assert 'Acquire::Languages { "en"; "de"; };' in conf
    assert not (tmp_path / "out.partial").exists()


def test_an_unreachable_mirror_is_told_in_apts_words(tmp_path):
    body = "echo 'W: so so'; echo 'E: Could not resolve nowhere.example' >&2; exit 100"
    env = {"PATH": apt(tmp_path / "bin", body), "SUITES": "sid", "MIRROR": "http://nowhere.example"}
    result = run(SCRIPT, "de", tmp_path / "out", env=env, check=False)
    reason = "Could not resolve nowhere.example"
    refused(result, f"apt-get could not fetch sid from http://nowhere.example: {reason}.")
    assert not (tmp_path / "out").exists()


def test_without_apt_get_local_files_are_asked_for(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "sed"):
        (tools / name).symlink_to(shutil.which(name))
    result = run(SCRIPT, "de", tmp_path / "out", env={"PATH": str(tools)}, check=False)
    hint = "run this on Debian or Ubuntu, or give Translation files with --local DIR."
    refused(result, f"apt-get is missing; {hint}")


def test_a_language_without_translation_file_is_named(texts, tmp_path):
    result = build(texts, tmp_path / "out", lang="fr", check=False)
    refused(result, f"There is no Translation-fr in the files below {texts}.")
    env = {"PATH": apt(tmp_path / "bin", "true"), "SUITES": "sid", "MIRROR": "http://localhost"}
    result = run(SCRIPT, "fr", tmp_path / "out", env=env, check=False)
    refused(result, "There is no Translation-en in sid of http://localhost.")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_kept_and_anything_else_is_refused(built, texts, tmp_path):
    out, _ = built
    assert build(texts, out).stdout == f"{out} is there already\n"
    (tmp_path / "out").mkdir()
    result = build(texts, tmp_path / "out", check=False)
    reason = "exists but holds no such corpus; remove it or choose another OUT_DIR."
    refused(result, f"{tmp_path}/out {reason}")


def test_what_a_killed_run_left_is_no_obstacle(built, texts, tmp_path):
    (tmp_path / "out.partial" / "corpus").mkdir(parents=True)
    build(texts, tmp_path / "out")
    assert pairs(tmp_path / "out", "test") == pairs(built[0], "test")
    assert not (tmp_path / "out.partial").exists()


def test_values_that_mean_nothing_are_refused(texts, tmp_path):
    out = tmp_path / "out"
    number = "must be a number of pairs, 1 or more, but is"
    refused(build(texts, out, check=False, VALID="0"), f"VALID {number} 0.")
    refused(build(texts, out, check=False, TEST="1%"), f"TEST {number} 1%.")
    code = "must be the code of a language other than English, such as de or pt_BR, but is"
    for lang in ("en", "German", ".*"):
        refused(build(texts, out, check=False, lang=lang), f"LANG {code} {lang}.")
    folder = "must be a folder with Translation files, but"
    refused(build(out, out, check=False), f"--local {folder} {out} is none.")


def test_a_broken_file_and_too_few_pairs_are_refused(tmp_path):
    folder = write(tmp_path / "texts", packages(2))
    result = build(folder, tmp_path / "out", check=False)
    refused(result, "12 pairs are too few for a training set, valid and test.")
    (folder / "Translation-de.xz").write_bytes(lzma.compress(b"cut off in the middle")[:-9])
    result = build(folder, tmp_path / "out", check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{folder}/Translation-de.xz cannot be read: ")
    assert result.stderr.count("\n") == 1


def test_the_header_is_the_help():
    assert run(SCRIPT, "--help").stdout.startswith("Build a parallel corpus, English and LANG")
    for words in (["de"], ["de", "out", "more"], ["de", "out", "--local"], ["de", "out", "--odd"]):
        result = run(SCRIPT, *words, check=False)
        assert result.returncode == 2
        assert "usage: scripts/debian_descriptions.sh LANG OUT_DIR [--local DIR]" in result.stderr
