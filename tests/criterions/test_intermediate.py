"""feature_kd, attention_kd and hybrid_kd on real batches, against their definitions."""

import copy

import pytest
import torch
from fairseq.logging import metrics
from harness import Setup, widened
from layered import ATTENTION_KD, FEATURE, HYBRID, MODES, SHAPE, gradients, loss_of

from fairseq_kd.criterions import HybridKDCriterion
from fairseq_kd.models.structure import ATTENTION


def logged(*logs):
    with metrics.aggregate() as figures:
        HybridKDCriterion.reduce_metrics(list(logs))
    return figures.get_smoothed_values()


def sides(model, sample):
    """fairseq's own hidden states, (L+1) x (T, B, C), of both sides."""
    inputs = sample["net_input"]
    encoder = model.encoder(inputs["src_tokens"], inputs["src_lengths"], return_all_hiddens=True)
    _, extra = model.decoder(inputs["prev_output_tokens"], encoder)
    return {"encoder": encoder["encoder_states"], "decoder": extra["inner_states"]}


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_the_feature_term_is_its_definition(distilling, distance):
    maps = ["--kd-feature-layers", "0:2:0.5,1:1", "--kd-feature-decoder-layers", "last"]
    flags = ["--kd-feature-weight", "0.3", "--kd-feature-distance", distance]
    setup = distilling(*FEATURE, *maps, *flags)
    sample = setup.batch(0, 1, 2)
    loss, _, log = loss_of(setup, sample)
    word = distilling("--criterion", "word_kd", "--label-smoothing", "0.1")
    want_word = loss_of(word, sample)[0].item()
    pad = setup.task.target_dictionary.pad()
    states = [sides(each, sample) for each in (setup.model, setup.criterion.teachers[0].model)]
    projections = setup.criterion.terms[0].projections
    places = [("encoder", 0, 2, 0.5), ("encoder", 1, 1, 1.0), ("decoder", 2, 3, 1.0)]
    want = 0.0
    for side, ours, theirs, weight in places:
        tokens = sample["net_input"]["src_tokens"] if side == "encoder" else sample["target"]
        matrix = projections[f"{side}_{ours}_{theirs}"].weight.double()
        for b in range(len(tokens)):
            real = [i for i in range(tokens.size(1)) if tokens[b, i] != pad]
            found = 0.0
            for i in real:
                s, t = (
                    each[side][layer + 1][i, b].double()
                    for each, layer in zip(states, (ours, theirs), strict=True)
                )
                s = matrix @ s
                if distance == "mse":
                    found += ((s - t) ** 2).sum().item() / len(t)
                else:
                    found += 1 - (s @ t / (s @ s).sqrt() / (t @ t).sqrt()).item()
            n_targets = sample["target"][b].ne(pad).sum().item()
            want += weight * n_targets * found / len(real)
    assert log["kd_feature_loss"].item() == pytest.approx(want, rel=1e-5)
    assert loss.item() == pytest.approx(want_word + 0.3 * want, rel=1e-5)
    assert logged(log)["feature_loss"] == pytest.approx(want / sample["ntokens"], abs=1e-4)


def heads_of(model, sample):
    """Every per-head map, (B, H, L, S), by fairseq's own slow path, in float64."""
    model, maps = copy.deepcopy(model).double().eval(), {}
    for kind, (side, name) in ATTENTION.items():
        for layer, owner in enumerate(getattr(model, side).layers):
            block = getattr(owner, name)
            block.skip_embed_dim_check = True
            block.register_forward_pre_hook(
                lambda block, args, kwargs: (args, {**kwargs, "need_head_weights": True}),
                with_kwargs=True,
            )
            block.register_forward_hook(
                lambda block, args, output, place=(kind, layer): maps.update(
                    {place: output[1].transpose(0, 1)}
                )
            )
    model(**sample["net_input"])
    return maps


