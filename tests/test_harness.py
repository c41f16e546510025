"""The models that tests build equal those that fairseq-train builds."""

import pytest
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from harness import namespace, parsed

KD = ["--criterion", "word_kd", "--kd-teacher", "a.pt", "--kd-beta", "1"]


@pytest.mark.parametrize(
    "flags",
    [
        KD,
        [*KD, "--kd-temperature-schedule", "linear", "--kd-temperature-updates", "7"],
        [*KD, "--kd-share-encoder", "--kd-alpha", "1e-3", "--fp16", "--max-update", "9"],
        ["--criterion", "attention_kd", "--kd-teacher", "it's.pt", "--kd-attention-weight", "2"],
        [
            *KD,
            "--task",
            "pivot_translation",
            "--kd-pivot-lang",
            "xx",
            "--arch",
            "transformer_kd_6_3",
        ],
        ["--criterion", "cross_entropy", "--arch", "transformer_kd_6_3", "--lr", "0.1,0.2"],
    ],
)
def test_a_configuration_is_the_one_that_fairseq_makes(data, flags):
    parsed(data, *flags).model.changed = True  # fairseq changes what it builds a model from
    found, want = parsed(data, *flags), convert_namespace_to_omegaconf(namespace(data, *flags))
    assert list(found) == list(want)
    for group in want:
        assert found[group] == want[group], group
