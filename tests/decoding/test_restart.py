"""A decoding in shards, after kills and full disks, gives the same bits."""

import os
import random
import re
import shutil
import signal
import time
from importlib.util import find_spec

import numpy as np
import pytest
from disks import files_up_to, small_disk
from forks import start_forked
from translations import content, hypotheses

from fairseq_kd import cli
from fairseq_kd.decoding.decode import ShardDecoder
from fairseq_kd.decoding.hypothesis_files import WHOLE
from fairseq_kd.files.locks import lock_beside, locked

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")


def test_eight_shards_merge_to_the_undivided_file(translate, decoded, tmp_path, capsys):
    out = tmp_path / "out"
    for index in random.Random(1).sample(range(1, 9), 8):
        assert not (out / WHOLE).exists()
        assert translate(out, "--nbest", "4", "--shard", f"{index}/8", "--workers", "1") == 0
    assert content(out) == content(decoded)
    assert "sentences are in" in capsys.readouterr().err
    assert not list(out.glob("*-of-*"))
    assert translate(out, "--nbest", "4", "--shard", "3/8") == 0
    assert f"{out / WHOLE} already exists" in capsys.readouterr().err


def test_more_shards_than_batches_are_merged_too(translate, tmp_path):
    flags = ["--subset", "valid", "--max-tokens", "2000"]
    translate(tmp_path / "one", *flags)
    for index in range(1, 6):
        assert translate(tmp_path / "five", *flags, "--shard", f"{index}/5") == 0
    assert content(tmp_path / "five") == content(tmp_path / "one")


def test_shards_that_were_copied_together_are_merged_by_the_command(
    translate, decoded, tmp_path, capsys
):
    for index in (1, 2):
        translate(tmp_path / str(index), "--nbest", "4", "--shard", f"{index}/2")
    shutil.copy(tmp_path / "2" / "hypotheses-2-of-2.txt", tmp_path / "1")
    assert cli.main(["merge", str(tmp_path / "1")]) == 0
    assert content(tmp_path / "1") == content(decoded)
    assert cli.main(["merge", str(tmp_path / "2")]) == 2
    assert "lacks 1 of 2 shards: 1/2. Run translate with --shard" in capsys.readouterr().err


def test_every_batch_that_was_decoded_is_kept(translate, translate_words, tmp_path, capsys):
    out, flags = tmp_path / "out", ["--max-tokens", "200", "--workers", "1"]
    journal = out / "hypotheses.journal"
    process = start_forked("fairseq-kd", *translate_words(out, *flags))
    while process.poll() is None and lines_in(journal) < 30:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / WHOLE).exists()
    batches = re.split(rb"# batch [^\n]*\n", journal.read_bytes())[1:-1]  # the last may be cut
    kept = {line.split(b"\t")[0] for line in b"".join(batches).split(b"\n") if line}
    assert translate(out, *flags) == 0
    printed = capsys.readouterr().err
    assert "was damaged" not in printed
    (count,) = re.findall(r"continuing after (\d+) sentences", printed)
    assert int(count) >= len(kept) >= 10


