"""cross_lingual_kd on real three-way batches: the teacher reads Spanish, the student xx."""

import re
import shutil

import pytest
import stores
import torch
from fairseq.logging import metrics
from harness import Setup, widened
from three_languages import PIVOT

from fairseq_kd.criterions import CrossLingualKDCriterion

CROSS = ["--criterion", "cross_lingual_kd", "--label-smoothing", "0.1", "--dropout", "0", *PIVOT]
WIDER = ["--encoder-embed-dim", "12", "--decoder-embed-dim", "12"]


def logged(*logs):
    with metrics.aggregate() as figures:
        CrossLingualKDCriterion.reduce_metrics(list(logs))
    return figures.get_smoothed_values()


@pytest.fixture
def cross(three_way, teacher):
    """A student of another width than the teacher."""
    return lambda *flags: Setup(three_way, *CROSS, "--kd-teacher", teacher, *WIDER, *flags)


def distance_of(name, a, b):
    if name == "mse":
        return ((a - b) ** 2).sum() / len(b)
    return 1 - a @ b / (a @ a).sqrt() / (b @ b).sqrt()


def encoded(model, inputs):
    out = model.encoder(inputs["src_tokens"], src_lengths=inputs["src_lengths"])
    return out["encoder_out"][0].transpose(0, 1).double()  # (B, S, C)


def test_the_word_term_is_that_of_a_teacher_that_reads_the_pivot(cross):
    setup = cross("--kd-align-weight", "0", "--kd-temperature", "2")
    sample = setup.batch(0, 1, 2)
    loss, _, log = setup.criterion(setup.model.eval(), sample)
    student = setup.model(**sample["net_input"])[0].double()
    previous = sample["net_input"]["prev_output_tokens"]
    teacher = setup.criterion.teachers[0].model
    taught = teacher(**sample["pivot"], prev_output_tokens=previous)[0].double()
    kd = ce = 0.0
    for b, t in sample["target"].ne(setup.task.target_dictionary.pad()).nonzero().tolist():
        p, q = ((z[b, t] / 2).softmax(-1) for z in (taught, student))
        kd += 4 * (p * (p / q).log()).sum().item()
        log_q, gold = student[b, t].log_softmax(-1), sample["target"][b, t]
        ce -= (0.9 * log_q[gold] + 0.1 * (log_q.sum() - log_q[gold]) / (len(log_q) - 1)).item()
    assert loss.item() == pytest.approx(0.8 * kd + 0.2 * ce, rel=1e-5)
    assert "align_loss" not in logged(log)


def test_a_store_of_the_pivots_sentences_teaches_what_the_teacher_does(
    cross, three_way, teacher, tmp_path
):
    store = stores.build(tmp_path / "store", teacher, three_way, left_out=1)
    flags = ["--kd-align-weight", "0", "--kd-temperature", "2", "--dropout", "0"]
    live = cross(*flags)
    stored = Setup(
        three_way, *CROSS, "--kd-store", store, *WIDER, *flags, "--train-subset", "valid"
    )
    sample = live.batch(0, 1, 2)
    want, got = (each.criterion(each.model.eval(), sample)[0].item() for each in (live, stored))
    assert got == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    ("level", "distance", "prefix"),
    [("sentence", "mse", 0), ("token", "mse", 2), ("both", "mse", 0), ("both", "cosine", 2)],
)
def test_the_align_term_is_its_definition(cross, level, distance, prefix):
    flags = ["--ignore-prefix-size", prefix]
    align = ["--kd-align-weight", "3", "--kd-align-level", level, "--kd-align-distance", distance]
    setup, without = cross(*align, *flags), cross("--kd-align-weight", "0", *flags)
    sample = setup.batch(0, 1, 2)
    loss, _, log = setup.criterion(setup.model.eval(), sample)
    word = without.criterion(without.model.eval(), sample)[0]
    ours = encoded(setup.model, sample["net_input"])
    theirs = encoded(setup.criterion.teachers[0].model, sample["pivot"])
    w, pad = setup.criterion.terms[0].projection.weight.double(), setup.task.source_dictionary.pad()
    want = 0.0
    for b in range(3):
        own = sample["net_input"]["src_tokens"][b].ne(pad)
        pivot = sample["pivot"]["src_tokens"][b].ne(pad)
        terms = {"sentence": [(ours[b][own].mean(0), theirs[b][pivot].mean(0))]}
        # xx is es backwards; both end with the end symbol, which nothing links
        rows = ours[b][own][:-1], theirs[b][pivot][:-1].flip(0)
        terms["token"] = list(zip(*rows, strict=True))
        for pairs in [terms[level]] if level in terms else terms.values():
            mean = sum(distance_of(distance, w @ a, c) for a, c in pairs) / len(pairs)
            want += (sample["target"][b].ne(pad).sum() - prefix) * mean
    assert loss.item() == pytest.approx(word.item() + 3 * want.item(), rel=1e-5)
    counted = sample["ntokens"] - 3 * prefix
    assert logged(log)["align_loss"] == pytest.approx(want.item() / counted, abs=1e-4)


