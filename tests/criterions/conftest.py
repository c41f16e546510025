"""A teacher and a student of odd and different shapes, for what is compared between layers."""

import pytest
from harness import Setup
from layered import SHAPE, STUDENT


@pytest.fixture(scope="session")
def large(data, tmp_path_factory):
    """A teacher of 3+4 layers, seven heads and a width of 28, not trained."""
    setup = Setup(data, "--criterion", "label_smoothed_cross_entropy", *SHAPE)
    for parameter in setup.model.parameters():  # sharper than at first, so that terms are not tiny
        parameter.data.mul_(1.7)
    return str(setup.save(tmp_path_factory.mktemp("large") / "teacher.pt"))


@pytest.fixture
def distilling(data, large):
    """A student of 2+3 layers, three heads and a width of 12, and a criterion."""
    return lambda *flags: Setup(data, *STUDENT, "--kd-teacher", large, *flags)
