"""--kd-share-encoder: one encoder, frozen, run once for student and teacher."""

import re

import pytest
import torch

DISTIL = ["--criterion", "word_kd", "--label-smoothing", "0.1", "--dropout", "0.1", "--kd-teacher"]
SHARED = ["--kd-share-encoder"]


@pytest.fixture
def sharing(setup, teacher):
    """A student that starts from the teacher, whose decoder then went on."""
    made = setup(*DISTIL, teacher, *SHARED)
    made.model.load_state_dict(made.criterion.teachers[0].model.state_dict())
    with torch.no_grad():
        made.model.decoder.layers[0].fc1.weight.mul_(0.5)
    return made


def test_the_loss_is_that_of_two_encoders(sharing, setup, teacher):
    apart = setup(*DISTIL, teacher)
    apart.model.load_state_dict(sharing.model.state_dict())
    sample = sharing.batch(0, 1, 2)
    losses = [each.criterion(each.model.eval(), sample)[0] for each in (sharing, apart)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


def test_the_encoder_runs_once_and_learns_nothing(sharing):
    runs = []
    teacher = sharing.criterion.teachers[0].model
    for name, model in (("student", sharing.model), ("teacher", teacher)):
        layer = model.encoder.layers[0]
        layer.register_forward_hook(lambda *_, name=name: runs.append(name))
    sharing.model.train()
    loss, _, log = sharing.criterion(sharing.model, sharing.batch(0, 1))
    loss.backward()
    assert runs == ["student"]
    assert not any(module.training for module in sharing.model.encoder.modules())
    assert all(each.grad is None for each in sharing.model.encoder.parameters())
    assert sharing.model.decoder.layers[0].fc1.weight.grad.abs().sum() > 0
    assert log["kd_loss"] > 0
    teacher(**sharing.batch(0, 1)["net_input"])
    assert runs == ["student", "teacher"]  # nothing is left behind


def test_another_encoder_is_refused_at_the_first_batch(setup, teacher):
    made = setup(*DISTIL, teacher, *SHARED)
    message = f"--kd-share-encoder needs a student with the encoder of --kd-teacher {teacher}, but "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}encoder\\."):
        made.criterion(made.model, made.batch(0))


def test_two_teachers_are_refused(setup, teacher):
    with pytest.raises(ValueError, match=r"^--kd-share-encoder needs one teacher that runs"):
        setup(*DISTIL, f"{teacher}:{teacher}", *SHARED)


def test_several_workers_need_a_backend_that_leaves_parameters_alone(setup, teacher):
    workers = ["--distributed-world-size", "2", "--distributed-no-spawn"]
    with pytest.raises(ValueError, match="Add --ddp-backend legacy_ddp"):
        setup(*DISTIL, teacher, *SHARED, *workers)


def test_half_precision_needs_gradients_that_lie_apart(setup, teacher):
    with pytest.raises(ValueError, match=r"Add --fp16-no-flatten-grads, or train with --amp"):
        setup(*DISTIL, teacher, *SHARED, "--fp16")
    setup(*DISTIL, teacher, *SHARED, "--fp16", "--fp16-no-flatten-grads")
    setup(*DISTIL, teacher, *SHARED, "--memory-efficient-fp16")


def test_one_encoder_has_one_precision(setup, teacher):
    with pytest.raises(ValueError, match=r"^--kd-teacher-dtype is bfloat16, but with --kd-share-"):
        setup(*DISTIL, teacher, *SHARED, "--kd-teacher-dtype", "bfloat16")


HYBRID = ["--criterion", "hybrid_kd", "--label-smoothing", "0.1", "--kd-teacher"]
DECODERS = ["--kd-feature-layers", "none", "--kd-feature-decoder-layers", "uniform"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"^--kd-share-encoder leaves the teacher's encoder out"),
        (DECODERS, r"Compare the decoders: --kd-feature-layers none"),
    ],
    ids=["features", "attention"],
)
def test_layers_of_an_encoder_that_does_not_run_are_refused(setup, teacher, flags, message):
    with pytest.raises(ValueError, match=message):
        setup(*HYBRID, teacher, *SHARED, *flags)


def test_layers_of_the_decoder_alone_are_compared(setup, teacher):
    made = setup(*HYBRID, teacher, *SHARED, *DECODERS, "--kd-attention-kinds", "decoder,cross")
    made.model.load_state_dict(made.criterion.teachers[0].model.state_dict())
    _, _, log = made.criterion(made.model.eval(), made.batch(0))
    assert log["kd_feature_loss"] == pytest.approx(0, abs=1e-6)  # they are the same
