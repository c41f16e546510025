"""Binarises monolingual source text, whose translations will have no references."""

import math
import shutil
import sys
from collections import Counter
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Dict, Sequence, Tuple

import numpy as np
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_kd.decoding.subset import SOURCE_TEXT, Subset, read_subset
from fairseq_kd.decoding.subwords import CODES, UnknownTokens, checked_codes, if_split
from fairseq_kd.decoding.tokenising import split_lines
from fairseq_kd.distilled_data.binarised_writer import (
    SideWriter,
    copy_the_rest,
    hash_of_other_subsets,
)
from fairseq_kd.distilled_data.options import BinariseTextOptions
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.recorded_folders import make_once
from fairseq_kd.parallel_text import CleanLines, lines_of, text_file
from fairseq_kd.process_pool import in_chunks, in_processes
from fairseq_kd.progress import ProgressLine

CHUNK = 2000  # lines of a task
COMPARED = 5000  # sentences of the data with whose tokens those of the text are compared
LEAST_TOKENS = 100  # with fewer, the comparison would be chance


class SourceText:
    """A data folder whose training set is source text alone; line N is sentence N.

    Args:
        options: of ``fairseq-kd binarise-text``.
        pair: source and target language.
        workers: processes that split text.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the data are not split as the options say.
    """

    def __init__(self, options: BinariseTextOptions, pair: Tuple[str, str], workers: int):
        self.options, self.workers = options, workers
        self.file = Path(text_file(str(options.text)))
        self.data: Subset = read_subset(options.data, "train", pair)
        self.codes = checked_codes(
            options.tokenizer, options.bpe, options.codes, self.data, pair[0]
        )

    def make(self) -> None:
        """Writes the folder, or prints that it exists.

        Raises:
            ValueError: the text is empty or in another language, or the folder is damaged or was
                made of something else.
            OSError: it cannot be written; ``write_errors.explained`` says why.
        """
        out = self.options.out
        if make_once(out, SOURCE_TEXT, self._made_of(), self._write):
            print(f"{out} is ready for fairseq-kd translate", file=sys.stderr)

    def check_beginning(self) -> None:
        """Refuses a file whose first lines are in another language, in a second.

        Raises:
            ValueError: as ``make`` raises it.
        """
        options, (source, _) = self.options, self.data.pair
        first = list(islice(self._lines(), CHUNK))
        unknown = UnknownTokens(self.data.source_dictionary, source, self.data.folder)
        tokens_of_text: Counter = Counter()
        for tokens in split_lines(options.tokenizer, options.bpe, self.codes, source, first):
            tokens_of_text.update(unknown.known(tokens).split())
        unknown.check(f"--text {self.file}")
        self._check_language(tokens_of_text)

    def _lines(self) -> CleanLines:
        return CleanLines(str(self.file), if_split(self.options.tokenizer, self.options.bpe))

    def _made_of(self) -> Dict[str, str]:
        """The inputs that determine the training set."""
        sides = zip(("source", "target"), self.data.pair, strict=True)
        return {
            "text": sha256_of([self.file]),
            "tokenizer": self.options.tokenizer,
            "bpe": self.options.bpe,
            "other_splits": hash_of_other_subsets(self.data, "train"),
            "codes": sha256_of([] if self.codes is None else [self.codes]),
            **{side: sha256_of([self.data.dictionary_file(each)]) for side, each in sides},
        }

    def _write(self, work: Path) -> Dict[str, int]:
        """Writes the files, and returns the number of sentences for the record."""
        source, target = self.data.pair
        dictionary, options = self.data.source_dictionary, self.options
        copy_the_rest(self.data, "train", work)
        if self.codes is not None:
            shutil.copyfile(self.codes, work / CODES[options.bpe].file)
        total = sum(1 for _ in lines_of(str(self.file)))
        lines = self._lines()
        unknown = UnknownTokens(dictionary, source, self.data.folder)
        tokens_of_text: Counter = Counter()
        tasks = (
            partial(split_lines, options.tokenizer, options.bpe, self.codes, source, chunk)
            for chunk in in_chunks(lines, CHUNK)
        )
        writer = SideWriter(work / f"train.{source}-{target}.{source}", dictionary)
        with ProgressLine("binarise", total, "sentences") as progress:
            for tokens in chain.from_iterable(in_processes(tasks, self.workers)):
                known = unknown.known(tokens).split()
                writer.add([*(dictionary.indices[each] for each in known), dictionary.eos()])
                tokens_of_text.update(known)
                progress.add(1)
        lines.check()
        if not unknown.tokens:
            raise ValueError(f"--text {self.file} has only empty lines. Give another file.")
        unknown.check(f"--text {self.file}")
        self._check_language(tokens_of_text)
        writer.close()
        print(unknown.text(), file=sys.stderr)
        return {"sentences": writer.sentences}

    def _check_language(self, tokens: Counter) -> None:
        """Refuses text whose tokens are more probable in the target side of the data.

        A joint vocabulary knows the tokens of both languages.
        """
        data = self.data
        if data.target is None or tokens.total() < LEAST_TOKENS:
            return
        sides = (data.source, data.source_dictionary), (data.target, data.target_dictionary)
        per_token = [_log_probability(tokens, *side) / tokens.total() for side in sides]
        if per_token[1] > per_token[0]:
            raise ValueError(
                f"--text {self.file} must be in the source language, {data.pair[0]}, but its "
                f"tokens are more probable in the {data.pair[1]} of {data.folder}: "
                f"{per_token[1]:.2f} against {per_token[0]:.2f} nats per token. Give text in "
                f"{data.pair[0]}."
            )


def _log_probability(tokens: Counter, side: Sequence[Tensor], dictionary: Dictionary) -> float:
    """The log of the probability of tokens by their frequencies in a side, plus one, in nats."""
    step = max(1, len(side) // COMPARED)
    counts = sum(
        np.bincount(side[i].numpy(), minlength=len(dictionary)) for i in range(0, len(side), step)
    )
    total = int(counts.sum()) + len(dictionary)
    return sum(
        often * math.log((counts[dictionary.index(token)] + 1) / total)
        for token, often in tokens.items()
    )
