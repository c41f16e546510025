"""Where a teacher's knowledge comes from: a model that runs, or what a store kept of one."""

from fairseq_kd.teachers.live import LiveTeacher
from fairseq_kd.teachers.source import TeacherSource, named_teachers, teacher_sources
from fairseq_kd.teachers.stored import StoredTeacher

__all__ = ["LiveTeacher", "StoredTeacher", "TeacherSource", "named_teachers", "teacher_sources"]
