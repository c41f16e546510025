"""What a distillation gained: quality, size and speed of several systems, in one report."""
