"""Architectures for teachers and students, registered by being imported."""

from fairseq_kd.models.architectures import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
