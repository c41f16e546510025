"""word_kd with terms on intermediate representations: ``L = L_word + sum_k weight_k * L_k``."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Sequence, Tuple, Type

import torch
from fairseq.tasks import FairseqTask
from torch import Tensor, nn

from fairseq_kd.criterions.base import PERCENT, Metric
from fairseq_kd.criterions.flag_checks import check_one_live_teacher
from fairseq_kd.criterions.word_kd import WordKDConfig, WordKDCriterion
from fairseq_kd.flag_types import flag_name, option_field
from fairseq_kd.models.capture import Captured, CapturePoints, capture
from fairseq_kd.models.layer_map import PAIRS, LayerPair, check_layer_map, parse_layer_map
from fairseq_kd.models.structure import SIDES, Structure, student_structure
from fairseq_kd.teachers.sentence_format import refuse_language_tokens


@dataclass
class IntermediateKDConfig(WordKDConfig):
    """The flags that all criterions with terms share."""

    kd_log_gradients: bool = option_field(
        False,
        "log each term's share of the gradient norm, for choosing the weights; costs "
        "one more backward pass per term (default: off)",
    )


def layers_field() -> Any:
    """The field ``kd_NAME_layers`` of a term that compares layers."""
    return option_field(
        "uniform",
        "layers to compare, counted from 0: uniform, every student layer with teacher layers at "
        f"equal distances; last; none; or {PAIRS} (default: %(default)s)",
    )


def decoder_layers_field(name: str) -> Any:
    """The field ``kd_NAME_decoder_layers`` of a term that compares layers."""
    return option_field(
        None,
        "the decoder's layers, if they differ from the encoder's, in the same form (default: as "
        f"--kd-{name}-layers)",
    )


@dataclass(frozen=True)
class Positions:
    """The real positions of a batch.

    Args:
        source: (B, S) bool, the encoder's positions.
        target: (B, L) bool, the decoder's positions whose target counts in the loss.
        history: (B, L) bool, the decoder's positions that others may attend to.
        tokens: (B,) number of targets that count; see ``losses.hidden_states``.
        teacher_source: (B, P) bool, the positions of the teacher's encoder.
        links: (n, 3) sentence, position in the student's source, in the teacher's; None if they
            read the same source.
    """

    source: Tensor
    target: Tensor
    history: Tensor
    tokens: Tensor
    teacher_source: Tensor
    links: Optional[Tensor] = None

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
    """One addition to the loss of word_kd, with the weights that it trains.

    A subclass has a ``name``, for the log and the flags, and a ``config`` that declares them; sets
    ``student_points`` and ``teacher_points``; and computes the term from what is captured there.

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
        self.student_points = self.teacher_points = CapturePoints()

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
                    f"{flag_name(each.name)} is {value}, but has no effect while "
                    f"{cls.weight_flag()} is 0. Leave it out, or set the weight above 0."
                )

    @classmethod
    def check_flags(cls, cfg: Any) -> None:
        """Refuses flags that are wrong for every model, if the term has a weight."""

    @classmethod
    def check_task(cls, cfg: Any, task: FairseqTask) -> None:
        """Refuses, where there is a weight, data that lacks what the term needs."""

    def forward(self, student: Captured, teacher: Captured, at: Positions) -> Tensor:
        """The term of a batch, not weighted, as a sum that fairseq divides by target tokens."""
        raise NotImplementedError


def width_projection(student: Structure, teacher: Structure, side: str) -> nn.Module:
    """A linear map from the student's width to the teacher's, without a bias, if they differ."""
    widths = student.width(side), teacher.width(side)
    return nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)


