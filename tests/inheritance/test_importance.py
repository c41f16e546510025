"""The importance of a teacher's parts on data: by its definition, pads without influence."""

import copy
import math

import pytest
import torch
from harness import Setup, widened

from fairseq_kd.inheritance.importance import (
    Batch,
    importance_by_weights,
    importance_on_data,
    most_important,
)
from fairseq_kd.inheritance.initial_weights import inherit
from fairseq_kd.models.real_tokens import RealTokens
from fairseq_kd.models.structure import ATTENTION, SIDES, Structure

SHAPE = ["--encoder-layers", "3", "--decoder-layers", "2", "--criterion"]
SHAPE += ["label_smoothed_cross_entropy"]
SENTENCES = (0, 3, 5, 8)


@pytest.fixture
def built(data):
    """A model with random weights, its norms and biases too."""
    setup = Setup(data, *SHAPE)
    generator = torch.Generator().manual_seed(5)
    for parameter in setup.model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    setup.model.eval()
    return setup


def batch_of(setup, sample):
    real = RealTokens.of_mask(sample["target"].ne(setup.task.target_dictionary.pad()))
    return Batch(sample["net_input"], real, real.of(sample["target"]), len(sample["id"]))


def measured(setup, *samples, sides=SIDES):
    batches = [batch_of(setup, sample) for sample in samples]
    vocab_size = len(setup.task.target_dictionary)
    return importance_on_data(Structure(setup.model, "It"), batches, vocab_size, sides)


def assert_close(found, want):
    for name in ("heads", "scores", "content", "units", "layers"):
        pairs = getattr(found, name), getattr(want, name)
        assert pairs[0].keys() == pairs[1].keys() != set()
        for key, value in pairs[0].items():
            torch.testing.assert_close(value, pairs[1][key], rtol=1e-4, atol=1e-6)
    assert found.loss == pytest.approx(want.loss, rel=1e-5)


def inputs_of(module, model, sample):
    """What a module reads in a run, (tokens, width) each; of one sentence alone."""
    seen = {}

    def hook(_, positional, named):
        seen.update(enumerate(positional), **named)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        model(**sample["net_input"])
    handle.remove()
    return {k: v[:, 0].double() for k, v in seen.items() if torch.is_tensor(v) and v.dim() == 3}


def head_definition(block, runs, causal):
    """Means of ``|W_O z|`` by head, of ``|z|`` by dimension; rms(q) * std(k) by dimension."""
    size = block.head_dim
    part = {name: getattr(block, f"{name}_proj") for name in ("q", "k", "v", "out")}
    weights = {name: (p.weight.double(), p.bias.double()) for name, p in part.items()}
    norms, sizes, queries, keys = [], [], [], []
    for run in runs:
        x, memory = run.get("query", run.get(0)), run.get("key", run.get(1))
        q, k, v = (
            [weight @ row + bias for row in states]
            for states, (weight, bias) in zip(
                (x, memory, memory), (weights[name] for name in "qkv"), strict=True
            )
        )
        queries, keys = queries + q, keys + k
        for i, query in enumerate(q):
            seen = range(i + 1) if causal else range(len(k))
            z, norm = [], []
            for head in range(block.num_heads):
                own = slice(head * size, (head + 1) * size)
                scores = [math.exp(query[own] @ k[j][own] / size**0.5) for j in seen]
                total = sum(scores)
                mixed = sum(s / total * v[j][own] for s, j in zip(scores, seen, strict=True))
                norm.append((weights["out"][0][:, own] @ mixed).norm().item())
                z += mixed.abs().tolist()
            norms.append(norm)
            sizes.append(z)
    mean = [[sum(row[i] for row in rows) / len(rows) for i in range(len(rows[0]))]
            for rows in (norms, sizes)]  # fmt: skip
    rms = torch.stack(queries).square().mean(0).sqrt()
    return *mean, rms * torch.stack(keys).std(0, correction=0)


