"""Everything that fairseq must know before it parses a command line; imported by ``--user-dir``.

Importing this module registers the criterions, the tasks and the architectures, and makes
fairseq's own checkpoints readable where torch loads weights only. What it replaces in fairseq, so
that no code in a checkpoint runs, is in ``safe_loading``.
"""

from fairseq_kd import criterions, models, safe_loading, tasks, worker_messages  # noqa: F401