class LayerTerm(Term):
    """A term that compares pairs of layers, with the flags ``--kd-NAME[-decoder]-layers``.

    A subclass sets ``pairs``, the layers that are compared, by side or kind of attention.
    """

    pairs: Dict[str, List[LayerPair]]

    def each_pair(self) -> Iterator[Tuple[str, LayerPair]]:
        """(side or kind, pair) of all pairs."""
        return ((kind, pair) for kind, pairs in self.pairs.items() for pair in pairs)

    def set_places(self, captured: str) -> None:
        """Has the layers of all pairs captured: their ``states`` or their ``attention``."""
        pairs = list(self.each_pair())
        self.student_points, self.teacher_points = (
            CapturePoints(
                **{captured: frozenset((kind, getattr(pair, owner)) for kind, pair in pairs)}
            )
            for owner in ("student", "teacher")
        )

    @staticmethod
    def key(kind: str, pair: LayerPair) -> str:
        """The name of the weights that a pair trains."""
        return f"{kind}_{pair.student}_{pair.teacher}"

    @classmethod
    def check_flags(cls, cfg: Any) -> None:
        """Refuses layer maps that are wrong for every model."""
        for name in (f"kd_{cls.name}_layers", f"kd_{cls.name}_decoder_layers"):
            if getattr(cfg, name) is not None:
                check_layer_map(getattr(cfg, name), flag_name(name))

    def layer_maps(
        self, cfg: Any, student: Structure, teacher: Structure, sides: Sequence[str]
    ) -> Dict[str, List[LayerPair]]:
        """The pairs of layers of each of the sides, by the flags.

        Raises:
            ValueError: a flag is malformed or without effect, names layers that do not exist, or
                leaves none.
        """
        both, decoder = f"--kd-{self.name}-layers", f"--kd-{self.name}-decoder-layers"
        texts = {
            both: getattr(cfg, f"kd_{self.name}_layers"),
            decoder: getattr(cfg, f"kd_{self.name}_decoder_layers"),
        }
        flag_of = {"encoder": both, "decoder": both if texts[decoder] is None else decoder}
        for (name, text), default in zip(texts.items(), ("uniform", None), strict=True):
            if text != default and name not in [flag_of[side] for side in sides]:
                raise ValueError(
                    f"{name} is {text}, but has no effect on the {' and '.join(sides)} alone. "
                    "Leave it out."
                )
        maps = {}
        for side in sides:
            counts = len(student.layers(side)), len(teacher.layers(side))
            maps[side] = parse_layer_map(texts[flag_of[side]], flag_of[side], side, *counts)
            if maps[side]:
                student.refuse_dropped_layers(side)
        if not any(maps.values()):
            raise ValueError(
                f"{both} leaves nothing to compare. Name layers, or set {self.weight_flag()} 0."
            )
        return maps


