"""The compiled loss equals the loss from which torch.compile made it."""

import functools

import pytest
import torch
import torch._inductor.config
from plain_losses import made
from torch._dynamo.utils import counters
from torch._inductor.exc import TritonMissing

from fairseq_kd.losses import LossOptions, Mixture, TeacherLogits, TopK, chunked, chunked_loss
from fairseq_kd.losses.chunked import compiled_loss_and_logit_gradient_
from fairseq_kd.losses.token_loss import loss_and_logit_gradient_

N, C, V, K = 11, 5, 23, 6
STATES = made(N, C, seed=1), made(V, C, seed=2), made(V, seed=3)
GOLD = torch.arange(N) * 7 % V
LEARNED = Mixture(torch.tensor([0.3, 0.7], dtype=torch.float64), mean="log_probabilities")
TEACHERS = {
    "running": TeacherLogits(made(N, V, seed=7, scale=2.0)),
    "stored": TopK.of_logits(made(N, V, seed=8, scale=2.0), K),
}


REAL = pytest.param("inductor", marks=pytest.mark.slow)  # a compiler of C++ takes ten seconds


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    chunked._program.cache_clear()
    yield
    chunked._program.cache_clear()


@pytest.fixture
def backend(request, monkeypatch):
    """What the graph that was traced of the loss is made into; "eager" runs it as it is."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=request.param))


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


IN_ONE_PROGRAM = {
    "js by confidence": (["running"], {"divergence": "js", "by_confidence": True}),
    "a store, gated": (["stored"], {"gated": True}),
    "learned weights": (["running", "stored"], {"mixture": LEARNED}),
    "weights by token, gated": (
        ["running", "running"],
        {"mixture": Mixture("agreement", (1.0, 1.5)), "gated": True},
    ),
}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("case", "backend"),
    [
        *((case, "eager") for case in IN_ONE_PROGRAM),
        ("js by confidence", "inductor"),
        *(pytest.param(case, *REAL.values, marks=REAL.marks) for case in [*IN_ONE_PROGRAM][1:]),
    ],
    indirect=["backend"],
)
def test_values_and_gradients_are_the_same_in_one_program(case):
    teachers, options = IN_ONE_PROGRAM[case]
    compare(teachers, 0.7, 0.4, 0.1, 2.5, **options)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("teacher", TEACHERS)
def test_what_changes_in_a_training_is_not_compiled_again(teacher):
    for step in range(1, 11):
        numbers = (0.9 - step / 20, step / 20, 0.1, 5.0 - step / 2.5)  # T ends at 1
        compare([teacher], *numbers, tokens=step, chunk_tokens=4)
    for weights in ((0.0, 1.0), (1.0, 0.0)):
        compare([teacher], *weights, 0.1, 1.0, chunk_tokens=4)
    with torch.no_grad():
        for tokens in range(1, N):
            options = LossOptions(0.5, 0.5, 0.1, 1.0 + tokens, chunk_tokens=4, compiled=True)
            taught = [TEACHERS[teacher][:tokens]]
            chunked_loss(STATES[0][:tokens], *STATES[1:], GOLD[:tokens], taught, options)
    assert counters["stats"]["unique_graphs"] == 3  # a number of tokens, any, without gradient
    assert not counters["graph_break"]


@pytest.mark.slow
def test_another_training_of_the_same_process_has_its_own_numbers():
    for smoothing, factor in ((0.1, 1.5), (0.2, 1.5), (0.2, 2.0), (0.0, 3.0)):
        mixture = Mixture((0.4, 0.6), (1.0, factor))
        compare(["running", "stored"], 0.7, 0.4, smoothing, 2.5, mixture=mixture)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("backend", ["eager", REAL], indirect=True)
def test_no_gradient_is_computed_where_none_is_wanted():
    options, z = LossOptions(0.7, 0.4, 0.1, 2.5), made(N, V, seed=9)
    arguments = GOLD, [TEACHERS["stored"]], options, False
    sums, gradient = compiled_loss_and_logit_gradient_(z.clone(), *arguments)
    want, _ = loss_and_logit_gradient_(z.clone(), *arguments)
    assert gradient is None
    torch.testing.assert_close(sums, want, rtol=1e-10, atol=1e-12)


def test_a_machine_without_a_compiler_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    message = r"torch.compile fails here \(.*no-such-compiler.*\). Leave --kd-compile out."
    missing = torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)})
    with missing, pytest.raises(ValueError, match=message):
        loss_and_gradients(["stored"], 0.6, 0.4, 0.1, 3.0, compiled=True)


@pytest.mark.parametrize("error", [TritonMissing(0), RuntimeError("no such Python")])
def test_a_system_that_cannot_compile_is_refused(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(torch, "compile", fail if type(error) is RuntimeError else lambda _: fail)
    with pytest.raises(ValueError, match=r"torch.compile fails here .* Leave --kd-compile out\."):
        loss_and_gradients(["running"], 0.6, 0.4, 0.1, 3.0, compiled=True)
