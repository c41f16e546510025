"""benchmarks/debian_descriptions.sh: the sources of its files, and its refusals."""

import bz2
import gzip
import lzma
import os
import re
import shutil

import pytest
from debian import SCRIPT, SETS, build, entry, everything, packages, pairs, refused, write
from harness import ENVIRONMENT, run


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
        assert re.search(rf'^Dir::{name} "{tmp_path}/out.partial/made/apt/', conf, re.M)
    assert 'Acquire::Languages { "en"; "de"; };' in conf
    assert not (tmp_path / "out.partial").exists()


def test_an_unreachable_mirror_is_reported_in_the_words_of_apt(tmp_path):
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
    assert build(texts, out).stdout == f"{out} already exists\n"
    (tmp_path / "out").mkdir()
    result = build(texts, tmp_path / "out", check=False)
    reason = "exists but does not hold this corpus; remove it or choose another OUT_DIR."
    refused(result, f"{tmp_path}/out {reason}")


def test_what_a_killed_run_left_is_no_obstacle(built, texts, tmp_path):
    (tmp_path / "out.partial" / "made" / "corpus").mkdir(parents=True)
    (tmp_path / "out.partial" / ".fairseq_kd").touch()
    build(texts, tmp_path / "out")
    assert pairs(tmp_path / "out", "test") == pairs(built[0], "test")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(("name", "value"), [("VALID", "0"), ("TEST", "1%")])
def test_a_number_of_pairs_that_is_none_is_refused(texts, tmp_path, name, value):
    result = build(texts, tmp_path / "out", check=False, **{name: value})
    refused(result, f"{name} must be a number of pairs, 1 or more, but is {value}.")


@pytest.mark.parametrize("lang", ["en", "German", ".*"])
def test_a_language_that_is_no_code_or_english_is_refused(texts, tmp_path, lang):
    result = build(texts, tmp_path / "out", check=False, lang=lang)
    code = "must be the code of a language other than English, such as de or pt_BR, but is"
    refused(result, f"LANG {code} {lang}.")


def test_a_folder_of_texts_that_does_not_exist_is_refused(tmp_path):
    out = tmp_path / "out"
    folder = "must be a folder with Translation files, but"
    refused(build(out, out, check=False), f"--local {folder} {out} is not a folder.")


def test_too_few_pairs_are_refused(tmp_path):
    folder = write(tmp_path / "texts", packages(2))
    result = build(folder, tmp_path / "out", check=False)
    refused(result, "12 pairs are too few for a training set, valid and test.")


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    folder = write(tmp_path / "texts", packages(2))
    (folder / "Translation-de.xz").write_bytes(lzma.compress(b"cut off in the middle")[:-9])
    result = build(folder, tmp_path / "out", check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{folder}/Translation-de.xz cannot be read: ")
    assert result.stderr.count("\n") == 1


def test_the_header_is_the_help():
    assert run(SCRIPT, "--help").stdout.startswith("Build a parallel corpus, English and LANG")


@pytest.mark.parametrize("words", ["de", "de out more", "de out --local", "de out --odd"])
def test_other_arguments_are_answered_by_the_usage(words):
    result = run(SCRIPT, *words.split(), check=False)
    assert result.returncode == 2
    assert "usage: benchmarks/debian_descriptions.sh LANG OUT_DIR [--local" in result.stderr
