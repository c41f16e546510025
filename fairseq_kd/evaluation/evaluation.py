"""Measures systems: quality, behaviour, size, memory and speed, as plain figures.

What it returns is what ``evaluation.json`` holds; the report is made from nothing else.
"""

import datetime
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch

from fairseq_kd import __version__
from fairseq_kd.evaluation import scores
from fairseq_kd.evaluation.agreement import agreement
from fairseq_kd.evaluation.behaviour import behaviour, rare_share
from fairseq_kd.evaluation.bleu_tokenizer import bleu_tokenizer
from fairseq_kd.evaluation.comet_score import check_comet, comet_scores
from fairseq_kd.evaluation.machine import machine, versions
from fairseq_kd.evaluation.memory import Memory, get_ready, inference_memory, training_peak
from fairseq_kd.evaluation.options import Options
from fairseq_kd.evaluation.plain_text import PlainText, detokeniser, plain_text, tokens_of
from fairseq_kd.evaluation.size import folder_bytes, parameters_by_part
from fairseq_kd.evaluation.speed import (
    latencies,
    spread_over_lengths,
    throughputs,
    torch_threads,
)
from fairseq_kd.evaluation.systems import (
    System,
    common_subset,
    controls_of,
    load_systems,
    teacher_of,
)
from fairseq_kd.evaluation.training import read_training
from fairseq_kd.evaluation.translations import (
    decoded_file,
    translated,
    translation_file,
    write_translations,
)
from fairseq_kd.evaluation.variants import (
    COMPUTE_TYPES,
    FAIRSEQ,
    FLOAT32,
    INT8,
    Converted,
    Variant,
    build_engine,
    convert_all,
)
from fairseq_kd.progress import ProgressLine
from fairseq_kd.sequence.words import check_splitting

BATCH_SIZES = (32, 128)
Figures = Dict[str, Any]


