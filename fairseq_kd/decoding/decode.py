"""Decodes a set with an engine, in shards and restartable, and merges the shards.

``OUT/decoding.json`` has the settings: all that determines a decoding bit for bit on processors of
one kind. Shards and restarts must agree on it. It has no paths, so that shards may run on machines
where the same files lie elsewhere.
"""

import fcntl
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Collection, Dict, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from fairseq_kd.decoding.engine import Batch, Engine, length_sorted_batches
from fairseq_kd.decoding.hypothesis_files import (
    LINE,
    WHOLE,
    check_cut,
    check_shard,
    lines_of,
    merge,
    missing_shards,
    shard_file,
    shard_files,
    sorted_lines,
    write_shard,
)
from fairseq_kd.decoding.journal import Journal
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint
from fairseq_kd.files.atomic_files import atomic_write, check_vacant, make_folder, own_file
from fairseq_kd.files.json_files import digest_of, read_json, sealed
from fairseq_kd.files.locks import lock_beside, locked
from fairseq_kd.files.write_errors import writing
from fairseq_kd.progress import ProgressLine
from fairseq_kd.shard import Shard
from fairseq_kd.teachers.multilingual import languages_of

Settings = Dict[str, Any]
DECODING_FILE, LOCK = "decoding.json", ".lock"
IMPORTED = "imported"  # replaces the engine in settings of imported translations
SCHEMA = {  # of the entries that are read
    **{"sentences": int, "subset": str, "pair": [str], "nbest": int, "teacher": [str]},
    **{"source": str, "source_dictionary": str, "target_dictionary": str},
}


class Decoded(NamedTuple):
    """A decoded shard."""

    path: Path  # of its hypotheses; of the whole set's if the shards are merged
    progress: "Optional[DecodingProgress]"  # of this run; None if the file already existed


def decode(
    models: Sequence[Checkpoint],
    subset: Subset,
    engine: Engine,
    out: Path,
    shard: Shard,
    max_tokens: Optional[int] = None,
    label: str = "",
) -> Decoded:
    """Decodes one shard of a set, or continues an interrupted run.

    Args:
        models: what ``engine`` runs: one model, or the models of an ensemble.
        subset: the set to decode.
        engine: with its search.
        out: folder for the hypotheses.
        shard: the part of the batches to decode.
        max_tokens: source tokens of a batch, padding included; None for the engine's default.
        label: before the line that names the engine.

    Raises:
        ValueError: the folder has hypotheses with different settings or a different number of
            shards, a file in it is damaged, or another process decodes the shard.
        OSError: a file cannot be written.
    """
    settings = settings_of(models, subset, engine, max_tokens)
    agree_on(settings, out)
    path, decoding = out / shard_file(shard), settings_id(settings)
    with locked(lock_beside(path), f"Shard {shard} in --out {out}", finished=True):
        for finished in (out / WHOLE, path):
            if finished.is_file():
                check_shard(finished, decoding)
                return Decoded(finished, None)
        check_cut(out, shard)
        batches = length_sorted_batches(subset.source_lengths, settings["max_tokens"])
        decoder = ShardDecoder(subset, batches, max_source(models), path, shard, decoding)
        print(f"{label}{engine.summary}, {len(decoder.own):,} batches", file=sys.stderr)
        return Decoded(path, decoder.run(engine))


def settings_of(
    models: Sequence[Checkpoint], subset: Subset, engine: Engine, max_tokens: Optional[int] = None
) -> Settings:
    """The settings of a decoding; arguments as of ``decode``."""
    names = languages_of(models[0].task)
    return {
        "subset": subset.name,
        "pair": list(subset.pair),
        "sentences": len(subset),
        **subset.hashes,
        "teacher": [model.sha256 for model in models],
        **({"teacher_languages": names} if names else {}),
        **engine.identity,
        **asdict(engine.search),
        "max_tokens": max_tokens or engine.batch_tokens,
    }


def settings_id(settings: Settings) -> str:
    """Sixteen hexadecimal digits that identify settings."""
    return digest_of(settings)


def agree_on(settings: Settings, folder: Path) -> None:
    """Writes the settings into a folder, or checks that they are those of the folder.

    Raises:
        ValueError: naming the first difference; or the folder has something else.
    """
    if not (folder / DECODING_FILE).is_file():
        check_vacant(folder)
        make_folder(folder)
        with folder_locked(folder):
            # unless another shard has written it meanwhile
            if not (folder / DECODING_FILE).exists():
                with atomic_write(folder / DECODING_FILE) as file:
                    json.dump(sealed(settings), file, indent=2)
                    file.write("\n")
                return
    earlier = read_settings(folder)
    for name in {**earlier, **settings}:
        if earlier.get(name) != settings.get(name):
            raise ValueError(
                f"{folder} was started with {name} {_short(earlier.get(name))}, but this command "
                f"has {_short(settings.get(name))}. Choose another --out, or give the options of "
                "the first run."
            )


def read_settings(folder: Path) -> Settings:
    """The settings of a folder.

    Raises:
        FileNotFoundError: nothing was decoded into it.
        ValueError: the file is damaged.
    """
    if not (folder / DECODING_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {DECODING_FILE}. Give the folder that fairseq-kd translate --out "
            "wrote."
        )
    repair = (
        "Copy it from the --out of another shard, or start the same fairseq-kd translate with "
        "another --out, which writes the file first; hypotheses in this folder stay valid."
    )
    settings = read_json(folder / DECODING_FILE, SCHEMA, repair)
    if len(settings["pair"]) != 2:
        raise ValueError(
            f"{folder / DECODING_FILE} is damaged: 'pair' must be two languages. {repair}"
        )
    return settings


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Lets one process at a time change the files that all shards of a folder share."""
    with open(folder / LOCK, "a", opener=own_file) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _short(value: Any) -> str:
    """A value for a message; a hash is shortened."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}..." if len(text) == 64 and " " not in text else text


