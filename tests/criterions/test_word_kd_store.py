"""word_kd from a store: the same as from the live teacher, as far as the store's entries go."""

import re
import shutil

import pytest
import torch
from stores import build, rewrite

from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.models.real_tokens import PREPARED
from fairseq_kd.teachers.sources import longest_sentences
from fairseq_kd.teachers.store import TeacherStore

STORED = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--train-subset", "valid"]


@pytest.fixture(scope="module")
def store(teacher, data, tmp_path_factory):
    """A store of the whole vocabulary but one entry."""
    out = tmp_path_factory.mktemp("stores") / "whole"
    return build(out, teacher, data, left_out=1)


def figures(setup, sample):
    setup.model.eval()
    loss, _, log = setup.criterion(setup.model, sample)
    return loss.item(), log


@pytest.mark.parametrize("divergence", ["forward_kl", "js"])
@pytest.mark.parametrize("temperature", ["1", "3.5"])
def test_it_learns_what_the_live_teacher_teaches(setup, store, teacher, divergence, temperature):
    flags = ["--kd-temperature", temperature, "--kd-divergence", divergence, "--dropout", "0"]
    live = setup(*STORED, "--kd-teacher", teacher, *flags)
    stored = setup(*STORED, "--kd-store", store, *flags)
    sample = live.batch(0, 3, 11)
    (want, want_log), (got, got_log) = (figures(each, sample) for each in (live, stored))
    assert got == pytest.approx(want, rel=2e-3)
    for key in ("kd_loss", "kd_teacher_entropy"):
        assert got_log[key].item() == pytest.approx(want_log[key].item(), rel=1e-2)
    assert got_log["kd_agreed"] == want_log["kd_agreed"]
    grads = [each.gradients(sample) for each in (stored, live)]
    assert (grads[0] - grads[1]).norm() < 1e-2 * grads[1].norm()


def test_a_split_and_permuted_batch_changes_nothing(setup, store):
    stored = setup(*STORED, "--kd-store", store)
    whole = stored.gradients(stored.batch(0, 1, 2, 20))
    parts = stored.gradients(stored.batch(20, 1), stored.batch(2, 0))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_an_ignored_prefix_takes_the_rows_behind_it(setup, store, teacher):
    flags = ["--ignore-prefix-size", "2", "--dropout", "0", "--kd-temperature", "2"]
    live = setup(*STORED, "--kd-teacher", teacher, *flags)
    stored = setup(*STORED, "--kd-store", store, *flags)
    sample = live.batch(4, 5)
    assert figures(stored, sample)[0] == pytest.approx(figures(live, sample)[0], rel=2e-3)


def test_several_stores_teach_their_mean(setup, store, teacher, data, tmp_path):
    less = build(tmp_path / "less", teacher, data, left_out=200)
    one = setup(*STORED, "--kd-store", store, "--kd-temperature", "1")
    sample = one.batch(0, 3)
    twice = setup(*STORED, "--kd-store", f"{store}:{store}", "--kd-temperature", "1")
    mixed = setup(*STORED, "--kd-store", f"{store}:{less}", "--kd-temperature", "1")
    assert figures(twice, sample)[0] == pytest.approx(figures(one, sample)[0], rel=1e-4)
    assert figures(mixed, sample)[0] == pytest.approx(figures(one, sample)[0], rel=5e-2)


def refuses(setup, message, *flags, error=ValueError):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        setup(*STORED, *flags)


def test_a_missing_store_is_refused(setup):
    refuses(setup, "nowhere holds no store of a teacher.", "--kd-store", "nowhere",
            error=FileNotFoundError)  # fmt: skip


def test_a_store_without_the_training_set_is_refused(setup, store):
    message = f"--kd-store {store} holds valid, but the training also needs train. Build it by"
    refuses(setup, message, "--kd-store", store, "--train-subset", "train")


def test_a_store_without_one_of_two_validation_sets_is_refused(setup, store):
    message = f"--kd-store {store} holds valid, but the training also needs test. Build it by"
    flags = ["--kd-store", store, "--valid-subset", "valid,test"]
    refuses(setup, message, *flags)
    assert setup(*STORED, *flags, "--disable-validation").criterion.teachers


def test_a_set_that_is_read_twice_is_named_once(setup, store):
    message = f"--kd-store {store} holds valid, but the training also needs test. Build it by"
    flags = ["--kd-store", store, "--train-subset", "test", "--valid-subset", "test"]
    refuses(setup, message, *flags)


