"""The plain divergences by their key, and numbers to feed them with."""

import torch

from fairseq_kd.losses import DIVERGENCES

PLAIN = {name: divergence.summed for name, divergence in DIVERGENCES.items()}
forward_kl, reverse_kl, jeffreys = (
    PLAIN[name] for name in ("forward_kl", "reverse_kl", "jeffreys")
)
jensen_shannon, total_variation = PLAIN["js"], PLAIN["tvd"]
skew_kl, skew_reverse_kl, todi = (PLAIN[name] for name in ("skew_kl", "skew_reverse_kl", "todi"))


def made(*shape, seed, scale=1.0):
    """Normal numbers in float64, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
