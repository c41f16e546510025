"""What is captured is what fairseq itself returns; no output changes, and no hook is left."""

import copy

import pytest
import torch
from harness import Setup

from fairseq_kd.losses.attention import attention_scores, log_attention
from fairseq_kd.models.capture import CapturePoints, capture
from fairseq_kd.models.fast_path import remove_copies
from fairseq_kd.models.structure import ATTENTION

PLAIN = ["--criterion", "label_smoothed_cross_entropy"]
LAYERS = ["--encoder-layers", "3", "--decoder-layers", "2"]
EVERYWHERE = CapturePoints(
    states=frozenset({("encoder", 0), ("encoder", 2), ("decoder", 1)}),
    attention=frozenset({("encoder", 1), ("decoder", 0), ("cross", 0), ("cross", 1)}),
)


@pytest.fixture(params=["pre-norm", "post-norm"])
def built(data, request):
    setup = Setup(data, *PLAIN, *LAYERS, "--layernorm-embedding")
    if request.param == "post-norm":
        model_cfg = setup.cfg.model
        model_cfg.encoder_normalize_before = model_cfg.decoder_normalize_before = False
        torch.manual_seed(2)
        setup.model = setup.task.build_model(model_cfg)
    setup.model.eval()
    return setup


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_states_are_those_that_fairseq_returns_on_request(built):
    inputs = built.batch(0, 1, 2)["net_input"]
    with capture(built.model, EVERYWHERE) as captured:
        built.model(**inputs)
    assert captured.states.keys() == EVERYWHERE.states
    encoder = built.model.encoder(
        inputs["src_tokens"], inputs["src_lengths"], return_all_hiddens=True
    )
    _, extra = built.model.decoder(inputs["prev_output_tokens"], encoder)
    fairseqs = {"encoder": encoder["encoder_states"], "decoder": extra["inner_states"]}
    for (side, layer), state in captured.states.items():
        want = fairseqs[side][layer + 1].transpose(0, 1)  # the first is what enters layer 0
        torch.testing.assert_close(state, want, rtol=0, atol=0)


def test_attention_is_that_of_fairseqs_slow_path(built):
    sample = built.batch(0, 1, 2)
    inputs, pad = sample["net_input"], built.task.target_dictionary.pad()
    with capture(built.model, EVERYWHERE) as captured:
        built.model(**inputs)
    slow, maps = copy.deepcopy(built.model), {}
    for kind, layer in EVERYWHERE.attention:
        side, name = ATTENTION[kind]
        block = getattr(getattr(slow, side).layers[layer], name)
        block.skip_embed_dim_check = True
        block.register_forward_pre_hook(
            lambda block, args, kwargs: (args, {**kwargs, "need_head_weights": True}),
            with_kwargs=True,
        )
        block.register_forward_hook(
            lambda block, args, output, place=(kind, layer): maps.update({place: output[1]})
        )
    slow(**inputs)
    source = inputs["src_tokens"].ne(pad)
    target = inputs["prev_output_tokens"].ne(pad)
    real = {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}
    assert captured.attention.keys() == EVERYWHERE.attention
    for (kind, layer), read in captured.attention.items():
        queries, keys = real[kind]
        visible = queries.unsqueeze(2) & keys.unsqueeze(1)
        visible = visible.tril() if kind == "decoder" else visible
        scores = attention_scores(read.queries(queries), read.keys(keys), 2)
        got = log_attention(scores, visible).exp().transpose(1, 2)[queries]  # (N, H, S)
        want = maps[kind, layer].permute(1, 2, 0, 3)[queries]  # from (H, B, L, S)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_values_are_the_blocks_own(built):
    inputs = built.batch(0, 1)["net_input"]
    source = inputs["src_tokens"].ne(built.task.source_dictionary.pad())
    with capture(built.model, EVERYWHERE) as captured:
        built.model(**inputs)
    read = captured.attention["cross", 1]
    block, memory = (
        built.model.decoder.layers[1].encoder_attn,
        built.model.encoder(inputs["src_tokens"], inputs["src_lengths"])["encoder_out"][
            0
        ].transpose(0, 1),
    )
    torch.testing.assert_close(read.values(source)[source], block.v_proj(memory)[source])


def test_outputs_are_the_same_and_no_hook_is_left(built):
    inputs = built.batch(0, 1)["net_input"]
    want = built.model(**inputs)[0]
    before = hooks(built.model)
    with capture(built.model, EVERYWHERE):
        assert hooks(built.model) == before + 7
        got = built.model(**inputs)[0]
    assert torch.equal(got, want)
    assert hooks(built.model) == before
    with pytest.raises(TypeError), capture(built.model, EVERYWHERE):
        built.model()
    assert hooks(built.model) == before


def test_a_wrapper_of_the_model_is_read_too(built):
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    model = Wrapper(Wrapper(built.model))
    with capture(model, EVERYWHERE) as captured:
        model(**built.batch(0)["net_input"])
    assert len(captured.states) == 3


def test_what_pads_hold_does_not_reach_queries_and_keys(built):
    inputs = built.batch(0, 1, 2)["net_input"]
    real = inputs["src_tokens"].ne(built.task.source_dictionary.pad())
    assert not real.all()
    with capture(built.model, EVERYWHERE) as captured:
        built.model(**inputs)
    read = captured.attention["encoder", 1]
    want = read.queries(real), read.keys(real)
    read.query.data[~real.T] = float("nan")
    read.key.data[~real.T] = float("nan")
    block = built.model.encoder.layers[1].self_attn
    for got, old in zip((read.queries(real), read.keys(real)), want, strict=True):
        assert torch.equal(got, old)
        block.zero_grad()
        got.sum().backward(retain_graph=True)
        assert block.q_proj.weight.grad is None or block.q_proj.weight.grad.isfinite().all()


def test_the_fast_path_is_off_in_every_model(built):
    """fairseq 0.12.2 runs a loaded encoder without its attention blocks, unless that is off."""
    layer = built.model.encoder.layers[1]
    layer.can_use_fastpath = True
    assert layer.can_use_fastpath is False


class WithCopies(torch.nn.Module):
    """An encoder layer as of fairseq 0.12.2, which copies weights for its fast path."""

    def __init__(self, width):
        super().__init__()
        self.fc1 = torch.nn.Linear(width, width)
        self.fc1_weight = torch.nn.Parameter(torch.zeros(width, width))
        self.fc1_bias = torch.nn.Parameter(torch.zeros(width))


def test_copies_of_weights_for_the_fast_path_are_no_parameters():
    old = {f"layer.{name}": each for name, each in WithCopies(3).state_dict().items()}
    remove_copies(WithCopies)
    model = torch.nn.ModuleDict({"layer": WithCopies(3)})
    names = ["layer.fc1.weight", "layer.fc1.bias"]
    assert [name for name, _ in model.named_parameters()] == names
    model.load_state_dict(old)
    assert torch.equal(model["layer"].fc1.weight, old["layer.fc1.weight"])
    assert list(model.state_dict()) == names
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"layer.fc1.bias": old["layer.fc1.bias"]})
