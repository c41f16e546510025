"""Evaluates systems: measures quality, size, memory and speed as the options demand."""

import datetime
from functools import partial
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from fairseq_kd import __version__
from fairseq_kd.command_line import teacher_pair
from fairseq_kd.decoding.decode import DECODING_FILE
from fairseq_kd.decoding.engine import Engine
from fairseq_kd.decoding.hypothesis_files import WHOLE
from fairseq_kd.decoding.subset import check_splitting, read_subset
from fairseq_kd.evaluation import scores
from fairseq_kd.evaluation.error_rates import agreement, error_rates, in_training_set, rare_share
from fairseq_kd.evaluation.memory import inference_memory, preload, training_peak
from fairseq_kd.evaluation.options import EvaluateOptions
from fairseq_kd.evaluation.ratings import RATING_SHEET, check_sheet, read_ratings, write_sheet
from fairseq_kd.evaluation.results import (
    FLOAT32,
    INT8,
    EngineSpeed,
    EvaluationResult,
    MemoryResult,
    Quality,
    Setup,
    SpeedResult,
    SystemResult,
    TrainingMemory,
)
from fairseq_kd.evaluation.side_by_side import sentence_results
from fairseq_kd.evaluation.size import folder_bytes, parameters_by_part
from fairseq_kd.evaluation.speed import latencies, spread_over_lengths, throughputs, torch_threads
from fairseq_kd.evaluation.systems import System, common_subset, load_systems, training_curves
from fairseq_kd.evaluation.translations import (
    PlainText,
    decoded_folder,
    detokeniser,
    plain_text,
    quality_name,
    tokens_of,
    translated,
    translation_file,
    write_translations,
)
from fairseq_kd.evaluation.variants import (
    Conversions,
    Devices,
    Variant,
    build_engine,
    convert_all,
)
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.machine import cores, machine, versions, with_gpus
from fairseq_kd.progress import ProgressLine

BATCH_SIZES = (32, 128)


