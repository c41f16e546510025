"""multi_teacher_kd on real batches: teachers that run, stores, and what it refuses."""

import math
import re
import shutil

import pytest
import torch
from fairseq.logging import metrics
from harness import widened
from stores import build

from fairseq_kd.criterions import MultiTeacherKDCriterion
from fairseq_kd.criterions.multi_teacher_kd import fixed_weights

MULTI = ["--criterion", "multi_teacher_kd", "--label-smoothing", "0.1", "--dropout", "0"]
WORD = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--dropout", "0"]
STORED = ["--train-subset", "valid"]
LEARNED = ["--kd-teacher-weights", "learned"]
KINDS = ["uniform", "0.3,0.7", "learned", "gold", "confidence", "agreement"]


def logged(*logs):
    with metrics.aggregate() as figures:
        MultiTeacherKDCriterion.reduce_metrics(list(logs))
    return figures.get_smoothed_values()


def loss_and_log(setup, sample):
    loss, _, log = setup.criterion(setup.model.eval(), sample)
    return loss.item(), log


@pytest.fixture
def both(setup, teacher, large):
    """A trained teacher and a larger one, with further flags."""
    return lambda *flags: setup(*MULTI, "--kd-teacher", f"{teacher}:{large}", *flags)


@pytest.fixture(scope="module")
def store(teacher, data, tmp_path_factory):
    return build(tmp_path_factory.mktemp("stores") / "teacher", teacher, data, left_out=1)


