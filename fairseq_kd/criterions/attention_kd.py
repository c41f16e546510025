"""Attention distillation: ``L = L_word + weight * sum_l lambda_l * sum_h MSE(A_lh^S, A_lh^T)``."""

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional

import torch
from fairseq.criterions import register_criterion
from torch import Tensor, nn

from fairseq_kd.criterions.intermediate import (
    IntermediateCriterion,
    IntermediateKDConfig,
    LayerTerm,
    Positions,
    decoder_layers_field,
    layers_field,
)
from fairseq_kd.flag_types import COUNT, WEIGHT, number_field, option_field
from fairseq_kd.losses.attention import (
    attention_kl,
    attention_mse,
    attention_scores,
    head_groups,
    log_attention,
    mean_of_heads,
    repeat_heads,
)
from fairseq_kd.models.capture import AttentionInputs, Captured
from fairseq_kd.models.layer_map import LayerPair
from fairseq_kd.models.structure import ATTENTION, Structure
from fairseq_kd.term_weights import TERM_WEIGHTS

DISTANCES = {"mse": attention_mse, "kl": attention_kl}
MATCHINGS = {"mean": (mean_of_heads, min), "repeat": (repeat_heads, max)}  # to which number
HEADS = (*MATCHINGS, "learned", "relation")


@dataclass
class AttentionKDConfig(IntermediateKDConfig):
    """The flags of ``attention_kd``, beside those of ``word_kd``."""

    kd_attention_weight: float = number_field(
        TERM_WEIGHTS["attention"],
        WEIGHT,
        "weight of the attention's term; 0.05 to 0.1 is usual (default: %(default)s)",
    )
    kd_attention_kinds: str = option_field(
        "encoder,decoder,cross",
        "kinds of attention to compare: encoder and decoder, the self-attention of "
        "each, and cross (default: %(default)s)",
    )
    kd_attention_layers: str = layers_field()
    kd_attention_decoder_layers: Optional[str] = decoder_layers_field("attention")
    kd_attention_heads: str = option_field(
        "mean",
        "how heads are matched if their numbers differ: mean, groups of the larger number are "
        "averaged; repeat, heads of the smaller number are repeated; learned, each teacher head is "
        "compared with a trained mixture of all student heads (arXiv:2403.01479); relation, heads "
        "are not matched, and relations among queries, keys and values are compared "
        "(arXiv:2012.15828) (default: %(default)s)",
        HEADS,
    )
    kd_attention_loss: Optional[str] = option_field(
        None,
        "distance between two attention maps: mse or kl, KL(teacher || student) of "
        "each query; not with relation, which is always kl (default: mse)",
        DISTANCES,
    )
    kd_attention_relation_heads: Optional[int] = number_field(
        None,
        COUNT,
        "number of heads into which both models' queries, keys and values are cut, "
        "1 to the smaller width; only with relation (default: the teacher's heads)",
    )


