"""What is read of a model's structure: attention of fairseq's usual kind, and of other kinds."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from harness import Setup
from torch import nn

from fairseq_kd.inheritance.initial_weights import inherit
from fairseq_kd.models.structure import Structure, computes_usual_attention, on_meta_device


class Rotary(MultiheadAttention):
    """Attention with rotary positions, as forks of fairseq have it, without a part of its own."""

    def forward(self, query, key, value, **kwargs):
        angle = torch.arange(len(query)).float().view(-1, 1, 1)
        return super().forward(query * angle.cos(), key, value, **kwargs)


class WithPart(MultiheadAttention):
    """Attention with a part that fairseq's does not have."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rotary = nn.Linear(1, 1)


def attention(kind=MultiheadAttention, **options):
    return kind(8, 2, self_attention=True, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_fairseqs_own_attention_is_usual(dtype, dropout):
    assert computes_usual_attention(attention(dropout=dropout).to(dtype))


def test_attention_to_wider_states_is_usual():
    block = MultiheadAttention(8, 2, kdim=12, vdim=12, encoder_decoder_attention=True)
    assert computes_usual_attention(block)


@pytest.mark.parametrize(
    "block",
    [
        attention(Rotary),
        attention(WithPart),
        attention(add_bias_kv=True),
        nn.MultiheadAttention(8, 2),
    ],
    ids=["rotary", "another part", "a bias of keys", "that of torch"],
)
def test_other_attention_is_not_taken_for_usual_attention(block):
    assert not computes_usual_attention(block)


def test_a_block_is_the_same_after_the_trial():
    block = attention(dropout=0.5).half().train()
    before = {name: each.clone() for name, each in block.state_dict().items()}
    assert computes_usual_attention(block)
    assert block.training
    assert all(torch.equal(each, before[name]) for name, each in block.state_dict().items())


@pytest.mark.parametrize(("kind", "usual"), [(MultiheadAttention, True), (WithPart, False)])
def test_without_memory_the_parts_decide(kind, usual):
    assert computes_usual_attention(on_meta_device(lambda: attention(kind))) is usual


def test_rotary_attention_is_not_inherited(data):
    setup = Setup(data, "--criterion", "cross_entropy")
    student, teacher = (setup.task.build_model(setup.cfg.model) for _ in range(2))
    block = teacher.encoder.layers[0].self_attn
    block.__class__ = Rotary
    message = (
        "^The teacher has an unusual self_attn in layer 0 of its encoder, such as one with rotary "
        r"positions, which cannot be inherited\. Choose models with fairseq's own attention\.$"
    )
    structures = (Structure(student, "The student"), Structure(teacher, "The teacher"))
    with pytest.raises(ValueError, match=message):
        inherit(*structures, dict.fromkeys(("encoder", "decoder")))


def test_rotary_attention_is_not_compared(data):
    model = Setup(data, "--criterion", "cross_entropy").model
    model.encoder.layers[0].self_attn.__class__ = Rotary
    message = "^The teacher has an unusual encoder attention in layer 0 of its encoder, whose maps"
    with pytest.raises(ValueError, match=message):
        Structure(model, "The teacher").attention("encoder", 0)
