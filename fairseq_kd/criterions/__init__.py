"""The criterions: one file each, registered by being imported."""

from fairseq_kd.criterions.word_kd import WordKDCriterion

__all__ = ["WordKDCriterion"]
