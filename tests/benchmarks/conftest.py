"""Translation files, and the corpus that benchmarks/debian_descriptions.sh builds of them."""

import pytest
from debian import build, packages, write


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write(tmp_path_factory.mktemp("texts"), packages())


@pytest.fixture(scope="module")
def built(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "corpus"
    result = build(texts, out)
    return out, result.stdout