@pytest.mark.parametrize("mean", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("kind", ["0.3,0.7", "gold", "confidence", "agreement"])
def test_the_loss_is_the_formula_summed_over_real_tokens(both, kind, mean):
    setup = both("--kd-teacher-weights", kind, "--kd-teacher-mean", mean, "--kd-temperature", "2")
    sample = setup.batch(0, 1, 2)
    loss, log = loss_and_log(setup, sample)
    student = setup.model(**sample["net_input"])[0].double()
    taught = [t.model(**sample["net_input"])[0].double() for t in setup.criterion.teachers]
    ce = kd = 0.0
    sums = [0.0, 0.0]
    for b, t in sample["target"].ne(setup.task.target_dictionary.pad()).nonzero().tolist():
        gold = sample["target"][b, t].item()
        p = [z[b, t].softmax(-1) for z in taught]
        likeliest = [each.argmax() for each in p]
        weights = {
            "0.3,0.7": [0.3, 0.7],
            "gold": [each[gold] for each in p],
            "confidence": [each.max() for each in p],
            "agreement": [(p[0][word] + p[1][word]) / 2 for word in likeliest],
        }[kind]
        weights = [float(each / sum(weights)) for each in weights]
        warm = [(z[b, t] / 2).softmax(-1) for z in taught]
        if mean == "probabilities":
            mixed = weights[0] * warm[0] + weights[1] * warm[1]
        else:
            mixed = warm[0] ** weights[0] * warm[1] ** weights[1]
            mixed = mixed / mixed.sum()
        kd += 4 * (mixed * (mixed.log() - (student[b, t] / 2).log_softmax(-1))).sum().item()
        log_q = student[b, t].log_softmax(-1)
        others = (log_q.sum() - log_q[gold]) / (len(log_q) - 1)
        ce -= (0.9 * log_q[gold] + 0.1 * others).item()
        sums = [total + weight for total, weight in zip(sums, weights, strict=True)]
    assert loss == pytest.approx(0.8 * kd + 0.2 * ce, rel=1e-4)
    figures = logged(log)
    assert ("teacher_nll" in figures) == (mean == "probabilities")
    for i, total in enumerate(sums):
        assert figures[f"teacher_weight_{i + 1}"] == pytest.approx(
            total / sample["ntokens"], abs=1e-3
        )


@pytest.mark.parametrize("kind", KINDS)
def test_two_copies_of_one_teacher_are_that_teacher(setup, teacher, kind):
    one = setup(*WORD, "--kd-teacher", teacher)
    flags = ["--kd-teacher", f"{teacher}:{teacher}", "--kd-teacher-weights", kind]
    two = setup(*MULTI, *flags)
    sample = one.batch(0, 1, 2)
    torch.testing.assert_close(two.gradients(sample), one.gradients(sample), rtol=1e-4, atol=1e-5)


def test_weights_of_1_and_0_leave_the_first_teacher_alone(setup, teacher, both):
    one = setup(*WORD, "--kd-teacher", teacher)
    sample = one.batch(0, 1, 2)
    got = both("--kd-teacher-weights", "1,0").gradients(sample)
    torch.testing.assert_close(got, one.gradients(sample), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_does_not_matter(setup, teacher, large, both, kind):
    turned = {"0.3,0.7": "0.7,0.3"}.get(kind, kind)
    back = ["--kd-teacher", f"{large}:{teacher}", "--kd-teacher-weights", turned]
    sample = setup(*MULTI, *back).batch(0, 1, 2)
    want, got = (
        each.gradients(sample)
        for each in (both("--kd-teacher-weights", kind), setup(*MULTI, *back))
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_teacher_without_weight_leaves_the_numbers_of_the_others(setup, teacher, large):
    three = ["--kd-teacher", f"{teacher}:{large}:{teacher}"]
    made = setup(*MULTI, *three, "--kd-teacher-weights", "0.2,0,0.8")
    log = logged(loss_and_log(made, made.batch(0, 1))[1])
    assert log["teacher_weight_1"] == pytest.approx(0.2, abs=1e-3)
    assert log["teacher_weight_3"] == pytest.approx(0.8, abs=1e-3)
    assert "teacher_weight_2" not in log


def test_a_store_of_weight_1_beside_a_teacher_of_weight_0_is_that_store_alone(
    setup, teacher, large, data, tmp_path
):
    few = build(tmp_path / "few", teacher, data, left_out=280)
    alone = setup(*WORD, *STORED, "--kd-store", few)
    flags = [*STORED, "--kd-store", few, "--kd-teacher", large, "--kd-teacher-weights", "0,1"]
    mixed = setup(*MULTI, *flags)
    sample = alone.batch(0, 3)
    assert len(mixed.criterion.teachers) == 1
    assert torch.equal(mixed.gradients(sample), alone.gradients(sample))
    assert loss_and_log(mixed, sample)[0] == loss_and_log(alone, sample)[0]


@pytest.mark.parametrize("temperature", ["1", "3"])
def test_a_store_mixes_with_a_live_teacher_as_its_own_teacher_does(
    setup, store, teacher, large, temperature
):
    flags = [*STORED, "--kd-temperature", temperature, "--kd-teacher-weights", "0.4,0.6"]
    mixed = setup(*MULTI, "--kd-teacher", large, "--kd-store", store, *flags)
    live = setup(*MULTI, "--kd-teacher", f"{large}:{teacher}", *flags)
    sample = live.batch(0, 3, 11)
    (want, _), (got, _) = (loss_and_log(each, sample) for each in (live, mixed))
    assert got == pytest.approx(want, rel=2e-3)
    grads = [each.gradients(sample) for each in (mixed, live)]
    assert (grads[0] - grads[1]).norm() < 1e-2 * grads[1].norm()


def test_each_teacher_has_its_own_temperature_and_a_schedule_changes_all(both):
    own = ["--kd-temperature", "4", "--kd-teacher-temperatures", "2,6"]
    schedule = ["--kd-temperature-schedule", "linear", "--max-update", "10"]
    setup = both(*own, *schedule)
    for update, student_t, teacher_ts in ((0, 4.0, (2.0, 6.0)), (10, 2.0, (1.0, 3.0))):
        setup.criterion.schedules.clock.update = update
        options = setup.criterion.loss_options()
        factors = [options.mixture.factor(i) for i in range(2)]
        assert options.temperature == pytest.approx(student_t)
        assert [student_t * f for f in factors] == pytest.approx(teacher_ts)
    sample = setup.batch(0, 1)
    other = both("--kd-temperature", "4", "--kd-teacher-temperatures", "2,5", *schedule)
    assert loss_and_log(setup, sample)[0] != loss_and_log(other, sample)[0]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_teacher_beside_one_without_weight_keeps_its_own_temperature(both, kept):
    weights, own = ("1,0", "0,1")[kept], ("2,6", "6,2")[kept]
    flags = ["--kd-teacher-temperatures", own, "--kd-temperature", "4", "--kd-beta", "0"]
    setup = both("--kd-teacher-weights", weights, *flags, "--kd-alpha", "1")
    whole = both("--kd-alpha", "1", *flags)
    sample = setup.batch(0, 1)
    student = setup.model.eval()(**sample["net_input"])[0].double()
    taught = whole.criterion.teachers[kept].model(**sample["net_input"])[0].double()
    want = 0.0
    for b, t in sample["target"].ne(setup.task.target_dictionary.pad()).nonzero().tolist():
        p, q = (taught[b, t] / 2).softmax(-1), (student[b, t] / 4).softmax(-1)
        want += 16 * (p * (p / q).log()).sum().item()
    assert loss_and_log(setup, sample)[0] == pytest.approx(want, rel=1e-5)


def test_weights_that_were_rounded_sum_to_1_all_the_same():
    assert fixed_weights("0.333,0.333,0.3335", 3) == pytest.approx([333 / 999.5] * 2 + [667 / 1999])
    assert sum(fixed_weights("0.333,0.333,0.333", 3)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_more_padding_and_a_split_batch_change_nothing(both, kind):
    setup = both("--kd-teacher-weights", kind)
    sample = setup.batch(0, 1, 2, 3)

    def gradients(*samples):
        setup.criterion.zero_grad()
        model = setup.gradients(*samples)
        return torch.cat([model, *(p.grad for p in setup.criterion.parameters())])

    want = gradients(sample)
    wide = gradients(widened(sample, setup.task.target_dictionary.pad(), 5))
    split = gradients(setup.batch(0, 3), setup.batch(1, 2))
    torch.testing.assert_close(wide, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split, want, rtol=1e-4, atol=1e-5)
    logs = [setup.criterion(setup.model, each)[2] for each in (sample, setup.batch(0, 1))]
    assert logs[0].keys() == logs[1].keys()


def test_learned_weights_descend_the_mixtures_nll_on_the_reference(both):
    """The gradient in the a's against that of its definition, and the student's without it."""
    setup = both(*LEARNED, "--kd-teacher-entropy", "0.2")
    fixed = both("--kd-teacher-weights", "uniform")
    sample = setup.batch(0, 1, 2)
    assert torch.equal(setup.gradients(sample), fixed.gradients(sample))
    got = setup.criterion.scores.grad.double()
    a = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    weights = (1 - setup.criterion.even) * a.softmax(0) + setup.criterion.even / 2
    taught = [t.model(**sample["net_input"])[0].double() for t in setup.criterion.teachers]
    nll = 0.0
    for b, t in sample["target"].ne(setup.task.target_dictionary.pad()).nonzero().tolist():
        p = [z[b, t].softmax(-1)[sample["target"][b, t]] for z in taught]
        nll = nll - torch.log(weights[0] * p[0] + weights[1] * p[1])
    (want,) = torch.autograd.grad(nll, a)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    loss, log = loss_and_log(setup, sample)
    assert loss == log["loss"].item() == pytest.approx(loss_and_log(fixed, sample)[0])
    figure = logged(log)["teacher_nll"]
    assert figure == pytest.approx(nll.item() / sample["ntokens"] / math.log(2), abs=1e-3)


def test_learned_weights_keep_their_entropy_wherever_they_go(both):
    criterion = both(*LEARNED, "--kd-teacher-entropy", "0.6").criterion
    criterion.scores.data = torch.tensor([50.0, -50.0])
    w = criterion.learned_weights()
    assert -(w * w.log()).sum().item() == pytest.approx(0.6 * math.log(2), rel=1e-5)
    assert w[0] > w[1]


def test_learned_weights_are_the_only_thing_that_the_criterion_trains(both):
    criterion = both(*LEARNED).criterion
    assert [name for name, _ in criterion.named_parameters()] == ["scores"]
    assert both("--kd-teacher-weights", "gold").criterion.state_dict() == {}


def test_a_batch_without_a_real_token_gives_zero_and_no_nan(both):
    setup = both(*LEARNED)
    sample = setup.batch(0, 1)
    sample["target"].fill_(setup.task.target_dictionary.pad())
    sample["ntokens"] = 0
    assert (setup.gradients(sample) == 0).all()
    assert (setup.criterion.scores.grad == 0).all()
    assert logged(setup.criterion(setup.model, sample)[2]) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_loss_of_float32_and_finite_gradients(both, dtype):
    setup = both(*LEARNED)
    sample = setup.batch(0, 1)
    want, _ = loss_and_log(setup, sample)
    setup.model.to(dtype)
    setup.criterion.to(dtype)
    loss = setup.criterion(setup.model, sample)[0]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(want, rel=2e-2)
    loss.backward()
    assert setup.criterion.scores.grad.isfinite().all()


TWO = ["--kd-teacher", "{teacher}:{teacher}"]
REFUSED = {
    "one teacher": (
        "--criterion multi_teacher_kd needs two or more teachers, but there is one. Name "
        "more by --kd-teacher A.pt:B.pt or --kd-store, or use --criterion word_kd.",
        ["--kd-teacher", "{teacher}"],
    ),
    "no teacher": (
        "--kd-alpha is 0.8, but there is no teacher. Give its checkpoint by --kd-teacher or its "
        "store by --kd-store, or set --kd-alpha 0 --kd-beta 1 to train without distillation.",
        [],
    ),
    "more weights than teachers": (
        "--kd-teacher-weights 0.2,0.3,0.5 has 3 numbers for 2 teachers. Give one per teacher: "
        "those of --kd-teacher first, then those of --kd-store.",
        [*TWO, "--kd-teacher-weights", "0.2,0.3,0.5"],
    ),
    "weights that do not sum to 1": (
        "--kd-teacher-weights must sum to 1, but 2,1 sums to 3. Give 0.667,0.333.",
        [*TWO, "--kd-teacher-weights", "2,1"],
    ),
    "a negative weight": (
        "--kd-teacher-weights must be numbers, each 0 or a number from 1e-06 to 1,000,000, "
        "but is 2,-1.",
        [*TWO, "--kd-teacher-weights", "2,-1"],
    ),
    "an unknown kind of weights": (
        "--kd-teacher-weights must be uniform, learned, gold, confidence, agreement or weights "
        "such as 0.7,0.3, but is best.",
        [*TWO, "--kd-teacher-weights", "best"],
    ),
    "a weight that is no number": (
        "--kd-teacher-weights must be numbers, each 0 or a number from 1e-06 to 1,000,000, "
        "but is nan,1.",
        [*TWO, "--kd-teacher-weights", "nan,1"],
    ),
    "a temperature of 0": (
        "--kd-teacher-temperatures must be numbers, each a number from 0.01 to 100, but is 4,0.",
        [*TWO, "--kd-teacher-temperatures", "4,0"],
    ),
    "fewer temperatures than teachers": (
        "--kd-teacher-temperatures 4 has 1 numbers for 2 teachers. Give one per teacher: those "
        "of --kd-teacher first, then those of --kd-store.",
        [*TWO, "--kd-teacher-temperatures", "4"],
    ),
    "temperatures beside a confidence": (
        "--kd-teacher-temperatures is 4,2, but --kd-token-temperature confidence gives each "
        "token one T for all teachers. Leave one out.",
        [*TWO, "--kd-teacher-temperatures", "4,2", "--kd-token-temperature", "confidence"],
    ),
    "an unknown mean": (
        "--kd-teacher-mean must be one of probabilities, log_probabilities, but is median.",
        [*TWO, "--kd-teacher-mean", "median"],
    ),
    "an entropy for equal weights": (
        "--kd-teacher-entropy is 0.3, but has no effect with --kd-teacher-weights uniform. "
        "Leave it out, or set --kd-teacher-weights learned.",
        [*TWO, "--kd-teacher-entropy", "0.3"],
    ),
    "an entropy of 1": (
        "--kd-teacher-entropy must be a number from 0 to below 1, but is 1.0.",
        [*TWO, *LEARNED, "--kd-teacher-entropy", "1"],
    ),
    "learned weights of log-probabilities": (
        "--kd-teacher-weights learned needs --kd-teacher-mean probabilities, but that is "
        "log_probabilities. Leave one of them out.",
        [*TWO, *LEARNED, "--kd-teacher-mean", "log_probabilities"],
    ),
    "weights of no distillation": (
        "--kd-teacher-weights is gold, but has no effect while --kd-alpha is 0. Leave it out, "
        "or set --kd-alpha above 0.",
        ["--kd-alpha", "0", "--kd-teacher-weights", "gold"],
    ),
}


@pytest.mark.parametrize(("message", "flags"), REFUSED.values(), ids=REFUSED)
def test_numbers_of_teachers_weights_and_temperatures_that_do_not_fit_are_refused(
    setup, teacher, message, flags
):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        setup(*MULTI, *(flag.format(teacher=teacher) for flag in flags))


def test_a_teacher_with_other_dictionaries_is_refused(setup, teacher, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for language in ("es", "en"):
        text = "".join(f"word{i} 1\n" for i in range(20))
        (other / f"dict.{language}.txt").write_text(text)
    shutil.copy(teacher, other / "teacher.pt")
    with pytest.raises(ValueError, match="does not fit the dictionaries in"):
        setup(*MULTI, "--kd-teacher", f"{teacher}:{other / 'teacher.pt'}")