class Evaluation:
    """One evaluation of several systems.

    Args:
        options: what to do.

    Raises:
        FileNotFoundError, ValueError: a file is missing or does not fit, in one sentence.
    """

    def __init__(self, options: Options):
        self.options, self.files = options, []  # what is written of the report's folder
        if options.comet is not None:
            check_comet(options.comet)
        torch.set_num_threads(options.threads)
        self.systems = load_systems(options.systems)
        self.subset = common_subset(self.systems, options.data, options.subset)
        check_splitting(self.subset, options.remove_bpe)
        self.tokenizer = bleu_tokenizer(self.subset.pair[1], options.sacrebleu_tokenize)
        self.detokenisers = tuple(
            detokeniser(options.tokenizer, options.remove_bpe, language)
            for language in self.subset.pair
        )
        self.plain: PlainText = plain_text(self.subset, options.reference, self.detokenisers)
        limits = [int(system.model.model.max_positions()[0]) for system in self.systems]
        self.spread = spread_over_lengths(self.subset.source, min(limits), options.together)
        if not self.spread:
            raise ValueError(
                f"No sentence of {options.subset} in {options.data} can be read by every system: "
                f"they are empty or have more than {min(limits)} tokens. Give another --subset."
            )

    def run(self) -> Figures:
        """All figures."""
        options = self.options
        if options.memory:
            get_ready()
        converted = convert_all(self.systems, self.subset, options.cache)
        with torch.no_grad():
            measured = {
                "made": self._made(),
                "systems": self._sizes(converted),
                "quality": self._quality(converted),
                "memory": self._memory(converted) if options.memory else None,
                "speed": self._speed(converted) if options.rounds else None,
            }
        measured["files"] = [str(path.relative_to(options.out)) for path in self.files]
        measured["training"] = {system.name: read_training(system.path) for system in self.systems}
        return measured

    def _made(self) -> Figures:
        options = self.options
        return {
            "date": str(datetime.date.today()),
            "version": __version__,
            "versions": versions(),
            "machine": machine(),
            "threads": options.threads,
            "latency_threads": options.latency_threads,
            "pair": list(self.subset.pair),
            "subset": options.subset,
            "sentences": len(self.subset),
            "references": self.plain.origin,
            "beam": options.search.beam,
            "lenpen": options.search.lenpen,
            "samples": options.samples,
        }

    def _sizes(self, converted: Converted) -> List[Figures]:
        """What is known of every system before it runs."""
        return [
            {
                "name": system.name,
                "role": system.role,
                "checkpoint": system.path.name,
                "sha256": system.sha256,
                "updates": system.updates,
                "updates_behind": system.updates_behind,
                "parameters": parameters_by_part(system.model.model),
                "checkpoint_bytes": system.path.stat().st_size,
                **_converted_bytes(converted, system),
                "refusal": converted.refusals.get(system.name),
            }
            for system in self.systems
        ]

    def _quality(self, converted: Converted) -> Figures:
        """Scores, significance and behaviour of every system, and of its int8 form."""
        variants = [self._translating(system, converted) for system in self.systems]
        variants += [
            Variant(system, INT8)
            for system in self.systems
            if system.role == "student" and system.name in converted.folders
        ]
        texts: Dict[str, List[str]] = {}
        search, out = self.options.search, self.options.out
        for variant in variants:
            engine = self._engine(variant, converted, workers=self.options.threads)
            tokens = translated(variant, engine, self.subset, search, out)
            name = quality_name(variant)
            texts[name] = write_translations(variant, tokens, self.detokenisers[1], out)
            self.files.append(translation_file(variant, out))
            self.files.append(decoded_file(variant, engine, self.subset, search, out)[0])
        return {**self._scores(texts), **self._bins(texts), **self._observed(texts)}

    def _scores(self, texts: Mapping[str, Sequence[str]]) -> Figures:
        references, options = self.plain.references, self.options
        measures = scores.metrics(self.tokenizer)
        bases = [teacher_of(self.systems).name, *(each.name for each in controls_of(self.systems))]
        compared = {
            base: scores.paired_scores(texts, references, base, options.samples, measures)
            for base in bases
        }
        found = compared[bases[0]]
        comet: Optional[Dict[str, float]] = None
        if options.comet is not None:
            comet = comet_scores(options.comet, self.plain.sources, texts, references)
        return {
            "signatures": found["signatures"],
            "scores": found["systems"],
            "p": {base: _p_values(each) for base, each in compared.items()},
            "comet": comet,
        }

    def _bins(self, texts: Mapping[str, Sequence[str]]) -> Figures:
        lengths = [len(source.split()) for source in self.plain.sources]
        words = self.subset.source_words
        shares = [
            rare_share(tokens_of(source, words), self.options.remove_bpe, words.unk_word)
            for source in self.subset.source
        ]
        bins = {
            "by_length": scores.equal_bins(lengths, 4, lambda low, high: f"{low:g}-{high:g} words"),
            "by_rare": scores.equal_bins(shares, 3, lambda low, high: f"{low:.0%}-{high:.0%} rare"),
        }
        return {
            name: scores.bleu_of_bins(texts, self.plain.references, each, self.tokenizer)
            for name, each in bins.items()
        }

    def _observed(self, texts: Mapping[str, Sequence[str]]) -> Figures:
        return {
            "behaviour": {
                name: behaviour(self.plain.sources, each, self.plain.references)
                for name, each in texts.items()
            },
            "agreement": agreement(self.systems, self.subset),
        }

    def _memory(self, converted: Converted) -> Figures:
        """Bytes by variant, and of a training step by system.

        One at a time: the threads of several would take the cores from each other as they wait.
        """
        search, subset, batch = self.options.search, self.subset, self.spread[: BATCH_SIZES[0]]
        teacher = teacher_of(self.systems)
        works: Dict[Sequence[str], Callable[[], Any]] = {}
        for system in self.systems:
            for each in converted.variants(system):
                works["inference", system.name, each.engine] = partial(
                    inference_memory, each, converted, subset, search, batch
                )
            step = partial(training_peak, system.model, subset=subset)
            works["training", system.name, "alone"] = partial(step, None)
            if system.role == "student":  # the control is trained as it is measured: alone
                works["training", system.name, "distilled"] = partial(step, teacher.model)
        found: Figures = {"inference": {}, "training": {}}
        with ProgressLine("memory", len(works), "measurements") as progress:
            for (kind, system_name, how), work in works.items():
                found[kind].setdefault(system_name, {})[how] = _as_figures(work())
                progress.add(1)
        return found

    def _speed(self, converted: Converted) -> Figures:
        """Latency and throughput by variant, all of them measured in turns."""
        options, threads = self.options, self.options.threads
        variants = [each for system in self.systems for each in converted.variants(system)]
        found: Dict[str, Any] = {system.name: {} for system in self.systems}
        for variant in variants:
            found[variant.system.name][variant.engine] = {}
        work = options.rounds * len(variants) * (1 + len(BATCH_SIZES))
        with ProgressLine("speed", work, "measurements") as progress:
            alone = spread_over_lengths(self.spread, max(map(len, self.spread)), options.alone)
            with torch_threads(options.latency_threads) as few:
                engines = {each: self._engine(each, converted, threads=few) for each in variants}
                for variant, latency in latencies(engines, alone, options.rounds, progress).items():
                    found[variant.system.name][variant.engine].update(latency._asdict())
            engines = {each: self._engine(each, converted, workers=threads) for each in variants}
            speeds = throughputs(engines, self.spread, BATCH_SIZES, options.rounds, progress)
            for (variant, size), speed in speeds.items():
                found[variant.system.name][variant.engine][f"batch_{size}"] = speed._asdict()
        return {
            "systems": found,
            "rounds": options.rounds,
            "alone": len(alone),
            "together": len(self.spread),
        }

    def _translating(self, system: System, converted: Converted) -> Variant:
        """The form in which a system's quality is measured: the faster of those in float32."""
        return Variant(system, FLOAT32 if system.name in converted.folders else FAIRSEQ)

    def _engine(self, variant: Variant, converted: Converted, **how: int) -> Any:
        return build_engine(variant, converted, self.subset, self.options.search, **how)


def quality_name(variant: Variant) -> str:
    """How a row of the quality tables is called."""
    return variant.system.name + (", int8" if variant.engine == INT8 else "")


def _p_values(found: Figures) -> Dict[str, Dict[str, float]]:
    """By system and metric; the baseline itself has none."""
    return {
        name: {metric: each["p"] for metric, each in by_metric.items() if "p" in each}
        for name, by_metric in found["systems"].items()
    }


def _converted_bytes(converted: Converted, system: System) -> Dict[str, Optional[int]]:
    """What both forms of a conversion take on the disk."""
    there = system.name in converted.folders
    return {
        f"{name}_bytes": folder_bytes(converted.folder(Variant(system, engine))) if there else None
        for engine, name in COMPUTE_TYPES.items()
    }


def _as_figures(memory: "Memory | int | None") -> Any:
    """What was measured, as JSON holds it."""
    if not isinstance(memory, Memory):
        return memory
    return {"weights": memory.held, "peak": memory.held + memory.added}
