"""Builds a top-k store: part by part, in shards on several machines, however often it is killed.

Parts are fixed ranges of a subset's sentences, so what a part holds depends neither on the shards
nor on interruptions. A part appears whole or not at all, and one that is there is not built again.
"""

import copy
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import torch
from fairseq.data import FairseqDataset
from fairseq.tasks import FairseqTask
from fairseq.utils import move_to_cuda

from fairseq_kd.hashes import sha256_of
from fairseq_kd.losses import TopK, default_chunk
from fairseq_kd.progress import ProgressLine
from fairseq_kd.shard import Shard
from fairseq_kd.teachers.compatibility import check_same_words, language_pair
from fairseq_kd.teachers.fingerprints import data_fingerprint, sentence_checksums
from fairseq_kd.teachers.live import LiveTeacher
from fairseq_kd.teachers.loading import load_teacher
from fairseq_kd.teachers.store import (
    FILE,
    FORMAT,
    MAX_WORDS,
    SENTENCE,
    TeacherStore,
    open_part,
    pack,
    part_name,
    part_ranges,
    read_json,
    record_dtype,
    write_array,
    write_json,
)


class StoreBuilder:
    """A teacher with the store that it fills.

    Args:
        teacher: path of its checkpoint.
        data: folder of ``fairseq-preprocess``, with the teacher's languages and dictionaries.
        out: folder of the store; what is there already must come from the same teacher.
        topk: K, words kept of each distribution, below V.
        dtype: precision in which the teacher runs: float32, bfloat16 or float16.
        max_tokens: target tokens, padding included, that it reads at once.
        part_sentences: sentences in a part, which is what a kill can lose.

    Raises:
        FileNotFoundError: the teacher or the data are missing.
        ValueError: they do not fit each other, or the store is another teacher's.
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
    ):
        model, task = load_teacher(teacher, "--teacher")
        self.task = task_on(task, data)
        check_same_words(f"--teacher {teacher}", task, self.task)
        self.out, self.topk, self.max_tokens = out, topk, max_tokens
        self.words = len(self.task.target_dictionary)
        if not 0 < topk < self.words <= MAX_WORDS:
            raise ValueError(
                f"--topk must lie between 1 and {self.words - 1}, one less than the dictionary's "
                f"words (at most {MAX_WORDS}), but is {topk}."
            )
        self.dtype, self.part_sentences = record_dtype(topk, self.words), part_sentences
        self._claim(teacher)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = LiveTeacher(model.to(self.device), dtype)
        self.teacher.follow(model)

    def _claim(self, teacher: str) -> None:
        """Writes what the store is made from, or compares it with what is there."""
        identity = {
            "format": FORMAT,
            "teacher": teacher,
            "fingerprint": sha256_of([Path(teacher)]),
            "languages": list(language_pair(self.task)),
            "words": self.words,
            "topk": self.topk,
            "part_sentences": self.part_sentences,
        }
        path = self.out / FILE
        if not path.is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            sides = (self.task.source_dictionary, self.task.target_dictionary)
            for language, dictionary in zip(language_pair(self.task), sides, strict=True):
                dictionary.save(str(self.out / f"dict.{language}.txt"))
            write_json(path, identity)
            return
        there = TeacherStore(self.out).identity
        for key, what in (
            ("fingerprint", f"from another teacher, {there['teacher']}"),
            ("topk", f"with --topk {there['topk']}"),
            ("languages", f"for {'-'.join(there['languages'])}"),
            ("words", f"for a dictionary of {there['words']} words"),
            ("part_sentences", f"with --part-sentences {there['part_sentences']}"),
        ):
            if there[key] != identity[key]:
                raise ValueError(
                    f"--out {self.out} holds a store that was built {what}. Choose another folder, "
                    "or remove that store."
                )

    def build(self, subset: str, shard: Shard) -> None:
        """Builds the parts of a shard of a subset that are not there yet.

        Raises:
            FileNotFoundError: the data hold no such subset.
            ValueError: that subset was begun with other data.
        """
        data = data_fingerprint(self.task.cfg.data, subset, language_pair(self.task))
        self.task.load_dataset(subset, combine=True)  # train1, too, as fairseq-train reads it
        dataset = self.task.dataset(subset)
        folder = self.out / subset
        identity = {"data": data, "sentences": len(dataset)}
        if not (folder / "subset.json").is_file():
            folder.mkdir(exist_ok=True)
            write_json(folder / "subset.json", identity)
        elif read_json(folder / "subset.json") != identity:
            raise ValueError(
                f"{folder} was begun with other data than the {subset} in {self.task.cfg.data}. "
                f"Remove {folder}, or choose another --out."
            )
        ranges = part_ranges(len(dataset), self.part_sentences)
        missing = [
            part for part in shard.share(len(ranges)) if not part_is_whole(folder, part, self.dtype)
        ]
        total = sum(len(ranges[part]) for part in shard.share(len(ranges)))
        done = total - sum(len(ranges[part]) for part in missing)
        name = f"store {subset}" if shard.count == 1 else f"store {subset}, shard {shard}"
        with ProgressLine(name, total, "sentences", done) as progress:
            for part in missing:
                records, sentences = self._part(dataset, ranges[part], progress)
                write_array(sentences_path(folder, part), sentences)
                write_array(folder / part_name(part), records)

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
            real = sample["target"].ne(pad)
            lengths = real.sum(-1).tolist()
            rows = np.split(self._records(sample, real), np.cumsum(lengths)[:-1])
            ids = sample["id"].tolist()
            for number, length, checksum, own in zip(ids, lengths, checksums, rows, strict=True):
                sentences[number - numbers.start] = (length, checksum)
                records[number - numbers.start] = own
            progress.add(len(batch))
        return np.concatenate(records), sentences

    def _batches(self, dataset: FairseqDataset, numbers: range) -> List[List[int]]:
        """Sentences of like length, ``max_tokens`` together; none too long for the teacher."""
        source_limit, target_limit = self.teacher.model.max_positions()
        sizes = {n: (dataset.tgt_sizes[n], dataset.src_sizes[n]) for n in numbers}
        readable = [n for n, (t, s) in sizes.items() if s <= source_limit and t <= target_limit]
        if not readable:
            return []
        ordered = np.array(sorted(readable, key=sizes.__getitem__))
        longest = max(max(sizes[number]) for number in readable)
        return dataset.batch_by_size(ordered, max_tokens=int(max(self.max_tokens, longest)))

    def _records(self, sample: Any, real: torch.Tensor) -> np.ndarray:
        taught = self.teacher.soft_targets(sample, real)
        step = default_chunk(self.words, self.device)
        chunks = [taught[start : start + step] for start in range(0, int(real.sum()), step)]
        return np.concatenate([pack(TopK.of_logits(chunk.hidden, self.topk)) for chunk in chunks])


def merge_subset(out: Path, subset: str) -> int:
    """Completes a subset whose parts are all there, and returns the number of its target tokens.

    Raises:
        FileNotFoundError: there is no such subset in the store.
        ValueError: parts are missing or cut off, and which.
    """
    store, folder = TeacherStore(out), out / subset
    if not (folder / "subset.json").is_file():
        raise FileNotFoundError(f"{out} holds nothing of {subset}. Build it by fairseq-kd store.")
    total = read_json(folder / "subset.json")["sentences"]
    parts = range(len(part_ranges(total, store.part_sentences)))
    missing = [part for part in parts if not part_is_whole(folder, part, store.dtype)]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of its {len(parts)} parts (numbers "
            f"{', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''}; part P "
            "belongs to shard P mod N + 1 of N). Run the fairseq-kd store command of the shards "
            "that build them, then merge again."
        )
    tables = [np.load(sentences_path(folder, part)) for part in parts]
    write_array(folder / "sentences.npy", np.concatenate(tables))
    return int(sum(table["length"].sum() for table in tables))


def task_on(task: FairseqTask, data: str) -> FairseqTask:
    """A teacher's task over other data."""
    if not Path(data).is_dir():
        raise FileNotFoundError(f"--data {data} is not a folder that fairseq-preprocess wrote.")
    cfg = copy.deepcopy(task.cfg)
    cfg.data = data
    cfg.upsample_primary = 1  # a store has each sentence once
    return type(task).setup_task(cfg)


def part_is_whole(folder: Path, part: int, dtype: np.dtype) -> bool:
    """Whether a part is there, with the number of records that its sentences have."""
    try:
        lengths = np.load(sentences_path(folder, part))["length"]
        open_part(folder / part_name(part), dtype, int(lengths.sum()))
    except (OSError, ValueError, EOFError):
        return False
    return True


def sentences_path(folder: Path, part: int) -> Path:
    """The table of a part's sentences, which merging joins into one."""
    return folder / f"{part:05d}.sentences.npy"
