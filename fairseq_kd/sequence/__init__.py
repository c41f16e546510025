"""Sequence-level distillation: the teacher translates the training set, the student learns from it.

``translate`` decodes a binarised set, in shards if wanted; ``merge`` joins the shards;
``distill-data`` selects, filters and binarises what was decoded.

Source: Kim and Rush 2016, arXiv:1606.07947, sections 3.2 and 3.3.
"""
