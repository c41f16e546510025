"""Checkpoints of fairseq, read as data: weights, options, and the updates behind them."""

import re

import torch

OLDEST = (2, 6)  # since which torch reads only weights from any file
if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < OLDEST:
    raise ImportError(
        f"fairseq_kd needs torch {'.'.join(map(str, OLDEST))} or newer, which reads checkpoints as "
        f"data, but this is {torch.__version__}: pip install 'torch>=2.6'"
    )
