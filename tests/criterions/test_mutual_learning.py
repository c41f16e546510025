"""mutual_learning on real batches, against the formulas written out, and what it refuses."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from fairseq.logging import metrics
from harness import Setup

from fairseq_kd.criterions import MutualLearningCriterion
from fairseq_kd.models import ARCHITECTURES

MUTUAL = ["--criterion", "mutual_learning", "--label-smoothing", "0.1", "--dropout", "0"]
SMALLER = ["--kd-peer-overrides", "encoder_layers=2,decoder_embed_dim=16,encoder_ffn_embed_dim=24"]


def logged(*logs):
    with metrics.aggregate() as figures:
        MutualLearningCriterion.reduce_metrics(list(logs))
    return figures.get_smoothed_values()


@pytest.fixture
def mutual(setup):
    return lambda *flags: setup(*MUTUAL, *flags)


def models(setup):
    return [setup.model, *setup.criterion.peers]


def formula(setup, sample, weight, symmetric=False):
    """(loss, nll of each, mean KL, mean agreement) by autograd over all logits.

    Gradients are as they should flow.
    """
    z = [model(**sample["net_input"])[0].double() for model in models(setup)]
    pad, count = setup.task.target_dictionary.pad(), len(z)
    ce, nll, mutual, agreed = 0.0, [0.0] * count, 0.0, 0.0
    for b, t in sample["target"].ne(pad).nonzero().tolist():
        gold = sample["target"][b, t]
        log_p = [each[b, t].log_softmax(-1) for each in z]
        for i in range(count):
            others = (log_p[i].sum() - log_p[i][gold]) / (len(log_p[i]) - 1)
            ce = ce - 0.9 * log_p[i][gold] - 0.1 * others
            nll[i] -= log_p[i][gold].item()
            for j in range(count):
                if i != j:  # KL(P_i || P_j): j learns, and i too if it is symmetric
                    target = log_p[i] if symmetric else log_p[i].detach()
                    kl = (target.exp() * (target - log_p[j])).sum()
                    mutual = mutual + kl / (count * (count - 1))
                    same = log_p[i].argmax() == log_p[j].argmax()
                    agreed += same.item() / (count * (count - 1))
    return ce + weight * mutual, nll, mutual.item(), agreed


def gradients(setup, loss):
    parameters = [p for model in models(setup) for p in model.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("flow", ["detached", "symmetric"])
@pytest.mark.parametrize("peers", ["2", "3"])
def test_loss_and_gradients_are_those_of_the_formula(mutual, flow, peers):
    flags = ["--kd-peers", peers, "--kd-mutual-weight", "0.7", "--kd-mutual-gradient", flow]
    setup = mutual(*flags, *SMALLER)
    sample = setup.batch(0, 1, 2)
    want, nll, kl, agreed = formula(setup, sample, 0.7, flow == "symmetric")
    loss, sample_size, log = setup.criterion(setup.model, sample)
    assert sample_size == sample["ntokens"]
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    torch.testing.assert_close(gradients(setup, loss), gradients(setup, want), rtol=1e-3, atol=2e-5)
    figures = logged(log)
    bits = 1 / math.log(2) / sample["ntokens"]
    assert figures["mutual_loss"] == pytest.approx(kl * bits, abs=1e-3)
    assert figures["agreement"] == pytest.approx(100 * agreed / sample["ntokens"], abs=1e-2)
    assert figures["nll_loss"] == pytest.approx(nll[0] * bits, abs=1e-3)
    for i in range(1, int(peers)):
        assert figures[f"nll_loss_{i}"] == pytest.approx(nll[i] * bits, abs=1e-3)


@pytest.mark.parametrize("peers", [2, 3])
def test_a_weight_of_n_is_the_strength_of_deep_mutual_learning(mutual, peers):
    """Each of n peers has ``CE_k + 1/(n - 1) sum_i KL(P_i || P_k)``, as in arXiv:1706.00384."""
    setup = mutual("--kd-peers", str(peers), "--kd-mutual-weight", str(peers), *SMALLER)
    sample = setup.batch(0, 1)
    real = sample["target"].ne(setup.task.target_dictionary.pad())
    gold = sample["target"][real]
    log_p = [model(**sample["net_input"])[0][real].double().log_softmax(-1) for model in
             models(setup)]  # fmt: skip
    loss = setup.criterion(setup.model, sample)[0]
    got = [torch.autograd.grad(loss, list(each.parameters()), retain_graph=True)
           for each in models(setup)]  # fmt: skip
    for k, model in enumerate(models(setup)):
        smoothed = torch.full_like(log_p[k], 0.1 / (log_p[k].size(-1) - 1))
        smoothed[torch.arange(len(gold)), gold] = 0.9
        theirs = -(smoothed * log_p[k]).sum()
        for i in range(peers):
            if i != k:
                p = log_p[i].detach().exp()
                theirs = theirs + (p * (log_p[i].detach() - log_p[k])).sum() / (peers - 1)
        want = torch.autograd.grad(theirs, list(model.parameters()), retain_graph=True)
        for ours, each in zip(got[k], want, strict=True):
            torch.testing.assert_close(ours, each, rtol=1e-3, atol=2e-5)


def test_equal_peers_have_nothing_to_teach(mutual):
    setup = mutual()
    setup.criterion.peers[0].load_state_dict(setup.model.state_dict())
    log = setup.criterion(setup.model.eval(), setup.batch(0, 1, 2))[2]
    assert logged(log)["mutual_loss"] == 0
    assert logged(log)["agreement"] == 100


def test_peers_start_from_other_weights_than_the_model_and_than_each_other(mutual):
    setup = mutual("--kd-peers", "3")
    weights = [next(model.parameters()).flatten()[:50] for model in models(setup)]
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    other = mutual("--kd-peers", "3", "--seed", "4")
    for ours, theirs in zip(setup.criterion.peers, other.criterion.peers, strict=True):
        assert not torch.equal(*(next(each.parameters()) for each in (ours, theirs)))
    again = mutual("--kd-peers", "3")
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            setup.criterion.peers.parameters(), again.criterion.peers.parameters(), strict=True
        )
    )


def test_lambda_0_gives_the_model_the_gradients_of_label_smoothed_cross_entropy(setup):
    """With dropout, over two batches of an update: peers draw no number that the model misses."""
    flags = ["--label-smoothing", "0.1", "--dropout", "0.3"]
    plain = setup("--criterion", "label_smoothed_cross_entropy", *flags)
    ours = setup("--criterion", "mutual_learning", *flags, "--kd-mutual-weight", "0", *SMALLER)
    batches = [plain.batch(0, 1), plain.batch(2, 3)]
    found = []
    for each in (plain, ours):
        torch.manual_seed(7)
        found.append(each.gradients(*batches, train=True))
    assert torch.equal(*found)
    want, got = (each.criterion.eval()(each.model.eval(), batches[0])[2] for each in (plain, ours))
    assert got["nll_loss"] == want["nll_loss"]
    plain.model = ours.criterion.peers[0].eval()
    alone = plain.criterion(plain.model, batches[0])[2]
    assert got["nll_loss_1"] == alone["nll_loss"]
    assert got["loss"] == want["loss"] + alone["loss"]
    assert logged(got)["ppl"] == logged(want)["ppl"]


def test_with_lambda_above_0_the_models_dropout_is_still_its_own(setup):
    flags = [*MUTUAL[:-1], "0.3", "--kd-mutual-weight", "1e-12"]
    plain = setup("--criterion", "label_smoothed_cross_entropy", *flags[2:-2])
    ours = setup(*flags)
    batches = [plain.batch(0, 1), plain.batch(2, 3)]
    found = []
    for each in (plain, ours):
        torch.manual_seed(7)
        found.append(each.gradients(*batches, train=True))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_peers_are_trained_with_dropout_and_validated_without(setup):
    ours = setup(*MUTUAL[:-1], "0.3")
    sample = ours.batch(0, 1)
    for training in (True, False):
        ours.model.train(training), ours.criterion.train(training)
        logs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            logs.append(ours.criterion(ours.model, sample)[2])
        for key in ("nll_loss", "nll_loss_1"):
            assert (logs[0][key] != logs[1][key]) == training


@pytest.mark.parametrize(
    "flags", [["--kd-chunk-tokens", "5"], pytest.param(["--kd-compile"], marks=pytest.mark.slow)]
)
def test_chunks_and_compiling_change_nothing(mutual, flags):
    whole, chunked = mutual("--kd-chunk-tokens", "0"), mutual(*flags)
    sample = whole.batch(0, 1, 2)
    want, got = (
        gradients(each, each.criterion(each.model, sample)[0]) for each in (whole, chunked)
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", ["0", "1"])
def test_a_batch_without_a_real_token_gives_zero_and_no_nan(mutual, weight):
    setup = mutual("--kd-mutual-weight", weight)
    sample = setup.batch(0, 1)
    sample["target"].fill_(setup.task.target_dictionary.pad())
    sample["ntokens"] = 0
    loss, sample_size, log = setup.criterion(setup.model, sample)
    assert (loss.item(), sample_size) == (0.0, 0)
    assert (gradients(setup, loss) == 0).all()
    assert logged(log) == {}


@pytest.mark.parametrize("flow", ["detached", "symmetric"])
def test_a_peer_that_is_far_ahead_learns_nothing_from_one_behind(mutual, flow):
    """Its gradient is that of its own cross-entropy, while the other's stays as it was."""
    cut = mutual("--kd-detach-ratio", "1.5", "--kd-mutual-gradient", flow)
    free = mutual("--kd-mutual-gradient", flow)
    alone = mutual("--kd-mutual-weight", "0")
    sample = cut.batch(0, 1, 2)
    metrics.reset()
    before = gradients(cut, cut.criterion(cut.model, sample)[0])
    want = [gradients(each, each.criterion(each.model, sample)[0]) for each in (free, alone)]
    torch.testing.assert_close(before, want[0])  # nothing is known before the first update
    for own, other in ((2.0, 3.1), (3.1, 2.0)):
        metrics.reset()
        logs = [{"nll_loss": own * 10, "nll_loss_1": other * 10, "kd_ntokens": 10}]
        for each in cut.criterion.progress:
            each.observe(logs)
        loss, _, log = cut.criterion(cut.model, sample)
        got = gradients(cut, loss)
        size = len(got) // 2
        first, second = (alone, free) if own < other else (free, alone)
        expected = torch.cat(
            [
                gradients(first, first.criterion(first.model, sample)[0])[:size],
                gradients(second, second.criterion(second.model, sample)[0])[size:],
            ]
        )
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=2e-5)
        assert log["kd_mutual"].item() == pytest.approx(
            free.criterion(free.model, sample)[2]["kd_mutual"].item(), rel=1e-5
        )
    metrics.reset()