class DecodingProgress(ProgressLine):
    """Estimates the time left from the remaining source tokens, and also counts sentences.

    Args:
        name: of the set and the shard.
        total: (sentences, source tokens) in all.
        done: the same, by earlier runs.
    """

    def __init__(self, name: str, total: Sequence[int], done: Sequence[int]):
        super().__init__(name, total[1], "source tokens", done[1])
        self.sentences, self.done_sentences, self.initial_sentences = total[0], done[0], done[0]

    def add_batch(self, sentences: int, tokens: int) -> None:
        """Counts a decoded batch."""
        self.done_sentences += sentences
        counted = f"{self.done_sentences:,}/{self.sentences:,} sentences"
        self.add(tokens, f"{counted}, {self.sentences_per_s:.1f} sentences/s")

    @property
    def sentences_per_s(self) -> float:
        """Of this run."""
        return (self.done_sentences - self.initial_sentences) / max(self.seconds, 1e-9)


class ShardDecoder:
    """Decodes one shard, keeping each batch in a journal until the shard is finished.

    Args:
        subset: the sentences.
        batches: sentence numbers of all batches of the set.
        max_source: maximal source length of the models, the end of sentence included.
        path: the shard's file; the journal is beside it.
        shard: determines which batches are its own.
        decoding: the id of the settings.
    """

    def __init__(
        self,
        subset: Subset,
        batches: Sequence[np.ndarray],
        max_source: int,
        path: Path,
        shard: Shard,
        decoding: str,
    ):
        self.subset, self.batches = subset, batches
        self.path, self.shard, self.decoding = path, shard, decoding
        self.own = shard.share(len(batches))
        self.lengths = subset.source_lengths
        self.readable = _readable(self.lengths, max_source)

    def run(self, engine: Engine) -> DecodingProgress:
        """Decodes the batches that are not in the journal, and writes the shard's file."""
        title = f"journal of shard {self.shard} of decoding {self.decoding}"
        journal_path = self.path.with_suffix(".journal")
        with writing(self.path.parent):
            journal = Journal(journal_path, title, self._holds)
            try:
                done = set(journal.numbers)
                if not done.issubset(self.own):
                    raise ValueError(
                        f"{journal_path} holds batch {min(done.difference(self.own))}, which does "
                        f"not belong to shard {self.shard}. Remove it, and run the same command "
                        "again."
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

    def _holds(self, number: int, text: bytes) -> bool:
        """Whether the text of a batch has hypotheses of its sentences, in their order."""
        if number not in self.own:
            return True  # and is refused
        try:
            *lines, end = text.decode().split("\n")  # tokens may hold other line ends
        except UnicodeDecodeError:
            return False
        matches = [LINE.fullmatch(line) for line in lines]
        if end or not all(matches):
            return False
        numbers = [int(match[1]) for match in matches if match]
        return list(dict.fromkeys(numbers)) == self.batches[number].tolist()

    def _decoded(self, engine: Engine, numbers: Sequence[int]) -> Iterator[str]:
        """The text of each batch: the lines of its sentences, in their order in the batch."""
        results = engine.translate(self._translatable(numbers))
        for number in numbers:
            sentences = self.batches[number]
            readable = self.readable[sentences]
            hypotheses = iter(next(results) if readable.any() else [])
            texts = [
                lines_of(int(sentence), next(hypotheses) if translated else [])
                for sentence, translated in zip(sentences, readable, strict=True)
            ]
            yield "".join(texts)

    def _translatable(self, numbers: Sequence[int]) -> Iterator[Batch]:
        for number in numbers:
            sentences = self.batches[number]
            kept = sentences[self.readable[sentences]]
            if len(kept):
                yield Batch(number, [self.subset.source[int(i)].long() for i in kept])

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
            print(f"{name}: continuing after {initial[0]:,} sentences", file=sys.stderr)
        return DecodingProgress(name, sizes.tolist(), initial.tolist())


def max_source(models: Sequence[Checkpoint]) -> int:
    """The longest source sentence that all models read, in tokens with the end of sentence."""
    return min(model.max_source for model in models)


def untranslatable(subset: Subset, max_source: int) -> List[int]:
    """The numbers of the sentences that are empty or too long."""
    return np.flatnonzero(~_readable(subset.source_lengths, max_source)).tolist()


def _readable(lengths: np.ndarray, max_source: int) -> np.ndarray:
    """True where a sentence is neither empty nor longer than ``max_source`` tokens."""
    return (lengths > 1) & (lengths <= max_source)


def merge_shards(folder: Path) -> None:
    """Merges all shards of a folder, while no other process does; prints the result.

    Raises:
        FileNotFoundError, ValueError: as ``merge`` and ``read_settings``.
    """
    settings = read_settings(folder)
    with folder_locked(folder):
        if (folder / WHOLE).is_file():
            check_shard(folder / WHOLE, settings_id(settings))
            print(f"{folder / WHOLE} already exists", file=sys.stderr)
            return
        merge(folder, settings_id(settings), settings["sentences"])
    print(f"{settings['sentences']:,} sentences are in {folder / WHOLE}", file=sys.stderr)


def merge_if_last(folder: Path) -> None:
    """Merges the shards of a folder if all are finished and not merged yet."""
    if (folder / WHOLE).is_file():
        return
    if shard_files(folder) and not missing_shards(folder):
        merge_shards(folder)
