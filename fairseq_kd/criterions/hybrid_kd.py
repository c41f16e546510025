"""Word level, features and attention: ``L = L_word + gamma * L_feature + weight * L_attention``."""

from dataclasses import dataclass

from fairseq.criterions import register_criterion

from fairseq_kd.criterions.attention_kd import AttentionKDConfig, AttentionTerm
from fairseq_kd.criterions.feature_kd import FeatureKDConfig, FeatureTerm
from fairseq_kd.criterions.intermediate import IntermediateCriterion


@dataclass
class HybridKDConfig(FeatureKDConfig, AttentionKDConfig):
    """The flags of ``hybrid_kd``: those of ``feature_kd`` and of ``attention_kd``."""


@register_criterion("hybrid_kd", dataclass=HybridKDConfig)
class HybridKDCriterion(IntermediateCriterion):
    """word_kd with the terms of both feature_kd and attention_kd.

    See ``IntermediateCriterion`` for the log and the errors.
    """

    term_types = (FeatureTerm, AttentionTerm)
