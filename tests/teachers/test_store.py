"""The store on disk: its content, its construction, and its refusals."""

import os
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from disks import files_up_to
from forks import run_forked, start_forked
from harness import Setup, copy_dictionaries
from stores import rewrite, unpacked

from fairseq_kd import cli
from fairseq_kd.files.locks import locked
from fairseq_kd.losses import FORMER_TAIL_POWERS, TopK
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.shard import Shard
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.store import SENTENCE, TeacherStore, write_array
from fairseq_kd.teachers.store_merging import merge_subset
from fairseq_kd.teachers.store_records import pack, record_dtype

CPU = torch.device("cpu")


def contents(store):
    """Every file of a store that a training reads, by name."""
    files = [*store.rglob("[0-9]*.npy"), *store.rglob("sentences.npy")]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.mark.parametrize("words", [500, 1 << 16, (1 << 16) + 1, 1 << 20])
@pytest.mark.parametrize("k", [1, 5, 64])
def test_records_come_back_as_they_were(words, k):
    generator = torch.Generator().manual_seed(k)
    ids = torch.randint(words, (9, k), generator=generator)
    ids[0, 0], ids[1, -1] = words - 1, 0
    log_p, log_tail = -torch.rand(9, k, generator=generator), torch.randn(9, 8, generator=generator)
    back = unpacked(pack(TopK(ids, log_p, log_tail, words)), words)
    assert torch.equal(back.ids, ids)
    torch.testing.assert_close(back.log_tail, log_tail, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(back.log_p, log_p, rtol=0, atol=5e-4)  # float16 below 1
    assert (back.k, back.vocab_size) == (k, words)


@pytest.mark.parametrize("tokens", [0, 1])
def test_few_records_of_an_odd_size_come_back(tokens):
    ids, log_p = torch.full((tokens, 10), 69_999), torch.zeros(tokens, 10)
    back = unpacked(pack(TopK(ids, log_p, torch.zeros(tokens, 8), 70_000)), 70_000)
    assert torch.equal(back.ids, ids)
    assert record_dtype(10, 70_000).itemsize % 2 == 1


def test_a_token_takes_288_bytes_at_64_words_and_fewer_in_the_former_format():
    assert record_dtype(64, 32_000).itemsize == 288
    assert record_dtype(64, 1 << 20).itemsize == 320
    assert record_dtype(64, 32_000, FORMER_TAIL_POWERS).itemsize == 272
    assert record_dtype(64, 1 << 20, FORMER_TAIL_POWERS).itemsize == 296


def test_it_holds_what_the_teacher_says_of_every_target_token(store, teacher, data):
    task = Setup(data, "--criterion", "cross_entropy").task
    live = LiveTeacher(load_teacher(teacher)[0])
    for subset in ("valid", "test"):
        task.load_dataset(subset)
        dataset, stored = task.dataset(subset), TeacherStore(store).subset(subset)
        assert len(stored) == len(dataset)
        for number in range(len(dataset)):
            sample = dataset.collater([dataset[number]])
            real = RealTokens.of_mask(sample["target"].ne(task.target_dictionary.pad()))
            logits = live.soft_targets(sample, real)[:].logits
            want = TopK.of_logits(logits, 8)
            got = unpacked(stored.records(number), stored_words(store))
            torch.testing.assert_close(got.log_p, want.log_p, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(logits.log_softmax(-1).gather(-1, got.ids), want.log_p,
                                       rtol=1e-3, atol=1e-3)  # fmt: skip
            torch.testing.assert_close(got.log_tail, want.log_tail, rtol=1e-4, atol=1e-4)


def stored_words(store):
    return TeacherStore(store).vocab_size


def test_shards_in_any_order_merge_to_the_unsharded_store(store, build, tmp_path):
    shards = [Shard(number, 3) for number in (3, 1, 2)]
    sharded = build(tmp_path / "store", shards)
    assert contents(sharded) == contents(store)
    assert len(contents(store)) > 10


def test_the_size_of_the_batches_changes_nothing_but_rounding(store, build, tmp_path):
    other = build(tmp_path / "store", max_tokens=100)
    for subset in ("valid", "test"):
        one, two = (TeacherStore(path).subset(subset) for path in (store, other))
        for number in range(len(one)):
            a, b = (unpacked(each.records(number), stored_words(store)) for each in (one, two))
            torch.testing.assert_close(a.log_p, b.log_p, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("factor", "dtype", "advice"),
    [(3e4, "float16", "--dtype float32"), (1e38, "float32", "another checkpoint")],
)
def test_a_teacher_that_computes_nan_builds_no_store(
    build, teacher, tmp_path, factor, dtype, advice
):
    state = torch.load(teacher, weights_only=False)
    for name, tensor in state["model"].items():
        if name.endswith("layer_norm.weight"):
            tensor.mul_(factor)
    for path in Path(teacher).parent.glob("dict.*.txt"):
        shutil.copy(path, tmp_path)
    large = tmp_path / "large.pt"
    torch.save(state, large)
    text = rf"--teacher {large} computes NaN in {dtype} for sentence \d+\. Give {advice}\."
    with pytest.raises(ValueError, match=f"^{text}$"):
        build(tmp_path / "store", subsets=["valid"], teacher=str(large), dtype=dtype)
    assert not list((tmp_path / "store" / "valid").glob("*.npy"))


def test_a_merge_with_a_gap_names_what_is_missing(build, tmp_path):
    out = build(tmp_path / "store", [Shard(1, 3), Shard(3, 3)], ["valid"], merge=False)
    with pytest.raises(ValueError, match=r"lacks 2 of its 5 parts, .* \(numbers 1, 4; part P"):
        merge_subset(out, "valid")
    assert TeacherStore(out).subsets() == []
    build(out, [Shard(2, 3)], ["valid"])
    assert TeacherStore(out).subsets() == ["valid"]


def test_a_cut_part_is_refused_and_built_again_without_the_others(build, tmp_path):
    out = build(tmp_path / "store", subsets=["valid"])
    before = contents(out)
    part, other = out / "valid" / "00002.npy", out / "valid" / "00001.npy"
    part.write_bytes(part.read_bytes()[:-300])
    untouched = other.stat().st_mtime_ns
    message = f"{part} is missing or cut off. Run the fairseq-kd store command that built it"
    with pytest.raises(ValueError, match=re.escape(message)):
        TeacherStore(out).subset("valid")
    with pytest.raises(ValueError, match=r"lacks 1 of its 5 parts, or they are .* \(numbers 2; "):
        merge_subset(out, "valid")
    build(out, subsets=["valid"])
    assert contents(out) == before
    assert other.stat().st_mtime_ns == untouched


def test_swapped_parts_are_refused(build, tmp_path):
    out = build(tmp_path / "store", subsets=["valid"])
    one, two = (out / "valid" / f"0000{number}.npy" for number in (0, 1))
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
    with pytest.raises(ValueError, match=r"00000\.npy holds \d+ tokens of \d+ bytes where \d+ of"):
        TeacherStore(out).subset("valid")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"topk": 9}, "with --topk 8"),
        ({"part_sentences": 8}, "with --part-sentences 5"),
        ({"dtype": "bfloat16"}, "with --dtype float32"),
    ],
)
def test_another_store_is_not_written_into(store, build, changed, reason):
    message = f"--out {store} holds a store that was built {reason}. Choose another folder, or"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        build(store, **changed)


