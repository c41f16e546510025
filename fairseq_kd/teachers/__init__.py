"""Where a teacher's knowledge comes from: a model that runs, or what a store kept of one."""

from fairseq_kd.teachers.live import LiveTeacher
from fairseq_kd.teachers.source import TeacherSource, teacher_sources
from fairseq_kd.teachers.stored import StoredTeacher

__all__ = ["LiveTeacher", "StoredTeacher", "TeacherSource", "teacher_sources"]