class IntermediateCriterion(WordKDCriterion):
    """word_kd and the terms that a subclass names in ``term_types``.

    Hidden states and attention are captured while word_kd runs the two models, so that a term needs
    no run of its own. The weights that a term trains (projections, mixtures) are parameters of the
    criterion, and no part of the student.

    Log: as word_kd's; ``NAME_loss`` for each term, before its weight; with ``--kd-log-gradients``,
    in training, ``gradient_NAME``: percent of the sum of the norms of the weighted terms' gradients
    in the student's parameters, where ``word`` is alpha KD + beta CE.

    Args:
        cfg: the flags.
        task: the student's translation task.

    Raises:
        FileNotFoundError: as ``WordKDCriterion``.
        ValueError: as ``WordKDCriterion``; the models have no layers to compare, or the flags of a
            term name parts that they do not have, or layers of an encoder that is shared.
    """

    term_types: ClassVar[Tuple[Type[Term], ...]] = ()

    def __init__(self, cfg: IntermediateKDConfig, task: FairseqTask):
        used = self.used_terms(cfg)
        for each in used:
            each.check_task(cfg, task)
        super().__init__(cfg, task)
        self.source_padding_idx = task.source_dictionary.pad()
        self.terms = nn.ModuleList()
        self.student_points = self.teacher_points = CapturePoints()
        if used:
            student = student_structure(cfg, task)
            if cfg.kd_log_gradients:
                student.refuse_checkpoints("--kd-log-gradients", *SIDES)
            named = f"--kd-teacher {cfg.kd_teacher}"
            positions = "its positions cannot be compared with the student's"
            refuse_language_tokens(named, self.teachers[0].format, positions)
            teacher = Structure(self.teachers[0].model, named)
            self.terms.extend(each(cfg, student, teacher) for each in used)
        for term in self.terms:
            self.student_points |= term.student_points
            self.teacher_points |= term.teacher_points
        in_layers = self.teacher_points.in_layers
        if cfg.kd_share_encoder and any(point[0] == "encoder" for point in in_layers):
            raise ValueError(
                "--kd-share-encoder leaves the teacher's encoder out, so that its layers cannot be "
                "compared. Compare the decoders: --kd-feature-layers none "
                "--kd-feature-decoder-layers uniform, --kd-attention-kinds decoder,cross."
            )

    @classmethod
    def flags_of_weight_shapes(cls) -> str:
        """Those of the teacher and of the terms."""
        return " and ".join(
            ["--kd-teacher", *(f"all --kd-{each.name}-*" for each in cls.term_types)]
        )

    @classmethod
    def used_terms(cls, cfg: IntermediateKDConfig) -> List[Type[Term]]:
        """The terms whose weight is above 0."""
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
        live = self.teachers[0]
        live.move_to(model)
        with (
            capture(model, self.student_points) as student,
            capture(live.model, self.teacher_points) as teacher,
        ):
            word, sample_size, log = super().forward(model, sample, reduce)
            if not teacher:  # alpha is 0, so word_kd did not run the teacher
                self._run_teacher(sample)
        at = self.positions(sample)
        losses = {term.name: term(student, teacher, at) for term in self.terms}
        log |= {f"kd_{name}_loss": loss.data for name, loss in losses.items()}
        log["kd_terms_ntokens"] = at.tokens.sum()
        weighted = {"word": word}
        weighted |= {term.name: term.weight * losses[term.name] for term in self.terms}
        if self.cfg.kd_log_gradients and torch.is_grad_enabled():
            log |= gradient_norms(weighted, model)
        loss = sum(weighted.values())
        log["loss"] = loss.data
        return loss, sample_size, log

    @torch.no_grad()
    def _run_teacher(self, sample: Dict[str, Any]) -> None:
        """Runs the captured parts of the teacher."""
        inputs, model = self.teacher_sample(sample)["net_input"], self.teachers[0].model
        if self.teacher_points.in_layers:
            model(**inputs, features_only=True)
        else:
            model.encoder(**{k: v for k, v in inputs.items() if k != "prev_output_tokens"})

    def positions(self, sample: Dict[str, Any]) -> Positions:
        """The real positions of a batch; ``--ignore-prefix-size`` counts as not real."""
        inputs, target = sample["net_input"], self.real_mask(sample)
        source = inputs["src_tokens"].ne(self.source_padding_idx)
        return Positions(
            source=source,
            target=target,
            history=inputs["prev_output_tokens"].ne(self.padding_idx),
            tokens=target.sum(dim=1),
            teacher_source=source,
        )

    @classmethod
    def metric_table(cls) -> Dict[str, Metric]:
        """Those of word_kd, the mean of each term, and its share of the gradient norm."""
        names = ["word", *(each.name for each in cls.term_types)]
        counted = "kd_terms_ntokens"
        table = dict(super().metric_table())
        for name in names[1:]:
            table[f"kd_{name}_loss"] = Metric(f"{name}_loss", 1, (counted,), counted, digits=4)
        norms = tuple(f"kd_{name}_gradient" for name in names)
        for name, norm in zip(names, norms, strict=True):
            table[norm] = Metric(
                f"gradient_{name}", PERCENT, norms, counted, digits=1, in_validation=False
            )
        return table


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
