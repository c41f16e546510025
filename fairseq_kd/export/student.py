"""Exports a student to a folder for CTranslate2, after a test translation and a measurement."""

import shutil
import sys
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

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
from fairseq_kd.decoding.engine import VMAP, Batch, Engine
from fairseq_kd.decoding.fairseq_engine import FairseqEngine
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.subset import Subset, check_splitting
from fairseq_kd.decoding.subwords import CODES, find_codes
from fairseq_kd.evaluation.results import FAIRSEQ
from fairseq_kd.evaluation.scores import bleu_tokenizer
from fairseq_kd.evaluation.size import folder_bytes
from fairseq_kd.evaluation.speed import (
    latencies,
    spread_over_lengths,
    throughputs,
    torch_threads,
)
from fairseq_kd.evaluation.systems import (
    NamedCheckpoint,
    System,
    common_subset,
    load_named,
)
from fairseq_kd.evaluation.translations import PlainText, detokeniser, plain_text, translated
from fairseq_kd.evaluation.variants import Variant
from fairseq_kd.export.card import Licences, Measured, MeasurementSetup, card
from fairseq_kd.export.example import translate_py
from fairseq_kd.export.lineage import lineage, trained_on
from fairseq_kd.export.options import ExportOptions
from fairseq_kd.export.shortlist import (
    Coverage,
    ShortlistTrial,
    alignments_of,
    pairs_to_align,
    shortlist_of,
    training_set,
)
from fairseq_kd.files.atomic_files import UNTIL_MADE, atomic_folder, check_apart, check_vacant
from fairseq_kd.files.hashes import read_sums, write_sums
from fairseq_kd.files.locks import lock_beside, locked
from fairseq_kd.machine import cores
from fairseq_kd.progress import ProgressLine

EXPORT, SHORTLIST = "export", "shortlist"  # engines: all tokens, and those of the shortlist
PROGRAM = "translate.py"
ROUNDS, ALONE, TOGETHER, BATCH = 3, 48, 256, 32  # of the measurement of speed
SMOKE_SENTENCES = 8


