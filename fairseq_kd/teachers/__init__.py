"""Teachers: checkpoints, loaded and checked, and their soft targets, live or from a store."""

from fairseq_kd.teachers.live import DTYPES, LiveTeacher
from fairseq_kd.teachers.sources import TeacherSource, named_teachers, teacher_sources
from fairseq_kd.teachers.stored import StoredTeacher

__all__ = [
    "DTYPES",
    "LiveTeacher",
    "StoredTeacher",
    "TeacherSource",
    "named_teachers",
    "teacher_sources",
]
