"""Everything that fairseq must know before it parses a command line; imported by ``--user-dir``.

Importing this module registers the criterions, the tasks and the architectures, and makes
fairseq's own checkpoints readable where torch loads weights only. Nothing in fairseq is replaced.
"""

from fairseq_kd import checkpoints, criterions, models, tasks, worker_messages  # noqa: F401
