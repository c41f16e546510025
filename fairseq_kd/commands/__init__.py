"""The commands of ``fairseq-kd``, one module each: options, help text and call.

They import their implementation only when they run, so that ``--help`` is fast.
"""
