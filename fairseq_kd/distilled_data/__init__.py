"""Data folders for trainings: prepared text, and sets of the teacher's translations.

``fairseq-kd prepare`` tokenises, splits and binarises text. ``fairseq-kd distill-data`` selects and
filters hypotheses, mixes them with gold pairs, and writes a binarised data folder.

Source: Kim and Rush 2016, arXiv:1606.07947, sections 3.2 and 3.3.
"""
