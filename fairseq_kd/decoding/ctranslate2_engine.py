"""The engine of CTranslate2: maps our search options to its own, and decodes in parallel."""

import math
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Container, Dict, Iterable, Iterator, List

import ctranslate2
from fairseq.data import Dictionary

from fairseq_kd.decoding.conversion import LARGEST, NEVER_CHOSEN, ctranslate2_symbols, overflows
from fairseq_kd.decoding.engine import VMAP, Batch, chosen_compute_type
from fairseq_kd.decoding.hypothesis_files import Hypothesis
from fairseq_kd.decoding.options import Search
from fairseq_kd.files.hashes import sha256_of
from fairseq_kd.process_pool import in_order, in_processes
from fairseq_kd.teachers.sentence_format import Affixes

NO_AFFIXES = Affixes()
BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
INT8_CPU_BATCH_TOKENS = 256  # weights and states then fit into the processor caches
SAMPLED_BATCHES = 16  # batches per seed: a process loads the model again for each seed
COMPUTE_TYPES = {
    "cpu": ("int8", "int16", "float32"),
    "cuda": ("float16", "int8_float32", "float32"),
}


class CTranslate2Engine:
    """A converted model.

    Beam search runs on several threads of one process, one batch each. A sampled batch gets a new
    thread with a seed of its own: CTranslate2 has one random state per thread, so that earlier
    batches of a thread would otherwise change the samples. Since all threads of a process share
    the seed, several workers are several processes.

    Args:
        model: the folder that CTranslate2 loads.
        source_dictionary: of the model.
        positions: the number of positions of its decoder.
        search: its options.
        device: cpu or cuda.
        compute_type: of the weights, one of CTranslate2's that the device supports.
        workers: batches decoded at the same time.
        threads: per batch.
        affixes: the symbols beside each sentence.
        shortlist: whether to choose among the candidates in the model's ``vmap.txt``. Sentences of
            a batch share theirs, so that by default every sentence is a batch.
    """

    def __init__(
        self,
        model: Path,
        source_dictionary: Dictionary,
        positions: int,
        search: Search,
        device: str,
        compute_type: str,
        workers: int,
        threads: int = 1,
        affixes: Affixes = NO_AFFIXES,
        shortlist: bool = False,
    ):
        self.shortlist = shortlist
        self.model, self.positions, self.search, self.workers = model, positions, search, workers
        self.symbols, self.affixes = ctranslate2_symbols(source_dictionary), affixes
        self.load = {"device": device, "compute_type": compute_type, "intra_threads": threads}
        int8_on_cpu = device == "cpu" and compute_type.startswith("int8")
        tokens = INT8_CPU_BATCH_TOKENS if int8_on_cpu else BATCH_TOKENS[device]
        sampled = BATCH_TOKENS[device] * SAMPLED_BATCHES
        self.batch_tokens = sampled if search.sampling else tokens
        self.part_tokens = tokens
        name = f"ctranslate2 {ctranslate2.__version__}"
        self.identity = {"engine": name, "compute_type": compute_type, "device": device}
        if overflows(compute_type, device):
            self.identity["int8_largest"] = LARGEST
        if shortlist:
            self.identity["shortlist"] = sha256_of([model / VMAP])
            self.batch_tokens = 1
        self.summary = f"{name}, {compute_type}, {device}, {workers} at a time"

    def translate(self, batches: Iterable[Batch]) -> Iterator[List[List[Hypothesis]]]:
        """See ``Engine.translate``."""
        return self._sample(batches) if self.search.sampling else self._search(batches)

    @cached_property
    def _translator(self) -> ctranslate2.Translator:
        """The model, loaded when it is first used, on every GPU where GPUs decode."""
        devices = {"device_index": self._devices} if self.load["device"] == "cuda" else {}
        return ctranslate2.Translator(
            str(self.model), inter_threads=self.workers, **self.load, **devices
        )

    @cached_property
    def _devices(self) -> List[int]:
        on_gpus = self.load["device"] == "cuda"
        return list(range(ctranslate2.get_cuda_device_count())) if on_gpus else [0]

    def _search(self, batches: Iterable[Batch]) -> Iterator[List[List[Hypothesis]]]:
        def start(batch: Batch) -> List[Any]:
            return self._translator.translate_batch(
                self._tokens(batch), asynchronous=True, **self._options(batch)
            )

        def finish(results: List[Any]) -> List[List[Hypothesis]]:
            done = [result.result() for result in results]
            return hypotheses_of(done, self.search.lenpen, self.affixes.stripped)

        return in_order(batches, start, finish, 2 * self.workers * len(self._devices))

    def _sample(self, batches: Iterable[Batch]) -> Iterator[List[List[Hypothesis]]]:
        return in_processes((self._sampler(batch) for batch in batches), self.workers)

    def _sampler(self, batch: Batch) -> "partial[List[List[Hypothesis]]]":
        """The task of a batch, which any process can run."""
        options = self._options(batch)
        options.update(max_batch_size=self.part_tokens, batch_type="tokens")
        seed = (self.search.seed * 1_000_003 + batch.number) % 2**32
        return partial(
            sample_seeded,
            str(self.model),
            self.load,
            seed,
            self._tokens(batch),
            options,
            self.affixes.stripped,
        )

    def _tokens(self, batch: Batch) -> List[List[str]]:
        """The source tokens; CTranslate2 adds the end of sentence where there are no affixes."""
        before, after, _ = self.affixes
        return [
            [*before, *(self.symbols[token] for token in source.tolist()[:-1]), *after]
            for source in batch.sources
        ]

    def _options(self, batch: Batch) -> Dict[str, Any]:
        search = self.search
        options = {
            "beam_size": search.beam,
            "num_hypotheses": search.nbest,
            "length_penalty": search.lenpen,
            "max_input_length": 0,  # 0: no limit
            "max_decoding_length": search.max_length(
                max(len(source) for source in batch.sources), self.positions
            ),
            "suppress_sequences": NEVER_CHOSEN,
            "return_scores": True,
            "return_end_token": True,
            "use_vmap": self.shortlist,
        }
        if self.affixes.target_prefix:
            options["target_prefix"] = [list(self.affixes.target_prefix)] * len(batch.sources)
        if search.sampling:
            options["sampling_topk"] = search.sampling_topk or 0
            options["sampling_temperature"] = search.temperature
            if search.sampling_topp is not None:
                options["sampling_topp"] = search.sampling_topp
        return options


