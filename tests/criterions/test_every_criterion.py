"""Properties of every criterion: without distillation, and in an update."""

import copy
import functools
import math

import pytest
import torch
from every_criterion import UNDISTILLED, filled
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from harness import Setup, widened
from three_languages import PIVOT

COUNTS = {  # how fairseq counts the tokens and sentences of a batch
    "tokens": [],
    "sentences": ["--sentence-avg"],
    "tokens behind a prefix": ["--ignore-prefix-size", "2", "--report-accuracy"],
    "sentences without a prefix": ["--sentence-avg", "--ignore-prefix-size", "2"],
}
EVERY = pytest.mark.parametrize("name", UNDISTILLED)


@pytest.fixture
def folder(data, three_way):
    """The data that a criterion reads."""
    return lambda name: three_way if name == "cross_lingual_kd" else data


@pytest.fixture
def distilling(folder, teacher, large):
    """A criterion that distils, by its name."""
    return lambda name, *flags: Setup(
        folder(name), *filled(name, TEACHER=teacher, LARGE=large), "--dropout", "0", *flags
    )


@functools.cache
def by_fairseq(folder, languages, counted):
    """fairseq's own criterion, its gradients, loss, sample size and log of a batch."""
    flags = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
    return found(Setup(folder, *flags, *languages, *COUNTS[counted]))


def found(setup):
    """(gradients, loss, sample size, log, figures of the log) of a batch with pads."""
    sample = setup.batch(0, 1, 2, 3)
    gradients = setup.gradients(sample)
    loss, sample_size, log = setup.criterion(setup.model, sample)
    return gradients, loss.item(), sample_size, log, figures(setup, log)


def figures(setup, *logs):
    with metrics.aggregate() as logged:
        type(setup.criterion).reduce_metrics(list(logs))
    return logged.get_smoothed_values()


@EVERY
@pytest.mark.parametrize("counted", [*COUNTS][:3])
def test_undistilled_it_is_label_smoothed_cross_entropy_digit_for_digit(folder, name, counted):
    flags = ["--criterion", name, "--label-smoothing", "0.1", *UNDISTILLED[name]]
    languages = tuple(PIVOT) if name == "cross_lingual_kd" else ()
    want = by_fairseq(folder(name), languages, counted)
    got = found(Setup(folder(name), *flags, *COUNTS[counted]))
    assert torch.equal(got[0], want[0])
    if name == "mutual_learning":  # the loss is that of all peers, and each has its figures
        assert got[1] == got[3]["loss"].item() > want[1]
        assert got[2] == want[2]
        for ours, theirs in zip(got[3:], want[3:], strict=True):
            assert ours.items() >= {k: v for k, v in theirs.items() if k != "loss"}.items()
    else:
        assert got[1:] == want[1:]


@EVERY
def test_a_validation_logs_no_other_metrics_than_it_says(distilling, name):
    setup = distilling(name)
    with torch.no_grad():
        *_, log = setup.criterion.eval()(setup.model.eval(), setup.batch(0, 1))
    said = set(setup.criterion.validation_metrics(setup.criterion.cfg))
    logged = set(figures(setup, log)) - {"loss", "nll_loss", "ppl"}
    assert logged
    assert said - logged <= {"alpha", "beta", "gate"}  # which depend on flags
    assert logged <= said


@EVERY
@pytest.mark.parametrize("counted", ["tokens", "sentences without a prefix"])
def test_an_update_is_that_of_the_mean_however_its_sentences_are_batched(distilling, name, counted):
    """By fairseq's trainer: at once, and by --update-freq 2 in unequal parts with more padding."""
    setup = distilling(name, *COUNTS[counted], "--lr", "0")
    trainer = Trainer(setup.cfg, setup.task, setup.model, setup.criterion)
    trained = [*setup.model.parameters(), *setup.criterion.parameters()]

    def updated(*batches):
        log = trainer.train_step(list(batches))
        return torch.cat([p.grad.flatten() for p in trained if p.grad is not None]), log

    whole, pad = setup.batch(0, 1, 2, 3), setup.task.target_dictionary.pad()
    got, log = updated(whole)
    setup.model.zero_grad(), setup.criterion.zero_grad()
    loss = setup.criterion(setup.model, whole)[0]
    loss.backward()
    total = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    count = sum(
        1 if "--sentence-avg" in COUNTS[counted] else sum(token != pad for token in sentence)
        for sentence in whole["target"].tolist()
    )
    torch.testing.assert_close(got, total / count, rtol=1e-5, atol=1e-7)
    assert log["loss"] == pytest.approx(loss.item() / count / math.log(2), abs=1e-3)
    parts, parts_log = updated(setup.batch(3), widened(setup.batch(2, 0, 1), pad, 3))
    torch.testing.assert_close(parts, got, rtol=1e-3, atol=1e-5)
    assert parts_log.keys() == log.keys()
    compared = {key for key in log if not key.startswith("gradient_")}  # norms do not add up
    assert {k: parts_log[k] for k in compared} == pytest.approx(
        {k: log[k] for k in compared}, rel=1e-4, abs=2e-3
    )
    assert compared >= {"loss", "nll_loss"}


@EVERY
def test_an_ignored_prefix_counts_as_little_as_padding(distilling, name):
    ignoring, whole = distilling(name, *COUNTS["tokens behind a prefix"]), distilling(name)
    sample, pad = whole.batch(0, 1, 2), whole.task.target_dictionary.pad()
    chosen = ignoring.model.eval()(**sample["net_input"])[0].argmax(-1)
    right = sample["target"].ne(pad) & chosen.ne(pad)
    right[:, ::2] = False
    sample["target"][right] = chosen[right]  # about every second word, and no peer's or teacher's
    padded = copy.deepcopy(sample)
    padded["target"][:, :2] = pad
    padded["ntokens"] = padded["target"].ne(pad).sum().item()
    gradients, logs = [], []
    for each, batch in ((ignoring, sample), (whole, padded)):
        each.model.zero_grad(), each.criterion.zero_grad()
        loss, _, log = each.criterion(each.model.eval(), batch)
        loss.backward()
        trained = (*each.model.parameters(), *each.criterion.parameters())
        gradients.append(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
        logs.append(figures(each, log))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    got, want = logs
    share = (chosen == padded["target"])[padded["target"].ne(pad)].double().mean().item()
    assert got.pop("accuracy") == pytest.approx(100 * share, abs=1e-3)
    for key in ("n_correct", "total", "ppl"):
        got.pop(key, None), want.pop(key, None)
    shares = {  # fairseq divides its own losses by all tokens, those of the prefix too
        key: padded["ntokens"] / sample["ntokens"]
        for key in want
        if key == "loss" or key.startswith("nll_loss")
    }
    assert got == pytest.approx(
        {key: value * shares.get(key, 1.0) for key, value in want.items()}, rel=1e-3, abs=1e-3
    )
    assert len(got) > 3
