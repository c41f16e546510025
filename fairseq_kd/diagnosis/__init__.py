"""Diagnosis of trainings: what went wrong, with evidence and advice."""
