"""word_kd on real batches and a trained teacher, against the formulas written out by loops."""

import copy
import functools
import json
import math
import os
import re
import sys

import pytest
import torch
from fairseq.logging import metrics
from harness import ROOT, TRAINING, Setup, run

from fairseq_kd.criterions import WordKDCriterion
from fairseq_kd.losses import chunked

DISTIL = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--kd-teacher"]


@pytest.mark.parametrize(("temperature", "warnings"), [("1", 0), ("2.5", 1)])
def test_a_temperature_that_makes_the_teacher_uniform_is_reported_once(
    setup, teacher, temperature, warnings, caplog
):
    training = setup(*DISTIL, teacher, "--kd-temperature", temperature)
    for _ in range(3):
        training.criterion(training.model, training.batch(0, 1, 2))
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == warnings
    for message in warned:
        assert re.match(
            r"at temperature 2.5 the teacher's distribution is nearly uniform: 8\.\d of at most "
            r"8\.7 bits a token\. Lower --kd-temperature; start with 1$",
            message,
        )


@pytest.fixture
def distillation(setup, teacher):
    return setup(*DISTIL, teacher, "--kd-temperature", "2.5", "--dropout", "0.1")


def logged(*logs):
    with metrics.aggregate() as figures:
        WordKDCriterion.reduce_metrics(list(logs))
    return figures.get_smoothed_values()


def test_loss_is_the_formula_summed_over_real_tokens(distillation):
    sample = distillation.batch(0, 1, 2)
    distillation.model.eval()
    loss, sample_size, log = distillation.criterion(distillation.model, sample)
    student = distillation.model(**sample["net_input"])[0].double()
    teacher = distillation.criterion.teachers[0].model(**sample["net_input"])[0].double()
    pad, temperature, words = distillation.task.target_dictionary.pad(), 2.5, student.size(-1)
    ce = nll = kd = entropy = 0.0
    agreed = real = 0
    for b, t in sample["target"].ne(pad).nonzero().tolist():
        gold = sample["target"][b, t].item()
        log_q = torch.log(torch.exp(student[b, t]) / torch.exp(student[b, t]).sum())
        p, q = (torch.exp(z[b, t] / temperature) for z in (teacher, student))
        p, q = p / p.sum(), q / q.sum()
        nll -= log_q[gold].item()
        for word in range(words):  # fairseq spreads epsilon over the other words
            ce -= (0.9 if word == gold else 0.1 / (words - 1)) * log_q[word].item()
        kd += temperature**2 * (p * (p / q).log()).sum().item()
        entropy -= (p * p.log()).sum().item()
        agreed += int(student[b, t].argmax() == teacher[b, t].argmax())
        real += 1
    assert sample_size == real
    assert loss.item() == pytest.approx(0.8 * kd + 0.2 * ce, rel=1e-5)
    figures = logged(log)
    assert figures["kd_loss"] == pytest.approx(kd / real / math.log(2), abs=1e-3)
    assert figures["nll_loss"] == pytest.approx(nll / real / math.log(2), abs=1e-3)
    assert figures["agreement"] == pytest.approx(100 * agreed / real, abs=1e-2)
    assert figures["teacher_entropy"] == pytest.approx(entropy / real / math.log(2), abs=1e-3)
    assert figures["temperature"] == 2.5


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("of_tokens", ["uniform", "confidence"])
def test_divergence_and_temperature_of_tokens_are_those_of_the_flags(
    setup, teacher, divergence, of_tokens
):
    flags = ["--kd-divergence", divergence, "--kd-token-temperature", of_tokens]
    weights = ["--kd-alpha", "1", "--kd-beta", "0", "--kd-temperature", "3"]
    distilling = setup(*DISTIL, teacher, *flags, *weights)
    sample = distilling.batch(0, 1, 2)
    loss, _, log = distilling.criterion(distilling.model.eval(), sample)
    student = distilling.model(**sample["net_input"])[0].double()
    taught = distilling.criterion.teachers[0].model(**sample["net_input"])[0].double()
    want, temperatures = 0.0, []
    for b, t in sample["target"].ne(distilling.task.target_dictionary.pad()).nonzero().tolist():
        sure = taught[b, t].softmax(-1).max().item()
        temperatures.append(1 + sure * 2 if of_tokens == "confidence" else 3)
        p, q = ((z[b, t] / temperatures[-1]).softmax(-1) for z in (taught, student))
        p, q = (p, q) if divergence == "forward_kl" else (q, p)
        want += temperatures[-1] ** 2 * (p * (p / q).log()).sum().item()
    assert loss.item() == pytest.approx(want, rel=1e-5)
    mean = sum(temperatures) / len(temperatures)
    assert logged(log)["temperature"] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize("dtype", ["student", "float32"])
