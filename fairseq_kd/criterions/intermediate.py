"""word_kd with terms on what lies between the layers: ``L = L_word + sum_k weight_k * L_k``."""

from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Sequence, Tuple, Type

import torch
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_kd.criterions.checks import check_one_live_teacher
from fairseq_kd.criterions.word_kd import WordKDConfig, WordKDCriterion
from fairseq_kd.layer_map import LayerPair, check_layer_map, parse_layer_map
from fairseq_kd.models.structure import SIDES, Structure, student_structure
from fairseq_kd.taps import Reading, Taps
from fairseq_kd.teachers import LiveTeacher


@dataclass
class IntermediateKDConfig(WordKDConfig):
    """The flags that all criterions with terms between the layers share."""

    kd_log_gradients: bool = field(
        default=False,
        metadata={
            "help": "log each term's share of the gradient norm, for choosing the weights; costs "
            "one more backward pass a term (default: off)"
        },
    )


@dataclass(frozen=True)
class Positions:
    """The real positions of a batch.

    Args:
        source: (B, S) bool, the encoder's positions.
        target: (B, L) bool, the decoder's positions whose target counts in the loss.
        history: (B, L) bool, the decoder's positions that others may attend to.
        tokens: (B,) number of targets that count; see ``losses.sentence_mean``.
    """

    source: Tensor
    target: Tensor
    history: Tensor
    tokens: Tensor

    def of(self, side: str) -> Tensor:
        """The positions whose states are compared."""
        return self.source if side == "encoder" else self.target

    def attending(self, kind: str) -> Tuple[Tensor, Tensor]:
        """The queries, (B, L), and the keys, (B, S), of a kind of attention."""
        if kind == "decoder":
            return self.target, self.history
        return self.of(kind), self.source

    def visible(self, kind: str) -> Tensor:
        """(B, L, S) bool, True where a compared query sees a key."""
        queries, keys = self.attending(kind)
        cells = queries.unsqueeze(2) & keys.unsqueeze(1)
        return cells.tril() if kind == "decoder" else cells


class Term(nn.Module):
    """One addition to the loss of word_kd; what it trains besides the student is its own.

    A subclass says its ``name``, for the log, and its ``config``, for the flags; sets
    ``student_taps`` and ``teacher_taps``, the places to read; and computes the term from what was
    read there.

    Args:
        cfg: the flags.
        student: the student.
        teacher: the teacher.

    Raises:
        ValueError: a flag is wrong for these two models.
    """

    name: str
    config: type

    def __init__(self, cfg: Any, student: Structure, teacher: Structure):
        super().__init__()
        self.weight: float = self.weight_of(cfg)
        self.student_taps = self.teacher_taps = Taps()

    @classmethod
    def weight_flag(cls) -> str:
        """The flag of the term's weight."""
        return f"--kd-{cls.name}-weight"

    @classmethod
    def weight_of(cls, cfg: Any) -> float:
        """The term's weight."""
        return getattr(cfg, f"kd_{cls.name}_weight")

    @classmethod
    def check_unused(cls, cfg: Any) -> None:
        """Refuses, where the weight is 0, every other flag of the term."""
        for each in fields(cls.config):
            value = getattr(cfg, each.name)
            if each.name.startswith(f"kd_{cls.name}_") and value != each.default:
                if each.name.endswith("_weight"):
                    continue
                raise ValueError(
                    f"--{each.name.replace('_', '-')} is {value}, but has no effect while "
                    f"{cls.weight_flag()} is 0. Leave it out, or set the weight above 0."
                )

    @classmethod
    def check_flags(cls, cfg: Any) -> None:
        """Refuses, where there is a weight, flags that fit no models."""
        for name in (f"kd_{cls.name}_layers", f"kd_{cls.name}_decoder_layers"):
            if getattr(cfg, name) is not None:
                check_layer_map(getattr(cfg, name), f"--{name.replace('_', '-')}")

    def layer_maps(
        self, cfg: Any, student: Structure, teacher: Structure, sides: Sequence[str]
    ) -> Dict[str, List[LayerPair]]:
        """The pairs of layers that the flags ask for, of each of the sides.

        Raises:
            ValueError: a flag is malformed or without effect, names layers that do not exist, or
                leaves none.
        """
        both, decoder = f"--kd-{self.name}-layers", f"--kd-{self.name}-decoder-layers"
        asked = {
            both: getattr(cfg, f"kd_{self.name}_layers"),
            decoder: getattr(cfg, f"kd_{self.name}_decoder_layers"),
        }
        flag_of = {"encoder": both, "decoder": both if asked[decoder] is None else decoder}
        for (flag, text), unasked in zip(asked.items(), ("uniform", None), strict=True):
            if text != unasked and flag not in [flag_of[side] for side in sides]:
                raise ValueError(
                    f"{flag} is {text}, but has no effect on the {' and '.join(sides)} alone. "
                    "Leave it out."
                )
        maps = {}
        for side in sides:
            counts = len(student.layers(side)), len(teacher.layers(side))
            maps[side] = parse_layer_map(asked[flag_of[side]], flag_of[side], side, *counts)
            if maps[side]:
                student.refuse_dropped_layers(side)
        if not any(maps.values()):
            raise ValueError(
                f"{both} leaves nothing to compare. Name layers, or set {self.weight_flag()} 0."
            )
        return maps

    def forward(self, student: Reading, teacher: Reading, at: Positions) -> Tensor:
        """The term of a batch, not weighted, as a sum that fairseq divides by target tokens."""
        raise NotImplementedError


