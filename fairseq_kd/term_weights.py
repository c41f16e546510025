"""The default weights of the loss terms; `diagnose` reads them, too.

They stand apart from the criterions, so that reading them does not import fairseq.
"""

ALPHA, BETA = 0.8, 0.2  # of the distillation loss and of the cross-entropy
TERM_WEIGHTS = {"feature": 0.1, "attention": 0.05, "align": 0.1}  # by the name of the term