def test_in_mixed_precision_a_teacher_is_mixed_too_unless_its_precision_was_chosen(
    setup, teacher, dtype
):
    made = setup(*DISTIL, teacher, "--kd-teacher-dtype", dtype)
    source, sample = made.criterion.teachers[0], made.batch(0, 1)
    real = made.criterion.real_tokens(sample)
    alone = source.soft_targets(sample, real)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = source.soft_targets(sample, real)
    assert torch.equal(mixed.states, alone.states) == (dtype == "float32")


def test_the_teacher_computes_attention_weights_in_its_last_layer_alone(setup, large):
    """fairseq asks for those, of its last layer, in any case."""
    made = setup(*DISTIL, large)
    asked = []
    for layer in made.criterion.teachers[0].model.decoder.layers:
        layer.encoder_attn.register_forward_pre_hook(
            lambda block, args, options: asked.append(options["need_weights"]), with_kwargs=True
        )
    made.criterion(made.model, made.batch(0, 1))
    assert asked == [False] * (len(asked) - 1) + [True]
    assert len(asked) > 1


def test_beta_scales_the_loss_without_distillation(setup):
    whole = setup(*DISTIL[:-1], "--kd-alpha", "0", "--kd-beta", "1")
    half = setup(*DISTIL[:-1], "--kd-alpha", "0", "--kd-beta", "0.5")
    sample = whole.batch(0, 1)
    losses = [each.criterion(each.model.eval(), sample) for each in (whole, half)]
    assert losses[1][0].item() == pytest.approx(losses[0][0].item() / 2)
    assert losses[1][2]["loss"] == losses[1][0]


def test_its_own_checkpoint_as_teacher_leaves_nothing_to_learn(distillation):
    distillation.model.load_state_dict(distillation.criterion.teachers[0].model.state_dict())
    distillation.model.eval()
    _, _, log = distillation.criterion(distillation.model, distillation.batch(0, 1, 2))
    assert logged(log)["kd_loss"] == 0
    assert logged(log)["agreement"] == 100


def test_workers_logs_reduce_to_the_log_of_the_whole_batch(distillation):
    distillation.model.eval()
    samples = [distillation.batch(*indices) for indices in ((0, 1, 2, 3), (0, 3), (1, 2))]
    whole, *parts = (distillation.criterion(distillation.model, each)[2] for each in samples)
    assert logged(*parts) == pytest.approx(logged(whole), abs=1e-3)
    assert all(part.keys() == whole.keys() for part in parts)


def test_a_batch_without_a_real_token_gives_zero_and_no_nan(distillation):
    sample = distillation.batch(0, 1)
    sample["target"].fill_(distillation.task.target_dictionary.pad())
    sample["ntokens"] = 0
    assert (distillation.gradients(sample) == 0).all()
    loss, sample_size, log = distillation.criterion(distillation.model, sample)
    assert (loss.item(), sample_size) == (0.0, 0)
    assert logged(log) == {}
    full = distillation.criterion(distillation.model, distillation.batch(2, 3))[2]
    assert logged(log, full) == logged(full)


def test_ignored_prefix_is_ignored_by_both_terms(setup, teacher):
    ignoring = setup(*DISTIL, teacher, "--ignore-prefix-size", "2", "--report-accuracy")
    sample = ignoring.batch(0, 1)
    ignoring.model.eval()
    loss, _, log = ignoring.criterion(ignoring.model, sample)
    assert log["kd_ntokens"] == log["total"] == sample["ntokens"] - 2 * 2
    spoiled = copy.deepcopy(sample)
    spoiled["target"][:, :2] = 7
    assert ignoring.criterion(ignoring.model, spoiled)[0] == loss


def test_the_teacher_is_no_part_of_the_criterion(distillation):
    criterion = distillation.criterion
    assert list(criterion.parameters()) == []
    assert criterion.state_dict() == {}
    assert [type(module) for module in criterion.modules()] == [WordKDCriterion]
    criterion.train()
    assert not any(module.training for module in criterion.teachers[0].model.modules())
    assert not any(p.requires_grad for p in criterion.teachers[0].model.parameters())


