"""The loss that torch.compile makes is the one that it was made from."""

import pytest
import torch
import torch._inductor.config
from plain_losses import made
from torch._dynamo.utils import counters

from fairseq_kd.losses import LossOptions, Mixture, TeacherLogits, TopK, chunked_loss

N, C, V, K = 11, 5, 23, 6
STATES = made(N, C, seed=1), made(V, C, seed=2), made(V, seed=3)
GOLD = torch.arange(N) * 7 % V
LEARNED = Mixture(torch.tensor([0.3, 0.7], dtype=torch.float64), mean="log_probabilities")
TEACHERS = {
    "running": TeacherLogits(made(N, V, seed=7, scale=2.0)),
    "stored": TopK.of_logits(made(N, V, seed=8, scale=2.0), K),
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()


def loss_and_gradients(teachers, *numbers, tokens=N, **options):
    hidden, weight, bias = (state.detach().requires_grad_() for state in STATES)
    taught = [TEACHERS[name][:tokens] for name in teachers]
    chosen = LossOptions(*numbers, **options)
    terms = chunked_loss(hidden[:tokens], weight, bias, GOLD[:tokens], taught, chosen)
    return [*terms, *torch.autograd.grad(terms.loss, (hidden, weight, bias))]


def compare(teachers, *numbers, **options):
    compiled = loss_and_gradients(teachers, *numbers, **options, compiled=True)
    plain = loss_and_gradients(teachers, *numbers, **options)
    for got, want in zip(compiled, plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("teachers", "options"),
    [
        (["running"], {"divergence": "js", "by_confidence": True}),
        (["stored"], {"gated": True}),
        (["running", "stored"], {"mixture": LEARNED}),
        (["running", "running"], {"mixture": Mixture("agreement", (1.0, 1.5)), "gated": True}),
    ],
    ids=["js by confidence", "a store, gated", "learned weights", "weights by token, gated"],
)
def test_values_and_gradients_are_the_same_in_one_program(teachers, options):
    compare(teachers, 0.7, 0.4, 0.1, 2.5, **options)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_what_changes_in_a_training_is_not_compiled_again():
    for step in range(1, 11):  # as often as a limit of torch.compile's would show
        numbers = (0.9 - step / 20, step / 20, 0.1, 5.0 - step / 2.5)  # T ends at 1
        compare(["running"], *numbers, tokens=N - step % 4, chunk_tokens=4)
    for weights in ((0.0, 1.0), (1.0, 0.0)):
        compare(["running"], *weights, 0.1, 1.0, chunk_tokens=4)
    assert counters["stats"]["unique_graphs"] <= 3  # for one token, for several, for any number
    assert not counters["graph_break"]


def test_another_training_of_the_same_process_has_its_own_numbers():
    for smoothing, factor in ((0.1, 1.5), (0.2, 1.5), (0.2, 2.0), (0.0, 3.0)):
        mixture = Mixture((0.4, 0.6), (1.0, factor))
        compare(["running", "stored"], 0.7, 0.4, smoothing, 2.5, mixture=mixture)


def test_no_gradient_is_computed_where_none_is_asked_for():
    with torch.no_grad():
        options = LossOptions(0.7, 0.4, 0.1, 2.5, compiled=True)
        terms = chunked_loss(*STATES, GOLD, [TEACHERS["running"]], options)
    assert not terms.loss.requires_grad
    want = loss_and_gradients(["running"], 0.7, 0.4, 0.1, 2.5)[0]
    torch.testing.assert_close(terms.loss, want.detach())


def test_a_machine_that_cannot_compile_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    told = r"torch.compile fails here \(.*\). Leave --kd-compile out."
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(ValueError, match=told):
        loss_and_gradients(["stored"], 0.6, 0.4, 0.1, 3.0, compiled=True)
