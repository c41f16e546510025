"""Mutual learning, with no teacher: ``L = sum_i CE(P_i, y) + lambda * mean_ij KL(P_i || P_j)``."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.tasks import FairseqTask
from omegaconf import II
from torch import Tensor, nn

from fairseq_kd.criterions.base import (
    BITS,
    PERCENT,
    KDCriterion,
    Metric,
    chunk_tokens_flag,
    compile_flag,
    follow,
)
from fairseq_kd.criterions.flag_checks import check_values, refuse_a_missing_tpu
from fairseq_kd.criterions.training_state import RunningMean
from fairseq_kd.flag_types import WEIGHT, Range, number_field, option_field
from fairseq_kd.losses import LossOptions, LossTerms, chunked_loss, live_targets
from fairseq_kd.models.peers import PEERS, build_peer, peer_configurations
from fairseq_kd.models.projection import (
    DecoderOutput,
    decoder_output,
    refuse_adaptive_softmax,
    refuse_unseen_projection,
)

GRADIENTS = {  # gradient of the divergence between two peers
    "detached": "forward_kl",
    "symmetric": "jeffreys",
}
DETACH_RATIO = Range(float, 1, 1e6)


@dataclass
class MutualLearningConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The flags of ``mutual_learning``, beside those of ``label_smoothed_cross_entropy``."""

    kd_peers: int = number_field(
        2,
        PEERS,
        "number of models that learn together; the model of the run is one "
        "of them (default: %(default)s)",
    )
    kd_peer_overrides: Optional[str] = option_field(
        None,
        "options in which the other peers differ from the model of the run, as KEY=VALUE,... such "
        "as encoder_layers=2,decoder_layers=1 or arch=transformer_kd_small_student; separated by "
        "colons, one group per peer (default: all peers have the same architecture)",
    )
    kd_mutual_weight: float = number_field(
        1.0,
        WEIGHT,
        "weight lambda of the mean KL divergence over ordered pairs of peers; each of n peers "
        "learns from the others with lambda / n times the strength of arXiv:1706.00384: with two "
        "peers 1 is half of it, and 2 all of it; 0 trains them side by side (default: %(default)s)",
    )
    kd_mutual_gradient: str = option_field(
        "detached",
        "detached: in KL(P_i || P_j) only j learns; symmetric: both do (default: %(default)s)",
        GRADIENTS,
    )
    kd_detach_ratio: Optional[float] = number_field(
        None,
        DETACH_RATIO,
        "a peer does not learn from peers whose running nll_loss is this many times its own "
        "(default: it learns from all; after AIO-KD, EMNLP 2023)",
    )
    kd_chunk_tokens: Optional[int] = chunk_tokens_flag()
    kd_compile: bool = compile_flag()
    seed: int = II("common.seed")
    tpu: bool = II("common.tpu")


