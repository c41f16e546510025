"""Evaluation of systems: quality, size, memory and speed, and the report."""