class AttentionTerm(LayerTerm):
    """The sum over kinds, mapped layers and matched heads of the distance between attentions.

    ``learned`` mixes scores: ``softmax(sum_i w_ji S_i)`` over all heads i of the mapped student
    layers is compared with the teacher's head j. The weights w, a matrix per pair of layers, start
    as the fixed matching of that pair and are trained with the student. ``relation`` compares
    ``softmax(X_r X_r' / sqrt(d_r))`` for X among queries, keys and values: the mean over the
    relation heads r, the sum over the three.
    """

    name = "attention"
    config = AttentionKDConfig

    def __init__(self, cfg: Any, student: Structure, teacher: Structure):
        super().__init__(cfg, student, teacher)
        self.heads = cfg.kd_attention_heads
        kinds = parse_kinds(cfg.kd_attention_kinds)
        sides = sorted({ATTENTION[kind][0] for kind in kinds})
        maps = self.layer_maps(cfg, student, teacher, sides)
        self.pairs = {kind: maps[ATTENTION[kind][0]] for kind in kinds}
        for side in sides:
            student.refuse_checkpoints("the attention term", side)
        for kind, pair in self.each_pair():  # both refuse layers without such attention
            student.attention(kind, pair.student)
            teacher.attention(kind, pair.teacher)
        relation = self.heads == "relation"
        self.distance = attention_kl if relation else DISTANCES[cfg.kd_attention_loss or "mse"]
        self.relation_heads = self._relation_heads(cfg, student, teacher)
        self.mixtures = nn.ParameterDict()
        if self.heads == "learned":
            for kind, pair in self.each_pair():
                weights = _mixture(kind, pair, self.pairs[kind], student, teacher)
                self.mixtures[self.key(kind, pair)] = weights
        self.set_places("attention")

    @classmethod
    def check_flags(cls, cfg: Any) -> None:
        """As ``LayerTerm.check_flags``, and the flags of the attention."""
        super().check_flags(cfg)
        heads, distance = cfg.kd_attention_heads, cfg.kd_attention_loss
        relation_heads = cfg.kd_attention_relation_heads
        parse_kinds(cfg.kd_attention_kinds)
        if distance is not None and heads == "relation":
            raise ValueError(
                f"--kd-attention-loss is {distance}, but has no effect with --kd-attention-heads "
                "relation, which is always compared by kl. Leave it out."
            )
        if relation_heads is not None and heads != "relation":
            raise ValueError(
                f"--kd-attention-relation-heads is {relation_heads}, but has no effect with "
                f"--kd-attention-heads {heads}. Leave it out, or choose relation."
            )

    def _relation_heads(self, cfg: Any, student: Structure, teacher: Structure) -> Dict[str, int]:
        chosen = cfg.kd_attention_relation_heads
        if self.heads != "relation":
            return {}
        numbers = {}
        for kind, (side, _) in ATTENTION.items():
            widest = min(student.width(side), teacher.width(side))
            number = teacher.layers(side)[0].self_attn.num_heads if chosen is None else chosen
            if kind in self.pairs and not 1 <= number <= widest:
                raise ValueError(
                    f"--kd-attention-relation-heads must be 1 to {widest}, the smaller width of "
                    f"the two {side}s, but is {number}."
                )
            numbers[kind] = number
        return numbers

    def forward(self, student: Captured, teacher: Captured, at: Positions) -> Tensor:
        """The sum of all kinds and layers, as a sum over target tokens."""
        compare = {"learned": self._mixtures, "relation": self._relations}.get(
            self.heads, self._maps
        )
        terms = [
            term
            for kind, pairs in self.pairs.items()
            for term in compare(kind, pairs, student, teacher, at)
        ]
        return torch.stack(terms).sum()

    def _maps(
        self, kind: str, pairs: List[LayerPair], student: Captured, teacher: Captured, at: Positions
    ) -> Iterator[Tensor]:
        visible = at.visible(kind)
        for pair in pairs:
            maps = [
                log_attention(_scores(captured.attention[kind, layer], kind, at), visible)
                for captured, layer in ((student, pair.student), (teacher, pair.teacher))
            ]
            match, number = MATCHINGS[self.heads]
            n_heads = number(each.size(1) for each in maps)
            matched = (match(each, n_heads) for each in maps)
            yield pair.weight * self.distance(*matched, visible, at.tokens)

    def _mixtures(
        self, kind: str, pairs: List[LayerPair], student: Captured, teacher: Captured, at: Positions
    ) -> Iterator[Tensor]:
        visible = at.visible(kind)
        layers = _student_layers(pairs)
        scores = [_scores(student.attention[kind, layer], kind, at) for layer in layers]
        all_scores = torch.cat(scores, dim=1)  # (B, I, L, S)
        for pair in pairs:
            weights = self.mixtures[self.key(kind, pair)].to(all_scores.dtype)  # (J, I)
            mixed = log_attention(torch.einsum("ji,bils->bjls", weights, all_scores), visible)
            target = _scores(teacher.attention[kind, pair.teacher], kind, at)
            target = log_attention(target, visible)
            yield pair.weight * self.distance(mixed, target, visible, at.tokens)

    def _relations(
        self, kind: str, pairs: List[LayerPair], student: Captured, teacher: Captured, at: Positions
    ) -> Iterator[Tensor]:
        heads = self.relation_heads[kind]
        queries, keys = at.attending(kind)
        for pair in pairs:
            inputs = student.attention[kind, pair.student], teacher.attention[kind, pair.teacher]
            for what, real in (("queries", queries), ("keys", keys), ("values", keys)):
                visible = real.unsqueeze(2) & real.unsqueeze(1)
                states = (getattr(each, what)(real) for each in inputs)
                relations = (log_attention(attention_scores(x, x, heads), visible) for x in states)
                yield pair.weight / heads * self.distance(*relations, visible, at.tokens)


def parse_kinds(text: str) -> List[str]:
    """The kinds of attention in ``--kd-attention-kinds``.

    Raises:
        ValueError: it names none, one that is unknown, or one twice.
    """
    kinds = [kind.strip() for kind in text.split(",")]
    if len(set(kinds)) < len(kinds) or not set(kinds) <= set(ATTENTION):
        raise ValueError(
            f"--kd-attention-kinds must name some of {', '.join(ATTENTION)}, each once and "
            f"separated by commas, but is {text}."
        )
    return kinds


def _scores(inputs: AttentionInputs, kind: str, at: Positions) -> Tensor:
    queries, keys = at.attending(kind)
    return attention_scores(inputs.queries(queries), inputs.keys(keys), inputs.block.num_heads)


def _student_layers(pairs: List[LayerPair]) -> List[int]:
    return sorted({pair.student for pair in pairs})


def _mixture(
    kind: str, pair: LayerPair, pairs: List[LayerPair], student: Structure, teacher: Structure
) -> nn.Parameter:
    """Weights (J, I) of all student heads I for the teacher's heads J, at first those of the pair.

    A teacher head starts as its counterpart in the student layer, or as the mean of the group of
    heads that are its counterparts.
    """
    layers = _student_layers(pairs)
    counts = [student.attention(kind, layer).num_heads for layer in layers]
    first = sum(counts[: layers.index(pair.student)])
    n_student, n_teacher = (
        student.attention(kind, pair.student).num_heads,
        teacher.attention(kind, pair.teacher).num_heads,
    )
    weights = torch.zeros(n_teacher, sum(counts))
    if n_student >= n_teacher:
        for head, group in enumerate(head_groups(n_student, n_teacher)):
            weights[head, [first + member for member in group]] = 1 / len(group)
    else:
        for member, group in enumerate(head_groups(n_teacher, n_student)):
            weights[group, first + member] = 1.0
    return nn.Parameter(weights)


@register_criterion("attention_kd", dataclass=AttentionKDConfig)
class AttentionKDCriterion(IntermediateCriterion):
    """word_kd and the distance between the attention of student and teacher.

    See ``IntermediateCriterion`` for the log and the errors.

    Source: Jiao et al. 2020, arXiv:1909.10351; ``learned`` after Jin et al. 2024,
    arXiv:2403.01479; ``relation``, Wang et al. 2021, arXiv:2012.15828.
    """

    term_types = (AttentionTerm,)
