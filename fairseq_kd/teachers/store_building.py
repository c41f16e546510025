"""Builds a top-k store part by part, in shards and restartable.

Parts are fixed ranges of a subset's sentences, so that their content depends neither on shards nor
on interruptions. A part appears whole or not at all; undamaged parts are not built again.
"""

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from fairseq.utils import move_to_cuda

from fairseq_kd.binarised import check_not_raw, check_subset
from fairseq_kd.files.atomic_files import (
    atomic_write,
    check_apart,
    check_no_link,
    check_vacant,
    make_folder,
)
from fairseq_kd.files.hashes import first_damaged, sha256_of
from fairseq_kd.files.locks import locked
from fairseq_kd.losses import TopK, default_chunk
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.progress import ProgressLine
from fairseq_kd.shard import Shard
from fairseq_kd.teachers.compatibility import check_same_vocabulary, language_pair
from fairseq_kd.teachers.languages import Languages, Pair
from fairseq_kd.teachers.live_teacher import LiveTeacher
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.multilingual import languages_of
from fairseq_kd.teachers.store import (
    FORMAT,
    INDEX,
    SENTENCE,
    STORE_FILE,
    UNCHECKED,
    TeacherStore,
    dictionary_name,
    part_name,
    part_ranges,
    read_json,
    read_table,
    records_checksum,
    write_array,
    write_json,
)
from fairseq_kd.teachers.store_merging import part_is_whole, sentences_path
from fairseq_kd.teachers.store_records import MAX_VOCAB_SIZE, pack
from fairseq_kd.teachers.teacher_data import (
    batches_of,
    data_fingerprint,
    sentence_checksums,
    task_on,
)


