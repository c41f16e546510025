"""Exports a student: a directory that appears when it was measured and has translated."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch
from ctranslate2 import get_supported_compute_types
from sacrebleu.metrics import BLEU
from torch import Tensor

from fairseq_kd.child_process import run
from fairseq_kd.decoding.conversion import (
    CannotConvertError,
    converted,
    default_cache,
    write_converted,
)
from fairseq_kd.decoding.ctranslate2_engine import CTranslate2Engine
from fairseq_kd.decoding.engine import Batch, Engine
from fairseq_kd.decoding.fairseq_engine import FairseqEngine
from fairseq_kd.decoding.search import Search
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.subwords import check_splitting
from fairseq_kd.evaluation.results import FAIRSEQ
from fairseq_kd.evaluation.scores import bleu_tokenizer
from fairseq_kd.evaluation.size import folder_bytes
from fairseq_kd.evaluation.speed import (
    latencies,
    spread_over_lengths,
    throughputs,
    torch_threads,
)
from fairseq_kd.evaluation.systems import System, Variant, common_subset
from fairseq_kd.evaluation.translations import PlainText, detokeniser, plain_text, translated
from fairseq_kd.export.card import Licences, Measured, card
from fairseq_kd.export.example import SPLITTERS, translate_py
from fairseq_kd.export.lineage import lineage
from fairseq_kd.hashes import write_sums
from fairseq_kd.locks import lock_beside, locked
from fairseq_kd.progress import ProgressLine
from fairseq_kd.whole_files import check_apart, check_vacant, whole_folder

EXPORT = "export"
ROUNDS, ALONE, TOGETHER, BATCH = 3, 48, 256, 32  # of the measurement of speed
SMOKE_SENTENCES = 8


@dataclass(frozen=True)
class Options:
    """The flags of ``fairseq-kd export``.

    Args:
        data: the folder that fairseq-preprocess wrote.
        subset: the split to measure with.
        out: the directory to write.
        quantization: of the weights, one of CTranslate2's.
        codes: the merges of BPE or the model of SentencePiece, or None to look beside the data.
        bpe, tokenizer: how the text was prepared.
        sacrebleu_tokenize: the tokenizer of BLEU, or None for that of the target language.
        beam: of the measurement and of translate.py.
        threads: of the measurement.
        licences: for the card.
        cache: folder for converted models; None for the usual one.
    """

    data: Path
    subset: str
    out: Path
    quantization: str
    codes: Optional[Path]
    bpe: str
    tokenizer: str
    sacrebleu_tokenize: Optional[str]
    beam: int
    threads: int
    licences: Licences
    cache: Optional[Path]


class Export:
    """One export.

    Args:
        system: the student.
        options: what to do.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit, in one sentence.
    """

    def __init__(self, system: System, options: Options):
        check_apart(options.out, {"--data": options.data})
        check_vacant(options.out, empty=True)
        self.system, self.options = system, options
        self.search = Search(beam=options.beam)
        self.subset: Subset = common_subset([system], options.data, options.subset)
        check_splitting(self.subset, options.bpe, "--bpe")
        self.bleu = BLEU(tokenize=bleu_tokenizer(self.subset.pair[1], options.sacrebleu_tokenize))
        self.codes = find_codes(options) if options.bpe != "none" else None
        split = options.bpe, options.tokenizer
        self.detokenisers = tuple(
            detokeniser(split[1], split[0], language) for language in self.subset.pair
        )
        self.plain: PlainText = plain_text(self.subset, None, self.detokenisers)

    def write(self) -> str:
        """Writes the directory, and returns what it is worth in a sentence.

        Raises:
            ValueError: CTranslate2 cannot convert the model, the smoke check failed, or another
                process exports to the same place.
        """
        out = self.options.out
        with locked(lock_beside(out), f"--out {out}", out):
            return self._write()

    def _write(self) -> str:
        torch.set_num_threads(self.options.threads)
        out = self.options.out
        ancestors = lineage(self.system.path)
        with whole_folder(out) as work:
            self._convert(work)
            self._add_example(work)
            with torch.no_grad():
                self._smoke_check(work)
                forms = self._measure(work)
            made = self._made()
            told = card(
                self.subset.pair,
                self.options.quantization,
                forms,
                made,
                ancestors,
                self.options.licences,
            )
            (work / "README.md").write_text(told, encoding="utf-8")
        before, after = forms
        return (
            f"{out}: {after.size_bytes / 2**20:.1f} MiB, BLEU {after.bleu:.1f} (checkpoint "
            f"{before.bleu:.1f}), {after.sentences_per_s:.0f} sentences/s (fairseq "
            f"{before.sentences_per_s:.0f}); {out / 'README.md'} has the rest"
        )

    def _convert(self, work: Path) -> None:
        """Proves in float32 that the conversion scores as fairseq does, then writes the weights."""
        cache = self.options.cache or default_cache()
        try:
            converted(self.system.model, self.system.sha256, self.subset, cache)
            write_converted(self.system.model, self.subset, work, self.options.quantization)
        except CannotConvertError as error:
            raise ValueError(f"{self.system.path} cannot be exported: {error}.") from error

    def _add_example(self, work: Path) -> None:
        if self.codes is not None:
            shutil.copyfile(self.codes, work / SPLITTERS[self.options.bpe].file)
        write_sums(work)  # of what translate.py reads
        options, positions = self.options, self.system.model.model.max_positions()
        program = translate_py(
            self.subset.pair,
            options.tokenizer,
            options.bpe,
            options.quantization,
            self.search,
            (int(positions[0]), int(positions[1])),
        )
        (work / "translate.py").write_text(program, encoding="utf-8")

    def _measure(self, work: Path) -> List[Measured]:
        """The checkpoint and the export side by side."""
        sentences = spread_over_lengths(self.subset.source, self._longest(), TOGETHER)
        alone = spread_over_lengths(sentences, self._longest(), ALONE)
        with ProgressLine("speed", 4 * ROUNDS, "measurements") as progress:
            with torch_threads(1):
                waits = latencies(self._engines(work), alone, ROUNDS, progress)
            engines = self._engines(work, workers=self.options.threads)
            speeds = throughputs(engines, sentences, [BATCH], ROUNDS, progress)
        texts = {name: self._translate(name, engine, work) for name, engine in engines.items()}
        sizes = {FAIRSEQ: self.system.path.stat().st_size, EXPORT: folder_bytes(work)}
        names = {FAIRSEQ: "checkpoint, fairseq", EXPORT: f"this, {self.options.quantization}"}
        return [
            Measured(
                names[key],
                sizes[key],
                self.bleu.corpus_score(texts[key], [self.plain.references]).score,
                waits[key].median_ms,
                waits[key].p95_ms,
                speeds[key, BATCH].sentences_per_s,
            )
            for key in (FAIRSEQ, EXPORT)
        ]

    def _engines(self, work: Path, workers: int = 1) -> Mapping[str, Engine]:
        model = self.system.model
        return {
            FAIRSEQ: FairseqEngine([model], self.search, "cpu"),
            EXPORT: CTranslate2Engine(
                work,
                self.subset.source_words,
                model.model.max_decoder_positions(),
                self.search,
                device="cpu",
                compute_type=computed_in(self.options.quantization),
                workers=workers,
            ),
        }

    def _translate(self, name: str, engine: Engine, work: Path) -> List[str]:
        variant = Variant(self.system._replace(name=name), FAIRSEQ)
        tokens = translated(variant, engine, self.subset, self.search, work.parent)
        return [self.detokenisers[1](each) for each in tokens]

    def _smoke_check(self, work: Path) -> None:
        """Runs translate.py on a few sentences, as a user would; the model must say the same."""
        numbers = _of_middling_length(self.subset.source, self._longest())[:SMOKE_SENTENCES]
        batch = Batch(0, [self.subset.source[i].long() for i in numbers])
        (found,) = self._engines(work)[EXPORT].translate(iter([batch]))
        texts = [self.detokenisers[1](best.tokens) for best, *_ in found]
        sources = "".join(f"{self.plain.sources[i]}\n" for i in numbers)
        done = run([sys.executable, str(work / "translate.py")], input=sources)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"The exported translate.py failed: {last}. Nothing was exported.")
        printed = done.stdout.splitlines()
        same = [ours == theirs for ours, theirs in zip(printed, texts, strict=False)]
        if len(printed) != len(numbers) or 2 * sum(same) < len(numbers):
            shown = printed[0] if printed else ""
            raise ValueError(
                f"The exported translate.py translates {sum(same)} of {len(numbers)} sentences as "
                f'the model does; the first one as "{shown}", not "{texts[0]}". Nothing '
                "was exported. Give the --codes, --bpe and --tokenizer of the data."
            )

    def _longest(self) -> int:
        return int(self.system.model.model.max_positions()[0])

    def _made(self) -> Dict[str, Any]:
        return {
            "subset": self.options.subset,
            "sentences": len(self.subset),
            "signature": str(self.bleu.get_signature()),
            "beam": self.options.beam,
            "threads": self.options.threads,
            "computed_in": computed_in(self.options.quantization),
        }


def computed_in(quantization: str) -> str:
    """The type in which this processor computes with such weights: float32 if not in theirs."""
    return quantization if quantization in get_supported_compute_types("cpu") else "float32"


def find_codes(options: Options) -> Path:
    """The file that words are split by: the user's, or that of scripts/prepare.sh.

    Raises:
        FileNotFoundError: there is none.
    """
    file, what = SPLITTERS[options.bpe].file, SPLITTERS[options.bpe].learned
    if options.codes is not None:
        if not options.codes.is_file():
            raise FileNotFoundError(f"--codes {options.codes} does not exist. Give {what}.")
        return options.codes
    beside = options.data.resolve().parent / file
    if not beside.is_file():
        raise FileNotFoundError(
            f"No file {file} lies beside {options.data}. Give {what} by --codes, or --bpe none if "
            "the data are not split."
        )
    return beside


def _of_middling_length(sentences: Sequence[Tensor], longest: int) -> List[int]:
    """The numbers of the sentences that can be read, those of the median length first."""
    lengths = [len(sentence) for sentence in sentences]
    usable = [i for i, length in enumerate(lengths) if 1 < length <= longest]
    middle = sorted(lengths)[len(lengths) // 2]
    return sorted(usable, key=lambda i: (abs(lengths[i] - middle), i))
