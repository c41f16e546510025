"""Sizes in the options of checkpoints of all families of fairseq's, against their weights."""

import re

import pytest
import torch
from fairseq.models.transformer import TransformerModel
from harness import TRAINING, Setup

from fairseq_kd.checkpoints.sizes import check_sizes

PLAIN = ["--source-lang", "es", "--target-lang", "en", "--optimizer", "adam", "--lr", "0.1"]
PLAIN += ["--max-tokens", "500", "--cpu", "--no-save-optimizer-state", "--arch"]
EMBEDDED = ["--encoder-embed-dim", "8", "--decoder-embed-dim", "8"]
FAMILIES = {  # flags of a small model, and an option, a wrong size and the right one
    "transformer": ([*TRAINING, "--encoder-learned-pos"], "max_source_positions", 9, "from 1,024"),
    "lstm": (
        [*PLAIN, "lstm", *EMBEDDED, "--encoder-hidden-size", "10", "--decoder-hidden-size", "6"],
        *("encoder_hidden_size", 10**5, 10),
    ),
    "layers of an lstm": (
        [*PLAIN, "lstm", *EMBEDDED, "--encoder-layers", "2", "--decoder-layers", "2"],
        *("encoder_layers", 3, 2),
    ),
    "fconv": (
        [*PLAIN, "fconv", *EMBEDDED, "--encoder-layers", "[(6, 3)] * 2 + [(4, 1)]"],
        *("encoder_layers", "[(6, 3)] * 2 + [(100000, 1)]", (4, 1)),
    ),
    "lightconv": (
        [*PLAIN, "lightconv", *EMBEDDED, "--encoder-conv-dim", "16", "--decoder-conv-dim", "16"],
        *("encoder_conv_dim", 1000, 16),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_each_family_are_those_of_its_weights(data, family):
    flags, option, wrong, right = FAMILIES[family]
    setup = Setup(data, "--criterion", "cross_entropy", training=flags)
    options, weights = vars(setup.cfg.model), setup.model.state_dict()
    check_sizes("teacher.pt", options, weights, type(setup.model))
    check_sizes("teacher.pt", {**options, option: wrong}, weights, None)
    message = rf"^teacher.pt has the option {option}.*, which must be .*{re.escape(str(right))}"
    with pytest.raises(ValueError, match=message):
        check_sizes("teacher.pt", {**options, option: wrong}, weights, type(setup.model))


def test_the_options_of_hydra_are_named_as_they_are_there():
    weights = {"encoder.layers.0.fc1.weight": torch.zeros(8, 4)}
    options = {"encoder": {"ffn_embed_dim": 9, "layers": 1}}
    message = r"has the option encoder\.ffn_embed_dim, which must be 8 by its weights, but is 9\."
    with pytest.raises(ValueError, match=message):
        check_sizes("teacher.pt", options, weights, TransformerModel)
