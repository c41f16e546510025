"""Imports translations of another system (`import-translations`), in the form of `translate`."""

import json
import math
import sys
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Tuple

from fairseq_kd.decoding.decode import DECODING_FILE, IMPORTED, Settings, read_settings, settings_id
from fairseq_kd.decoding.hypothesis_files import (
    UNTRANSLATED,
    WHOLE,
    Hypothesis,
    by_sentence,
    check_shard,
    lines_of,
    number_of,
    sorted_lines,
    write_shard,
)
from fairseq_kd.decoding.options import ImportTranslationsOptions
from fairseq_kd.decoding.subset import Subset, read_subset, splitting_of, words_of
from fairseq_kd.decoding.subwords import OWN_SPLITTING, UnknownTokens, checked_codes, if_split
from fairseq_kd.decoding.tokenising import split_lines
from fairseq_kd.decoding.translation_check import Compared, why_not_translations
from fairseq_kd.decoding.translation_formats import FORMATS, Translation
from fairseq_kd.files.atomic_files import UNTIL_MADE, atomic_folder
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.files.json_files import sealed
from fairseq_kd.files.locks import lock_beside, locked
from fairseq_kd.files.names import why_no_file
from fairseq_kd.parallel_text import SplitWords, letters_of
from fairseq_kd.process_pool import in_chunks, in_processes
from fairseq_kd.progress import ProgressLine
from fairseq_kd.shard import Shard

CHUNK = 2000  # lines of a task
COMPARED = 1000  # largest number of sentences compared with their references
LEAST_COMPARED = 10  # with fewer, the result would be chance
SAME_SOURCE = 0.9  # smallest share of sources that must equal those of the set
WITH_PIECES = "Give the output of fairseq-generate without --remove-bpe, or the format plain."
MOST_MISSING = 0.5  # largest share of sentences without a translation


