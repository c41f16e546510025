"""Everything that fairseq must know before it parses a command line; imported by ``--user-dir``.

Importing this module registers the criterions and the architectures, and makes fairseq's own
checkpoints readable where torch loads weights only. Nothing in fairseq is replaced.
"""

from fairseq_kd import checkpoints, criterions, models, worker_messages  # noqa: F401
