"""What the tests on a GPU share: every criterion with its flags."""

import pytest
import torch
from harness import TRAINING
from three_languages import PIVOT

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_GPU = [word for word in TRAINING if word != "--cpu"]
CRITERIONS = {
    "word_kd": ["--kd-teacher", "TEACHER"],
    "word_kd from a store": ["--kd-store", "STORE"],
    "feature_kd": ["--kd-teacher", "LARGE"],
    "attention_kd": ["--kd-teacher", "LARGE", "--kd-attention-heads", "learned"],
    "hybrid_kd": ["--kd-teacher", "LARGE", "--kd-log-gradients"],
    "multi_teacher_kd": ["--kd-teacher", "TEACHER:LARGE", "--kd-teacher-weights", "learned"],
    "mutual_learning": ["--kd-peers", "3", "--kd-peer-overrides", "encoder_layers=2"],
    "cross_lingual_kd": ["--kd-teacher", "TEACHER", "--kd-align-level", "both", *PIVOT],
}


def filled(name, **paths):
    """The flags of a criterion, with the paths of its teachers."""
    words = ["--criterion", name.split()[0], "--label-smoothing", "0.1", *CRITERIONS[name]]
    for key, path in paths.items():
        words = [word.replace(key, path) for word in words]
    return words
