"""fairseq_kd: knowledge distillation for fairseq translation models, as a ``--user-dir`` plugin."""

__version__ = "0.1.0"
