"""Teachers, a store and folders of data for the criterions on a GPU."""

import pytest
from every_criterion import CRITERIONS, filled
from harness import Setup
from layered import SHAPE
from stores import build


@pytest.fixture(scope="session")
def large(data, tmp_path_factory):
    """A teacher of another shape than the student, not trained."""
    setup = Setup(data, "--criterion", "label_smoothed_cross_entropy", *SHAPE)
    return str(setup.save(tmp_path_factory.mktemp("large") / "teacher.pt"))


@pytest.fixture(scope="session")
def store(teacher, data, tmp_path_factory):
    """A store of both sets that a training reads, of the whole vocabulary but one word."""
    out = tmp_path_factory.mktemp("store") / "teacher"
    for subset in ("train", "valid"):
        build(out, teacher, data, left_out=1, subset=subset)
    return str(out)


@pytest.fixture(params=CRITERIONS)
def distillation(request, teacher, large, store, data, three_way):
    """(folder of data, flags) of every criterion."""
    flags = filled(request.param, TEACHER=teacher, LARGE=large, STORE=store)
    return three_way if "cross_lingual_kd" in flags else data, flags