@pytest.mark.parametrize("prefix", [0, 2])
def test_the_attention_term_is_its_definition(distilling, prefix):
    """An ignored prefix has no queries and no tokens, but is seen by what follows."""
    maps = ["--kd-attention-layers", "1:2:0.5", "--kd-attention-decoder-layers", "last"]
    flags = ["--kd-attention-weight", "0.5", "--ignore-prefix-size", prefix]
    setup = distilling(*ATTENTION_KD, *maps, *flags)
    sample = setup.batch(0, 1, 2)
    log = loss_of(setup, sample)[2]
    pad, inputs = setup.task.target_dictionary.pad(), sample["net_input"]
    ours, theirs = (heads_of(m, sample) for m in (setup.model, setup.criterion.teachers[0].model))
    want = 0.0
    for kind, layers, weight in (
        ("encoder", (1, 2), 0.5),
        ("decoder", (2, 3), 1.0),
        ("cross", (2, 3), 1.0),
    ):
        for b in range(3):
            queries = inputs["src_tokens"] if kind == "encoder" else sample["target"]
            keys = inputs["prev_output_tokens"] if kind == "decoder" else inputs["src_tokens"]
            first = 0 if kind == "encoder" else prefix
            cells = [
                (i, j)
                for i in range(first, queries.size(1))
                for j in range(keys.size(1))
                if queries[b, i] != pad and keys[b, j] != pad and (kind != "decoder" or j <= i)
            ]
            found = 0.0
            for i, j in cells:
                taught = theirs[kind, layers[1]][b, :, i, j].tolist()
                groups = (taught[0:2], taught[2:4], taught[4:7])  # seven heads for three
                for head, group in enumerate(groups):
                    gap = ours[kind, layers[0]][b, head, i, j].item() - sum(group) / len(group)
                    found += gap**2
            n_targets = sample["target"][b].ne(pad).sum().item() - prefix
            want += weight * n_targets * found / len(cells)
    assert log["kd_attention_loss"].item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("mode", ["repeat", "learned"])
def test_a_head_meets_its_repetition_or_its_mixture(distilling, mode):
    """Initially a mixture is the repetition; then its weights determine it."""
    kinds = ["--kd-attention-kinds", "cross", "--kd-attention-layers", "1:2:0.5,2:0"]
    setup = distilling(*ATTENTION_KD, *kinds, "--kd-attention-loss", "kl", *MODES[mode][:2])
    sample = setup.batch(0, 1)
    pad = setup.task.target_dictionary.pad()
    ours, theirs = (heads_of(m, sample) for m in (setup.model, setup.criterion.teachers[0].model))
    real = [sample["target"].ne(pad), sample["net_input"]["src_tokens"].ne(pad)]

    def definition(weights):
        total = 0.0
        for (student, teacher), matrix in weights.items():
            weight = {1: 0.5, 2: 1.0}[student]
            for b in range(2):
                queries = real[0][b].nonzero().flatten().tolist()
                for i in queries:
                    logs = [
                        ours["cross", layer][b, head, i][real[1][b]].log()
                        for layer in (1, 2)
                        for head in range(3)
                    ]
                    for head in range(7):
                        mixed = sum(w * row for w, row in zip(matrix[head], logs, strict=True))
                        q = mixed.exp() / mixed.exp().sum()
                        p = theirs["cross", teacher][b, head, i][real[1][b]]
                        kl = (p * (p / q).log()).sum().item()
                        total += weight * kl  # the mean over i times tokens
        return total

    first = {}
    for pair, offset in (((1, 2), 0), ((2, 0), 3)):
        first[pair] = [
            [float(column == offset + member) for column in range(6)]
            for member in (0, 0, 1, 1, 2, 2, 2)
        ]
    got = loss_of(setup, sample)[2]["kd_attention_loss"].item()
    assert got == pytest.approx(definition(first), rel=1e-4)
    if mode == "learned":
        mixtures = setup.criterion.terms[0].mixtures
        for parameter in mixtures.values():
            parameter.data += torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
        weights = {pair: mixtures[f"cross_{pair[0]}_{pair[1]}"].tolist() for pair in first}
        got = loss_of(setup, sample)[2]["kd_attention_loss"].item()
        assert got == pytest.approx(definition(weights), rel=1e-4)


def test_of_more_heads_than_the_teachers_a_mixture_starts_as_the_means_of_their_groups(distilling):
    kinds = ["--kd-attention-kinds", "cross", "--kd-attention-layers", "1:2,2:0"]
    setup = distilling(*ATTENTION_KD, *kinds, *MODES["learned"], "--decoder-attention-heads", "12")
    groups = [[0], [1, 2], [3, 4], [5], [6, 7], [8, 9], [10, 11]]  # twelve heads for seven
    for pair, first in (("1_2", 0), ("2_0", 12)):
        for row, group in zip(
            setup.criterion.terms[0].mixtures[f"cross_{pair}"], groups, strict=True
        ):
            want = [(i - first in group) / len(group) for i in range(24)]
            assert row.tolist() == pytest.approx(want)