def lines_in(path):
    """The number of lines of a file; 0 if it does not exist."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at_random_moments(words, out, times, seed):
    """Starts the command again and again, and kills it when its journal has grown by some bytes."""
    chance, killed = random.Random(seed), 0
    while killed < times:
        before = sum(path.stat().st_size for path in out.glob("*.journal"))
        goal = before + chance.randrange(1, 6000)
        process = start_forked("fairseq-kd", *words)
        while process.poll() is None:
            if sum(path.stat().st_size for path in out.glob("*.journal")) >= goal:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.0005)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
        killed += 1
    return killed


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(
    translate, translate_words, decoded, tmp_path, times
):
    out = tmp_path / "out"
    flags = ["--nbest", "4", "--max-tokens", "60", "--workers", "2"]
    assert kill_at_random_moments(translate_words(out, *flags), out, times, times) == times
    assert not (out / WHOLE).exists()
    assert translate(out, *flags) == 0
    assert translate(tmp_path / "whole", *flags, "--workers", "1") == 0
    assert content(out) == content(tmp_path / "whole")


def test_a_shard_that_another_process_decodes_is_refused(translate, tmp_path, capsys):
    out = tmp_path / "out"
    with locked(lock_beside(out / "hypotheses-1-of-2.txt"), "it"):
        assert translate(out, "--subset", "valid", "--shard", "1/2") == 2
        text = f"translate: Shard 1/2 in --out {out} is in use since .* by process "
        assert re.search(f"{text}{os.getpid()} on ", capsys.readouterr().err)
        assert translate(out, "--subset", "valid", "--shard", "2/2") == 0
    assert not list(out.glob("*-1-of-2*"))
    assert not list(out.glob(".hyp*"))


@pytest.mark.slow
def test_sampling_is_the_same_in_any_cut_and_another_with_another_seed(translate, tmp_path):
    flags = ["--subset", "valid", "--sampling", "--nbest", "3", "--max-tokens", "150"]
    translate(tmp_path / "one", *flags, "--workers", "1")
    for index in (2, 1):  # two workers are two processes, one is this one
        translate(tmp_path / "two", *flags, "--shard", f"{index}/2", "--workers", str(index))
    assert content(tmp_path / "one") == content(tmp_path / "two")
    translate(tmp_path / "other", *flags, "--seed", "2", "--workers", "1")
    assert content(tmp_path / "one") != content(tmp_path / "other")
    assert all(len(each) == 3 for each in hypotheses(tmp_path / "one").values())


def test_fairseqs_sampling_is_the_same_in_any_cut(translate, tmp_path):
    flags = ["--subset", "valid", "--sampling", "--sampling-topk", "5", "--nbest", "2"]
    flags += ["--engine", "fairseq"]
    translate(tmp_path / "one", *flags)
    for index in (2, 1):
        translate(tmp_path / "two", *flags, "--shard", f"{index}/2")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_full_disk_is_reported_and_what_was_decoded_is_kept(translate, decoded, tmp_path, capsys):
    out = tmp_path / "out"
    with files_up_to(30_720):
        assert translate(out, "--nbest", "4") == 2
    text = f"The disk of {out} is full; earlier translations are kept. Free some space and run"
    assert text in capsys.readouterr().err
    kept = (out / "hypotheses.journal").stat().st_size
    assert 20_000 < kept <= 30_720
    assert translate(out, "--nbest", "4") == 0
    assert content(out) == content(decoded)


def test_a_full_file_system_is_reported_and_what_was_decoded_is_kept(
    translate, decoded, tmp_path, capsys
):
    with small_disk(tmp_path / "disk", "size=48k") as disk:
        assert translate(disk / "out", "--nbest", "4") == 2
        assert (
            f"The disk of {disk / 'out'} is full; earlier translations are kept"
            in capsys.readouterr().err
        )
        kept = shutil.copytree(disk / "out", tmp_path / "out")
    assert (kept / "hypotheses.journal").stat().st_size > 20_000
    assert translate(kept, "--nbest", "4") == 0
    assert "continuing after" in capsys.readouterr().err
    assert content(kept) == content(decoded)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("H-5\t-1.0\tc\nH-5\t-2.0\td\nH-3\t-0.5\ta b\n", True),
        ("H-5\t-inf\t\nH-3\t-0.5\ta\u2028b \x85\n", True),  # a token may hold another line end
        ("H-3\t-0.5\ta b\n", False),
        ("H-3\t-0.5\ta b\nH-5\t-1.0\tc\n", False),
        ("H-5\t-1.0\tc\nH-3\t-0.5\ta b", False),
        ("H-5\t-1.0\tc\nH-\t-0.5\ta b\n", False),
        ("", False),
    ],
)
def test_a_batch_of_a_journal_must_have_its_sentences(text, holds):
    decoder = ShardDecoder.__new__(ShardDecoder)
    decoder.own, decoder.batches = range(1), [np.array([5, 3])]
    assert decoder._holds(0, text.encode()) == holds


def test_a_batch_of_a_journal_that_is_no_text_is_decoded_again():
    decoder = ShardDecoder.__new__(ShardDecoder)
    decoder.own, decoder.batches = range(1), [np.array([3])]
    assert decoder._holds(0, b"H-3\t-0.5\ta b\n")
    assert not decoder._holds(0, b"H-3\t-0.5\ta \xff\n")
