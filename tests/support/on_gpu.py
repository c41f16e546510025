"""What the tests on a GPU share."""

import pytest
import torch
from harness import TRAINING

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_GPU = [word for word in TRAINING if word != "--cpu"]