@pytest.mark.parametrize("heads", [1, 5, 12])
def test_relations_are_their_definition(distilling, heads):
    kinds = ["--kd-attention-kinds", "cross", "--kd-attention-layers", "1:2:0.5"]
    relation = [*MODES["relation"][:3], heads]
    setup = distilling(*ATTENTION_KD, *kinds, *relation)
    sample = setup.batch(0, 1)
    pad, criterion = setup.task.target_dictionary.pad(), setup.criterion
    got = loss_of(setup, sample)[2]["kd_attention_loss"].item()
    vectors = []
    for model, layer in ((setup.model, 1), (criterion.teachers[0].model, 2)):
        block, seen = model.decoder.layers[layer].encoder_attn, {}
        hook = block.register_forward_pre_hook(
            lambda block, args, kwargs, seen=seen: seen.update(kwargs), with_kwargs=True
        )
        model(**sample["net_input"])
        hook.remove()
        vectors.append(
            [
                getattr(block, f"{name[0]}_proj")(seen[name]).transpose(0, 1).double()
                for name in ("query", "key", "value")
            ]
        )
    tokens = [sample["target"], *[sample["net_input"]["src_tokens"]] * 2]
    want = 0.0
    for which in range(3):
        for b in range(2):
            real = tokens[which][b].ne(pad)
            relations = []
            for model in range(2):
                rows = vectors[model][which][b][real]
                parts = rows.tensor_split(heads, dim=1)
                relations.append(
                    [(part @ part.T / part.size(1) ** 0.5).softmax(-1) for part in parts]
                )
            found = sum((p * (p / q).log()).sum().item() for q, p in zip(*relations, strict=True))
            n_targets = sample["target"][b].ne(pad).sum().item()
            want += 0.5 * n_targets * found / heads / real.sum().item()
    assert got == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_more_padding_changes_nothing(distilling, mode):
    setup = distilling(*HYBRID, *MODES[mode])
    sample = setup.batch(0, 1, 2)
    wide = widened(sample, setup.task.target_dictionary.pad(), 5)
    want, got = (gradients(setup, each) for each in (sample, wide))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    logs = [loss_of(setup, each)[2] for each in (sample, wide)]
    assert logged(logs[1]) == pytest.approx(logged(logs[0]), abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_a_split_or_permuted_batch_changes_nothing(distilling, mode):
    setup = distilling(*HYBRID, *MODES[mode])
    whole = gradients(setup, setup.batch(0, 1, 2, 3))
    split = gradients(setup, setup.batch(3, 0), setup.batch(2, 1))
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-4)
    log = loss_of(setup, setup.batch(0, 1, 2, 3))[2]
    parts = [loss_of(setup, setup.batch(*each))[2] for each in ((3, 0), (2, 1))]
    assert logged(*parts) == pytest.approx(logged(log), abs=1e-3)
    assert all(part.keys() == log.keys() for part in parts)


@pytest.mark.parametrize("mode", MODES)
def test_a_student_equal_to_the_teacher_has_nothing_to_learn(data, large, mode):
    cosine = ["--kd-feature-distance", "cosine"] if mode == "mean" else []
    setup = Setup(data, *SHAPE, *HYBRID, "--kd-teacher", large, *MODES[mode], *cosine)
    setup.model.load_state_dict(setup.criterion.teachers[0].model.state_dict())
    log = loss_of(setup, setup.batch(0, 1, 2))[2]
    assert log["kd_feature_loss"].item() == log["kd_attention_loss"].item() == 0.0


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_a_real_token_gives_zero_and_no_nan(distilling, mode):
    setup = distilling(*HYBRID, *MODES[mode])
    sample = setup.batch(0, 1)
    sample["target"].fill_(setup.task.target_dictionary.pad())
    sample["ntokens"] = 0
    assert (gradients(setup, sample) == 0).all()
    loss, _, log = loss_of(setup, sample)
    assert loss.item() == 0.0
    assert logged(log) == {}


def test_hybrid_is_the_sum_of_its_terms(distilling):
    sample = distilling(*FEATURE).batch(0, 1, 2)
    losses = {}
    for name, flags in (
        ("word", ["--criterion", "word_kd"]),
        ("feature", FEATURE),
        ("attention", ATTENTION_KD),
        ("hybrid", HYBRID),
    ):
        setup = distilling(*flags, "--label-smoothing", "0.1")
        losses[name] = loss_of(setup, sample)[0].item()
    extra = losses["feature"] + losses["attention"] - 2 * losses["word"]
    assert losses["hybrid"] == pytest.approx(losses["word"] + extra, rel=1e-4)


def test_with_alpha_0_the_terms_are_those_of_a_whole_distillation(distilling):
    """With alpha 0 the teacher runs without its vocabulary, and everything else stays."""
    sample = distilling(*HYBRID).batch(0, 1)
    _, _, whole = loss_of(distilling(*HYBRID), sample)
    setup = distilling(*HYBRID, "--kd-alpha", "0", "--kd-beta", "0.5")
    loss, _, log = loss_of(setup, sample)
    plain = distilling("--criterion", "word_kd", "--label-smoothing", "0.1")
    plain.model.eval()
    ce = plain.criterion.compute_loss(plain.model, plain.model(**sample["net_input"]), sample)[0]
    want = 0.5 * ce + 0.1 * log["kd_feature_loss"] + 0.05 * log["kd_attention_loss"]
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    for name in ("kd_feature_loss", "kd_attention_loss"):
        assert log[name].item() == pytest.approx(whole[name].item(), rel=1e-6)
    assert "kd_loss" not in logged(log)
    assert logged(log)["feature_loss"] > 0