class Import:
    """The import of another system's translations into a folder in ``translate``'s format.

    Args:
        options: of ``fairseq-kd import-translations``.
        pair: source and target language.
        workers: processes that split text.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the data are not split as the options say.
    """

    def __init__(self, options: ImportTranslationsOptions, pair: Tuple[str, str], workers: int):
        self.options, self.workers = options, workers
        if not options.hypotheses.is_file():
            raise FileNotFoundError(
                f"--hypotheses {options.hypotheses} {why_no_file(options.hypotheses)}. Give a file "
                "of translations."
            )
        self.subset: Subset = read_subset(options.data, options.subset, pair)
        self.bpe, self.tokenizer = options.bpe, options.tokenizer
        if options.is_split:  # into tokens of the dictionary
            self.bpe = self.tokenizer = "none"
        self.codes = checked_codes(self.tokenizer, self.bpe, options.codes, self.subset, pair[1])
        self.sentences = len(self.subset)

    def run(self) -> None:
        """Writes the folder and prints a summary, or prints that it exists.

        Raises:
            ValueError: the file does not fit the set, or something else is in the folder.
            OSError: it cannot be written; ``write_errors.explained`` says why.
        """
        out, settings = self.options.out, self._settings()
        with locked(lock_beside(out), f"--out {out}", out, finished=True):
            if (out / DECODING_FILE).is_file():
                earlier = read_settings(out)
                same = {name: earlier.get(name) for name in settings} == settings
                if same and (out / WHOLE).is_file():
                    check_shard(out / WHOLE, settings_id(earlier))
                    print(f"{out / WHOLE} already exists", file=sys.stderr)
                    return
            with atomic_folder(out) as work:
                self._write(work, settings)
        print(f"{self.sentences:,} sentences are in {out / WHOLE}", file=sys.stderr)

    def check_beginning(self) -> None:
        """Refuses a file whose first translations are not those of the set, in a second.

        Raises:
            ValueError: as ``run`` raises it.
        """
        first = list(islice(self._read(), CHUNK))
        counts, best = Counts(self.subset), {}
        options = (self.tokenizer, self.bpe, self.codes, self.subset.pair[1])
        for translation, tokens in _split_all(*options, first):
            best.setdefault(translation.number, counts.unknown.known(tokens))
        self._check_unknown(counts)
        if self.subset.target is not None:
            self._check_step(best.items(), len(best))

    def _settings(self) -> Settings:
        """The settings that determine the hypotheses, except for their number."""
        codes = {} if self.codes is None else {"codes": sha256_of([self.codes])}
        return {
            "subset": self.subset.name,
            "pair": list(self.subset.pair),
            "sentences": self.sentences,
            **self.subset.hashes,
            "teacher": [sha256_of([self.options.hypotheses])],
            "engine": IMPORTED,
            "format": self.options.format,
            "tokenizer": self.tokenizer,
            "bpe": self.bpe,
            **codes,
        }

    def _write(self, work: Path, settings: Settings) -> None:
        unsorted = work.with_name(UNTIL_MADE)
        unsorted.mkdir(exist_ok=True)
        journal, counts = unsorted / "lines", Counts(self.subset)
        tasks = (
            partial(_split_all, self.tokenizer, self.bpe, self.codes, self.subset.pair[1], chunk)
            for chunk in in_chunks(self._read(), CHUNK)
        )
        with (
            journal.open("w", encoding="utf-8", newline="\n") as file,
            ProgressLine("import", self.sentences, "sentences") as progress,
        ):
            every = chain.from_iterable(in_processes(tasks, self.workers))
            for count, (translation, tokens) in enumerate(every, 1):
                progress.show(min(count, self.sentences))
                known = counts.unknown.known(tokens)
                if known:
                    counts.scored &= not math.isnan(translation.score)
                    file.write(lines_of(translation.number, [Hypothesis(known, translation.score)]))
        self._check_unknown(counts)
        ranked, most = self.options.format == "fairseq", 1
        ready = unsorted / "sorted"
        with ready.open("w", encoding="utf-8", newline="\n") as file:
            for number, each in _completed(sorted_lines(journal), ranked, counts):
                most = max(most, len(each))
                file.write(lines_of(number, each))
        counts.check_sentences(self.options.hypotheses)
        settings = {**settings, "nbest": most, "scored": counts.scored}
        (work / DECODING_FILE).write_text(
            json.dumps(sealed(settings), indent=2) + "\n", encoding="utf-8"
        )
        with ready.open("rb") as file:
            write_shard(work / WHOLE, Shard(), settings_id(settings), file)
        best = ((number, best.tokens) for number, (best, *_) in by_sentence(work / WHOLE))
        self._check_step(best, self.sentences)
        print(counts.text(), file=sys.stderr)

    def _read(self) -> Iterator[Translation]:
        """The translations of the file, whose numbers are those of the set."""
        path, count, compared = self.options.hypotheses, 0, 0
        differ: List[int] = []  # lines with another source
        words = SplitWords(f"--hypotheses {path}", if_split(self.tokenizer, self.bpe))
        unnamed, named = set(), set()  # the sentences of lines that name none, and of the others
        for each in FORMATS[self.options.format](path):
            if each.number >= self.sentences and each.named:
                raise ValueError(
                    f"--hypotheses {path} has a translation of sentence {each.number}, but "
                    f"{self.subset.name} in {self.subset.folder} has {self.sentences}, counted "
                    "from 0. Give the translations of this set."
                )
            if each.source is not None and count < self.sentences:
                compared += 1
                if not self._is_source(count, each.source):
                    differ.append(count + 1)
            count += 1
            words.add(each.text)
            (named if each.named else unnamed).add(each.number)
            if each.number < self.sentences:
                yield each
        words.check()
        if unnamed and named:
            raise ValueError(
                f"--hypotheses {path} has lines that name their sentence and lines that do not, "
                f"such as line {min(unnamed) + 1}. Name it in all lines, or in none."
            )
        if unnamed and len(unnamed) != self.sentences:
            raise ValueError(
                f"--hypotheses {path} has {len(unnamed):,} lines, but {self.subset.name} in "
                f"{self.subset.folder} has {self.sentences:,} sentences. Line N must be the "
                "translation of sentence N, or every line must name its sentence. Translate the "
                "text that was binarised."
            )
        if len(differ) > (1 - SAME_SOURCE) * compared:
            raise ValueError(
                f"--hypotheses {path} has other sources than {self.subset.name} in "
                f"{self.subset.folder}: {len(differ):,} of {compared:,} lines differ, such as line "
                f"{differ[0]}. Translate the text that was binarised."
            )
        if differ:
            print(
                f"{path}: the source of {len(differ):,} of {compared:,} lines is not that of the "
                f"set, such as of line {differ[0]}; look whether their translations belong to it",
                file=sys.stderr,
            )
        if not count:
            raise ValueError(
                f"--hypotheses {path} holds no translation in the format "
                f"{self.options.format}. Give another --format, or another file."
            )

    def _is_source(self, number: int, text: str) -> bool:
        """Whether a text is the source of a sentence, spaces and unknown tokens apart."""
        dictionary = self.subset.source_dictionary
        own = dictionary.string(self.subset.source[number])
        unknown = dictionary.unk_word in own.split()
        return unknown or letters_of(text) == letters_of(words_of(own, self.options.bpe))

    def _check_unknown(self, counts: "Counts") -> None:
        """Refuses text that the dictionary does not know."""
        advice = WITH_PIECES if self.options.is_split else OWN_SPLITTING
        counts.unknown.check(f"--hypotheses {self.options.hypotheses}", advice)

    def _check_step(self, best: Iterable[Tuple[int, str]], sentences: int) -> None:
        """Refuses translations that are not those of the sentences, or in another language.

        Args:
            best: the number of each sentence, and the tokens of its best translation.
            sentences: how many there are.
        """
        subset = self.subset
        if subset.target is None:
            print(
                f"{subset.name} has no references: whether the lines of the file belong to its "
                "sentences was not checked",
                file=sys.stderr,
            )
            return
        step, compared = max(1, sentences // COMPARED), []
        known = subset.target_dictionary.string
        for number, tokens in best:
            if number % step == 0 and tokens:
                source = subset.source_dictionary.string(subset.source[number])
                beside = [i for i in (number - 1, number + 1) if 0 <= i < len(subset)]
                neighbours = [known(subset.target[i]) for i in beside]
                own = known(subset.target[number])
                compared.append(Compared(number, tokens, own, source, neighbours))
        if len(compared) < LEAST_COMPARED:
            return
        splitting = splitting_of(subset.target_dictionary) or "none"
        why = why_not_translations(compared, splitting)
        if why:
            raise ValueError(
                f"--hypotheses {self.options.hypotheses} does not translate {subset.name} in "
                f"{subset.folder}: {why}"
            )


def _split_all(
    tokenizer: str, bpe: str, codes: Optional[Path], language: str, chunk: List[Translation]
) -> List[Tuple[Translation, str]]:
    """The translations of a chunk with their tokens, in a worker process."""
    lines = split_lines(tokenizer, bpe, codes, language, [each.text for each in chunk])
    return list(zip(chunk, lines, strict=True))


def _completed(
    lines: Iterable[bytes], ranked: bool, counts: "Counts"
) -> Iterator[Tuple[int, List[Hypothesis]]]:
    """Every sentence with its hypotheses, the best first; one without any gets UNTRANSLATED.

    Args:
        lines: of hypotheses, in order of the sentences.
        ranked: those of a sentence are in order already; else by their scores, if all have one.
        counts: to count the sentences without any.
    """
    due = 0
    for number, group in groupby(lines, key=number_of):
        for missing in range(due, number):
            yield missing, [UNTRANSLATED]
        counts.missing += number - due
        cells = [line.decode().rstrip("\n").split("\t") for line in group]
        found = [Hypothesis(tokens, float(score)) for _, score, tokens in cells]
        if not ranked and not any(math.isnan(each.score) for each in found):
            found.sort(key=lambda each: -each.score)  # of equals, in the file's order
        yield number, found
        due = number + 1
    counts.missing += counts.sentences - due
    for missing in range(due, counts.sentences):
        yield missing, [UNTRANSLATED]


class Counts:
    """What is found in the translations: tokens, unknown ones, and sentences without any.

    Args:
        subset: the set that they translate.
    """

    def __init__(self, subset: Subset):
        self.unknown = UnknownTokens(subset.target_dictionary, subset.pair[1], subset.folder)
        self.sentences, self.missing = len(subset), 0
        self.scored = True  # whether every translation has a score

    def check_sentences(self, path: Path) -> None:
        """Refuses translations of a small part of the set."""
        if self.missing > MOST_MISSING * self.sentences:
            raise ValueError(
                f"--hypotheses {path} translates {self.sentences - self.missing:,} of "
                f"{self.sentences:,} sentences. Give the translations of this set."
            )

    def text(self) -> str:
        """The counts for a terminal."""
        lines = [self.unknown.text()]
        if self.missing:
            lines.append(f"{self.missing:,} of {self.sentences:,} sentences have no translation")
        return "\n".join(lines)
