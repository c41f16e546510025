"""Mistakes with feature_kd, attention_kd and hybrid_kd are refused by one sentence each."""

import re

import pytest
import torch
from harness import PAIR, Setup
from layered import ATTENTION_KD, FEATURE, HYBRID, MODES, STUDENT, gradients, loss_of

REFUSALS = [
    (FEATURE, "--kd-feature-layers 0:3 names layer 3 of the teacher's encoder, but its layers are "
     "0 to 2. Name one of these.", ["--kd-feature-layers", "0:3"]),
    (FEATURE, "--kd-feature-decoder-layers 3:0 names layer 3 of the student's decoder, but its "
     "layers are 0 to 2. Name one of these.", ["--kd-feature-decoder-layers", "3:0"]),
    (FEATURE, "--kd-feature-layers leaves nothing to compare. Name layers, or set "
     "--kd-feature-weight 0.", ["--kd-feature-layers", "none"]),
    (FEATURE, "--kd-feature-distance must be one of mse, cosine, but is l1.",
     ["--kd-feature-distance", "l1"]),
    (FEATURE, "--kd-feature-weight must be 0 or a number from 1e-12 to 1,000,000, but is -1.0.",
     ["--kd-feature-weight=-1"]),
    (HYBRID, "--kd-feature-layers is last, but has no effect while --kd-feature-weight is 0. Leave "
     "it out, or set the weight above 0.",
     ["--kd-feature-weight", "0", "--kd-feature-layers", "last"]),
    (FEATURE, "--kd-log-gradients has no effect on a single term. Leave it out, or set "
     "--kd-feature-weight above 0.", ["--kd-feature-weight", "0", "--kd-log-gradients"]),
    (HYBRID, "--kd-alpha, --kd-beta, --kd-feature-weight and --kd-attention-weight are all 0, so "
     "there is no loss. Set one above 0.",
     ["--kd-alpha", "0", "--kd-beta", "0", "--kd-feature-weight", "0", "--kd-attention-weight",
      "0"]),
    (FEATURE, "--kd-temperature is 2.0, but has no effect while --kd-alpha is 0. Leave it out, or "
     "set --kd-alpha above 0.", ["--kd-alpha", "0", "--kd-temperature", "2"]),
    (FEATURE, "--encoder-layerdrop is 0.2, which skips layers that are to be compared. "
     "Train with --encoder-layerdrop 0.", ["--encoder-layerdrop", "0.2"]),
    (ATTENTION_KD, "--checkpoint-activations frees what the attention term needs. Train without "
     "one of them.", ["--checkpoint-activations"]),
    (FEATURE, "--checkpoint-activations frees what --kd-log-gradients needs. Train without "
     "one of them.", ["--checkpoint-activations", "--kd-log-gradients"]),
    (ATTENTION_KD, "--kd-attention-kinds must name some of encoder, decoder, cross, each once and "
     "separated by commas, but is self.", ["--kd-attention-kinds", "self"]),
    (ATTENTION_KD, "--kd-attention-heads must be one of mean, repeat, learned, relation, but is "
     "first.", ["--kd-attention-heads", "first"]),
    (ATTENTION_KD, "--kd-attention-loss must be one of mse, kl, but is js.",
     ["--kd-attention-loss", "js"]),
    (ATTENTION_KD, "--kd-attention-loss is kl, but has no effect with --kd-attention-heads "
     "relation, which is always compared by kl. Leave it out.",
     ["--kd-attention-heads", "relation", "--kd-attention-loss", "kl"]),
    (ATTENTION_KD, "--kd-attention-relation-heads is 4, but has no effect with "
     "--kd-attention-heads mean. Leave it out, or choose relation.",
     ["--kd-attention-relation-heads", "4"]),
    (ATTENTION_KD, "--kd-attention-relation-heads must be 1 to 12, the smaller width of the two "
     "encoders, but is 13.",
     ["--kd-attention-heads", "relation", "--kd-attention-relation-heads", "13"]),
    (ATTENTION_KD, "--kd-attention-decoder-layers is last, but has no effect on the encoder alone. "
     "Leave it out.",
     ["--kd-attention-kinds", "encoder", "--kd-attention-decoder-layers", "last"]),
    (ATTENTION_KD, "The student has no cross attention in layer 0 of its decoder. Leave cross out "
     "of --kd-attention-kinds.", ["--no-cross-attention"]),
]  # fmt: skip


@pytest.mark.parametrize(("criterion", "message", "flags"), REFUSALS)
def test_mistakes_are_refused_by_one_sentence(distilling, criterion, message, flags):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        distilling(*criterion, *flags)