@torch.no_grad()
def test_heads_and_their_dimensions_are_their_definition(built):
    samples = [built.batch(i) for i in SENTENCES]
    found = measured(built, built.batch(*SENTENCES), sides=())
    assert len(found.heads) == 3 + 2 + 2
    for (kind, index), heads in found.heads.items():
        side, name = ATTENTION[kind]
        block = getattr(getattr(built.model, side).layers[index], name)
        runs = [inputs_of(block, built.model, sample) for sample in samples]
        norms, sizes, scores = head_definition(block, runs, kind == "decoder")
        assert heads.tolist() == pytest.approx(norms, rel=1e-4)
        columns = block.out_proj.weight.norm(dim=0).tolist()
        want = [a * b for a, b in zip(sizes, columns, strict=True)]
        assert found.content[kind, index].tolist() == pytest.approx(want, rel=1e-4)
        assert found.scores[kind, index].tolist() == pytest.approx(scores.tolist(), rel=1e-4)


@torch.no_grad()
def test_units_are_their_definition(built):
    found = measured(built, built.batch(*SENTENCES), sides=())
    assert len(found.units) == 3 + 2
    for (side, index), units in found.units.items():
        layer = getattr(built.model, side).layers[index]
        runs = [inputs_of(layer.fc1, built.model, built.batch(i))[0] for i in SENTENCES]
        rows = [row for run in runs for row in run]
        for unit in range(32):
            weight, bias = layer.fc1.weight[unit].double(), layer.fc1.bias[unit].item()
            mean = sum(max(0.0, (weight @ row).item() + bias) for row in rows) / len(rows)
            want = mean * layer.fc2.weight[:, unit].norm().item()
            assert units[unit].item() == pytest.approx(want, rel=1e-4, abs=1e-6)


@torch.no_grad()
def test_layers_are_the_loss_without_them(built):
    found = measured(built, built.batch(*SENTENCES))

    def loss(model):
        bits = []
        for i in SENTENCES:
            sample = built.batch(i)
            logits = model(**sample["net_input"])[0][0].double()
            for row, token in zip(logits, sample["target"][0].tolist(), strict=True):
                bits.append((row.logsumexp(0) - row[token]).item() / math.log(2))
        return sum(bits) / len(bits)

    assert found.loss == pytest.approx(loss(built.model), rel=1e-5)
    for side, n_layers in (("encoder", 3), ("decoder", 2)):
        for index in range(n_layers):
            model = copy.deepcopy(built.model)
            del getattr(model, side).layers[index]
            assert found.layers[side][index].item() == pytest.approx(loss(model), rel=1e-5)


def test_only_the_sides_that_are_named_are_left_out_and_the_teacher_stays_the_same(built):
    sample = built.batch(0, 1)
    before = built.model(**sample["net_input"])[0]
    assert measured(built, sample, sides=["decoder"]).layers.keys() == {"decoder"}
    assert torch.equal(built.model(**sample["net_input"])[0], before)


def test_padding_and_the_split_into_batches_change_nothing(built):
    pad = built.task.target_dictionary.pad()
    want = measured(built, built.batch(*SENTENCES))
    assert_close(measured(built, widened(built.batch(*SENTENCES), pad, 7)), want)
    assert_close(measured(built, built.batch(*SENTENCES[:1]), built.batch(*SENTENCES[1:])), want)


def test_pads_may_hold_nan(built):
    """In the last layer, where no real token reads them."""
    sample = built.batch(*SENTENCES)
    want = measured(built, sample)
    pads = sample["net_input"]["prev_output_tokens"].eq(built.task.target_dictionary.pad())
    assert pads.any()
    layer = built.model.decoder.layers[1]
    for module in (layer.encoder_attn_layer_norm, layer.fc1):
        module.register_forward_hook(
            lambda _, inputs, output: output.masked_fill(pads.T.unsqueeze(-1), math.nan)
        )
    found = measured(built, sample, sides=())
    for name in ("heads", "scores", "content", "units"):
        for point, values in getattr(found, name).items():
            assert torch.equal(values, getattr(want, name)[point]), (name, point)
    assert found.loss == want.loss