class IntermediateCriterion(WordKDCriterion):
    """word_kd and the terms that a subclass names.

    The hidden states and the attention are read while word_kd runs the two models, so that a term
    costs no run of its own. Weights that a term trains (projections, mixtures) are parameters of
    the criterion: trained, saved and resumed with the student, and no part of its model.

    Log: as word_kd's; ``NAME_loss`` for each term, before its weight; with ``--kd-log-gradients``,
    in training, ``gradient_NAME``: percent of the sum of the norms of the weighted terms' gradients
    in the student's parameters, where ``word`` is alpha KD + beta CE.

    Args:
        cfg: the flags.
        task: the student's translation task.

    Raises:
        FileNotFoundError: as ``WordKDCriterion``.
        ValueError: as ``WordKDCriterion``; the models have no layers to compare, or the flags of a
            term ask for what they do not have, or for layers of an encoder that is shared.
    """

    term_types: Tuple[Type[Term], ...] = ()

    def __init__(self, cfg: IntermediateKDConfig, task: FairseqTask):
        super().__init__(cfg, task)
        used = self.used_terms(cfg)
        self.log_gradients = cfg.kd_log_gradients
        self.source_padding_idx = task.source_dictionary.pad()
        self.terms = nn.ModuleList()
        if used:
            student = student_structure(cfg, task)
            if self.log_gradients:
                student.refuse_checkpoints("--kd-log-gradients", *SIDES)
            teacher = Structure(self.live_teacher().model, f"--kd-teacher {cfg.kd_teacher}")
            self.terms.extend(each(cfg, student, teacher) for each in used)
        self.student_taps = self.teacher_taps = Taps()
        for term in self.terms:
            self.student_taps |= term.student_taps
            self.teacher_taps |= term.teacher_taps
        read = self.teacher_taps.states | self.teacher_taps.attention
        if cfg.kd_share_encoder and any(place[0] == "encoder" for place in read):
            raise ValueError(
                "--kd-share-encoder leaves the teacher's encoder out, so that its layers cannot be "
                "compared. Compare the decoders: --kd-feature-layers none "
                "--kd-feature-decoder-layers uniform, --kd-attention-kinds decoder,cross."
            )

    @classmethod
    def used_terms(cls, cfg: IntermediateKDConfig) -> List[Type[Term]]:
        """Those that have a weight."""
        return [each for each in cls.term_types if each.weight_of(cfg) > 0]

    @classmethod
    def check_flags(cls, cfg: IntermediateKDConfig) -> None:
        """As ``WordKDCriterion.check_flags``, and the flags of every term."""
        used = cls.used_terms(cfg)
        if used:
            check_one_live_teacher(cfg)
        super().check_flags(cfg)
        for each in cls.term_types:
            if each in used:
                each.check_flags(cfg)
            else:
                each.check_unused(cfg)
        if not used and cfg.kd_log_gradients:
            raise ValueError(
                "--kd-log-gradients has no effect on a single term. Leave it out, or set "
                f"{cls.term_types[0].weight_flag()} above 0."
            )

    def live_teacher(self) -> LiveTeacher:
        """The teacher whose layers are read."""
        return self.teachers[0]

    @classmethod
    def other_weights(cls, cfg: IntermediateKDConfig) -> Dict[str, float]:
        """The weights of the terms, by flag."""
        return {each.weight_flag(): each.weight_of(cfg) for each in cls.term_types}

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """The loss of a batch, its sample size and what to log, as sums that fairseq divides."""
        if not self.terms:
            return super().forward(model, sample, reduce)
        live = self.live_teacher()
        live.follow(model)
        with (
            self.student_taps.reading(model) as student,
            self.teacher_taps.reading(live.model) as teacher,
        ):
            word, sample_size, log = super().forward(model, sample, reduce)
            if not teacher:  # alpha is 0: no words were asked for
                with torch.no_grad():
                    live.model(**sample["net_input"], features_only=True)
        at = self.positions(sample)
        losses = {term.name: term(student, teacher, at) for term in self.terms}
        log.update({f"kd_{name}_loss": loss.data for name, loss in losses.items()})
        log["kd_terms_ntokens"] = at.tokens.sum()
        weighted = {"word": word}
        weighted.update({term.name: term.weight * losses[term.name] for term in self.terms})
        if self.log_gradients and torch.is_grad_enabled():
            log.update(gradient_norms(weighted, model))
        loss = sum(weighted.values())
        log["loss"] = loss.data
        return loss, sample_size, log

    def positions(self, sample: Dict[str, Any]) -> Positions:
        """The real positions of a batch; ``--ignore-prefix-size`` counts as not real."""
        inputs = sample["net_input"]
        target = sample["target"].ne(self.padding_idx)
        target[:, : self.ignore_prefix_size] = False
        return Positions(
            source=inputs["src_tokens"].ne(self.source_padding_idx),
            target=target,
            history=inputs["prev_output_tokens"].ne(self.padding_idx),
            tokens=target.sum(dim=1),
        )

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Turns the sums of all workers into means a token and shares."""
        super().reduce_metrics(logging_outputs)

        def total(key: str) -> float:
            return sum(log.get(key, 0) for log in logging_outputs)

        n_real = total("kd_terms_ntokens")
        if n_real == 0:
            return
        names = [each.name for each in cls.term_types]
        for name in names:
            if any(f"kd_{name}_loss" in log for log in logging_outputs):
                mean = total(f"kd_{name}_loss") / n_real
                metrics.log_scalar(f"{name}_loss", mean, n_real, round=4)
        norms = {name: total(f"kd_{name}_gradient") for name in ("word", *names)}
        whole = sum(norms.values())
        for name, norm in norms.items():
            if any(f"kd_{name}_gradient" in log for log in logging_outputs):
                share = 100 * norm / whole if whole > 0 else 0.0
                metrics.log_scalar(f"gradient_{name}", share, n_real, round=1)


def gradient_norms(losses: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """The Euclidean norm of each loss's gradient in a model's parameters, as sums to log.

    Nothing is added to the parameters' own gradients, and the losses can still be differentiated.
    """
    parameters = [each for each in model.parameters() if each.requires_grad]
    norms = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        squares = [each.float().square().sum() for each in gradients if each is not None]
        norms[f"kd_{name}_gradient"] = torch.stack(squares).sum().sqrt()
    return norms