class StoreBuilder:
    """Builds the store of one teacher.

    Args:
        teacher: path of its checkpoint.
        data: folder of ``fairseq-preprocess``, with the teacher's languages and dictionaries.
        out: folder of the store, new or of the same teacher.
        topk: K < V, tokens kept of each distribution.
        dtype: precision of the teacher: float32, bfloat16 or float16.
        max_tokens: target tokens per batch, padding included.
        part_sentences: sentences per part; a killed process loses at most one part.
        subsets: to be built; they are checked before anything is written.
        languages: the names of the languages in the teacher, if they are others than in the data.

    Raises:
        FileNotFoundError: the teacher or the data are missing.
        ValueError: they do not fit each other, or the folder has another teacher's store or
            something else.
    """

    def __init__(
        self,
        teacher: str,
        data: str,
        out: Path,
        topk: int,
        dtype: str,
        max_tokens: int,
        part_sentences: int,
        subsets: Sequence[str] = (),
        languages: Optional[Pair] = None,
    ):
        check_apart(out, {"--teacher": teacher, "--data": data})
        if not (out / STORE_FILE).is_file():
            check_vacant(out)
        model, task = load_teacher(teacher, "--teacher", Languages.of_data(Path(data), languages))
        self.task = task_on(task, data)
        check_same_vocabulary(f"--teacher {teacher}", task, self.task)
        self.out, self.topk, self.max_tokens = out, topk, max_tokens
        self.vocab_size = len(self.task.target_dictionary)
        if not 0 < topk < self.vocab_size <= MAX_VOCAB_SIZE:
            raise ValueError(
                f"--topk must be between 1 and {self.vocab_size - 1}, one less than the size of "
                f"the dictionary (at most {MAX_VOCAB_SIZE}), but is {topk}."
            )
        self.part_sentences = part_sentences
        sides = (self.task.source_dictionary, self.task.target_dictionary)
        sizes = dict(zip(language_pair(self.task), map(len, sides), strict=True))
        for subset in subsets:
            check_subset(Path(data), subset, sizes)
            check_not_raw(Path(data), subset)
        self._claim(teacher, dtype, languages_of(task))
        self.store = TeacherStore(out)
        self.dtype = self.store.dtype
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = LiveTeacher(model.to(self.device), dtype, task)
        self.teacher.move_to(model)
        self.teacher_path, self.teacher_dtype = teacher, dtype

    def _claim(self, teacher: str, dtype: str, names: List[str]) -> None:
        """Writes the identity of the store, or compares it with that of an earlier run.

        A store of format 1 is continued in that format. Damaged dictionaries are written again.
        Earlier versions kept no ``dtype`` and no languages of the teacher; their stores are
        continued in any.

        Args:
            teacher: its checkpoint.
            dtype: its precision.
            names: of its languages, if it is multilingual.
        """
        wanted = {"dtype": dtype, "teacher_languages": names}
        identity = {
            "format": FORMAT,
            "teacher": teacher,
            "fingerprint": sha256_of([Path(teacher)]),
            "languages": list(language_pair(self.task)),
            "words": self.vocab_size,
            "topk": self.topk,
            "part_sentences": self.part_sentences,
            **(wanted if names else {"dtype": dtype}),
        }
        path = self.out / STORE_FILE
        if not path.is_file():
            make_folder(self.out)
            with contextlib.suppress(FileExistsError):  # by another shard
                write_json(path, identity, new=True)
        earlier = {**wanted, **TeacherStore(self.out).identity}
        for key, what in (
            ("fingerprint", f"from another teacher, {earlier['teacher']}"),
            ("topk", f"with --topk {earlier['topk']}"),
            ("languages", f"for {'-'.join(earlier['languages'])}"),
            ("words", f"for a dictionary of {earlier['words']} tokens"),
            ("part_sentences", f"with --part-sentences {earlier['part_sentences']}"),
            ("dtype", f"with --dtype {earlier['dtype']}"),
            ("teacher_languages", f"for its languages {'-'.join(earlier['teacher_languages'])}"),
        ):
            if earlier[key] != {**wanted, **identity}[key]:
                raise ValueError(
                    f"--out {self.out} holds a store that was built {what}. Choose another folder, "
                    "or remove that store."
                )
        kept = earlier.get("dictionaries", {})
        hashes = self._write_dictionaries(kept)
        if hashes != kept:
            write_json(path, {**earlier, "dictionaries": hashes})

    def _write_dictionaries(self, kept: Dict[str, str]) -> Dict[str, str]:
        """Writes missing and damaged dictionaries, and returns the hashes of both.

        Args:
            kept: SHA-256 of the dictionaries of an earlier run, by name.
        """
        sides = (self.task.source_dictionary, self.task.target_dictionary)
        hashes = {}
        for language, dictionary in zip(language_pair(self.task), sides, strict=True):
            name = dictionary_name(language)
            if name not in kept or first_damaged(self.out, {name: kept[name]}):
                with atomic_write(self.out / name) as file:
                    dictionary.save(file)
                hashes[name] = sha256_of([self.out / name])
            else:
                hashes[name] = kept[name]
        return hashes

    def build(self, subset: str, shard: Shard) -> None:
        """Builds the missing and damaged parts of a shard of a subset.

        Raises:
            FileNotFoundError: the data have no such subset.
            ValueError: the subset was started with other data, or another process builds the shard.
        """
        lock = self.out / f".{subset}-{shard.index}-of-{shard.count}.lock"
        with locked(lock, f"Shard {shard} of {subset} in --out {self.out}", finished=True):
            self._build(subset, shard)

    def _build(self, subset: str, shard: Shard) -> None:
        data = data_fingerprint(self.task.cfg.data, subset, language_pair(self.task))
        self.task.load_dataset(subset, combine=True)  # with train1, as fairseq-train does
        dataset = self.task.dataset(subset)
        folder = self.out / subset
        check_no_link(folder)
        identity = {"data": data, "sentences": len(dataset)}
        if not (folder / INDEX).is_file():
            make_folder(folder)
            write_json(folder / INDEX, identity)
        elif not identity.items() <= read_json(folder / INDEX).items():
            raise ValueError(
                f"{folder} was started with data that differ from the {subset} in "
                f"{self.task.cfg.data}. Choose another --out, or remove {folder / INDEX}: this "
                "command then keeps the parts that match its data and rebuilds the others."
            )
        ranges = part_ranges(len(dataset), self.part_sentences)
        missing = [
            part
            for part in shard.share(len(ranges))
            if not part_is_whole(folder, part, self.store)
            or not self._is_of(dataset, ranges[part], read_table(sentences_path(folder, part)))
        ]
        total = sum(len(ranges[part]) for part in shard.share(len(ranges)))
        done = total - sum(len(ranges[part]) for part in missing)
        name = f"store {subset}" if shard.count == 1 else f"store {subset}, shard {shard}"
        self._check_disk(name, dataset, [ranges[part] for part in missing])
        with ProgressLine(name, total, "sentences", done) as progress:
            for part in missing:
                records, sentences = self._part(dataset, ranges[part], progress)
                write_array(sentences_path(folder, part), sentences)
                write_array(folder / part_name(part), records)

    def _check_disk(self, name: str, dataset: FairseqDataset, missing: Sequence[range]) -> None:
        """Prints how much is going to be written, and compares it with the free space.

        Raises:
            ValueError: the disk has less.
        """
        tokens = sum(int(dataset.tgt_sizes[part.start : part.stop].sum()) for part in missing)
        needed = tokens * self.dtype.itemsize + sum(map(len, missing)) * SENTENCE.itemsize
        free = shutil.disk_usage(self.out).free
        if needed > free:
            raise ValueError(
                f"The disk of --out {self.out} has {free / 1e6:,.1f} MB free, and {name} takes "
                f"{needed / 1e6:,.1f} MB more. Free some space, or choose another --out or a "
                "smaller --topk."
            )
        if missing:
            print(
                f"{name}: {needed / 1e6:,.1f} MB for {tokens:,} tokens, {self.dtype.itemsize} "
                f"bytes each; {free / 1e6:,.1f} MB are free",
                file=sys.stderr,
            )

    def _part(
        self, dataset: FairseqDataset, numbers: range, progress: ProgressLine
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The records and the sentence table of a part."""
        sentences = np.zeros(len(numbers), SENTENCE)
        records = [np.empty(0, self.dtype)] * len(numbers)
        for batch in self._batches(dataset, numbers):
            sample = dataset.collater([dataset[number] for number in batch])
            pad = self.task.target_dictionary.pad()
            checksums = sentence_checksums(sample, pad)
            if self.device.type == "cuda":
                sample = move_to_cuda(sample)
            real = RealTokens.of_mask(sample["target"].ne(pad))
            lengths = real.mask.sum(-1).tolist()
            rows = np.split(self._records(sample, real), np.cumsum(lengths)[:-1])
            ids = sample["id"].tolist()
            self._check_numbers(rows, ids)
            for number, length, checksum, own in zip(ids, lengths, checksums, rows, strict=True):
                sentences[number - numbers.start] = (length, checksum, self._checksum(own))
                records[number - numbers.start] = own
            progress.add(len(batch))
        return np.concatenate(records), sentences

    def _checksum(self, records: np.ndarray) -> int:
        return records_checksum(records, self.store.seed)

    def _is_of(self, dataset: FairseqDataset, numbers: range, table: np.ndarray) -> bool:
        """Whether the table of a part is that of these sentences."""
        expected = np.zeros(len(numbers), UNCHECKED)
        pad = self.task.target_dictionary.pad()
        for batch in self._batches(dataset, numbers):
            sample = dataset.collater([dataset[number] for number in batch])
            lengths = sample["target"].ne(pad).sum(-1).tolist()
            ids, checksums = sample["id"].tolist(), sentence_checksums(sample, pad)
            for number, length, checksum in zip(ids, lengths, checksums, strict=True):
                expected[number - numbers.start] = (length, checksum)
        return all(np.array_equal(table[name], expected[name]) for name, _ in UNCHECKED)

    def _batches(self, dataset: FairseqDataset, numbers: range) -> List[List[int]]:
        """Batches of ``max_tokens``, without too long sentences."""
        source_limit, target_limit = self.teacher.max_positions
        readable = [
            n
            for n in numbers
            if dataset.src_sizes[n] <= source_limit and dataset.tgt_sizes[n] <= target_limit
        ]
        return batches_of(dataset, readable, self.max_tokens)

    def _records(self, sample: Any, real: RealTokens) -> np.ndarray:
        targets = self.teacher.soft_targets(sample, real)
        step = default_chunk(self.vocab_size, self.device)
        chunks = [targets[start : start + step] for start in range(0, len(real.positions), step)]
        kept = (TopK.of_logits(each.logits, self.topk, self.store.powers) for each in chunks)
        return np.concatenate([pack(each) for each in kept])

    def _check_numbers(self, rows: List[np.ndarray], ids: List[int]) -> None:
        """Refuses NaN, as after an overflow in float16.

        Args:
            rows: the records of each sentence.
            ids: the numbers of the sentences.

        Raises:
            ValueError: the teacher's probabilities are NaN.
        """
        teacher, precision = self.teacher_path, self.teacher_dtype
        for number, records in zip(ids, rows, strict=True):
            if np.isnan(records["log_p"]).any() or np.isnan(records["log_tail"]).any():
                advice = "--dtype float32" if precision != "float32" else "another checkpoint"
                raise ValueError(
                    f"--teacher {teacher} computes NaN in {precision} for sentence {number}. Give "
                    f"{advice}."
                )