def test_a_peer_behind_by_just_the_ratio_teaches_nothing(mutual):
    cut, alone = mutual("--kd-detach-ratio", "1"), mutual("--kd-mutual-weight", "0")
    sample = cut.batch(0, 1, 2)
    metrics.reset()
    for each in cut.criterion.progress:
        each.observe([{"nll_loss": 20.0, "nll_loss_1": 20.0, "kd_ntokens": 10}])
    got, want = (gradients(each, each.criterion(each.model, sample)[0]) for each in (cut, alone))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=2e-5)
    metrics.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_loss_of_float32_and_finite_gradients(mutual, dtype):
    setup = mutual()
    sample = setup.batch(0, 1)
    want = setup.criterion(setup.model.eval(), sample)[0].item()
    setup.model.to(dtype)
    setup.criterion.to(dtype)
    loss = setup.criterion(setup.model, sample)[0]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(want, rel=2e-2)
    loss.backward()
    assert all(p.grad.isfinite().all() for m in models(setup) for p in m.parameters())


def test_peers_may_have_the_size_of_an_architecture(mutual):
    setup = mutual("--kd-peer-overrides", "arch=transformer_kd_small_student")
    (peer,) = setup.criterion.peers
    assert (len(peer.encoder.layers), len(peer.decoder.layers)) == (2, 1)
    assert peer.encoder.embed_tokens.embedding_dim == 112
    assert peer.decoder.output_projection.in_features == 112


