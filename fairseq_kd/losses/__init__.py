"""Distillation losses: pure torch functions over logits and a mask, without fairseq."""

from fairseq_kd.losses.divergence import forward_kl, forward_kl_and_entropy, top1_agreement

__all__ = ["forward_kl", "forward_kl_and_entropy", "top1_agreement"]
