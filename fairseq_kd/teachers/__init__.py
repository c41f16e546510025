"""Where a teacher's knowledge comes from."""

from fairseq_kd.teachers.live import LiveTeacher

__all__ = ["LiveTeacher"]