def test_an_ignored_prefix_is_not_compared(distilling):
    layers = ["--kd-feature-layers", "none", "--kd-feature-decoder-layers", "last"]
    setup = distilling(*FEATURE, *layers, "--ignore-prefix-size", "2")
    whole = distilling(*FEATURE, *layers)
    sample = setup.batch(0, 1)
    at = setup.criterion.positions(sample)
    assert at.tokens.sum() == whole.criterion.positions(sample).tokens.sum() - 4
    assert not at.target[:, :2].any()
    assert (
        loss_of(setup, sample)[2]["kd_feature_loss"] != loss_of(whole, sample)[2]["kd_feature_loss"]
    )


def test_shares_of_the_gradient_norm(distilling):
    setup = distilling(*HYBRID, "--kd-log-gradients")
    sample = setup.batch(0, 1, 2)
    plain = distilling(*HYBRID)
    torch.testing.assert_close(gradients(setup, sample), gradients(plain, sample))
    setup.model.eval()
    setup.model.zero_grad()
    log = setup.criterion(setup.model, sample)[2]
    assert all(parameter.grad is None for parameter in setup.model.parameters())
    norms = {}
    for name, weights in (("word", "0 0"), ("feature", "0.1 0"), ("attention", "0 0.05")):
        feature, attention = weights.split()
        words = [] if name == "word" else ["--kd-alpha", "0", "--kd-beta", "0"]
        each = distilling(
            *HYBRID, *words, "--kd-feature-weight", feature, "--kd-attention-weight", attention
        )
        norms[name] = each.gradients(sample).norm().item()
    for name, norm in norms.items():
        assert log[f"kd_{name}_gradient"].item() == pytest.approx(norm, rel=1e-4)
        share = 100 * norm / sum(norms.values())
        assert logged(log)[f"gradient_{name}"] == pytest.approx(share, abs=0.1)
    with torch.no_grad():
        assert not any("gradient" in key for key in setup.criterion(setup.model, sample)[2])


def test_only_what_the_terms_train_is_in_the_criterion(distilling):
    setup = distilling(*HYBRID, *MODES["learned"])
    names = [name for name, _ in setup.criterion.named_parameters()]
    assert len([name for name in names if "projections" in name]) == 5
    assert len([name for name in names if "mixtures" in name]) == 8
    assert len(names) == 13
    assert not any("teacher" in key for key in setup.criterion.state_dict())
    for mode in ("mean", "relation"):
        equal = distilling(*ATTENTION_KD, *MODES[mode])
        assert list(equal.criterion.parameters()) == []


def test_what_the_terms_train_is_restored(distilling):
    setup, other = (distilling(*HYBRID, *MODES["learned"], "--seed", seed) for seed in (1, 2))
    other.criterion.terms[0].projections["encoder_0_1"].weight.data.fill_(0.5)
    setup.criterion.load_state_dict(other.criterion.state_dict())
    sample = setup.batch(0, 1)
    assert torch.equal(loss_of(setup, sample)[0], loss_of(other, sample)[0])


@pytest.mark.parametrize("nothing", [None, {}])
def test_a_start_from_another_criterion_restores_nothing(distilling, nothing):
    setup = distilling(*HYBRID, *MODES["learned"])
    before = {key: weight.clone() for key, weight in setup.criterion.state_dict().items()}
    setup.criterion.load_state_dict(nothing)
    after = setup.criterion.state_dict()
    assert all(torch.equal(after[key], weight) for key, weight in before.items())


@pytest.mark.parametrize("alpha", ["0.8", "0"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_loss_of_float32_and_finite_gradients(distilling, dtype, alpha):
    setup = distilling(*HYBRID, *MODES["learned"], "--kd-alpha", alpha)
    sample = setup.batch(0, 1)
    want = loss_of(setup, sample)[0].item()
    setup.model.to(dtype)
    setup.criterion.to(dtype)
    loss = loss_of(setup, sample)[0]
    assert {p.dtype for p in setup.criterion.teachers[0].model.parameters()} == {dtype}
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(want, rel=3e-2)  # bfloat16 has 8 bits
    loss.backward()
    both = (*setup.model.parameters(), *setup.criterion.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in both)


def test_activation_checkpoints_do_not_change_the_feature_term(distilling):
    plain, saving = distilling(*FEATURE), distilling(*FEATURE, "--checkpoint-activations")
    sample = plain.batch(0, 1)
    torch.testing.assert_close(gradients(saving, sample), gradients(plain, sample))