def supported_compute_type(name: str, device: str) -> str:
    """The compute type of CTranslate2 on a device; see ``chosen_compute_type``."""
    supported = ctranslate2.get_supported_compute_types(device)
    default = next(each for each in COMPUTE_TYPES[device] if each in supported)
    choices = f"one of {', '.join(sorted(supported))} on {device}"
    return chosen_compute_type(name, default, supported, choices)


def sample_seeded(
    model: str,
    load: Dict[str, Any],
    seed: int,
    sources: List[List[str]],
    options: Dict[str, Any],
    stripped: Container[str] = (),
) -> List[List[Hypothesis]]:
    """Samples translations in a new thread, which starts with this seed."""
    ctranslate2.set_random_seed(seed)
    translator = ctranslate2.Translator(model, inter_threads=1, **load)
    results = translator.translate_batch(sources, **options)
    return hypotheses_of(results, options["length_penalty"], stripped)


def hypotheses_of(
    results: Iterable[Any], lenpen: float, stripped: Container[str] = ()
) -> List[List[Hypothesis]]:
    """Hypotheses from CTranslate2's results, whose scores are log probability / length^lenpen.

    Args:
        results: with ``return_scores`` and ``return_end_token``.
        lenpen: the length penalty of the search.
        stripped: symbols that are left out of a translation.
    """
    return [
        [
            hypothesis
            for tokens, score in zip(result.hypotheses, result.scores, strict=True)
            for hypothesis in _hypothesis(tokens, score, lenpen, stripped)
        ]
        for result in results
    ]


def _hypothesis(
    tokens: List[str], score: float, lenpen: float, stripped: Container[str]
) -> Iterator[Hypothesis]:
    """The hypothesis of one result; none of an empty one."""
    kept = [token for token in tokens if token not in stripped]
    if kept:
        text = " ".join(kept[:-1] if kept[-1] == "</s>" else kept)
        yield Hypothesis(text, score * len(tokens) ** lenpen / len(kept) / math.log(2))