def test_each_peer_may_have_its_own_size(mutual):
    overrides = "encoder_layers=3,encoder_layerdrop=0.1:decoder_layers=2"
    setup = mutual("--kd-peers", "3", "--kd-peer-overrides", overrides)
    sizes = [(len(p.encoder.layers), len(p.decoder.layers)) for p in setup.criterion.peers]
    assert sizes == [(3, 1), (1, 2)]


@pytest.mark.parametrize(
    ("message", "flags"),
    [
        ("--kd-peers must be a whole number from 2 to 100, but is 1.", ["--kd-peers", "1"]),
        (
            "--kd-mutual-weight must be 0 or a number from 1e-12 to 1,000,000, but is -1.0.",
            ["--kd-mutual-weight", "-1"],
        ),
        (
            "--kd-mutual-gradient must be one of detached, symmetric, but is both.",
            ["--kd-mutual-gradient", "both"],
        ),
        (
            "--kd-detach-ratio must be a number from 1 to 1,000,000, but is 0.5.",
            ["--kd-detach-ratio", "0.5"],
        ),
        (
            "--kd-chunk-tokens must be a whole number from 0 to 1,000,000,000, but is -1.",
            ["--kd-chunk-tokens", "-1"],
        ),
        (
            "--kd-detach-ratio is 2.0, but has no effect while --kd-mutual-weight is 0. Leave it "
            "out, or set the weight above 0.",
            ["--kd-mutual-weight", "0", "--kd-detach-ratio", "2"],
        ),
        (
            "--kd-compile is True, but has no effect while --kd-mutual-weight is 0. Leave it "
            "out, or set the weight above 0.",
            ["--kd-mutual-weight", "0", "--kd-compile"],
        ),
        (
            "--kd-mutual-gradient is symmetric, but has no effect while --kd-mutual-weight is 0. "
            "Leave it out, or set the weight above 0.",
            ["--kd-mutual-weight", "0", "--kd-mutual-gradient", "symmetric"],
        ),
        (
            "--kd-peer-overrides a=1:b=2 describes 2 peers, but there are 1 beside the model "
            "itself. Describe one, for all of them, or 1, separated by colons.",
            ["--kd-peer-overrides", "a=1:b=2"],
        ),
        (
            "--kd-peer-overrides names encoder_layer, which is not an option of the model. Did you "
            "mean encoder_layers?",
            ["--kd-peer-overrides", "encoder_layer=2"],
        ),
        (
            "--kd-peer-overrides names source_lang, but peers read the batches of the run and "
            "therefore share its languages and vocabularies. Leave it out.",
            ["--kd-peer-overrides", "source_lang=de"],
        ),
        (
            "--kd-peer-overrides must be KEY=VALUE,... such as encoder_layers=2,decoder_layers=1, "
            "but holds small.",
            ["--kd-peer-overrides", "small"],
        ),
        (
            "--kd-peer-overrides encoder_layers must be a whole number above 0, but is two.",
            ["--kd-peer-overrides", "encoder_layers=two"],
        ),
        (
            "--kd-peer-overrides encoder_normalize_before must be true or false, but is 1.",
            ["--kd-peer-overrides", "encoder_normalize_before=1"],
        ),
        (
            "--kd-peer-overrides names lr, which is not an option of the model.",
            ["--kd-peer-overrides", "lr=0.1"],
        ),
        (
            "--kd-peer-overrides quant_noise_pq_block_size must be a whole number, but is --5.",
            ["--kd-peer-overrides", "quant_noise_pq_block_size=--5"],
        ),
        (
            "--kd-peer-overrides decoder_layers must be a whole number above 0, but is 0.",
            ["--kd-peer-overrides", "decoder_layers=0"],
        ),
        (
            "--kd-peer-overrides dropout must be a number from 0 to below 1, but is 7.",
            ["--kd-peer-overrides", "dropout=7"],
        ),
        (
            "--kd-peer-overrides gives sizes with which no model can be built for peer 1 "
            "(--activation-fn foo not supported). "
            "The number of heads must divide the width, and shared embeddings need one width.",
            ["--kd-peer-overrides", "activation_fn=foo"],
        ),
        (
            "--kd-peer-overrides names the arch small, but it must be one of "
            f"{', '.join(ARCHITECTURES)}.",
            ["--kd-peer-overrides", "arch=small"],
        ),
        (
            "--kd-peer-overrides gives sizes with which no model can be built for peer 1 "
            "(embed_dim must be divisible by num_heads). "
            "The number of heads must divide the width, and shared embeddings need one width.",
            ["--kd-peer-overrides", "encoder_attention_heads=3"],
        ),
        (
            "--kd-peer-overrides gives sizes with which no model can be built for peer 1 "
            "(--share-all-embeddings requires --encoder-embed-dim to match --decoder-embed-dim). "
            "The number of heads must divide the width, and shared embeddings need one width.",
            ["--kd-peer-overrides", "encoder_embed_dim=12"],
        ),
    ],
)
def test_peers_and_flags_that_do_not_fit_are_refused(mutual, message, flags):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mutual(*flags)


def test_damaged_data_are_named_before_the_first_update(data, tmp_path):
    copied = shutil.copytree(data, tmp_path / "bin")
    path = Path(copied) / "train.es-en.en.idx"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=f"^{path} is cut off or damaged. Binarise the data again"):
        Setup(str(copied), "--criterion", "mutual_learning")
