"""The criterions: one file each, registered by being imported.

A new one that compares the insides of the models is a ``Term`` with its flags, as in
``feature_kd``. One that changes the teachers, their mixture or the loss overrides the methods that
``word_kd`` lists for subclasses, as ``multi_teacher_kd`` does. Metrics are rows of a table.
"""

from fairseq_kd.criterions.attention_kd import AttentionKDCriterion
from fairseq_kd.criterions.cross_lingual_kd import CrossLingualKDCriterion
from fairseq_kd.criterions.feature_kd import FeatureKDCriterion
from fairseq_kd.criterions.hybrid_kd import HybridKDCriterion
from fairseq_kd.criterions.multi_teacher_kd import MultiTeacherKDCriterion
from fairseq_kd.criterions.mutual_learning import MutualLearningCriterion
from fairseq_kd.criterions.word_kd import WordKDCriterion

__all__ = [
    "AttentionKDCriterion",
    "CrossLingualKDCriterion",
    "FeatureKDCriterion",
    "HybridKDCriterion",
    "MultiTeacherKDCriterion",
    "MutualLearningCriterion",
    "WordKDCriterion",
]