def test_a_teacher_without_cross_attention(data, distilling, tmp_path):
    flags = ["--criterion", "label_smoothed_cross_entropy", "--no-cross-attention"]
    path = Setup(data, *flags, "--no-save-optimizer-state").save(tmp_path / "teacher.pt")
    message = (
        f"--kd-teacher {path} has no cross attention in layer 0 of its decoder. Leave cross out of "
        "--kd-attention-kinds."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        distilling(*ATTENTION_KD, "--kd-teacher", path)
    kinds = ["--kd-attention-kinds", "encoder,decoder"]
    distilling(*ATTENTION_KD, "--kd-teacher", path, *kinds)


def test_a_teacher_that_is_no_transformer(data, distilling, tmp_path):
    lstm = [*PAIR, "--arch", "lstm", "--criterion", "cross_entropy", "--no-save-optimizer-state"]
    lstm += ["--optimizer", "adam", "--cpu", "--max-tokens", "1000"]
    path = Setup(data, *lstm, training=[]).save(tmp_path / "lstm.pt")
    with pytest.raises(ValueError, match=r"lstm\.pt has no transformer encoder whose layers"):
        distilling(*FEATURE, "--kd-teacher", path)


def test_distillation_needs_a_teacher(data):
    message = (
        "--kd-feature-weight is 0.1, but there is no teacher. Give its checkpoint by --kd-teacher "
        "or its store by --kd-store, or set --kd-feature-weight 0 --kd-beta 1 to train without "
        "distillation."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Setup(data, *STUDENT, *FEATURE, "--kd-alpha", "0")


def test_a_store_of_words_has_no_layers(data):
    message = (
        "--kd-store holds a teacher's distributions, but --criterion feature_kd also needs its "
        "layers. "
        "Give the teacher itself, by --kd-teacher."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Setup(data, *STUDENT, *FEATURE, "--kd-store", "store")


def test_the_layers_of_several_teachers(distilling, large):
    with pytest.raises(ValueError, match=r"names several teachers, but --criterion feature_kd re"):
        distilling(*FEATURE, "--kd-teacher", f"{large}:{large}")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(6, 4, 256), (5, 3, 192)])
def test_the_reference_teacher_teaches_students_of_other_shapes(data, tmp_path, size):
    """Twelve layers, eight heads and a width of 512, without any special flag."""
    layers, heads, width = (str(number) for number in size)
    teacher = ["--arch", "transformer_kd_teacher", "--no-save-optimizer-state"]
    flags = [*PAIR, "--share-all-embeddings", "--optimizer", "adam", "--cpu"]
    flags += ["--max-tokens", "1000", "--label-smoothing", "0.1"]
    plain = ["--criterion", "label_smoothed_cross_entropy"]
    path = Setup(data, *flags, *plain, *teacher, training=[]).save(tmp_path / "teacher.pt")
    student = ["--arch", "transformer_kd_student"]
    for side in ("encoder", "decoder"):
        student += [f"--{side}-layers", layers, f"--{side}-attention-heads", heads]
        student += [f"--{side}-embed-dim", width]
    for mode in ([], *MODES.values()):
        hybrid = ["--criterion", "hybrid_kd", "--kd-teacher", path, *mode]
        setup = Setup(data, *flags, *hybrid, *student, training=[])
        log = loss_of(setup, setup.batch(0, 1))[2]
        assert log["kd_feature_loss"] > 0
        assert log["kd_attention_loss"] > 0
        assert gradients(setup, setup.batch(0)).isfinite().all()


PROJECTION = "terms.0.projections.encoder_0_1.weight"
CHANGED_STATES = {
    "another shape": ({PROJECTION: torch.ones(1)}, f"'{PROJECTION}' is of shape (1,) there and of "
                      "shape (28, 12) here"),
    "a weight less": ({PROJECTION: None}, f"'{PROJECTION}' is absent there and of shape (28, 12) "
                      "here"),
    "a weight more": ({"more": torch.ones(1)}, "'more' is of shape (1,) there and absent here"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "difference"), CHANGED_STATES.values(), ids=CHANGED_STATES)
def test_a_training_of_other_terms_is_not_resumed_and_a_start_from_it_loads_nothing(
    distilling, tmp_path, change, difference
):
    criterion = distilling(*HYBRID, *MODES["learned"]).criterion
    before = criterion.state_dict()[PROJECTION].clone()
    changed = criterion.state_dict() | change
    changed = {key: weight for key, weight in changed.items() if weight is not None}
    torch.save({"criterion": changed}, path := tmp_path / "last.pt")
    message = (
        f"{path} must hold the weights of --criterion hybrid_kd as they are trained here, but "
        f"{difference}. Resume with the same --kd-teacher and all --kd-feature-* and all "
        "--kd-attention-*, or start a new training from its model, with --finetune-from-model and "
        "another --save-dir."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        criterion.check_resumed(str(path))
    criterion.load_state_dict(changed)
    assert torch.equal(criterion.state_dict()[PROJECTION], before)
