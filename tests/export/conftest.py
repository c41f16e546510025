"""Exports are measured on a few sentences only."""

import pytest

from fairseq_kd.export import student


@pytest.fixture(scope="session", autouse=True)
def _few_sentences():
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("ROUNDS", 1), ("ALONE", 4), ("TOGETHER", 16)):
            patch.setattr(student, name, count)
        yield
