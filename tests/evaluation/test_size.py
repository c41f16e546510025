"""Parameters by part, and bytes, of models whose numbers one can add up."""

import torch
from torch import nn

from fairseq_kd.checkpoints.weights import count_parameters
from fairseq_kd.evaluation.size import folder_bytes, parameters_by_part, weight_bytes


def test_parts_add_up_to_the_parameters_of_the_checkpoint(setup):
    model = setup("--criterion", "cross_entropy").model
    parts = parameters_by_part(model)
    words, width = model.encoder.embed_tokens.weight.shape
    assert parts["embeddings"] == words * width  # shared by source, target and projection
    decoder = sum(p.numel() for p in model.decoder.layers.parameters())
    norm = sum(p.numel() for p in model.decoder.layer_norm.parameters())
    assert parts["decoder"] == decoder + norm
    assert sum(parts.values()) == count_parameters(model.state_dict())


def test_embeddings_that_are_not_shared_count_each():
    projection = nn.Linear(2, 7, bias=False)
    decoder = nn.ModuleDict({"embed_tokens": nn.Embedding(7, 2), "output_projection": projection})
    encoder = nn.ModuleDict({"embed_tokens": nn.Embedding(5, 2), "fc": nn.Linear(2, 2)})
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    assert parameters_by_part(model) == {"embeddings": 10 + 14 + 14, "encoder": 6, "decoder": 0}


def test_shared_weights_weigh_once():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False))
    model[1].weight = model[0].weight
    model.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
    assert weight_bytes(model) == 3 * 4 * 4 + 2 * 8


def test_a_folder_weighs_what_its_files_do(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "inner" / "b").write_bytes(b"123")
    assert folder_bytes(tmp_path) == 8
