"""The command distill-data: fairseq-train reads what was decoded, selected and kept."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from disks import small_disk
from fairseq.data.indexed_dataset import make_builder
from forks import run_forked
from harness import PAIR, Setup, copy_dictionaries
from translations import binarised, hypotheses

from fairseq_kd.decoding.decode import read_settings
from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.distilled_data import distilled_set
from fairseq_kd.distilled_data.binarised_writer import PairWriter
from fairseq_kd.distilled_data.filters import FILTERS
from fairseq_kd.export.lineage import lineage
from fairseq_kd.files.atomic_files import MARK
from fairseq_kd.files.hashes import sha256_of

OFF = ["--max-length-ratio", "inf", "--max-copied", "inf", "--max-repeated", "inf"]


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def table(folder):
    with (folder / "scores.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def text(folder, language):
    return (folder / "text" / f"train.{language}").read_text(encoding="utf-8").split("\n")[:-1]


def test_the_best_hypotheses_become_the_targets_of_their_sources(
    distill, decoded, data, prepared, tmp_path, capsys
):
    out = tmp_path / "out"
    assert distill(out, *OFF) == 0
    assert binarised(out, "train", "es") == binarised(data, "train", "es")
    assert text(out, "es") == (prepared / "bpe" / "train.es").read_text().split("\n")[:-1]
    assert text(out, "en") == [each[0].tokens for each in hypotheses(decoded).values()]
    shown = capsys.readouterr().out
    assert f"{len(text(out, 'en'))} pairs are kept" in shown
    assert "unknown tokens in the target: 0.00%" in shown
    assert len(re.findall(r"^\[\d+\] ", shown, re.M)) == 5
    assert f"    distilled  {text(out, 'en')[0]}\n" in shown


def test_it_is_what_fairseq_preprocess_makes_of_the_text(distill, data, tmp_path):
    out = tmp_path / "out"
    distill(out, *OFF)
    dictionaries = ["--srcdict", f"{data}/dict.es.txt", "--tgtdict", f"{data}/dict.en.txt"]
    text_files = ["--trainpref", out / "text" / "train", "--destdir", tmp_path / "plain"]
    run_forked("fairseq-preprocess", *PAIR, *dictionaries, *text_files)
    for path in (tmp_path / "plain").glob("*"):
        if path.name != "preprocess.log":
            assert path.read_bytes() == (out / path.name).read_bytes(), path.name


def test_other_splits_and_dictionaries_are_copied(distill, data, tmp_path):
    distill(tmp_path / "out")
    for name in ("dict.es.txt", "dict.en.txt", "valid.es-en.en.bin", "test.es-en.es.idx"):
        assert (tmp_path / "out" / name).read_bytes() == Path(data, name).read_bytes()


def test_splits_that_are_named_in_the_other_direction_get_the_names_of_this_one(
    distill, data, tmp_path
):
    folder = shutil.copytree(data, tmp_path / "data")
    for path in [*folder.glob("valid.*"), folder / "test.es-en.en.idx"]:
        path.rename(folder / path.name.replace("es-en", "en-es"))
    (folder / "test.es-en.en.idx").write_bytes(b"of this direction")
    distill(tmp_path / "out", folder=folder)
    assert not list((tmp_path / "out").glob("*.en-es.*"))
    for language in ("es", "en"):
        assert binarised(tmp_path / "out", "valid", language) == binarised(data, "valid", language)
    assert (tmp_path / "out" / "test.es-en.en.idx").read_bytes() == b"of this direction"


def test_links_to_data_are_followed(distill, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    for path in (*folder.glob("valid.*"), folder / "dict.es.txt", folder / "train.es-en.es.bin"):
        path.unlink()
        path.symlink_to(Path(data, path.name))
    distill(tmp_path / "out", folder=folder)
    for name in ("valid.es-en.es.bin", "valid.es-en.en.idx", "dict.es.txt"):
        copied = tmp_path / "out" / name
        assert not copied.is_symlink()
        assert copied.read_bytes() == Path(data, name).read_bytes()


def test_the_card_of_a_student_names_the_translator_of_its_data(distill, decoded, data, tmp_path):
    out = tmp_path / "out"
    distill(out, "--mix", "gold")
    flags = ["--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"]
    line = lineage(Setup(f"{out}:{data}", *flags).save(tmp_path / "s.pt"))
    assert [each.path for each in line[1:]] == [str(out)]
    teacher = manifest(out)["made_of"]["decoding"]["teacher"][0]
    assert line[1].facts["translated by"] == f"the teacher with SHA-256 {teacher}"
    pairs = len(text(out, "en"))
    assert (
        line[1]
        .facts["selection"]
        .startswith(f"best; {pairs:,} pairs of {len(hypotheses(decoded))}")
    )


@pytest.mark.parametrize("criterion", ["label_smoothed_cross_entropy", "word_kd"])
def test_a_student_learns_from_it_with_and_without_the_teachers_distributions(
    distill, ending_teacher, tmp_path, criterion
):
    distill(tmp_path / "out")
    flags = ["--criterion", criterion]
    flags += ["--kd-teacher", ending_teacher] if criterion == "word_kd" else []
    setup = Setup(str(tmp_path / "out"), *flags)
    setup.task.load_dataset("train")
    setup.dataset = setup.task.dataset("train")
    assert len(setup.dataset) == manifest(tmp_path / "out")["counts"]["kept"]
    loss, _, log = setup.criterion(setup.model, setup.batch(0, 1, 2))
    assert loss.isfinite()
    assert criterion != "word_kd" or log["kd_loss"] > 0


def test_nbest_gives_copies_of_the_source(distill, decoded, data, tmp_path):
    distill(tmp_path / "out", "--select", "nbest", "--copies", "3", *OFF)
    gold = binarised(data, "train", "es")
    assert binarised(tmp_path / "out", "train", "es") == [each for each in gold for _ in range(3)]
    three = [each.tokens for found in hypotheses(decoded).values() for each in found[:3]]
    assert text(tmp_path / "out", "en") == three


def words(tokens):
    return f"{tokens} ".replace("@@ ", "").strip()


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_interpolation_takes_the_nearest_to_the_reference(
    distill, decoded, prepared, tmp_path, metric
):
    from sacrebleu import sentence_bleu, sentence_chrf

    distill(tmp_path / "out", "--select", "interpolation", "--metric", metric, *OFF)
    references = (prepared / "bpe" / "train.en").read_text().split("\n")
    taken = text(tmp_path / "out", "en")

    def score(tokens, reference):
        pair = words(tokens), [words(reference)]
        if metric == "chrf":
            return sentence_chrf(*pair).score
        return sentence_bleu(*pair, tokenize="none").score

    for number, found in hypotheses(decoded).items():
        gains = [score(each.tokens, references[number]) for each in found]
        assert score(taken[number], references[number]) == max(gains)
    assert taken != [found[0].tokens for found in hypotheses(decoded).values()]


def test_selection_does_not_depend_on_the_number_of_workers(distill, tmp_path):
    for workers in ("1", "2"):
        distill(tmp_path / workers, "--select", "mbr", "--workers", workers)
    assert manifest(tmp_path / "1") == manifest(tmp_path / "2")


def test_filters_take_what_their_scores_say(distill, decoded, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--min-score", "-2.3", "--max-repeated", "0.2", "--min-similarity", "2"]
    distill(out, "--select", "nbest", *flags)
    shown = capsys.readouterr().out
    rows, counts = table(out), manifest(out)["counts"]
    assert len(rows) == counts["selected"] == 4 * counts["sentences"]
    kept = [row for row in rows if row["removed_by"] == "-"]
    assert len(kept) == counts["kept"] == len(text(out, "en"))
    for name, limit, below in (("teacher_score", -2.3, True), ("repeated", 0.2, False)):
        values = [float(row[name]) for row in kept]
        assert min(values) >= limit if below else max(values) <= limit
        assert counts["removed_by"][name] == sum(row["removed_by"] == name for row in rows) > 0
        flag = next(each.flag for each in FILTERS if each.name == name)
        assert f"{flag} {limit:g} removed {counts['removed_by'][name]:,} (" in shown
    numbers = [int(row["sentence"]) for row in kept]
    found = hypotheses(decoded)
    expected = [found[int(row["sentence"])][int(row["hypothesis"])].tokens for row in kept]
    assert text(out, "en") == expected
    assert numbers == sorted(numbers)


def test_duplicates_are_counted_over_the_whole_set(distill, data, translate, tmp_path):
    folder = shutil.copytree(data, tmp_path / "data")
    writer = PairWriter(folder, "twice", read_subset(folder, "valid", ("es", "en")))
    for _ in range(2):
        for i in range(3):
            writer.add(binarised(data, "valid", "es")[i], [6, 2])
    writer.close()
    translate(tmp_path / "hyp", "--subset", "twice", "--max-tokens", "1", folder=folder)
    flags = [*OFF, "--max-duplicates", "0"]
    distill(tmp_path / "out", *flags, translations=tmp_path / "hyp", folder=folder)
    assert manifest(tmp_path / "out")["counts"]["removed_by"]["duplicates"] == 3
    assert binarised(tmp_path / "out", "train", "es") == binarised(data, "valid", "es")[:3]


def test_gold_pairs_are_upsampled_and_sources_tagged(distill, data, tmp_path):
    out, tag = tmp_path / "out", "madeupword0000"
    dictionary = Path(data, "dict.es.txt").read_text(encoding="utf-8").splitlines()
    tag_id = 4 + next(i for i, line in enumerate(dictionary) if line.startswith(tag))
    flags = ["--mix", "gold", "--upsample-gold", "2", "--tag-distilled", tag]
    assert distill(out, *flags, *OFF) == 0
    source, target = (binarised(out, "train", side) for side in ("es", "en"))
    gold = [binarised(data, "train", side) for side in ("es", "en")]
    assert source[: 2 * len(gold[0])] == 2 * gold[0]
    assert target[: 2 * len(gold[1])] == 2 * gold[1]
    assert source[2 * len(gold[0]) :] == [[tag_id, *each] for each in gold[0]]
    assert manifest(out)["gold_pairs"] == 2 * len(gold[0])
    assert text(out, "es")[0].split()[0] != tag


def test_an_extra_split_is_read_with_the_gold_one(distill, data, tmp_path):
    out = tmp_path / "out"
    assert distill(out, "--mix", "extra", *OFF) == 0
    assert binarised(out, "train", "en") == binarised(data, "train", "en")
    flags = ["--criterion", "cross_entropy", "--upsample-primary", "2"]
    setup = Setup(str(out), *flags)
    setup.task.load_dataset("train", combine=True)
    assert len(setup.task.dataset("train")) == 3 * len(binarised(data, "train", "en"))


def test_the_manifest_hashes_every_file_and_input(distill, decoded, data, tmp_path):
    distill(tmp_path / "out")
    made = manifest(tmp_path / "out")
    files = {
        str(path.relative_to(tmp_path / "out")): sha256_of([path])
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert made["files"] == files
    assert made["made_of"]["hypotheses"] == sha256_of([decoded / "hypotheses.txt"])
    assert made["made_of"]["decoding"] == read_settings(decoded)
    assert made["made_of"]["thresholds"]["length_ratio"] == "3.0"


def test_run_again_it_is_there_and_with_other_options_it_is_refused(distill, tmp_path, capsys):
    out = tmp_path / "out"
    distill(out)
    before = manifest(out)
    assert distill(out) == 0
    assert f"{out} already exists" in capsys.readouterr().err
    assert distill(out, "--min-words", "2") == 2
    says = f"--out {out} already exists and holds dict.en.txt. Remove it or choose another."
    assert says in capsys.readouterr().err
    assert manifest(out) == before


@pytest.mark.parametrize("name", ["train.es-en.en.bin", "dict.en.txt", "text/train.es"])
def test_what_is_there_but_damaged_is_refused(distill, tmp_path, capsys, name):
    out = tmp_path / "out"
    distill(out)
    content = bytearray((out / name).read_bytes())
    content[7] ^= 1
    (out / name).write_bytes(content)
    assert distill(out) == 2
    says = f"{out / name} is missing, or was changed after it was written: its hash differs."
    assert f"{says} Remove {out} and run this again." in capsys.readouterr().err


def test_killed_at_any_file_it_appears_whole_or_not_at_all(distill, tmp_path, monkeypatch, capsys):
    distill(tmp_path / "whole")
    out = tmp_path / "out"

    def die(*_):
        raise KeyboardInterrupt

    for step in ("copy_the_rest", "PairWriter", "_score_line", "sums_of"):
        with monkeypatch.context() as patch:
            patch.setattr(distilled_set, step, die)
            assert distill(out) == 130
        assert "interrupted; run the same command again to resume" in capsys.readouterr().err
        assert not out.exists()
    left = tmp_path / "out.partial" / "made"  # what SIGKILL would leave
    left.mkdir(parents=True)
    (left / "train.es-en.es.bin").write_bytes(b"half")
    (left.parent / MARK).touch()
    assert distill(out) == 0
    assert manifest(out) == manifest(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_a_full_disk_is_reported_and_the_translations_are_kept(distill, decoded, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "size=40k") as disk:
        before = (decoded / "hypotheses.txt").read_bytes()
        assert distill(disk / "out") == 2
        says = f"The disk of {disk / 'out'} is full; the translations are kept. Free some space and"
        assert says in capsys.readouterr().err
        assert os.listdir(disk) == []
        assert (decoded / "hypotheses.txt").read_bytes() == before


@pytest.fixture(params=["raw", "lazy"])
def binarised_otherwise(request, data, tmp_path):
    """The data as fairseq-preprocess --dataset-impl raw or lazy writes them."""
    folder = copy_dictionaries(data, tmp_path / request.param)
    for split in ("train", "valid", "test"):
        subset = read_subset(Path(data), split, ("es", "en"))
        for language, words, side in (
            ("es", subset.source_dictionary, subset.source),
            ("en", subset.target_dictionary, subset.target),
        ):
            path = folder / f"{split}.es-en.{language}"
            if request.param == "raw":
                path.write_text("".join(f"{words.string(ids)}\n" for ids in side), encoding="utf-8")
                continue
            builder = make_builder(f"{path}.bin", "lazy")
            for ids in side:
                builder.add_item(ids)
            builder.finalize(f"{path}.idx")
    return folder


def test_data_in_every_format_of_fairseq_come_out_whole(
    distill, translate, binarised_otherwise, data, tmp_path, capsys
):
    folder, out = binarised_otherwise, tmp_path / "out"
    assert translate(tmp_path / "hyp", "--subset", "valid", folder=folder) == 0
    flags = [*OFF, "--mix", "extra", "--gold-subset", "test"]
    assert distill(out, *flags, translations=tmp_path / "hyp", folder=folder) == 0
    assert "has no valid set" not in capsys.readouterr().err
    task = Setup(str(out), "--criterion", "cross_entropy").task
    for split, origin in (("train", "test"), ("valid", "valid"), ("test", "test")):
        task.load_dataset(split)
        for language, side in (("es", task.dataset(split).src), ("en", task.dataset(split).tgt)):
            if side.supports_prefetch:
                side.prefetch(range(len(side)))
            assert [each.tolist() for each in side] == binarised(data, origin, language)
    assert binarised(out, "train1", "es") == binarised(data, "valid", "es")


def test_a_folder_without_a_valid_set_is_reported_at_the_start(distill, data, tmp_path, capsys):
    folder, out = shutil.copytree(data, tmp_path / "data"), tmp_path / "out"
    for path in folder.glob("valid.*"):
        path.unlink()
    assert distill(out, folder=folder) == 0
    says = f"{folder} has no valid set, so {out} will have none: add one to train with, or train "
    assert capsys.readouterr().err.startswith(says + "with --disable-validation\n")


def test_progress_is_shown_in_sentences_from_the_first_to_the_last(distill, tmp_path, capsys):
    flags = [*OFF, "--select", "mbr", "--mix", "gold", "--upsample-gold", "2"]
    assert distill(tmp_path / "out", *flags) == 0
    count = manifest(tmp_path / "out")["counts"]["sentences"]
    gold, begun, ended = capsys.readouterr().err.splitlines()[-3:]
    assert gold.startswith("gold: 100% |")
    assert f" {2 * count}/{2 * count} pairs, 00:00 left" in gold
    assert begun.startswith("distilled:   0% |")
    assert f" 0/{count} sentences, ? left" in begun
    assert ended.startswith("distilled: 100% |")
    assert ended.endswith(f"| {count}/{count} sentences, 00:00 left, {count} pairs kept")


def test_another_valid_set_makes_another_folder(distill, data, tmp_path, capsys):
    copied = tmp_path / "data"
    shutil.copytree(data, copied)
    assert distill(tmp_path / "out", folder=copied) == 0
    path = next(copied.glob("valid.*.es.bin"))
    path.write_bytes(path.read_bytes()[:-4] + path.read_bytes()[-2:] * 2)
    assert distill(tmp_path / "out", folder=copied) == 2
    assert "out already exists and holds dict.en.txt. Remove it" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"name": "theirs"}', "[1]", "no JSON"])
def test_a_folder_of_somebody_else_is_refused(distill, tmp_path, content, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text(content)
    assert distill(out) == 2
    says = f"--out {out} already exists and holds manifest.json. Remove it or choose another."
    assert says in capsys.readouterr().err
    assert (out / "manifest.json").read_text() == content


def test_every_filter_can_be_turned_off(distill, decoded, tmp_path):
    off = [f"{each.flag}={'-' * each.flag.startswith('--min')}inf" for each in FILTERS]
    assert distill(tmp_path / "out", *off) == 0
    assert len(text(tmp_path / "out", "en")) == len(hypotheses(decoded))


def test_pairs_without_a_word_go_even_if_their_filter_is_off(
    distill, translate, odd_data, tmp_path
):
    assert translate(tmp_path / "hyp", "--engine", "fairseq", folder=odd_data) == 0
    flags = [*OFF, "--min-words=-inf"]
    distill(tmp_path / "out", *flags, translations=tmp_path / "hyp", folder=odd_data)
    assert [row["sentence"] for row in table(tmp_path / "out") if row["removed_by"] == "words"] == [
        "1",
        "2",
    ]