def test_the_teacher_keeps_its_own_task(distillation):
    assert distillation.criterion.task is distillation.task
    assert not hasattr(distillation.task, "sequence_generator")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_teacher_follows_the_students_precision(distillation, dtype):
    sample = distillation.batch(0, 1)
    want = distillation.criterion(distillation.model.eval(), sample)[0]
    distillation.model.to(dtype)
    loss = distillation.criterion(distillation.model, sample)[0]
    assert {p.dtype for p in distillation.criterion.teachers[0].model.parameters()} == {dtype}
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(want.item(), rel=2e-2)  # bfloat16 has 8 bits
    loss.backward()
    assert all(p.grad.isfinite().all() for p in distillation.model.parameters())


def test_the_temperature_follows_the_trainers_update(setup, teacher):
    schedule = ["--kd-temperature", "6", "--kd-temperature-schedule", "linear"]
    scheduled = setup(*DISTIL, teacher, *schedule, "--max-update", "100")
    sample = scheduled.batch(0, 1)

    class Optimizer:
        def backward(self, loss):
            loss.backward()

    for update, temperature in ((0, 6.0), (50, 4.0), (100, 2.0), (150, 2.0)):
        _, _, log = scheduled.task.train_step(
            sample, scheduled.model, scheduled.criterion, Optimizer(), update
        )
        assert logged(log)["temperature"] == pytest.approx(temperature)
    _, _, log = scheduled.task.valid_step(sample, scheduled.model, scheduled.criterion)
    assert logged(log)["temperature"] == pytest.approx(2.0)


def test_weights_follow_their_schedule_and_are_logged(setup, teacher):
    schedule = ["--kd-weight-schedule", "linear", "--kd-alpha-final", "0", "--max-update", "100"]
    scheduled = setup(*DISTIL, teacher, *schedule, "--kd-beta-final", "1")
    sample = scheduled.batch(0, 1)
    scheduled.model.eval()
    for update, alpha, beta in ((0, 0.8, 0.2), (50, 0.4, 0.6), (100, 0.0, 1.0)):
        scheduled.criterion.schedules.clock.update = update
        loss, _, log = scheduled.criterion(scheduled.model, sample)
        figures = logged(log)
        assert (figures["alpha"], figures["beta"]) == pytest.approx((alpha, beta))
    smoothed = setup("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1")
    smoothed.model.load_state_dict(scheduled.model.state_dict())
    want, _, _ = smoothed.criterion(smoothed.model.eval(), sample)
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)


def test_the_whole_loss_follows_the_gap_to_the_teacher(setup, teacher):
    schedule = ["--kd-temperature-schedule", "loss", "--kd-temperature", "6"]
    schedule += ["--kd-temperature-final", "2", "--kd-weight-schedule", "loss"]
    weights = ["--kd-alpha-final", "0", "--kd-beta-final", "1"]
    following = setup(*DISTIL, teacher, *schedule, *weights)
    for gap, temperature, alpha, beta in (
        (1.0, 6.0, 0.8, 0.2),
        (0.5, 4.0, 0.4, 0.6),
        (0.0, 2.0, 0.0, 1.0),
    ):
        metrics.reset()
        metrics.log_scalar("teacher_gap", gap)
        figures = logged(following.criterion(following.model, following.batch(0, 1))[2])
        found = [figures[name] for name in ("temperature", "alpha", "beta")]
        assert found == pytest.approx([temperature, alpha, beta])
    metrics.reset()


def test_two_teachers_teach_the_mean_of_their_distributions(setup, teacher):
    one = setup(*DISTIL, teacher)
    two = setup(*DISTIL, f"{teacher}:{teacher}")
    sample = one.batch(0, 1, 2)
    torch.testing.assert_close(two.gradients(sample), one.gradients(sample), rtol=1e-4, atol=1e-5)
    assert len(two.criterion.teachers) == 2