def test_another_teacher_is_refused(store, build, teacher, tmp_path):
    state = torch.load(teacher, weights_only=True)
    for name, tensor in state["model"].items():
        state["model"][name] = tensor + 0.1
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds a store that was built from another teacher, "):
        build(store, teacher=str(tmp_path / "other.pt"))


def test_other_data_under_the_same_name_are_refused(build, data, tmp_path):
    copied = shutil.copytree(data, tmp_path / "bin")
    out = build(tmp_path / "store", data=str(copied), subsets=["valid"])
    for path in copied.glob("test.*"):
        shutil.copy(path, copied / path.name.replace("test", "valid"))
    with pytest.raises(
        ValueError, match=f"{out}/valid was started with data that differ from the valid in"
    ):
        build(out, data=str(copied), subsets=["valid"])


@pytest.mark.parametrize("topk", [0, -1, 10_000])
def test_a_k_out_of_range_is_refused(build, tmp_path, topk):
    with pytest.raises(ValueError, match=r"^--topk must be between 1 and \d+, one less than"):
        build(tmp_path / "store", topk=topk)
    assert not (tmp_path / "store").exists()


def test_a_missing_subset_is_named(build, data, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{data} holds no dev of es and en"):
        build(tmp_path / "store", subsets=["dev"])
    with pytest.raises(FileNotFoundError, match="holds no part of valid"):
        merge_subset(tmp_path / "store", "valid")


def test_a_missing_folder_is_named(build, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^--data nowhere is not a folder"):
        build(tmp_path / "store", data="nowhere")


def test_raw_text_is_refused_before_anything_is_written(teacher, data, tmp_path, capsys):
    raw = copy_dictionaries(data, tmp_path / "raw")
    for language in ("es", "en"):
        (raw / f"train.es-en.{language}").write_text("a\n")
    words = ["store", "--teacher", teacher, "--data", raw, "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in (*words, "--subset", "train")]) == 2
    assert capsys.readouterr().err.endswith(
        f"fairseq-kd store: {raw}/train.es-en.en is raw text, made by fairseq-preprocess "
        "--dataset-impl raw. Binarise the data without that flag.\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_size_is_printed_before_the_store_is_built(build, tmp_path, capfd):
    folder = build(tmp_path / "store", subsets=["valid"])
    printed = capfd.readouterr().err
    tokens = sum(len(np.load(path)) for path in (folder / "valid").glob("[0-9]*[0-9].npy"))
    each = record_dtype(8, stored_words(folder)).itemsize
    total = f"{(tokens * each + 22 * SENTENCE.itemsize) / 1e6:.1f} MB"
    assert f"store valid: {total} for {tokens:,} tokens, {each} bytes each; " in printed


def test_a_disk_that_is_too_small_is_refused_before_a_part_is_built(build, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    expected = (
        rf"The disk of --out {tmp_path}/store has 0\.0 MB free, and store valid takes 0\.1 MB more"
        r"\. Free some space, or choose another --out or a smaller --topk"
    )
    with pytest.raises(ValueError, match=expected):
        build(tmp_path / "store")
    assert not contents(tmp_path / "store")


def test_a_sentence_too_long_for_the_teacher_is_left_out(build, data, tmp_path, monkeypatch):
    from fairseq.models.transformer import TransformerModel

    monkeypatch.setattr(TransformerModel, "max_positions", lambda self: (30, 30))
    out = build(tmp_path / "store", subsets=["valid"])
    lengths = TeacherStore(out).subset("valid").sentences["length"]
    task = Setup(data, "--criterion", "cross_entropy").task
    task.load_dataset("valid")
    sizes = [task.dataset("valid").size(number) for number in range(len(lengths))]
    assert [length > 0 for length in lengths] == [max(size) <= 30 for size in sizes]
    assert 0 < (lengths > 0).sum() < len(lengths)


def test_a_killed_build_goes_on_to_the_same_store(store, teacher, data, tmp_path):
    out = tmp_path / "store"
    command = ["fairseq-kd", "store", "--teacher", teacher, "--data", data]
    command += ["--out", str(out), "--subset", "valid,test", "--topk", "8", "--max-tokens", "400"]
    command += ["--part-sentences", "5"]
    killed = 0
    for parts in (1, 3):
        process = start_forked(*command)
        while process.poll() is None and len(list(out.rglob("0*[0-9].npy"))) < parts:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed >= 1  # a loaded machine may see it end before the second signal
    assert "sentences, " in run_forked(*command).stdout
    assert contents(out) == contents(store)


def test_the_command_builds_a_shard_and_prints_the_next_command(teacher, data, tmp_path, capsys):
    out = str(tmp_path / "store")
    command = ["store", "--teacher", teacher, "--data", data, "--out", out, "--subset", "valid"]
    assert cli.main([*command, "--topk", "8", "--shard", "1/1"]) == 0
    assert re.search(r"valid: \d+ sentences, [\d,]+ tokens, 64 bytes each", capsys.readouterr().out)
    assert cli.main([*command, "--topk", "8", "--shard", "1/2"]) == 0
    assert f"fairseq-kd store-merge --out {out} --subset valid" in capsys.readouterr().out
    assert cli.main(["store-merge", "--out", out, "--subset", "valid"]) == 0


def test_a_shard_that_another_process_builds_is_refused(teacher, data, tmp_path, capsys):
    out = tmp_path / "store"
    command = ["store", "--teacher", teacher, "--data", data, "--out", str(out), "--topk", "8"]
    with locked(out / ".valid-1-of-2.lock", "it"):
        assert cli.main([*command, "--subset", "valid", "--shard", "1/2"]) == 2
    text = f"store: Shard 1/2 of valid in --out {out} is in use since"
    assert text in capsys.readouterr().err
    assert not (out / "valid").exists()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_shard_out_of_range_is_refused(shard, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["store", "--teacher", "t", "--data", "d", "--out", "o", "--shard", shard])
    assert ended.value.code == 2
    text = " ".join(capsys.readouterr().err.split())
    assert "--shard: it must be I/N with N from 1 to 10,000 and I from 1 to N, such as 3/64" in text


def test_a_store_of_another_format_is_refused(store, tmp_path):
    copied = Path(shutil.copytree(store, tmp_path / "store"))
    rewrite(copied / "store.json", format=99)
    with pytest.raises(ValueError, match="has the format 99 of another version"):
        TeacherStore(copied)


def test_a_folder_that_is_not_there_is_refused():
    with pytest.raises(FileNotFoundError, match="nowhere holds no store of a teacher"):
        TeacherStore("nowhere")


def test_nothing_but_the_asked_rows_is_read(store):
    """The records of a sentence are a view of the mapped file, not a copy."""
    records = TeacherStore(store).subset("valid").records(3)
    base = records
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(records, np.memmap) or isinstance(base, np.memmap)
    assert os.path.exists(store)


def test_a_training_set_of_several_parts_is_stored_whole(build, data, tmp_path):
    parts = Path(shutil.copytree(data, tmp_path / "bin"))
    for path in parts.glob("test.*"):  # as distill-data --mix extra names a second part
        path.rename(path.with_name(path.name.replace("test", "valid1", 1)))
    build(tmp_path / "store", subsets=("valid",), data=str(parts))
    flags = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--kd-store", tmp_path / "store"]
    flags += ["--train-subset", "valid", "--disable-validation"]
    setup = Setup(str(parts), *flags, "--upsample-primary", "1")
    setup.task.load_dataset("valid", combine=True)
    setup.dataset = setup.task.dataset("valid")
    last = len(setup.dataset) - 1
    assert last >= len(Setup(data, "--criterion", "cross_entropy").dataset)
    assert setup.criterion(setup.model, setup.batch(0, last))[2]["kd_loss"] > 0
    with pytest.raises(ValueError, match=r"^--upsample-primary is 2, but --kd-store .* once\."):
        Setup(str(parts), *flags, "--upsample-primary", "2")
    with pytest.raises(
        ValueError, match=r"^--kd-store .* belongs to one data folder, but the training"
    ):
        Setup(f"{parts}:{data}", *flags)


@pytest.mark.parametrize("size", [50, 5000])
def test_an_array_that_a_full_disk_cuts_off_is_not_written(tmp_path, size):
    """numpy itself leaves half a file of a small one, and raises nothing."""
    with files_up_to(8 * size), pytest.raises(OSError, match="File too large"):
        write_array(tmp_path / "array.npy", np.zeros(size))
    assert list(tmp_path.iterdir()) == []
    write_array(tmp_path / "array.npy", np.arange(size))
    assert np.load(tmp_path / "array.npy").tolist() == list(range(size))


def test_a_store_has_one_teacher(data, tmp_path, capsys):
    words = ["store", "--teacher", "a.pt:b.pt", "--data", data, "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert capsys.readouterr().err.endswith(
        "--teacher names several checkpoints, a.pt:b.pt, but a store has one teacher. Build a "
        "store of each, and train with --criterion multi_teacher_kd --kd-store STORE:STORE.\n"
    )