def dead_head(model):
    """Head 0 of a block with large weights that map what it reads, a vector of ones, to 0."""
    layer = model.encoder.layers[1]
    layer.self_attn_layer_norm.weight.data.zero_()
    layer.self_attn_layer_norm.bias.data.fill_(1.0)
    values = layer.self_attn.v_proj
    values.weight.data[:8] -= values.weight.data[:8].mean(1, keepdim=True)
    values.weight.data[:8] *= 100
    values.bias.data[:8] = 0


def dead_unit(model):
    layer = model.decoder.layers[0]
    layer.fc1.weight.data[4] *= 10  # by weights it is the most important
    layer.fc1.bias.data[4] = -1000.0  # never active


def dead_layer(model, side, index):
    layer = getattr(model, side).layers[index]  # with the norms before each block
    for name in ("self_attn.out_proj", "encoder_attn.out_proj", "fc2"):
        for parameter in layer.get_submodule(name).parameters() if has(layer, name) else ():
            parameter.data.zero_()


def has(layer, name):
    return hasattr(layer, name.partition(".")[0])


def test_a_dead_head_is_the_one_left_out(built):
    dead_head(built.model)
    point = ("encoder", 1)
    weights = importance_by_weights(Structure(built.model, "It"))
    assert most_important(weights.heads[point], 1).tolist() == [0]
    found = measured(built, built.batch(*SENTENCES), sides=())
    assert most_important(found.heads[point], 1).tolist() == [1]


def test_a_dead_unit_is_the_one_left_out(built):
    dead_unit(built.model)
    point = ("decoder", 0)
    weights = importance_by_weights(Structure(built.model, "It"))
    assert most_important(weights.units[point], 1).tolist() == [4]
    found = measured(built, built.batch(*SENTENCES), sides=())
    assert 4 not in most_important(found.units[point], 31).tolist()


@pytest.mark.parametrize("dead", [0, 1])
def test_dead_layers_are_those_left_out(built, data, dead):
    """A student of the others computes what its teacher computes."""
    dead_layer(built.model, "encoder", dead)
    dead_layer(built.model, "decoder", dead)
    batch = batch_of(built, built.batch(*SENTENCES))
    own = batch.real.of(built.model(**batch.net_input)[0]).argmax(1)  # so that all others help
    batches, vocab_size = [batch._replace(target=own)], len(built.task.target_dictionary)
    found = importance_on_data(Structure(built.model, "It"), batches, vocab_size, SIDES)
    assert found.layers["encoder"][dead].item() == pytest.approx(found.loss, abs=1e-6)
    student = Setup(data, *SHAPE, "--encoder-layers", "2", "--decoder-layers", "1")
    student.model.eval()
    structures = Structure(student.model, "The student"), Structure(built.model, "The teacher")
    lines = inherit(*structures, {"encoder": None, "decoder": None}, found)
    kept = [line.split()[4].strip(",") for line in lines[2:]]
    assert kept == [str(i) for n in (3, 2) for i in range(n) if i != dead]
    inputs = built.batch(*SENTENCES)["net_input"]
    torch.testing.assert_close(student.model(**inputs)[0], built.model(**inputs)[0])


def test_layers_that_are_given_are_kept(built, data):
    dead_layer(built.model, "encoder", 0)
    found = measured(built, built.batch(*SENTENCES))
    student = Setup(data, *SHAPE, "--encoder-layers", "2", "--decoder-layers", "2")
    structures = Structure(student.model, "The student"), Structure(built.model, "The teacher")
    lines = inherit(*structures, {"encoder": [0, 2], "decoder": None}, found)
    assert lines[2].startswith("encoder layer 0: layer 0")