@pytest.mark.parametrize("chunk", ["0", "5"])
def test_chunks_change_nothing(setup, teacher, chunk):
    whole, chunked = setup(*DISTIL, teacher), setup(*DISTIL, teacher, "--kd-chunk-tokens", chunk)
    sample = whole.batch(0, 1, 2)
    want, got = whole.gradients(sample), chunked.gradients(sample)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_loss_changes_nothing(setup, teacher, monkeypatch, backend):
    """By default the traced graph runs as it is: its compilation has tests of its own."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    chunked._program.cache_clear()
    flags = ["--kd-token-temperature", "confidence"]
    plain, compiled = (setup(*DISTIL, teacher, *flags, *more) for more in ([], ["--kd-compile"]))
    for sample in (plain.batch(0, 1, 2), plain.batch(3)):
        want, got = plain.gradients(sample), compiled.gradients(sample)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert compiled.criterion.loss_options().compiled
    assert chunked._program.cache_info().currsize == 1
    chunked._program.cache_clear()


def test_a_teacher_in_bfloat16_teaches_a_float32_student(setup, teacher):
    exact, rounded = (
        setup(*DISTIL, teacher),
        setup(*DISTIL, teacher, "--kd-teacher-dtype", "bfloat16"),
    )
    sample = exact.batch(0, 1, 2)
    losses = [each.criterion(each.model.eval(), sample)[0].item() for each in (exact, rounded)]
    assert {p.dtype for p in rounded.criterion.teachers[0].model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in rounded.model.parameters()} == {torch.float32}
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=1e-2)


# In a process of its own, left without farewell: gloo's threads can stop the one that ends them.
PROJECTION_UNDER_DDP = """\
import json, os, sys
import torch
from harness import Setup
data, group, training, *both = json.loads(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method=group, rank=0, world_size=1)
for flags in both:
    setup = Setup(data, *flags, training=training)
    assert setup.model.decoder.share_input_output_embed == ("--share-all-embeddings" in flags)
    sample = setup.batch(0, 1)
    want = setup.gradients(sample)
    wrapped = torch.nn.parallel.DistributedDataParallel(setup.model)
    setup.model.zero_grad()
    setup.criterion(wrapped, sample)[0].backward()
    got = torch.cat([each.grad.flatten() for each in setup.model.parameters()])
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    print("equal", flush=True)
os._exit(0)
"""


def test_the_projection_outside_of_torchs_ddp_gets_its_gradient(data, teacher, tmp_path):
    """On GPUs fairseq wraps the model in torch's DistributedDataParallel by default."""
    training = [flag for flag in TRAINING if flag != "--share-all-embeddings"]
    flags = [*DISTIL, str(teacher), "--dropout", "0"]
    both = [*flags, "--share-all-embeddings"], flags
    arguments = json.dumps([str(data), f"file://{tmp_path / 'store'}", training, *both])
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    made = run(sys.executable, "-c", PROJECTION_UNDER_DDP, arguments, env={"PYTHONPATH": path})
    assert made.stdout.endswith("equal\nequal\n")


class FindsUnused(torch.nn.Module):
    """What torch's DistributedDataParallel shows of itself."""

    def __init__(self, module, find_unused_parameters):
        super().__init__()
        self.module, self.find_unused_parameters = module, find_unused_parameters

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("sharing", [["--share-all-embeddings"], []], ids=["tied", "untied"])
@pytest.mark.parametrize("finds", [True, False])
@pytest.mark.parametrize("criterion", ["word_kd", "mutual_learning"])
def test_a_projection_that_would_be_taken_for_unused_is_refused(
    data, teacher, sharing, finds, criterion
):
    training = [flag for flag in TRAINING if flag != "--share-all-embeddings"]
    chosen = [*DISTIL, str(teacher)] if criterion == "word_kd" else ["--criterion", criterion]
    setup = Setup(data, *chosen, *sharing, training=training)
    wrapped, sample = FindsUnused(setup.model, finds), setup.batch(0, 1)
    if sharing or not finds:
        assert setup.criterion(wrapped, sample)[0].isfinite()
        return
    with pytest.raises(ValueError, match=r"^--find-unused-parameters treats the output projection"):
        setup.criterion(wrapped, sample)


def test_the_gate_weighs_the_two_terms_of_each_token(setup, teacher):
    gated = setup(*DISTIL, teacher, "--kd-gate", "probability", "--kd-temperature", "2")
    sample = gated.batch(0, 1, 2)
    loss, _, log = gated.criterion(gated.model.eval(), sample)
    student = gated.model(**sample["net_input"])[0].double()
    taught = gated.criterion.teachers[0].model(**sample["net_input"])[0].double()
    want = gates = 0.0
    for b, t in sample["target"].ne(gated.task.target_dictionary.pad()).nonzero().tolist():
        gold = sample["target"][b, t]
        gate = taught[b, t].softmax(-1)[gold].item()
        p, q = ((z[b, t] / 2).softmax(-1) for z in (taught, student))
        log_q = student[b, t].log_softmax(-1)
        ce = -0.9 * log_q[gold] - 0.1 * (log_q.sum() - log_q[gold]) / (len(log_q) - 1)
        kd = 4 * (p * (p / q).log()).sum()
        want += (0.8 * 2 * (1 - gate) * kd + 0.2 * 2 * gate * ce).item()
        gates += gate
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert logged(log)["gate"] == pytest.approx(gates / sample["ntokens"], abs=1e-3)
    assert "gate" not in logged(setup(*DISTIL, teacher).criterion(gated.model, sample)[2])
