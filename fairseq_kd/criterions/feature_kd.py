"""Feature distillation: ``L = L_word + gamma * sum_l lambda_l * MSE(W_l f_l^S, f_l^T)``."""

from dataclasses import dataclass
from typing import Any, Optional

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
    width_projection,
)
from fairseq_kd.flag_types import WEIGHT, number_field, option_field
from fairseq_kd.losses.hidden_states import DISTANCES, hidden_distance
from fairseq_kd.models.capture import Captured
from fairseq_kd.models.structure import SIDES, Structure
from fairseq_kd.term_weights import TERM_WEIGHTS


@dataclass
class FeatureKDConfig(IntermediateKDConfig):
    """The flags of ``feature_kd``, beside those of ``word_kd``."""

    kd_feature_weight: float = number_field(
        TERM_WEIGHTS["feature"],
        WEIGHT,
        "weight gamma of the hidden states' term (default: %(default)s)",
    )
    kd_feature_layers: str = layers_field()
    kd_feature_decoder_layers: Optional[str] = decoder_layers_field("feature")
    kd_feature_distance: str = option_field(
        "mse",
        "distance between two hidden states: mse, the mean squared error, or cosine, 1 - cos, "
        "which is independent of scale (default: %(default)s)",
        DISTANCES,
    )


class FeatureTerm(LayerTerm):
    """The sum over mapped layers of the distance between projected and teacher's hidden states.

    Layers of different widths get a trained ``width_projection``, one per pair.
    """

    name = "feature"
    config = FeatureKDConfig

    def __init__(self, cfg: Any, student: Structure, teacher: Structure):
        super().__init__(cfg, student, teacher)
        self.distance = cfg.kd_feature_distance
        self.pairs = self.layer_maps(cfg, student, teacher, SIDES)
        self.projections = nn.ModuleDict()
        for side, pair in self.each_pair():
            self.projections[self.key(side, pair)] = width_projection(student, teacher, side)
        self.set_places("states")

    def forward(self, student: Captured, teacher: Captured, at: Positions) -> Tensor:
        """``sum_l lambda_l * d(W_l f_l^S, f_l^T)``, as a sum over target tokens."""
        terms = [
            pair.weight
            * hidden_distance(
                student.states[side, pair.student],
                teacher.states[side, pair.teacher],
                at.of(side),
                at.tokens,
                self.distance,
                self.projections[self.key(side, pair)],
            )
            for side, pair in self.each_pair()
        ]
        return torch.stack(terms).sum()


@register_criterion("feature_kd", dataclass=FeatureKDConfig)
class FeatureKDCriterion(IntermediateCriterion):
    """word_kd and the distance between hidden states of student and teacher.

    See ``IntermediateCriterion`` for the log and the errors.

    Source: Romero et al. 2015, arXiv:1412.6550; for transformers Jiao et al. 2020,
    arXiv:1909.10351.
    """

    term_types = (FeatureTerm,)
