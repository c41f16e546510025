"""The Triton kernel, in Triton's interpreter on a CPU, against formulas in float64."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain_losses import PLAIN, made

from fairseq_kd.losses import (
    LossOptions,
    Mixture,
    TeacherLogits,
    TeacherStates,
    TopK,
    chunked,
    chunked_loss,
    kernel_choice,
)
from fairseq_kd.losses.kernel_choice import (
    BYTES_PER_S,
    DIVERGENCES_OF_KERNEL,
    FLOPS_PER_S,
    gradient_scale,
    kernel_chunk,
    kernel_for,
)

if importlib.util.find_spec("triton") is None or torch.cuda.is_available():
    pytest.skip("needs Triton, and no GPU", allow_module_level=True)

WIDTH, TEACHER_WIDTH, K = 5, 3, 6
OPTIONS = LossOptions(0.7, 0.4, 0.1, 2.5, fused=True)
DIGITS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}
ONE = torch.ones(1, 1, dtype=torch.bool)


def student_of(n, vocab_size, dtype):
    """(hidden, weight, bias, gold)"""
    own = [made(n, WIDTH, seed=1), made(vocab_size, WIDTH, seed=2), made(vocab_size, seed=3)]
    gold = torch.arange(n) * 7 % vocab_size
    return (*(each.to(dtype).requires_grad_() for each in own), gold)


def teacher_of(kind, n, vocab_size, dtype):
    if kind == "states":
        states, weight = made(n, TEACHER_WIDTH, seed=4), made(vocab_size, TEACHER_WIDTH, seed=5)
        return TeacherStates(states.to(dtype), weight.to(dtype))
    logits = made(n, vocab_size, seed=7, scale=2.0).to(dtype)
    return TeacherLogits(logits) if kind == "logits" else TopK.of_logits(logits.float(), K)


def reference(student, teacher, options):
    """The loss and its gradients in float64, of the same rounded logits, by autograd."""
    hidden, weight, bias, gold = student
    rounded = (hidden @ weight.T).add_(bias).detach()
    exact = [each.detach().double().requires_grad_() for each in (hidden, weight, bias)]
    z = exact[0] @ exact[1].T + exact[2]
    z = z + (rounded.double() - z).detach()
    log_q = z.log_softmax(-1)
    soft = (z / options.temperature).log_softmax(-1)
    loss = torch.zeros((), dtype=torch.double)
    for i, label in enumerate(gold.tolist()):
        if isinstance(teacher, TopK):
            ids, target = teacher.ids[i], teacher[i : i + 1].distribution_(options.temperature)
            log_p, q = target.log_p[0].double(), soft[i][ids].exp()
            of_classes = torch.cat([soft[i][ids], (1 - q.sum()).log()[None]])
        else:
            y = teacher.logits_of(slice(i, i + 1))[0].double()
            log_p, of_classes = (y / options.temperature).log_softmax(-1), soft[i]
        t = options.temperature
        kd = PLAIN[options.divergence](t * of_classes[None, None], t * log_p[None, None], ONE, t)
        shares = torch.full_like(log_q[i], options.smoothing / (len(weight) - 1))
        shares[label] = 1 - options.smoothing
        loss = loss + options.alpha * kd - options.beta * (shares * log_q[i]).sum()
    return loss, torch.autograd.grad(loss, exact)


def check(kind, n, vocab_size, dtype, options):
    student, teacher = student_of(n, vocab_size, dtype), teacher_of(kind, n, vocab_size, dtype)
    terms = chunked_loss(*student, [teacher], options)
    want, gradients = reference(student, teacher, options)
    assert terms.loss.item() == pytest.approx(want.item(), rel=1e-5)
    for got, exact in zip(torch.autograd.grad(terms.loss, student[:3]), gradients, strict=True):
        gap = (got.double() - exact).norm() / exact.norm()
        assert gap < DIGITS[dtype], (kind, vocab_size, gap)
    torch_terms = chunked_loss(*student, [teacher], replace(options, fused=False))
    for name, got, plain in zip(terms._fields, terms, torch_terms, strict=True):
        torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["states", "logits", "store"])
@pytest.mark.parametrize("dtype", DIGITS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("divergence", DIVERGENCES_OF_KERNEL)
def test_values_and_gradients_are_those_of_the_formula(kind, dtype, temperature, divergence):
    options = replace(OPTIONS, temperature=temperature, divergence=divergence, chunk_tokens=4)
    check(kind, 5, 37, dtype, options)


@pytest.mark.parametrize("kind", ["logits", "store"])
@pytest.mark.parametrize("vocab_size", [7, 64, 65, 2047, 2048, 2049, 4100])
def test_every_size_of_the_vocabulary(kind, vocab_size):
    check(kind, 2, vocab_size, torch.float32, OPTIONS)


@pytest.mark.parametrize(("taught", "agreed"), [(4500, 1), (4500 - 4096, 0)])
def test_the_likeliest_entry_is_found_in_every_block(taught, agreed):
    student, teacher = torch.zeros(1, 5000), torch.zeros(1, 5000)
    student[0, 4500] = teacher[0, taught] = 5.0
    gold = torch.tensor([4500])
    terms = chunked_loss(student, None, None, gold, [TeacherLogits(teacher)], OPTIONS)
    assert (terms.correct, terms.agreed) == (1, agreed)


@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"beta": 0.0}, {"smoothing": 0.0}], ids=str)
@pytest.mark.parametrize("kind", ["logits", "store"])
def test_the_kernel_equals_the_definition_at_weights_of_0(kind, change):
    check(kind, 3, 41, torch.float32, replace(OPTIONS, **change))


@pytest.mark.parametrize("chunk", [0, 1, 3, 100, None])
def test_the_size_of_the_chunks_changes_nothing(chunk):
    student, teacher = student_of(7, 41, torch.float32), teacher_of("states", 7, 41, torch.float32)

    def all_of(size):
        terms = chunked_loss(*student, [teacher], replace(OPTIONS, chunk_tokens=size))
        return [*terms, *torch.autograd.grad(terms.loss, student[:3])]

    for got, want in zip(all_of(chunk), all_of(4), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES_OF_KERNEL)
def test_an_entry_that_the_teacher_rules_out_gives_finite_numbers(divergence):
    student, teacher = student_of(3, 41, torch.float32), teacher_of("logits", 3, 41, torch.float32)
    teacher.logits[:, ::5] = float("-inf")
    options = replace(OPTIONS, divergence=divergence)
    found = []
    for fused in (True, False):
        loss = chunked_loss(*student, [teacher], replace(options, fused=fused)).loss
        found.append([loss, *torch.autograd.grad(loss, student[:3])])
    for got, want in zip(*found, strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_not_finite_shows_in_the_loss(value):
    hidden, weight, bias, gold = student_of(3, 41, torch.float32)
    broken = bias.detach().clone()
    broken[2] = float(value)
    teacher = teacher_of("logits", 3, 41, torch.float32)
    assert chunked_loss(hidden, weight, broken, gold, [teacher], OPTIONS).loss.isnan()


def test_small_gradients_are_kept_in_float16():
    """A probability of 1e-8 is 0 in float16; times ``gradient_scale`` it is not."""
    weight = torch.zeros(64, 8).half()
    weight[0] = 18.0 / 8
    weight.requires_grad_()
    hidden, options = torch.ones(1, 8).half(), LossOptions(0.0, 1.0, 0.0, 1.0, fused=True)
    taught = [TeacherLogits(torch.zeros(1, 64).half())]
    loss = chunked_loss(hidden, weight, None, torch.zeros(1).long(), taught, options).loss
    (gradient,) = torch.autograd.grad(2.0**16 * loss, weight)
    want = 2.0**16 * torch.tensor(-18.0).double().exp() / (1 + 63 * torch.tensor(-18.0).exp())
    assert gradient[1, 0].item() == pytest.approx(want.item(), rel=1e-2)


@pytest.mark.parametrize("change", [{"fused": True}, {}, {"divergence": "tvd"}, {"gated": True}])
def test_small_gradients_are_kept_where_torch_multiplies_in_float16(monkeypatch, change):
    """As on a GPU, where products of float16 are added up in float32."""

    def addmm(total, left, right, out_dtype, out):
        assert left.dtype == right.dtype == torch.float16
        return total.addmm_(left.float(), right.float())

    monkeypatch.setattr(chunked, "adds_in_float32", lambda device, dtype: True)
    monkeypatch.setattr(torch, "addmm", addmm)
    hidden, weight = torch.ones(1, 8).half(), torch.zeros(64, 8).half()
    weight[0] = 18.0 / 8
    weight.requires_grad_()
    options = replace(LossOptions(0.0, 0.5, 0.0, 1.0), **change)
    sharp = torch.zeros(1, 64).half()
    sharp[0, 0] = 30.0  # a gate of 1, which doubles beta
    gold = torch.zeros(1).long()
    loss = chunked_loss(hidden, weight, None, gold, [TeacherLogits(sharp)], options).loss
    (gradient,) = torch.autograd.grad(2.0**16 * loss, weight)
    beta = 1.0 if options.gated else 0.5
    want = beta * 2.0**16 * torch.tensor(-18.0).double().exp()
    assert gradient[1, 0].item() == pytest.approx(want.item(), rel=1e-2)


@pytest.mark.parametrize("weights", [(0.8, 0.2, 4.0), (1e4, 0.0, 1.0), (1e-6, 1e-6, 1.0)])
@pytest.mark.parametrize("divergence", DIVERGENCES_OF_KERNEL)
def test_the_scale_keeps_the_largest_gradient_in_float16(weights, divergence):
    alpha, beta, temperature = weights
    options = LossOptions(alpha, beta, 0.0, temperature, divergence, fused=True)
    z = torch.tensor([[40.0, -40.0, 0.0]]).requires_grad_()  # as wrong as can be
    teacher = TeacherLogits(torch.tensor([[-40.0, 40.0, 0.0]]))
    loss = chunked_loss(z, None, None, torch.tensor([1]), [teacher], options).loss
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.abs().max() * gradient_scale(options, torch.float16) < 65504
    assert gradient_scale(options, torch.bfloat16) == 1


OUTPUT = torch.zeros(2, 4)
LOGITS = TeacherLogits(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("output", "teachers", "change"),
    [
        (OUTPUT, [LOGITS, LOGITS], {}),
        (OUTPUT.double(), [LOGITS], {}),
        (OUTPUT, [LOGITS], {"by_confidence": True}),
        (OUTPUT, [LOGITS], {"gated": True}),
        (OUTPUT, [LOGITS], {"divergence": "tvd"}),
        (OUTPUT, [LOGITS], {"mixture": Mixture(temperatures=[2.0])}),
        (OUTPUT, [LOGITS], {"fused": False}),
        (OUTPUT, [LOGITS], {"fused": None}),  # on a CPU
    ],
    ids=str,
)
def test_torch_computes_what_the_kernel_does_not(output, teachers, change):
    assert kernel_for(OUTPUT, [LOGITS], OPTIONS) is not None
    assert kernel_for(output, teachers, replace(OPTIONS, **change)) is None


CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_the_first_comparison_accepts_the_kernel(dtype):
    assert kernel_choice.fault.__wrapped__(CPU, dtype) == ""


def test_a_wrong_kernel_is_noticed_and_logged(monkeypatch, caplog):
    from fairseq_kd.losses import kernel

    right = kernel.loss_by_kernel

    def wrong(z, *arguments):
        sums, dz = right(z, *arguments)
        dz[0, 0] += 1
        return sums, dz

    monkeypatch.setattr(kernel, "loss_by_kernel", wrong)
    assert kernel_choice.fault.__wrapped__(CPU, torch.float32) == "its results differ from torch's"
    assert "the loss is computed by torch, not by a kernel, which is slower" in caplog.text


def test_a_kernel_that_fails_is_noticed(monkeypatch):
    from fairseq_kd.losses import kernel

    def failing(*arguments):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC.")

    monkeypatch.setattr(kernel, "loss_by_kernel", failing)
    assert kernel_choice.fault.__wrapped__(CPU, torch.float32) == "Failed to find C compiler."


@pytest.mark.parametrize("widths", [(256, 512), (512, 1024), (1024, 1024), (256, 0)], ids=str)
@pytest.mark.parametrize("vocab_size", [32_000, 64_000, 128_000, 256_000])
@pytest.mark.parametrize("tokens", [8192, 10_000])
def test_the_weight_gradient_takes_a_tenth_of_the_time_of_the_products(tokens, widths, vocab_size):
    student, teacher = widths
    chunk = kernel_chunk(tokens, student, teacher, vocab_size)
    n_chunks = -(-tokens // chunk)
    traffic = n_chunks * 8 * vocab_size * student / BYTES_PER_S
    products = 2 * tokens * vocab_size * (3 * student + teacher) / FLOPS_PER_S
    assert traffic <= 0.1 * products
    assert chunk * vocab_size <= 2**30 + vocab_size  # logits: 2 GiB in half precision
    assert n_chunks * chunk - tokens < n_chunks  # of equal size


COMPILE = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from fairseq_kd.losses import kernel

CONSTANTS = dict(same=False, gradient=True, divergence=int(sys.argv[2]), block=kernel.BLOCK, k=16,
                 n_kept=16)
POINTERS = dict(z="*bf16", taught="*bf16", reference="*i64", ids="*i64", vocab_size="i32",
                figures="*fp32", log_p="*fp32", entropy="*fp32")
for function in (kernel._live, kernel._stored):
    names = function.arg_names
    signature = {n: "constexpr" if n in CONSTANTS else POINTERS.get(n, "fp32") for n in names}
    constants = {(names.index(n),): v for n, v in CONSTANTS.items() if n in names}
    made = compile(ASTSource(function, signature, constants),
                   target=GPUTarget("cuda", int(sys.argv[1]), 32),
                   options={"num_warps": kernel.WARPS})
    assert ".local" not in made.asm["ptx"], "registers are spilled"
    print(made.metadata.shared)
"""


@pytest.mark.parametrize(("gpu", "divergence"), [(80, 0), (90, 3)], ids=["A100", "H100, js"])
def test_it_compiles_for_a_gpu(gpu, divergence):
    """Triton compiles for a GPU that is not there; nothing is run."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, str(gpu), str(divergence)]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert all(int(line) < 4096 for line in run.stdout.split())