def test_identical_encoders_are_aligned(three_way, teacher, monkeypatch):
    """The teacher as its own student, both reading Spanish."""
    setup = Setup(three_way, *CROSS, "--kd-teacher", teacher)
    setup.model.load_state_dict(setup.criterion.teachers[0].model.state_dict())
    sample = setup.batch(0, 1, 2)
    assert logged(setup.criterion(setup.model.eval(), sample)[2])["align_loss"] > 0
    sample["net_input"].update(sample["pivot"])
    figures = logged(setup.criterion(setup.model.eval(), sample)[2])
    assert figures["align_loss"] == 0
    assert figures["kd_loss"] == 0


def test_alignment_alone_needs_no_words_of_the_teacher(cross):
    setup = cross("--kd-alpha", "0", "--kd-beta", "1")
    figures = logged(setup.criterion(setup.model.eval(), setup.batch(0, 1))[2])
    assert figures["align_loss"] > 0
    assert "kd_loss" not in figures


def test_the_gradient_norms_of_both_terms_are_logged(cross):
    setup = cross("--kd-log-gradients", "--kd-align-weight", "2")
    figures = logged(setup.criterion(setup.model, setup.batch(0, 1))[2])
    assert figures["gradient_word"] + figures["gradient_align"] == pytest.approx(100, abs=0.2)
    assert figures["gradient_align"] > 0


def test_the_projection_of_an_older_checkpoint_is_restored(cross):
    """It was a part of the criterion itself."""
    setup = cross()
    weight = torch.full_like(setup.criterion.terms[0].projection.weight, 0.5)
    setup.criterion.load_state_dict({"projection.weight": weight})
    assert torch.equal(setup.criterion.terms[0].projection.weight, weight)


@pytest.mark.parametrize("level", ["sentence", "token"])
def test_a_split_batch_and_more_padding_change_nothing(cross, level):
    setup = cross("--kd-align-level", level)
    sample = setup.batch(0, 1, 2, 3)

    def gradients(*samples):
        setup.criterion.zero_grad()
        model = setup.gradients(*samples)
        return torch.cat([model, *(p.grad.flatten() for p in setup.criterion.parameters())])

    want = gradients(sample)
    split = gradients(setup.batch(0, 3), setup.batch(1, 2))
    torch.testing.assert_close(split, want, rtol=1e-3, atol=2e-5)
    wide = widened(sample, setup.task.target_dictionary.pad(), 4)
    torch.testing.assert_close(gradients(wide), want, rtol=1e-3, atol=2e-5)


