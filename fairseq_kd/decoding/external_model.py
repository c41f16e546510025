"""Translates plain text (`translate-text`) with any CTranslate2 model, such as OPUS-MT or NLLB.

The model reads pieces of its own SentencePiece model, with the symbols that its origin needs
before and after them, and begins translations with a symbol such as the target language.
"""

import json
import math
import re
import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence

import ctranslate2
from ctranslate2 import get_supported_compute_types

from fairseq_kd.decoding.ctranslate2_engine import supported_compute_type
from fairseq_kd.decoding.hypothesis_files import Hypothesis, lines_of, sorted_lines
from fairseq_kd.decoding.journal import Journal
from fairseq_kd.decoding.options import TranslateTextOptions
from fairseq_kd.files.hashes import check_sums, sha256_of
from fairseq_kd.files.json_files import digest_of, read_json
from fairseq_kd.files.names import why_no_file
from fairseq_kd.files.recorded_folders import make_once
from fairseq_kd.files.write_errors import writing
from fairseq_kd.parallel_text import CleanLines, text_file
from fairseq_kd.parallel_text import lines_of as text_lines
from fairseq_kd.process_pool import in_chunks
from fairseq_kd.progress import ProgressLine

RECORD, TRANSLATIONS = "translation.json", "translations.jsonl"
SOURCE_PIECES = ("source.spm", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model")
TARGET_PIECES = "target.spm"
CONFIG = {"add_source_eos?": bool, "eos_token?": str, "decoder_start_token?": (str, None)}
VOCABULARIES = ("shared_vocabulary", "{side}_vocabulary")
CHUNK = 256  # lines of a record of the journal
BATCH_TOKENS = 1024
MOST_UNKNOWN = 0.05  # share of source pieces that the vocabulary of the model may lack
LEAST_PIECES, MOST_UNKNOWN_OF_FEW = 200, 0.5  # with fewer, a smaller share could be chance
LINE = re.compile(rb"H-([0-9]+)\t(\S+)\t([^\t\n]*)\n")
POSITIONS = re.compile(r"No position encodings are defined for positions >= (\d+)")
END, SPACE = "</s>", "\u2581"


class Pieces(NamedTuple):
    """The SentencePiece models of a model."""

    source: Any
    target: Any


class ExternalModel:
    """A model, and the text that it translates.

    Args:
        options: of ``fairseq-kd translate-text``.
        workers: batches that are translated at the same time.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the folder holds no model, or a symbol is not in its vocabulary.
    """

    def __init__(self, options: TranslateTextOptions, workers: int):
        self.options, self.workers = options, workers
        self.text = Path(text_file(str(options.text)))
        folder = options.ct2_model
        for name in ("model.bin", "config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"--ct2-model {folder} holds no {name}. Give a folder that a converter of "
                    "CTranslate2 wrote."
                )
        check_sums(folder, [path.name for path in self._model_files()])
        config = read_json(folder / "config.json", CONFIG, "Convert the model again.")
        self.files = self._piece_files()
        check_sums(folder, [path.name for path in self.files if path.parent == folder])
        self.pieces = Pieces(*(pieces_of(path) for path in self.files))
        self.vocabulary = vocabulary_of(folder, "source")
        self.before = (options.source_prefix or "").split()
        end = [] if config.get("add_source_eos") else [config.get("eos_token", END)]
        self.after = [*(options.source_suffix or "").split(), *end]
        self.begin = (options.target_prefix or "").split()
        self._check_symbols(config.get("decoder_start_token"))
        self.compute_type = compute_type_of(options)
        self.too_long = self.unknown = self.known = 0

    def make(self) -> None:
        """Writes the folder, or prints that it exists.

        Raises:
            ValueError: the pieces are not those of the model, or the folder is damaged or was made
                of something else.
            OSError: it cannot be written; ``write_errors.explained`` says why.
        """
        out = self.options.out
        if make_once(out, RECORD, self._made_of(), self._write):
            print(f"{out / TRANSLATIONS} is ready for fairseq-kd import-translations")

    def _piece_files(self) -> List[Path]:
        """The SentencePiece model of the source and of the target."""
        options = self.options
        beside = [options.ct2_model / name for name in SOURCE_PIECES]
        found: Optional[Path] = next((path for path in beside if path.is_file()), None)
        source = options.sentencepiece or found
        if source is None:
            raise FileNotFoundError(
                f"--ct2-model {options.ct2_model} holds no SentencePiece model. Give that of the "
                "model by --sentencepiece."
            )
        target = options.ct2_model / TARGET_PIECES
        if options.target_sentencepiece is not None:
            target = options.target_sentencepiece
        elif options.sentencepiece is not None or not target.is_file():
            target = source
        return [source, target]

    def _check_symbols(self, start: Optional[str]) -> None:
        """Refuses symbols that the model would read as unknown.

        Args:
            start: with which the decoder begins, if the model names it.
        """
        target = vocabulary_of(self.options.ct2_model, "target")
        sides = (
            ("--source-prefix", self.before, self.vocabulary),
            ("--source-suffix", self.after, self.vocabulary),
            ("--target-prefix", self.begin, target),
        )
        if start and start not in target:
            raise ValueError(
                f"{self.options.ct2_model / 'config.json'} is damaged: its decoder_start_token "
                f"{start!r} is not in the vocabulary. Convert the model again."
            )
        for flag, symbols, vocabulary in sides:
            missing = [symbol for symbol in symbols if symbol not in vocabulary]
            if missing:
                raise ValueError(
                    f"{flag}: {missing[0]} is not in the vocabulary of {self.options.ct2_model}. "
                    "Give the symbols as its documentation writes them."
                )

    def _model_files(self) -> List[Path]:
        folder = self.options.ct2_model
        sides = [vocabulary_file(folder, side) for side in ("source", "target")]
        return [folder / "model.bin", folder / "config.json", *sides]

    def _made_of(self) -> Dict[str, str]:
        options = self.options
        return {
            "text": sha256_of([self.text]),
            "model": sha256_of(self._model_files()),
            "sentencepiece": sha256_of(self.files),
            "symbols": json.dumps([self.before, self.after, self.begin]),
            "beam": str(options.search_width),
            "nbest": str(options.nbest),
            "max_source_tokens": str(options.max_source_tokens),
            "compute_type": self.compute_type,
        }

    def _write(self, work: Path) -> Dict[str, int]:
        """Translates what the journal of an interrupted call lacks, and writes the file."""
        total, lines = sum(1 for _ in text_lines(str(self.text))), CleanLines(str(self.text))
        path = self.options.out.with_name(f"{self.options.out.name}.journal")
        title = f"journal of translations of {digest_of(self._made_of())}"
        with writing(self.options.out, path):
            journal = Journal(path, title, partial(_is_chunk, total))
            done = {*journal.numbers}
            before = min(total, len(done) * CHUNK)
            try:
                with ProgressLine("translate", total, "sentences", before) as progress:
                    for number, chunk in enumerate(in_chunks(lines, CHUNK)):
                        if number in done:
                            for line in chunk:  # only counted
                                self._tokens(line.strip())
                        else:
                            journal.append(number, self._translated(number * CHUNK, chunk))
                            progress.add(len(chunk))
            finally:
                journal.close()
        lines.check()
        self._check_known(MOST_UNKNOWN_OF_FEW)
        if self.too_long:
            print(
                f"{self.too_long:,} sentences have more than {self.options.max_source_tokens} "
                "pieces and were not translated",
                file=sys.stderr,
            )
        with (work / TRANSLATIONS).open("w", encoding="utf-8", newline="\n") as file:
            for number, hypotheses in _by_sentence(sorted_lines(path)):
                file.write(_json_line(number, hypotheses))
        path.unlink()
        return {"sentences": total}

    def _translated(self, first: int, lines: Sequence[str]) -> str:
        """The lines of the journal for some lines of the text, of which the first has a number."""
        tokens = [self._tokens(line.strip()) for line in lines]
        full = [each for each in tokens if each]
        longest = max(map(len, full), default=0)
        options: Dict[str, Any] = {
            "beam_size": self.options.search_width,
            "num_hypotheses": self.options.nbest,
            "max_batch_size": BATCH_TOKENS,
            "batch_type": "tokens",
            "max_input_length": 0,
            "max_decoding_length": min(2 * longest + 20, self.options.max_source_tokens),
            "return_scores": True,
        }
        if self.begin:
            options["target_prefix"] = [self.begin] * len(full)
        results = iter(self._searched(full, options) if full else [])
        return "".join(
            lines_of(first + at, self._hypotheses(next(results)) if each else [])
            for at, each in enumerate(tokens)
        )

    def _searched(self, tokens: List[List[str]], options: Dict[str, Any]) -> Sequence[Any]:
        """The results of CTranslate2.

        Raises:
            ValueError: it refuses the model or the sentences.
        """
        translator = self._translator
        try:
            return translator.translate_batch(tokens, **options)
        except (RuntimeError, ValueError) as error:
            positions = POSITIONS.search(str(error))
            advice = "Convert the model again."
            if positions is not None:
                advice = f"Give --max-source-tokens {positions[1]} or less."
            reason = f"cannot translate with --ct2-model {self.options.ct2_model}: {error}"
            raise ValueError(f"CTranslate2 {reason.rstrip('.')}. {advice}") from error

    def _tokens(self, line: str) -> List[str]:
        """What the model reads; nothing of a line that is empty or too long."""
        pieces = self.pieces.source.encode(line, out_type=str)
        self.known += len(pieces)
        self.unknown += sum(piece not in self.vocabulary for piece in pieces)
        if self.known >= LEAST_PIECES:
            self._check_known(MOST_UNKNOWN)
        tokens = [*self.before, *pieces, *self.after]
        if len(tokens) > self.options.max_source_tokens:
            self.too_long += 1
            return []
        return tokens if pieces else []

    def _check_known(self, most: float) -> None:
        """Refuses a SentencePiece model with whose pieces the model was not trained.

        Raises:
            ValueError: its vocabulary lacks more than a share of the pieces so far.
        """
        if self.unknown > most * self.known:
            raise ValueError(
                f"The vocabulary of {self.options.ct2_model} lacks {self.unknown / self.known:.0%} "
                f"of the pieces of {self.files[0]}. Give the SentencePiece model of this model."
            )

    def _hypotheses(self, result: Any) -> List[Hypothesis]:
        """Hypotheses as text; their scores are log2 of the probability per token."""
        hypotheses = []
        for tokens, score in zip(result.hypotheses, result.scores, strict=True):
            start = len(self.begin) if tokens[: len(self.begin)] == self.begin else 0
            joined = self.pieces.target.decode(tokens[start:])
            text = " ".join(joined.replace(SPACE, " ").split())  # of pieces that it does not know
            if text:
                hypotheses.append(Hypothesis(text, score / math.log(2)))
        return hypotheses

    @cached_property
    def _translator(self) -> ctranslate2.Translator:
        """The model, loaded when it is first used."""
        folder, device = self.options.ct2_model, self.options.device
        how = {"device": device, "compute_type": self.compute_type, "intra_threads": 1}
        try:
            return ctranslate2.Translator(str(folder), inter_threads=self.workers, **how)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"--ct2-model {folder} cannot be loaded: {error}") from error


