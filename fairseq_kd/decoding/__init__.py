"""Hypotheses of a model for a binarised set: engines, search, shards, journal, restart.

``fairseq-kd translate`` decodes a set, in shards if requested; ``fairseq-kd merge`` joins shards
that were decoded on different machines.
"""