@register_criterion("mutual_learning", dataclass=MutualLearningConfig)
class MutualLearningCriterion(KDCriterion):
    """Two or more models that learn from the references and from each other, in one training.

    The model of the run is an ordinary one. The others, the peers 1, 2, ..., are parts of this
    criterion: they share optimiser, learning rate and checkpoints with it, and are resumed with it.
    ``fairseq-kd extract-peer`` writes one as a checkpoint of its own. With lambda 0 the model of
    the run is trained exactly as by ``label_smoothed_cross_entropy``, unless ``--clip-norm`` looks
    at all gradients together.

    Log: ``loss``, the sum over all peers, bits per token; ``nll_loss`` and ``ppl``, those of the
    model of the run; ``nll_loss_1``, ...: each peer's; ``mutual_loss``: the mean KL over ordered
    pairs, bits per token; ``agreement``: percent of target tokens for which two peers have the same
    likeliest token, the mean over pairs.

    Args:
        cfg: the flags; every value is checked here, before the first update.
        task: the translation task.

    Raises:
        ValueError: a flag is out of range or without effect, or a peer cannot be built.

    Source: deep mutual learning, Zhang et al. 2018, arXiv:1706.00384, section 2; cutting
    gradients: Miao et al. 2023 (AIO-KD, EMNLP), dynamic gradient detaching.
    """

    METRICS: ClassVar[Dict[str, Metric]] = {
        "kd_mutual": Metric("mutual_loss", BITS),
        "kd_agreed": Metric("agreement", PERCENT),
        "nll_loss_*": Metric("nll_loss_*", BITS, over=("ntokens",), weight="ntokens"),
    }

    def __init__(self, cfg: MutualLearningConfig, task: FairseqTask):
        super().__init__(cfg, task)
        others = cfg.kd_peers - 1
        configurations = peer_configurations(cfg._get_root().model, cfg.kd_peer_overrides, others)
        self.peers = nn.ModuleList(
            build_peer(each, number, task, cfg.seed)
            for number, each in enumerate(configurations, start=1)
        )
        for number, peer in enumerate(self.peers, start=1):
            refuse_adaptive_softmax(peer, f"Peer {number}")
        self.prepare_batches(task)
        self.progress: Optional[List[RunningMean]] = None
        if cfg.kd_detach_ratio is not None:
            self.progress = [
                RunningMean(task, self, f"running_nll{_suffix(i)}", _mean_nll(_nll_key(i)))
                for i in range(cfg.kd_peers)
            ]

    @classmethod
    def metric_copies(cls, cfg: MutualLearningConfig) -> int:
        """The number of the peers in this criterion."""
        return cfg.kd_peers - 1

    @classmethod
    def flags_of_weight_shapes(cls) -> str:
        """Those of the peers."""
        return "--kd-peers, --kd-peer-overrides and --arch"

    @staticmethod
    def check_flags(cfg: MutualLearningConfig) -> None:
        """Refuses values out of range and flags without effect, before any model is built."""
        check_values(cfg)
        refuse_a_missing_tpu(cfg)
        weight = cfg.kd_mutual_weight
        ratio, chunk = cfg.kd_detach_ratio, cfg.kd_chunk_tokens
        unused = {
            "--kd-mutual-gradient": None if cfg.kd_mutual_gradient == "detached" else "symmetric",
            "--kd-detach-ratio": ratio,
            "--kd-chunk-tokens": chunk,
            "--kd-compile": cfg.kd_compile or None,
        }
        for name, value in unused.items():
            if weight == 0 and value is not None:
                raise ValueError(
                    f"{name} is {value}, but has no effect while --kd-mutual-weight is 0. Leave it "
                    "out, or set the weight above 0."
                )

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss of a batch, its sample size and what to log, as sums that fairseq divides."""
        refuse_adaptive_softmax(model)
        follow(self, model)
        if self.cfg.kd_mutual_weight == 0:
            return self._side_by_side(model, sample, reduce)
        refuse_unseen_projection(model)
        real = self.real_tokens(sample)
        outputs = [decoder_output(model, sample["net_input"], real)]
        with own_randomness(real.mask.device):
            outputs += [decoder_output(peer, sample["net_input"], real) for peer in self.peers]
        pairs = self._pairs(outputs, real.of(sample["target"]))
        loss, mutual = self._sum(pairs)
        own = [
            pairs[i, 0 if i else 1] for i in range(len(outputs))
        ]  # a peer's figures, in any pair
        log = self.batch_log(sample, loss, real.mask.sum(), own[0].correct)
        log |= {
            "kd_mutual": mutual,
            "kd_agreed": sum(terms.agreed for terms in pairs.values()) / len(pairs),
            **{_nll_key(i): terms.nll for i, terms in enumerate(own)},
        }
        return loss, log["sample_size"], log

    def _side_by_side(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Every model's own label-smoothed cross-entropy, as fairseq computes it."""
        loss, sample_size, log = super().forward(model, sample, reduce)
        with own_randomness(sample["target"].device):
            for number, peer in enumerate(self.peers, start=1):
                peer_loss, _, peer_log = super().forward(peer, sample, reduce)
                loss = loss + peer_loss
                log[_nll_key(number)] = peer_log["nll_loss"]
        log["loss"] = loss.data
        return loss, sample_size, log

    def _pairs(
        self, outputs: List[DecoderOutput], reference: Tensor
    ) -> Dict[Tuple[int, int], LossTerms]:
        """The terms of every peer i with every other peer j as its teacher."""
        count = len(outputs)
        targets = [
            live_targets(*(None if part is None else part.detach() for part in output))
            for output in outputs
        ]
        weight = self.cfg.kd_mutual_weight / (count * (count - 1))
        return {
            (i, j): chunked_loss(
                *outputs[i],
                reference,
                [targets[j]],
                LossOptions(
                    alpha=0.0 if self._is_far_ahead(i, j) else weight,
                    beta=1 / (count - 1),
                    smoothing=self.eps,
                    temperature=1.0,
                    divergence=GRADIENTS[self.cfg.kd_mutual_gradient],
                    chunk_tokens=self.cfg.kd_chunk_tokens,
                    compiled=self.cfg.kd_compile,
                ),
            )
            for i in range(count)
            for j in range(count)
            if i != j
        }

    def _sum(self, pairs: Dict[Tuple[int, int], LossTerms]) -> Tuple[Tensor, Tensor]:
        """The loss and the mean KL over ordered pairs.

        With symmetric gradients a KL is in the sums of both peers, so that each gets its gradient.
        Its value counts once.
        """
        share = 0.5 if self.cfg.kd_mutual_gradient == "symmetric" else 1.0
        mutual = share * sum(terms.kd for terms in pairs.values()) / len(pairs)
        learned = sum(terms.loss for terms in pairs.values())
        hard = sum(terms.ce for terms in pairs.values()) / (self.cfg.kd_peers - 1)
        value = hard + self.cfg.kd_mutual_weight * mutual
        return learned + (value - learned.detach()), mutual

    def _is_far_ahead(self, learner: int, other: int) -> bool:
        if self.progress is None:
            return False
        own, others = (self.progress[each].value for each in (learner, other))
        return own is not None and others >= self.cfg.kd_detach_ratio * own


def own_randomness(device: torch.device) -> Any:
    """A context in which random numbers of peers do not change those of the model of the run."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _suffix(number: int) -> str:
    return f"_{number}" if number else ""


def _nll_key(number: int) -> str:
    """Of the model of the run, 0, or of a peer."""
    return f"nll_loss{_suffix(number)}"


def _mean_nll(key: str):
    """Bits per token, from sums over an update."""
    return lambda total: total(key) / total("kd_ntokens") / math.log(2)