class Evaluation:
    """One evaluation of several systems.

    Args:
        options: of ``fairseq-kd evaluate``.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit, in one sentence.
    """

    def __init__(self, options: EvaluateOptions):
        self.options, self.threads = options, options.threads or cores()
        if options.comet is not None:
            scores.check_comet(options.comet)
        self.devices = Devices.of(options.device)
        torch.set_num_threads(self.threads)
        self.systems = load_systems(options.systems(), options.data, teacher_pair(options))
        self.teacher = self.systems[0]
        self.subset = common_subset(self.systems, options.data, options.subset)
        check_splitting(self.subset, options.remove_bpe)
        self.tokenizer = scores.bleu_tokenizer(self.subset.pair[1], options.sacrebleu_tokenize)
        self.detokenisers = tuple(
            detokeniser(options.tokenizer, options.remove_bpe, language)
            for language in self.subset.pair
        )
        self.plain: PlainText = plain_text(self.subset, options.reference, self.detokenisers)
        longest = min(system.max_source for system in self.systems)
        self.sample = spread_over_lengths(self.subset.source, longest, options.batch_sentences)
        if not self.sample:
            raise ValueError(
                f"No sentence of {options.subset} in {options.data} can be read by every system: "
                f"they are empty or have more than {longest} tokens. Give another --subset."
            )
        if options.rating_sheet is not None:
            check_sheet(options.out / RATING_SHEET)
        self.training = self._read_training()
        self.files: List[Path] = []  # written into options.out

    def _read_training(self) -> Optional[Sequence[Tensor]]:
        """The target sentences of ``--training``, as token ids of the set's dictionary."""
        folder = self.options.training
        if folder is None:
            return None
        training = read_subset(folder, "train", self.subset.pair, "--training")
        if training.target is None:
            raise ValueError(f"--training {folder} has no target side. Give a set with both sides.")
        files = [each.dictionary_file(each.pair[1]) for each in (training, self.subset)]
        if sha256_of(files[:1]) != sha256_of(files[1:]):
            raise ValueError(
                f"--training {folder} has another dictionary than --data: {files[0]} and "
                f"{files[1]} differ. Give a set that was binarised with that of --data."
            )
        return training.target

    @torch.no_grad()
    def run(self) -> EvaluationResult:
        """Measures everything."""
        options = self.options
        if not options.no_memory:
            preload()
        conversions = convert_all(self.systems, self.subset, options.cache, self.devices)
        texts, quality = self._quality(conversions)
        by_name = {system.name: texts[system.name] for system in self.systems}
        plain, ratings = self.plain, None
        if options.ratings:
            student = [each.name for each in self.systems if each.role == "student"][-1]
            ratings = read_ratings(options.ratings, plain.sources, by_name, student)
        if options.rating_sheet is not None:
            write_sheet(options.out / RATING_SHEET, plain.sources, by_name, options.rating_sheet)
        return EvaluationResult(
            made=self._setup(),
            systems=[self._size(system, conversions) for system in self.systems],
            quality=quality,
            memory=None if options.no_memory else self._memory(conversions),
            speed=self._speed(conversions) if options.rounds else None,
            files=[str(path.relative_to(options.out)) for path in self.files],
            training={system.name: training_curves(system.path) for system in self.systems},
            sentences=sentence_results(plain.sources, plain.references, by_name),
            ratings=ratings,
        )

    def _setup(self) -> Setup:
        options = self.options
        return Setup(
            date=str(datetime.date.today()),
            version=__version__,
            versions=versions(),
            machine=with_gpus() if "cuda" in self.devices.measured else machine(),
            threads=self.threads,
            latency_threads=options.latency_threads,
            pair=list(self.subset.pair),
            subset=options.subset,
            sentences=len(self.subset),
            references=self.plain.origin,
            beam=options.beam,
            lenpen=options.lenpen,
            samples=options.bootstrap,
            measured_on=list(self.devices.measured),
            translated_on=self.devices.decoding,
        )

    def _size(self, system: System, conversions: Conversions) -> SystemResult:
        bytes_by_engine = dict.fromkeys((FLOAT32, INT8))
        if system.name in conversions.folders:
            for engine in bytes_by_engine:
                folder = conversions.folder(Variant(system, engine))
                bytes_by_engine[engine] = folder_bytes(folder)
        return SystemResult(
            name=system.name,
            role=system.role,
            checkpoint=system.path.name,
            sha256=system.sha256,
            updates=system.updates,
            updates_behind=system.updates_behind,
            parameters=parameters_by_part(system.checkpoint.model),
            checkpoint_bytes=system.path.stat().st_size,
            float32_bytes=bytes_by_engine[FLOAT32],
            int8_bytes=bytes_by_engine[INT8],
            refusal=conversions.refusals.get(system.name),
        )

    def _quality(self, conversions: Conversions) -> Tuple[Dict[str, List[str]], Quality]:
        """Translations and quality of every system in float32, and of students in int8."""
        variants = [conversions.exact(system) for system in self.systems]
        students = [system for system in self.systems if system.role == "student"]
        variants += [each for each in map(conversions.int8, students) if each is not None]
        texts: Dict[str, List[str]] = {}
        tokens: Dict[str, List[str]] = {}
        out = self.options.out
        for variant in variants:
            engine = self._engine(variant, conversions, workers=self.threads)
            name = quality_name(variant)
            tokens[name] = translated(variant, engine, self.subset, out)
            texts[name] = write_translations(variant, tokens[name], self.detokenisers[1], out)
            self.files.append(translation_file(variant, out))
            folder = decoded_folder(variant, engine, self.subset, out)
            self.files += [folder / WHOLE, folder / DECODING_FILE]
        memorised: Mapping[str, Optional[List[bool]]] = dict.fromkeys(texts)
        if self.training is not None:
            memorised = in_training_set(tokens, self.subset, self.training)
        return texts, self._scored(texts, memorised)

    def _scored(
        self,
        texts: Mapping[str, Sequence[str]],
        memorised: Mapping[str, Optional[List[bool]]],
    ) -> Quality:
        options, sources, references = self.options, self.plain.sources, self.plain.references
        metrics = scores.metrics(self.tokenizer, options.scorers(), sources)
        bases = [each.name for each in self.systems if each.role in ("teacher", "control")]
        compared = {
            base: scores.paired_scores(texts, references, base, options.bootstrap, metrics)
            for base in bases
        }
        comet: Optional[Dict[str, float]] = None
        if options.comet is not None:
            comet = scores.comet_scores(options.comet, sources, texts, references)
        lengths = [len(source.split()) for source in sources]
        vocabulary = self.subset.source_dictionary
        rare = [
            rare_share(tokens_of(source, vocabulary), options.remove_bpe, vocabulary.unk_word)
            for source in self.subset.source
        ]
        by_length = scores.equal_bins(lengths, 4, lambda low, high: f"{low:g}-{high:g} words")
        by_rare = scores.equal_bins(rare, 3, lambda low, high: f"{low:.0%}-{high:.0%} rare")
        bleu_of_bins = partial(scores.bleu_of_bins, texts, references, tokenizer=self.tokenizer)
        return Quality(
            signatures=compared[self.teacher.name].signatures,
            scores=compared[self.teacher.name].scores,
            p={base: each.p_values() for base, each in compared.items()},
            comet=comet,
            by_length=bleu_of_bins(by_length),
            by_rare=bleu_of_bins(by_rare),
            behaviour={
                name: error_rates(sources, each, references, memorised[name])
                for name, each in texts.items()
            },
            agreement=agreement(self.systems, self.subset, self.devices.decoding),
        )

    def _memory(self, conversions: Conversions) -> MemoryResult:
        """Memory of every variant and of one training step of every system, one at a time.

        In parallel, the threads of one measurement would take processor time from another.
        """
        search, subset, batch = self.options.search, self.subset, self.sample[: BATCH_SIZES[0]]
        variants = [each for system in self.systems for each in conversions.variants(system)]
        students = sum(system.role == "student" for system in self.systems)
        inference = {system.name: {} for system in self.systems}
        training, device = {}, self.devices.measured[-1]
        total = len(variants) + len(self.systems) + students
        with ProgressLine("memory", total, "measurements") as progress:
            for variant in variants:
                inference[variant.system.name][variant.engine] = inference_memory(
                    variant, conversions, subset, search, batch
                )
                progress.add(1)
            for system in self.systems:
                alone, distilled = training_peak(system.checkpoint, None, subset, device), None
                progress.add(1)
                if system.role == "student":
                    teacher = self.teacher.checkpoint
                    distilled = training_peak(system.checkpoint, teacher, subset, device)
                    progress.add(1)
                training[system.name] = TrainingMemory(alone, distilled)
        return MemoryResult(inference, training, device)

    def _speed(self, conversions: Conversions) -> SpeedResult:
        """Latency and throughput of all variants, measured in turns."""
        options, threads = self.options, self.threads
        variants = [each for system in self.systems for each in conversions.variants(system)]
        total = options.rounds * len(variants) * (1 + len(BATCH_SIZES))
        with ProgressLine("speed", total, "measurements") as progress:
            alone = spread_over_lengths(
                self.sample, max(map(len, self.sample)), options.latency_sentences
            )
            with torch_threads(options.latency_threads) as few:
                engines = {each: self._engine(each, conversions, threads=few) for each in variants}
                latency = latencies(engines, alone, options.rounds, progress)
            engines = {each: self._engine(each, conversions, workers=threads) for each in variants}
            throughput = throughputs(engines, self.sample, BATCH_SIZES, options.rounds, progress)
        speeds: Dict[str, Dict[str, EngineSpeed]] = {system.name: {} for system in self.systems}
        for each in variants:
            batches = {f"batch_{size}": throughput[each, size] for size in BATCH_SIZES}
            speeds[each.system.name][each.engine] = EngineSpeed(**vars(latency[each]), **batches)
        return SpeedResult(speeds, options.rounds, len(alone), len(self.sample))

    def _engine(self, variant: Variant, conversions: Conversions, **limits: int) -> Engine:
        return build_engine(variant, conversions, self.subset, self.options.search, **limits)
