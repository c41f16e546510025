"""The task ``pivot_translation``, registered by being imported."""

from fairseq_kd.tasks.pivot_translation import PivotTranslationTask

__all__ = ["PivotTranslationTask"]
