"""Silences the notices that libraries print when they are imported.

It is for processes of ``fairseq-kd``, whose terminal shows progress and results. fairseq enables
all loggers when it is imported, and torch warns of how fairseq masks attention.
"""

import logging
import warnings

for library in ("fairseq", "matplotlib", "sacrebleu"):
    logging.getLogger(library).setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask and attn_mask")
