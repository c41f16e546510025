"""Registers architectures, tasks and criterions with fairseq; imported by ``--user-dir``.

Importing this module registers the criterions, the tasks and the architectures, and makes
fairseq's own checkpoints readable where torch loads weights only. What it replaces in fairseq, so
that no code in a checkpoint runs, is in ``safe_loading``.
"""

from fairseq_kd import criterions, models, tasks, worker_messages  # noqa: F401
from fairseq_kd.checkpoints import safe_loading  # noqa: F401
