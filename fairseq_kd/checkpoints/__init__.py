"""Checkpoints of fairseq, read as data: weights, options, and the updates behind them."""
