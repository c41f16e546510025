"""Decodes the batches of a shard, keeping each as it comes, and ends with the shard's file."""

import sys
from pathlib import Path
from typing import Collection, Iterator, List, Sequence

import numpy as np

from fairseq_kd.decoding.engine import Batch, Engine
from fairseq_kd.decoding.hypotheses import lines_of
from fairseq_kd.decoding.hypothesis_files import shard_file, sorted_lines, write_shard
from fairseq_kd.decoding.journal import Journal
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.progress import ProgressLine
from fairseq_kd.shard import Shard
from fairseq_kd.write_errors import writing


class DecodingProgress(ProgressLine):
    """Tells the time left by the source tokens that remain, and counts sentences beside them.

    Args:
        name: what is decoded.
        total: (sentences, source tokens) in all.
        done: the same, by an earlier run.
    """

    def __init__(self, name: str, total: Sequence[int], done: Sequence[int]):
        super().__init__(name, total[1], "source tokens", done[1])
        self.sentences, self.done_sentences, self.initial_sentences = total[0], done[0], done[0]

    def add_batch(self, sentences: int, tokens: int) -> None:
        """Counts a batch that was decoded."""
        self.done_sentences += sentences
        told = f"{self.done_sentences:,}/{self.sentences:,} sentences"
        self.add(tokens, f"{told}, {self.sentences_per_s:.1f} sentences/s")

    @property
    def sentences_per_s(self) -> float:
        """Of this run."""
        return (self.done_sentences - self.initial_sentences) / max(self.seconds, 1e-9)


class ShardDecoder:
    """Brings one shard to its end, however often it is interrupted.

    Args:
        subset: the sentences.
        batches: sentence numbers of all batches of the set.
        max_source: the most source tokens that the teacher reads, the end of sentence included.
        folder: for the shard's file and its journal.
        shard: which batches are its own.
        decoding: the plan's id.
    """

    def __init__(
        self,
        subset: Subset,
        batches: Sequence[np.ndarray],
        max_source: int,
        folder: Path,
        shard: Shard,
        decoding: str,
    ):
        self.subset, self.batches, self.max_source = subset, batches, max_source
        self.folder, self.shard, self.decoding = folder, shard, decoding
        self.path = folder / shard_file(shard)
        self.own = shard.share(len(batches))
        self.lengths = subset.source_lengths

    def run(self, engine: Engine) -> DecodingProgress:
        """Decodes what is not decoded yet."""
        title = f"journal of shard {self.shard} of decoding {self.decoding}"
        journal_path = self.path.with_suffix(".journal")
        with writing(self.folder):
            journal = Journal(journal_path, title)
            try:
                done = set(journal.numbers)
                if not done.issubset(self.own):
                    raise ValueError(
                        f"{journal_path} holds batch {min(done.difference(self.own))}, which is "
                        f"not of shard {self.shard}. Remove it, and run the same command again."
                    )
                todo = [number for number in self.own if number not in done]
                with self._progress(done) as progress:
                    for number, text in zip(todo, self._decoded(engine, todo), strict=True):
                        journal.append(number, text)
                        progress.add_batch(*self._size(number))
                write_shard(self.path, self.shard, self.decoding, sorted_lines(journal_path))
                journal_path.unlink()
            finally:
                journal.close()
        return progress

    def _decoded(self, engine: Engine, numbers: Sequence[int]) -> Iterator[str]:
        """The text of each batch: the lines of its sentences, in order of their numbers."""
        results = engine.translate(self._translatable(numbers))
        for number in numbers:
            sentences = self.batches[number]
            usable = self._usable(sentences)
            found = iter(next(results) if usable.any() else [])
            texts = [
                lines_of(int(sentence), next(found) if good else [])
                for sentence, good in zip(sentences, usable, strict=True)
            ]
            yield "".join(texts)

    def _translatable(self, numbers: Sequence[int]) -> Iterator[Batch]:
        for number in numbers:
            sentences = self.batches[number]
            kept = sentences[self._usable(sentences)]
            if len(kept):
                yield Batch(number, [self.subset.source[int(i)].long() for i in kept])

    def _usable(self, sentences: np.ndarray) -> np.ndarray:
        """Which sentences the teacher can translate: neither empty nor longer than it reads."""
        lengths = self.lengths[sentences]
        return (lengths > 1) & (lengths <= self.max_source)

    def _size(self, number: int) -> "tuple[int, int]":
        sentences = self.batches[number]
        return len(sentences), int(self.lengths[sentences].sum())

    def _progress(self, done: Collection[int]) -> DecodingProgress:
        sizes, initial = (
            np.array([self._size(number) for number in numbers], int).reshape(-1, 2).sum(0)
            for numbers in (self.own, done)
        )
        name = f"translate {self.subset.name}"
        if self.shard.count > 1:
            name += f", shard {self.shard}"
        if done:
            print(f"{name}: going on after {initial[0]:,} sentences", file=sys.stderr)
        return DecodingProgress(name, sizes.tolist(), initial.tolist())


def untranslatable(subset: Subset, max_source: int) -> List[int]:
    """The numbers of the sentences that are empty or longer than the teacher reads."""
    lengths = subset.source_lengths
    return np.flatnonzero((lengths <= 1) | (lengths > max_source)).tolist()
