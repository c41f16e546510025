"""A student of another odd shape than the teacher, for what is compared between layers."""

import pytest
from harness import Setup
from layered import STUDENT


@pytest.fixture
def distilling(data, large):
    """A student of 2+3 layers, three heads and a width of 12, and a criterion."""
    return lambda *flags: Setup(data, *STUDENT, "--kd-teacher", large, *flags)