def test_a_batch_without_a_real_token_gives_zero_and_no_nan(cross):
    setup = cross()
    sample = setup.batch(0, 1)
    sample["target"].fill_(setup.task.target_dictionary.pad())
    sample["ntokens"] = 0
    assert (setup.gradients(sample) == 0).all()
    assert logged(setup.criterion(setup.model, sample)[2]) == {}


@pytest.mark.parametrize("alpha", ["0.8", "0"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_loss_of_float32_and_finite_gradients(cross, dtype, alpha):
    setup = cross("--kd-alpha", alpha)
    sample = setup.batch(0, 1)
    want = setup.criterion(setup.model.eval(), sample)[0].item()
    setup.model.to(dtype)
    setup.criterion.to(dtype)
    loss = setup.criterion(setup.model, sample)[0]
    assert {p.dtype for p in setup.criterion.teachers[0].model.parameters()} == {dtype}
    assert loss.item() == pytest.approx(want, rel=3e-2)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in setup.model.parameters())


REFUSED = {
    "an align weight below 0": (
        "--kd-align-weight must be 0 or a number from 1e-12 to 1,000,000, but is -1.0.",
        ["--kd-align-weight", "-1"],
    ),
    "an unknown align level": (
        "--kd-align-level must be one of sentence, token, both, but is word.",
        ["--kd-align-level", "word"],
    ),
    "a distance of no alignment": (
        "--kd-align-distance is cosine, but has no effect while --kd-align-weight is 0. Leave "
        "it out, or set the weight above 0.",
        ["--kd-align-distance", "cosine", "--kd-align-weight", "0"],
    ),
    "a shared encoder": (
        "--kd-share-encoder cannot be used with --criterion cross_lingual_kd, whose student and "
        "teacher read different sentences. Leave it out.",
        ["--kd-share-encoder"],
    ),
    "a pivot in the teacher's target language": (
        "--kd-teacher {teacher} translates es-en, but the pivot sentences and their targets are "
        "en-es (the pair is swapped). Give a teacher of the same direction, or change "
        "--kd-pivot-lang and --target-lang.",
        ["--source-lang", "xx", "--target-lang", "es", "--kd-pivot-lang", "en"],
    ),
    "several teachers": (
        "--kd-teacher a:b names several teachers, but --criterion cross_lingual_kd reads the "
        "layers of one. Name one.",
        ["--kd-teacher", "a:b"],
    ),
}


@pytest.mark.parametrize(("message", "flags"), REFUSED.values(), ids=REFUSED)
def test_flags_and_teachers_that_do_not_fit_are_refused(cross, teacher, message, flags):
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(teacher=teacher))}$"):
        cross(*flags)


def test_another_task_than_pivot_translation_is_refused(setup, teacher):
    message = (
        "--criterion cross_lingual_kd needs the teacher's sentences beside the student's. Train "
        "with --task pivot_translation and --kd-pivot-lang."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        setup("--criterion", "cross_lingual_kd", "--kd-teacher", teacher)


@pytest.mark.parametrize("level", ["token", "both"])
def test_without_alignments_of_every_set_linked_positions_are_refused(
    three_way, teacher, tmp_path, level
):
    data = shutil.copytree(three_way, tmp_path / "bin")
    for path in data.glob("valid.align.*"):
        path.unlink()
    text = f"--kd-align-level {level} needs alignments of positions, but {data}/valid.align.xx-es"
    flags = ["--kd-teacher", teacher, "--kd-align-level", level]
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        Setup(str(data), *CROSS, *flags)
    Setup(str(data), *CROSS, *flags, "--disable-validation")


@pytest.mark.parametrize("side", ["es-en.es", "xx-en.xx"])
def test_damaged_data_of_either_side_are_named(three_way, teacher, tmp_path, side):
    path = shutil.copytree(three_way, tmp_path / "bin") / f"valid.{side}.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=f"^{path} is cut off or damaged: it has "):
        Setup(str(path.parent), *CROSS, "--kd-teacher", teacher)