class Export:
    """One export.

    Args:
        options: of ``fairseq-kd export``.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit, in one sentence.
    """

    def __init__(self, options: ExportOptions):
        named = NamedCheckpoint("student", "student", options.student)
        self.system: System = load_named(named, "checkpoint")
        self.options, self.threads = options, options.threads or cores()
        self.data = options.data or trained_on(self.system.path)
        check_apart(options.out, {"--data": self.data})
        check_vacant(options.out, empty=True)
        self.search = Search(beam=options.beam)
        self.subset: Subset = common_subset([self.system], self.data, options.subset)
        self.training: Optional[Subset] = None
        self.aligned: List[int] = []  # pairs of the training set
        if options.shortlist:
            self.training = training_set(self.system, self.subset)
            model = self.system.checkpoint.model
            self.aligned = pairs_to_align(model, self.training, self.subset)
        check_splitting(self.subset, options.bpe, "--bpe")
        self.bleu = BLEU(tokenize=bleu_tokenizer(self.subset.pair[1], options.sacrebleu_tokenize))
        self.codes = find_codes(options.bpe, options.codes, self.data)
        split = options.bpe, options.tokenizer
        self.detokenisers = tuple(
            detokeniser(split[1], split[0], language) for language in self.subset.pair
        )
        self.plain: PlainText = plain_text(self.subset, None, self.detokenisers)

    def write(self) -> str:
        """Writes the folder, and returns a line with size, BLEU and speed.

        Raises:
            ValueError: CTranslate2 cannot convert the model, translate.py fails, or another process
                writes the same folder.
        """
        out = self.options.out
        with locked(lock_beside(out), f"--out {out}", out):
            return self._write()

    def _write(self) -> str:
        torch.set_num_threads(self.threads)
        out = self.options.out
        ancestors = lineage(self.system.path)
        with atomic_folder(out) as work:
            self._convert(work)
            self._add_example(work)
            with torch.no_grad():
                self._smoke_check(work)
                coverage = self._add_shortlist(work)
                measured = self._measure(work)
                trial = coverage and self._keep_or_remove(work, coverage, measured)
            before = measured.pop(FAIRSEQ)
            after = measured.pop(SHORTLIST if trial and trial.kept else EXPORT)
            text = card(
                self.subset.pair,
                self.options.quantization,
                [before, after, *measured.values()],
                self._setup(),
                ancestors,
                Licences(self.options.license, self.options.data_license),
                trial,
            )
            (work / "README.md").write_text(text, encoding="utf-8")
        return (
            f"{out}: {after.size_bytes / 2**20:.1f} MiB, BLEU {after.bleu:.1f} (checkpoint "
            f"{before.bleu:.1f}), {after.sentences_per_s:.0f} sentences/s (fairseq "
            f"{before.sentences_per_s:.0f}){_summary(trial)}; see {out / 'README.md'}"
        )

    def _convert(self, work: Path) -> None:
        """Checks in float32 that the conversion scores as fairseq does, then writes the weights."""
        cache = self.options.cache or default_cache()
        try:
            converted(self.system.checkpoint, self.subset, cache)
            write_converted(self.system.checkpoint, self.subset, work, self.options.quantization)
        except CannotConvertError as error:
            raise ValueError(f"{self.system.path} cannot be exported: {error}.") from error

    def _add_shortlist(self, work: Path) -> Optional[Coverage]:
        """Writes a shortlist if it is requested, and returns how well it covers the references."""
        if self.training is None:
            return None
        alignments = alignments_of(self.system.checkpoint.model, self.training, self.aligned)
        shortlist = shortlist_of(alignments, self.training)
        shortlist.write(work / VMAP, self.subset)
        return shortlist.coverage(self.subset)

    def _keep_or_remove(
        self, work: Path, coverage: Coverage, measured: Mapping[str, Measured]
    ) -> ShortlistTrial:
        """Lets translate.py use a shortlist, or removes one that loses too much BLEU."""
        whole, short = measured[EXPORT], measured[SHORTLIST]
        trial = ShortlistTrial(
            len(self.aligned),
            coverage,
            len(self.subset.target_dictionary),
            whole.bleu - short.bleu,
            whole.median_ms / short.median_ms,
            short.sentences_per_s / whole.sentences_per_s,
        )
        if trial.kept:
            self._add_example(work)
            self._smoke_check(work)
        else:
            (work / VMAP).unlink()
        return trial

    def _add_example(self, work: Path) -> None:
        (work / PROGRAM).unlink(missing_ok=True)
        if self.codes is not None:
            shutil.copyfile(self.codes, work / CODES[self.options.bpe].file)
        write_sums(work)  # of the files that translate.py reads
        options, positions = self.options, self.system.checkpoint.model.max_positions()
        program = translate_py(
            self.subset.pair,
            options.tokenizer,
            options.bpe,
            options.quantization,
            self.search,
            (int(positions[0]), int(positions[1])),
            list(read_sums(work) or {}),
        )
        (work / PROGRAM).write_text(program, encoding="utf-8")

    def _measure(self, work: Path) -> Dict[str, Measured]:
        """Measures the checkpoint, the export, and the export with a shortlist, in turns."""
        longest = self.system.max_source
        sentences = spread_over_lengths(self.subset.source, longest, TOGETHER)
        alone = spread_over_lengths(sentences, longest, ALONE)
        engines = self._engines(work)
        with ProgressLine("speed", 2 * len(engines) * ROUNDS, "measurements") as progress:
            with torch_threads(1):
                latency = latencies(engines, alone, ROUNDS, progress)
            engines = self._engines(work, workers=self.threads)
            throughput = throughputs(engines, sentences, [BATCH], ROUNDS, progress)
        texts = {name: self._translate(name, engine, work) for name, engine in engines.items()}
        exported = f"this, {self.options.quantization}"
        names = {
            FAIRSEQ: ("checkpoint, fairseq", self.system.path.stat().st_size),
            EXPORT: (exported, folder_bytes(work) - _bytes_of(work / VMAP)),
            SHORTLIST: (f"{exported}, shortlist", folder_bytes(work)),
        }
        return {
            key: Measured(
                *names[key],
                self.bleu.corpus_score(texts[key], [self.plain.references]).score,
                latency[key].median_ms,
                latency[key].p95_ms,
                throughput[key, BATCH].sentences_per_s,
            )
            for key in engines
        }

    def _engines(self, work: Path, workers: int = 1) -> Dict[str, Engine]:
        checkpoint = self.system.checkpoint
        exports = {EXPORT: False, SHORTLIST: True} if (work / VMAP).is_file() else {EXPORT: False}
        return {
            FAIRSEQ: FairseqEngine([checkpoint], self.search, "cpu"),
            **{
                name: CTranslate2Engine(
                    work,
                    self.subset.source_dictionary,
                    checkpoint.max_target,
                    self.search,
                    device="cpu",
                    compute_type=compute_type(self.options.quantization),
                    workers=workers,
                    shortlist=shortlist,
                )
                for name, shortlist in exports.items()
            },
        }

    def _translate(self, name: str, engine: Engine, work: Path) -> List[str]:
        variant = Variant(self.system._replace(name=name), FAIRSEQ)
        tokens = translated(variant, engine, self.subset, work.with_name(UNTIL_MADE))
        return [self.detokenisers[1](each) for each in tokens]

    def _smoke_check(self, work: Path) -> None:
        """Runs translate.py on a few sentences; half must be translated as by the model."""
        longest = self.system.max_source
        indices = _near_median_length(self.subset.source, longest, SMOKE_SENTENCES)
        batches = (Batch(0, [self.subset.source[i].long()]) for i in indices)  # as the program does
        *_, engine = self._engines(work).values()  # with the shortlist, if there is one
        found = [hypotheses for (hypotheses,) in engine.translate(batches)]
        texts = [self.detokenisers[1](best.tokens) for best, *_ in found]
        sources = "".join(f"{self.plain.sources[i]}\n" for i in indices)
        done = run([sys.executable, str(work / PROGRAM)], input=sources)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"The exported translate.py failed: {last}. Nothing was exported.")
        printed = done.stdout.splitlines()
        same = [ours == theirs for ours, theirs in zip(printed, texts, strict=False)]
        if len(printed) != len(indices) or 2 * sum(same) < len(indices):
            shown = printed[0] if printed else ""
            raise ValueError(
                f"The exported translate.py translates {sum(same)} of {len(indices)} sentences as "
                f'the model does; the first one as "{shown}", not "{texts[0]}". Nothing '
                "was exported. Give the --codes, --bpe and --tokenizer of the data."
            )

    def _setup(self) -> MeasurementSetup:
        return MeasurementSetup(
            subset=self.options.subset,
            sentences=len(self.subset),
            signature=str(self.bleu.get_signature()),
            beam=self.options.beam,
            threads=self.threads,
            compute_type=compute_type(self.options.quantization),
        )


def _summary(trial: Optional[ShortlistTrial]) -> str:
    """The result of a shortlist, for the line that the command prints."""
    if trial is None:
        return ""
    if not trial.kept:
        return f"; the shortlist is left out, as it loses {trial.bleu_lost:.2f} BLEU"
    return f"; shortlist: {-trial.bleu_lost:+.2f} BLEU, {trial.speed_alone:.1f} times as fast"


def _bytes_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def compute_type(quantization: str) -> str:
    """The type in which this processor computes: that of the weights if it can, else float32."""
    return quantization if quantization in get_supported_compute_types("cpu") else "float32"


def _near_median_length(sentences: Sequence[Tensor], longest: int, count: int) -> List[int]:
    """The indices of readable sentences whose length is closest to the median."""
    lengths = [len(sentence) for sentence in sentences]
    usable = [i for i, length in enumerate(lengths) if 1 < length <= longest]
    median = sorted(lengths)[len(lengths) // 2]
    return sorted(usable, key=lambda i: (abs(lengths[i] - median), i))[:count]
