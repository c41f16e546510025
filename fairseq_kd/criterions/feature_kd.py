"""Feature distillation: ``L = L_word + gamma * sum_l lambda_l * MSE(W_l f_l^S, f_l^T)``."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.criterions import register_criterion
from torch import Tensor, nn

from fairseq_kd.criterions.checks import check_choice
from fairseq_kd.criterions.intermediate import (
    IntermediateCriterion,
    IntermediateKDConfig,
    Positions,
    Term,
)
from fairseq_kd.flag_types import WEIGHT, number_field
from fairseq_kd.layer_map import FORM, LayerPair
from fairseq_kd.losses.hidden import DISTANCES, hidden_distance
from fairseq_kd.models.structure import SIDES, Structure
from fairseq_kd.taps import Reading, Taps


@dataclass
class FeatureKDConfig(IntermediateKDConfig):
    """The flags of ``feature_kd``, beside those of ``word_kd``."""

    kd_feature_weight: float = number_field(
        0.1,
        WEIGHT,
        "weight gamma of the hidden states' term (default: %(default)s)",
    )
    kd_feature_layers: str = field(
        default="uniform",
        metadata={
            "help": "layers to compare, counted from 0: uniform, every student layer with teacher "
            f"layers at equal distances; last; none; or {FORM} (default: %(default)s)"
        },
    )
    kd_feature_decoder_layers: Optional[str] = field(
        default=None,
        metadata={
            "help": "the decoder's layers, if they are others than the encoder's, in the same form "
            "(default: as --kd-feature-layers)"
        },
    )
    kd_feature_distance: str = field(
        default="mse",
        metadata={
            "help": "distance between two hidden states: mse, the mean squared error, or cosine, "
            "1 - cos, which is free of scale (default: %(default)s)"
        },
    )


class FeatureTerm(Term):
    """The sum over mapped layers of the distance between projected and taught hidden states.

    Layers of different widths get a trained projection from the student's to the teacher's, without
    a bias. Layers of equal width are compared as they are.
    """

    name = "feature"
    config = FeatureKDConfig

    def __init__(self, cfg: Any, student: Structure, teacher: Structure):
        super().__init__(cfg, student, teacher)
        self.distance = cfg.kd_feature_distance
        self.pairs = self.layer_maps(cfg, student, teacher, SIDES)
        self.projections = nn.ModuleDict()
        for side, pairs in self.pairs.items():
            widths = student.width(side), teacher.width(side)
            for pair in pairs:
                equal = widths[0] == widths[1]
                projection = nn.Identity() if equal else nn.Linear(*widths, bias=False)
                self.projections[_key(side, pair)] = projection
        places = [(side, pair) for side, pairs in self.pairs.items() for pair in pairs]
        self.student_taps = Taps(states=frozenset((side, pair.student) for side, pair in places))
        self.teacher_taps = Taps(states=frozenset((side, pair.teacher) for side, pair in places))

    @classmethod
    def check_flags(cls, cfg: Any) -> None:
        """As ``Term.check_flags``, and the distance."""
        super().check_flags(cfg)
        check_choice("--kd-feature-distance", cfg.kd_feature_distance, DISTANCES)

    def forward(self, student: Reading, teacher: Reading, at: Positions) -> Tensor:
        """``sum_l lambda_l * d(W_l f_l^S, f_l^T)``, as a sum over target tokens."""
        terms = [
            pair.weight
            * hidden_distance(
                student.states[side, pair.student],
                teacher.states[side, pair.teacher],
                at.of(side),
                at.tokens,
                self.distance,
                self.projections[_key(side, pair)],
            )
            for side, pairs in self.pairs.items()
            for pair in pairs
        ]
        return torch.stack(terms).sum()


def _key(side: str, pair: LayerPair) -> str:
    return f"{side}_{pair.student}_{pair.teacher}"


@register_criterion("feature_kd", dataclass=FeatureKDConfig)
class FeatureKDCriterion(IntermediateCriterion):
    """word_kd and a term that draws hidden states of the student to the teacher's.

    See ``IntermediateCriterion`` for the log and the errors.

    Source: Romero et al. 2015, arXiv:1412.6550; for transformers Jiao et al. 2020,
    arXiv:1909.10351.
    """

    term_types = (FeatureTerm,)
