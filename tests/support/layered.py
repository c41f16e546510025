"""Models of odd and different shapes, and the ways to compare what lies between their layers."""

import torch

SHAPE = ["--encoder-layers", "3", "--decoder-layers", "4", "--encoder-embed-dim", "28"]
SHAPE += ["--decoder-embed-dim", "28", "--encoder-attention-heads", "7"]
SHAPE += ["--decoder-attention-heads", "7", "--no-save-optimizer-state"]
STUDENT = ["--encoder-layers", "2", "--decoder-layers", "3", "--encoder-embed-dim", "12"]
STUDENT += ["--decoder-embed-dim", "12", "--encoder-attention-heads", "3"]
STUDENT += ["--decoder-attention-heads", "3"]
FEATURE, ATTENTION_KD, HYBRID = (
    ["--criterion", f"{name}_kd", "--label-smoothing", "0.1"]
    for name in ("feature", "attention", "hybrid")
)
MODES = {
    "mean": ["--kd-attention-heads", "mean", "--kd-attention-loss", "kl"],
    "repeat": ["--kd-attention-heads", "repeat"],
    "learned": ["--kd-attention-heads", "learned", "--kd-attention-loss", "kl"],
    "relation": ["--kd-attention-heads", "relation", "--kd-attention-relation-heads", "5"],
}


def loss_of(setup, sample, train=False):
    setup.model.train(train)
    return setup.criterion(setup.model, sample)


def gradients(setup, *samples):
    """Of the student and of what the criterion trains."""
    setup.criterion.zero_grad()
    student = setup.gradients(*samples)
    own = [each.grad.flatten() for each in setup.criterion.parameters()]
    return torch.cat([student, *own])
