"""int8 weights: none so large that two products overflow, and what overflowing would cost."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_kd.decoding.subset import read_subset
from fairseq_kd.decoding.translation_model import load_checkpoint

pytestmark = pytest.mark.skipif(find_spec("ctranslate2") is None, reason="needs CTranslate2")
MOST_OF_16_BITS, LARGEST_BYTE = 2**15 - 1, 255


def test_two_products_fit_into_16_bits_and_no_larger_weight_would():
    from fairseq_kd.decoding.conversion import LARGEST

    assert 2 * LARGEST_BYTE * LARGEST <= MOST_OF_16_BITS < 2 * LARGEST_BYTE * (LARGEST + 1)


def test_rows_are_scaled_each_by_its_largest_weight_and_rounded():
    from fairseq_kd.decoding.conversion import LARGEST, int8_rows

    weights = np.random.default_rng(1).normal(size=(7, 33)).astype(np.float32)
    weights[3] = 0
    weights[4] *= 1e-30
    found, scales = int8_rows(weights)
    assert found.dtype == np.int8
    assert scales.dtype == np.float32
    assert np.abs(found).max(axis=1).tolist() == [LARGEST] * 3 + [0] + [LARGEST] * 3
    half_a_step = np.abs(weights).max(axis=1, keepdims=True) / LARGEST / 2
    assert (np.abs(found / scales[:, None] - weights) <= half_a_step * 1.0001).all()


@pytest.fixture(scope="module")
def even(ending_teacher, tmp_path_factory):
    """A model whose rows have weights of one size: each of them is the largest of its row."""
    state = torch.load(ending_teacher, weights_only=False)
    for name, weight in state["model"].items():
        if weight.dim() == 2 and "embed" not in name:
            weight.copy_(weight.sign() * weight.abs().mean(dim=1, keepdim=True))
    path = tmp_path_factory.mktemp("even") / "even.pt"
    torch.save(state, path)
    return str(path)


def test_a_model_of_large_weights_scores_in_int8_as_in_float32(even, data, tmp_path):
    import ctranslate2

    from fairseq_kd.decoding.conversion import converted, weights_folder

    subset = read_subset(Path(data), "test", ("es", "en"))
    conversion = converted(load_checkpoint(even, "--teacher"), subset, tmp_path)
    pairs = [
        [[words[int(word)] for word in sentence[:-1]] for sentence in side]
        for side, words in (
            (subset.source, subset.source_dictionary.symbols),
            (subset.target, subset.target_dictionary.symbols),
        )
    ]
    scores = {}
    for kind in ("float32", "int8"):
        folder = weights_folder(conversion, kind, "cpu")
        translator = ctranslate2.Translator(str(folder), compute_type=kind, intra_threads=1)
        found = translator.score_batch(*pairs)
        scores[kind] = np.array([np.mean(each.log_probs) for each in found])
    assert not np.array_equal(scores["int8"], scores["float32"])
    assert np.abs(scores["int8"] - scores["float32"]).max() < 0.05  # 0.4 with weights up to 127


def test_gpus_and_other_types_take_the_weights_as_they_are():
    from fairseq_kd.decoding.conversion import weights_folder

    folder = Path("conversion")
    for kind, device, name in (
        ("int8", "cpu", "int8"),
        ("int8_float32", "cpu", "int8"),
        ("int16", "cpu", "float32"),
        ("int8", "cuda", "float32"),
    ):
        assert weights_folder(folder, kind, device) == folder / name
