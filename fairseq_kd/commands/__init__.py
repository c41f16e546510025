"""The commands of ``fairseq-kd``, a module each: help texts, and what the options make them call.

They import what they run only when they run it, so that ``--help`` is quick.
"""
