"""What ``--user-dir user_dir`` imports: registers the criterions and architectures of fairseq_kd.

fairseq puts the folder above this one on ``sys.path``, so a clone works without being installed.
"""

from fairseq_kd import plugin  # noqa: F401
