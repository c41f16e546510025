"""The engine of fairseq's own generator, which decodes every fairseq model, and ensembles."""

import math
from importlib import metadata
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import torch
from fairseq.data import data_utils
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from fairseq_kd.decoding.engine import Batch, chosen_compute_type
from fairseq_kd.decoding.hypothesis_files import Hypothesis
from fairseq_kd.decoding.options import Search
from fairseq_kd.decoding.translation_model import Checkpoint

Scored = List[Tuple[Tensor, Tensor]]  # hypotheses of a sentence: tokens, nats per token
CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS = 1024, 8192
COMPUTE_TYPES = {"cpu": ("float32",), "cuda": ("float16", "bfloat16", "float32")}


class FairseqEngine:
    """fairseq's sequence generator with one model or an ensemble.

    Args:
        models: their distributions are averaged, as in ``fairseq-generate``.
        search: its options.
        device: cpu or cuda.
        compute_type: of the weights, float32, float16 or bfloat16; probabilities are in float32.
    """

    def __init__(
        self, models: List[Checkpoint], search: Search, device: str, compute_type: str = "float32"
    ):
        dtype = getattr(torch, compute_type)
        self.models = [each.model.to(device, dtype) for each in models]
        self.task, self.search, self.device = models[0].task, search, device
        self.format = models[0].format
        self.symbols = models[0].symbols[1]
        self.positions = min(each.max_target for each in models)
        self.batch_tokens = CPU_BATCH_TOKENS if device == "cpu" else CUDA_BATCH_TOKENS
        name = f"fairseq {fairseq_version()}"
        self.identity = {"engine": name, "compute_type": compute_type, "device": device}
        self.summary = f"{name}, {compute_type}, {device}"

    def translate(self, batches: Iterable[Batch]) -> Iterator[List[List[Hypothesis]]]:
        """See ``Engine.translate``."""
        for batch in batches:
            if self.search.sampling:
                torch.manual_seed(self.search.seed * 1_000_003 + batch.number)
            order = sorted(range(len(batch.sources)), key=lambda i: -len(batch.sources[i]))
            decoded = self._translate([batch.sources[i] for i in order])
            yield [each for _, each in sorted(zip(order, decoded, strict=True))]

    def _translate(self, sources: List[Tensor]) -> List[List[Hypothesis]]:
        """The hypotheses of a batch of sources, the longest first, as an lstm needs them."""
        lengths = [len(source) for source in sources]
        source = data_utils.collate_tokens(
            sources, self.task.source_dictionary.pad(), left_pad=True
        )
        sample: Dict[str, Any] = {
            "id": torch.arange(len(lengths), device=self.device),
            "net_input": {
                "src_tokens": source.to(self.device),
                "src_lengths": torch.tensor(lengths, device=self.device),
            },
        }
        generator = self.task.build_generator(self.models, self._generation(max(lengths)))
        results = self.task.inference_step(generator, self.models, sample)
        kept = [
            [(each["tokens"], each["positional_scores"].mean()) for each in hypotheses]
            for hypotheses in (each[: self.search.nbest] for each in results)
        ]
        if self.search.sampling and self.search.temperature != 1:
            kept = self._scored_at_temperature_1(sample["net_input"], kept)
        symbols = self.symbols
        return [
            [
                Hypothesis(
                    " ".join(symbols[token] for token in tokens.tolist()[:-1]),
                    score.item() / math.log(2),
                )
                for tokens, score in hypotheses
            ]
            for hypotheses in kept
        ]

    @torch.no_grad()
    def _scored_at_temperature_1(
        self, net_input: Dict[str, Tensor], drawn: List[Scored]
    ) -> List[Scored]:
        """Samples drawn at another temperature, with the models' scores at temperature 1.

        Args:
            net_input: the sources.
            drawn: the samples of each sentence, the same number for all.
        """
        dictionary = self.task.target_dictionary
        scored: List[Scored] = [[] for _ in drawn]
        for samples in zip(*drawn, strict=True):  # one of each sentence at a time, to save memory
            tokens = [sample for sample, _ in samples]
            before, target = (
                data_utils.collate_tokens(
                    tokens,
                    dictionary.pad(),
                    dictionary.eos(),
                    left_pad=False,
                    move_eos_to_beginning=moved,
                )
                for moved in (True, False)
            )
            log_p = self._log_probability(net_input, before, target)
            log_p = log_p.masked_fill(target.eq(dictionary.pad()), 0.0)
            for i, each in enumerate(tokens):
                scored[i].append((each, log_p[i].sum() / len(each)))
        return [sorted(each, key=lambda sample: -sample[1].item()) for each in scored]

    def _log_probability(
        self, net_input: Dict[str, Tensor], before: Tensor, target: Tensor
    ) -> Tensor:
        """The log of the mean of the models' probabilities of each target token, (sentences, L).

        Args:
            net_input: the sources.
            before: (sentences, L) previous tokens.
            target: (sentences, L) tokens to score.
        """
        each_model = []
        net_input = self.format.inputs({**net_input, "prev_output_tokens": before})
        for model in self.models:
            net_output = model(**net_input)
            log_p = model.get_normalized_probs(net_output, log_probs=True)
            log_p = log_p[:, self.format.more_target :]
            each_model.append(log_p.float().gather(2, target[:, :, None]).squeeze(2))
        return torch.stack(each_model).logsumexp(0) - math.log(len(self.models))

    def _generation(self, longest: int) -> GenerationConfig:
        """The options of ``fairseq-generate`` for a batch."""
        search = self.search
        config = GenerationConfig(
            beam=search.nbest if search.sampling else search.beam,
            nbest=search.nbest,
            lenpen=search.lenpen,
            max_len_a=0,
            max_len_b=search.max_length(longest, self.positions),
        )
        if search.sampling:
            config.sampling, config.temperature = True, search.temperature
            config.sampling_topk = search.sampling_topk or -1
            config.sampling_topp = search.sampling_topp or -1.0
        return config


def supported_type(name: str, device: str) -> str:
    """The compute type of fairseq on a device; arguments and errors of ``chosen_compute_type``."""
    supported = COMPUTE_TYPES[device]
    choices = f"{' or '.join(supported)} where fairseq decodes on {device}"
    return chosen_compute_type(name, supported[0], supported, choices)


def fairseq_version() -> str:
    """The version of fairseq, which is installed as fairseq or as fairseq-fixed."""
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return installed.get("fairseq") or installed.get("fairseq-fixed", "of unknown version")