def test_a_store_whose_shards_were_not_merged_is_refused(setup, store, tmp_path):
    begun = shutil.copytree(store, tmp_path / "store")
    (begun / "train").mkdir()
    message = f"--kd-store {begun} holds valid, but the training also needs train. Complete it by "
    message += f"fairseq-kd store-merge --subset train --out {begun}"
    refuses(setup, message, "--kd-store", begun, "--train-subset", "train")


def test_a_store_of_other_data_is_refused(setup, store, data, tmp_path):
    copied = shutil.copytree(data, tmp_path / "bin")
    for path in copied.glob("test.*"):
        shutil.copy(path, copied / path.name.replace("test", "valid"))
    message = f"--kd-store {store} was built from a valid that differs from that in {copied}. Build"
    from harness import Setup

    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Setup(str(copied), *STORED, "--kd-store", store)


def test_a_store_of_other_dictionaries_is_refused(setup, store, data, tmp_path):
    copied = shutil.copytree(store, tmp_path / "store")
    text = (copied / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    ours = text[8].split(" ")[0]
    text[8] = "über 7"
    (copied / "dict.en.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    hashes = {path.name: sha256_of([path]) for path in copied.glob("dict.*.txt")}
    rewrite(copied / "store.json", dictionaries=hashes)
    refuses(
        setup,
        f"The target dictionaries of --kd-store {copied} and {data} differ at index 12: "
        f'"über" against "{ours}".',
        *["--kd-store", copied],
    )


def test_a_store_of_the_other_direction_is_refused(setup, store):
    refuses(
        setup,
        f"--kd-store {store} translates es-en, but the student learns en-es (the pair is swapped).",
        *["--source-lang", "en", "--target-lang", "es", "--kd-store", store],
    )


@pytest.mark.parametrize("change", ["another token", "a number beyond the data"])
def test_a_sentence_that_the_store_does_not_hold_is_refused(setup, store, change):
    stored = setup(*STORED, "--kd-store", store)
    sample = stored.batch(0, 1)
    del sample[PREPARED]
    if change == "another token":
        sample["target"][0, 0] += 1
    else:
        sample["id"][1] = len(stored.dataset)
    message = r"has no entry for sentence \d+ of this batch, as the training reads it\."
    with pytest.raises(ValueError, match=message):
        stored.criterion(stored.model, sample)


def test_a_sentence_that_the_teacher_could_not_read_is_reported_at_once(setup, store, monkeypatch):
    whole = setup(*STORED, "--kd-store", store)
    sizes = whole.dataset.src_sizes, whole.dataset.tgt_sizes
    longest = int(sizes[0].argmax())
    source, target = (int(each[longest]) for each in sizes)
    opened = TeacherStore.subset

    def shorter(self, name):
        subset = opened(self, name)
        subset.sentences = subset.sentences.copy()
        subset.sentences["length"][longest] = 0
        return subset

    monkeypatch.setattr(TeacherStore, "subset", shorter)
    message = (
        f"--kd-store {store} must hold all sentences that the training reads, but lacks 1 of "
        f"valid, of up to {source} source and {target} target tokens, which its teacher could not "
        "read. Train with --max-source-positions and --max-target-positions of the teacher."
    )
    flags = ["--kd-store", store, "--max-source-positions"]
    refuses(setup, message, *flags, source, "--max-target-positions", target)
    setup(*STORED, *flags, source - 1)
    setup(*STORED, *flags, source, "--max-target-positions", target - 1)


def test_what_a_training_reads_is_limited_by_its_tokens_in_a_batch(setup, store):
    made = setup(*STORED, "--kd-store", store, "--max-target-positions", "900")
    limits = [longest_sentences(made.criterion.cfg, made.task, each) for each in ("valid", "test")]
    assert limits == [(1000, 900), (1024, 900)]  # valid is the training set, of --max-tokens 1000


def test_a_teacher_beside_a_store_is_refused(setup, store, teacher):
    refuses(
        setup,
        f"--kd-teacher is {teacher} and --kd-store is {store}, but only one source is allowed.",
        *["--kd-teacher", teacher, "--kd-store", store],
    )


def test_a_precision_of_a_stored_teacher_is_refused(setup, store):
    refuses(
        setup,
        "--kd-teacher-dtype is bfloat16, but has no effect with --kd-store.",
        *["--kd-store", store, "--kd-teacher-dtype", "bfloat16"],
    )
