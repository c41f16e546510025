"""The commands of ``fairseq-kd``, a module each: its options, and what they call.

They import what they run only when they run it, so that ``--help`` is quick.
"""