def compute_type_of(options: TranslateTextOptions) -> str:
    """The compute type; by default int16 on CPUs, since int8 of other converters can overflow."""
    name, supported = options.compute_type, get_supported_compute_types(options.device)
    if name == "auto" and options.device == "cpu":
        name = "int16" if "int16" in supported else "float32"
    return supported_compute_type(name, options.device)


def pieces_of(path: Path) -> Any:
    """A SentencePiece model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not one.
    """
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        raise FileNotFoundError(
            f"--sentencepiece {path} {why_no_file(path)}. Give the model of SentencePiece."
        )
    try:
        return SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} is not a SentencePiece model. Give that of the translation model."
        ) from error


def vocabulary_of(folder: Path, side: str) -> FrozenSet[str]:
    """The tokens of a side of a CTranslate2 model.

    Raises:
        FileNotFoundError: the folder holds none.
        ValueError: the file is damaged.
    """
    path = vocabulary_file(folder, side)
    if path.suffix == ".json":
        return frozenset(read_json(path, [str], "Convert the model again."))
    return frozenset(text_lines(str(path)))


def vocabulary_file(folder: Path, side: str) -> Path:
    """The file with the tokens of a side of a CTranslate2 model.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    for name in VOCABULARIES:
        for suffix in (".json", ".txt"):  # the second of older converters
            path = folder / f"{name.format(side=side)}{suffix}"
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"--ct2-model {folder} holds no vocabulary of the {side}. Convert the model again."
    )


def _is_chunk(total: int, number: int, text: bytes) -> bool:
    """Whether a record of the journal has translations of its lines and of no others."""
    lines = [LINE.fullmatch(line) for line in text.splitlines(keepends=True)]
    numbers = dict.fromkeys(int(match[1]) for match in lines if match)
    first = number * CHUNK
    return all(lines) and [*numbers] == [*range(first, min(total, first + CHUNK))]


def _by_sentence(lines: Iterator[bytes]) -> "Iterator[tuple[int, List[Hypothesis]]]":
    """The hypotheses of each sentence."""
    number, hypotheses = 0, []
    for line in lines:
        at, score, text = LINE.fullmatch(line).groups()
        if int(at) != number:
            yield number, hypotheses
            number, hypotheses = int(at), []
        if text:
            hypotheses.append(Hypothesis(text.decode(), float(score)))
    yield number, hypotheses


def _json_line(number: int, hypotheses: Sequence[Hypothesis]) -> str:
    """A line of the format jsonl of import-translations."""
    several = [{"translation": each.tokens, "score": each.score} for each in hypotheses]
    return json.dumps({"id": number, "translations": several}, ensure_ascii=False) + "\n"
