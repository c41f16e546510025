"""Inheritance of a student from its teacher: copied weights, outputs and refusals."""

import re

import pytest
import torch
from harness import PAIR, Setup

from fairseq_kd import cli
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.checkpoints.updates import updates_behind, updates_done
from fairseq_kd.inheritance.importance import head_importance, most_important, unit_importance
from fairseq_kd.inheritance.initial_weights import (
    inherit,
    kept_dimensions,
)
from fairseq_kd.models.structure import Structure

PLAIN = ["--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"]


def size(encoder, decoder, width, heads, units):
    flags = ["--encoder-layers", encoder, "--decoder-layers", decoder]
    for side in ("encoder", "decoder"):
        flags += [f"--{side}-embed-dim", width, f"--{side}-attention-heads", heads]
        flags += [f"--{side}-ffn-embed-dim", units]
    return [str(flag) for flag in flags]


@pytest.fixture(scope="module")
def built(data):
    """Builds a model with random weights, its norms and biases too."""

    def build(*flags):
        setup = Setup(data, *PLAIN, *flags)
        generator = torch.Generator().manual_seed(sum(map(len, flags)))
        for parameter in setup.model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        setup.model.eval()
        return setup

    return build


def start(student, teacher, encoder=None, decoder=None):
    structures = Structure(student.model, "The student"), Structure(teacher.model, "The teacher")
    return inherit(*structures, {"encoder": encoder, "decoder": decoder})


def outputs(setup):
    return setup.model(**setup.batch(0, 1, 2)["net_input"])[0]


@pytest.mark.parametrize("form", [[], ["--layernorm-embedding", "--encoder-learned-pos"]])
def test_a_student_of_the_teachers_size_is_the_teacher(built, form):
    teacher, student = (built(*size(2, 2, 16, 2, 32), *form) for _ in range(2))
    for parameter in student.model.parameters():
        parameter.data.fill_(float("nan"))
    start(student, teacher)
    assert torch.equal(outputs(student), outputs(teacher))


def test_a_shallow_student_computes_what_the_kept_layers_compute(built):
    teacher, student = built(*size(5, 4, 16, 2, 32)), built(*size(3, 2, 16, 2, 32))
    lines = start(student, teacher, decoder=[3, 1])
    encoder, decoder = teacher.model.encoder, teacher.model.decoder
    encoder.layers = torch.nn.ModuleList(encoder.layers[i] for i in (0, 2, 4))
    decoder.layers = torch.nn.ModuleList(decoder.layers[i] for i in (3, 1))
    assert torch.equal(outputs(student), outputs(teacher))
    assert lines == [
        "encoder embeddings: all 16 dimensions",
        "decoder embeddings: all 16 dimensions",
        "encoder layer 0: layer 0, all heads, all 32 units",
        "encoder layer 1: layer 2, all heads, all 32 units",
        "encoder layer 2: layer 4, all heads, all 32 units",
        "decoder layer 0: layer 3, all heads, all heads, all 32 units",
        "decoder layer 1: layer 1, all heads, all heads, all 32 units",
    ]


def test_importance_is_its_definition(built):
    layer = built(*size(1, 1, 24, 6, 20)).model.encoder.layers[0]
    block = layer.self_attn
    for head in range(6):
        rows = range(4 * head, 4 * head + 4)
        values = sum(x**2 for r in rows for x in block.v_proj.weight[r].tolist()) ** 0.5
        out = sum(x**2 for r in rows for x in block.out_proj.weight[:, r].tolist()) ** 0.5
        assert head_importance(block)[head].item() == pytest.approx(values * out, rel=1e-5)
    for unit in range(20):
        norms = [
            sum(x**2 for x in weights.tolist()) ** 0.5
            for weights in (layer.fc1.weight[unit], layer.fc2.weight[:, unit])
        ]
        assert unit_importance(layer)[unit].item() == pytest.approx(norms[0] * norms[1], rel=1e-5)
    assert most_important(torch.tensor([3.0, 1.0, 2.0, 5.0]), 3).tolist() == [0, 2, 3]


def test_kept_dimensions_are_spread_over_sines_and_cosines():
    assert kept_dimensions(4, 8).tolist() == [0, 3, 4, 7]
    assert kept_dimensions(6, 6).tolist() == list(range(6))
    assert kept_dimensions(3, 8).tolist() == [0, 4, 7]
    for n_student in range(2, 13, 2):
        kept = kept_dimensions(n_student, 12).tolist()
        assert len(set(kept)) == n_student
        assert [i - 6 for i in kept if i >= 6] == [i for i in kept if i < 6]


@pytest.mark.parametrize(("heads", "each"), [(3, 4), (4, 3)])
def test_a_narrow_student_keeps_whole_parts(built, heads, each):
    """From six heads of four dimensions, a width of 24 and 20 units."""
    teacher, student = built(*size(1, 1, 24, 6, 20)), built(*size(1, 1, 12, heads, 7))
    lines = start(student, teacher)
    dims = kept_dimensions(12, 24).tolist()
    ours, theirs = student.model.decoder.layers[0], teacher.model.decoder.layers[0]
    units = unit_importance(theirs).topk(7).indices.sort().values.tolist()
    for i, unit in enumerate(units):
        assert ours.fc1.weight[i].tolist() == theirs.fc1.weight[unit][dims].tolist()
        assert ours.fc2.weight[:, i].tolist() == theirs.fc2.weight[dims, unit].tolist()
        assert ours.fc1.bias[i] == theirs.fc1.bias[unit]
    for name in ("self_attn", "encoder_attn"):
        mine, block = getattr(ours, name), getattr(theirs, name)
        kept = head_importance(block).topk(heads).indices.sort().values.tolist()
        for projections in (("q_proj", "k_proj"), ("v_proj", "out_proj")):
            rows = []
            for head in kept:
                inside = range(4 * head, 4 * head + 4)
                weights = [
                    [getattr(block, p).weight[:, r] if p == "out_proj" else
                     getattr(block, p).weight[r] for p in projections]
                    for r in inside
                ]  # fmt: skip
                ranked = sorted(inside, key=lambda r: -torch.stack(
                    [w.norm() for w in weights[r % 4]]).prod().item())  # fmt: skip
                rows += sorted(ranked[:each])
            for projection in projections:
                full = getattr(block, projection).weight
                want = full[dims][:, rows] if projection == "out_proj" else full[rows][:, dims]
                assert torch.equal(getattr(mine, projection).weight, want)
    for norm in ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"):
        assert torch.equal(getattr(ours, norm).weight, getattr(theirs, norm).weight[dims])
    embedded = student.model.encoder.embed_scale * student.model.encoder.embed_tokens.weight
    full = teacher.model.encoder.embed_scale * teacher.model.encoder.embed_tokens.weight
    torch.testing.assert_close(embedded, full[:, dims])
    assert lines[0] == "encoder embeddings: 12 of 24 dimensions"
    sizes = "" if each == 4 else " (3 of 4 each)"
    assert re.fullmatch(
        rf"encoder layer 0: layer 0, heads \d(,\d){{{heads - 1}}}{re.escape(sizes)}, 7 of 20 units",
        lines[2],
    )


def test_an_output_of_its_own_is_inherited(built, data):
    apart = ["--encoder-layers", "1", "--decoder-layers", "1"]
    setups = []
    for width in ("16", "12"):
        dims = ["--encoder-embed-dim", width, "--decoder-embed-dim", width]
        flags = [*PAIR, "--arch", "transformer", *apart, *dims, "--encoder-attention-heads", "2"]
        flags += ["--decoder-attention-heads", "2", "--optimizer", "adam", "--cpu"]
        setups.append(Setup(data, *flags, *PLAIN, "--max-tokens", "1000", training=[]))
    teacher, student = setups
    start(student, teacher)
    kept = kept_dimensions(12, 16)
    want = teacher.model.decoder.output_projection.weight[:, kept]
    assert torch.equal(student.model.decoder.output_projection.weight, want)


SMALL = size(2, 2, 16, 2, 32)
REFUSALS = [
    ("The student's encoder is 18 wide, and the teacher's 16: a student cannot be wider than "
        "its teacher. Choose a student that is at most as wide.", size(1, 1, 18, 2, 32), {}),
    ("The student has 33 feed-forward units, but layer 0 of the teacher's encoder has 32. Choose a "
     "student with at most as many.", size(1, 1, 16, 2, 33), {}),
    ("The student has 4 heads of 4 dimensions, but layer 0 of the teacher's encoder has 2 of 8. "
     "Choose a student with at most as many, and at most as large.", size(1, 1, 16, 4, 32), {}),
    ("The student has 1 heads of 16 dimensions, but layer 0 of the teacher's encoder has 2 of 8. "
     "Choose a student with at most as many, and at most as large.", size(1, 1, 16, 1, 32), {}),
    ("--encoder-layers names 2 layers of the teacher, but the student's encoder has 1. Name as "
     "many, or add -- --encoder-layers 2 for another student.", size(1, 1, 16, 2, 32),
     {"encoder": [0, 1]}),
    ("--decoder-layers names layer 2, but the layers of the teacher's decoder are 0 to 1. Name one "
     "of these.", size(1, 1, 16, 2, 32), {"decoder": [2]}),
    ("The student's encoder has a LayerNorm as layernorm_embedding, and the teacher's none. Give "
     "the student the teacher's flags, after --.",
     [*size(1, 1, 16, 2, 32), "--layernorm-embedding"], {}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "student", "layers"), REFUSALS)
def test_what_cannot_be_inherited_is_refused(built, message, student, layers):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        start(built(*student), built(*SMALL), **layers)


def test_positions_that_the_teacher_has_not_learned_are_refused(built):
    learned = ["--encoder-learned-pos", "--max-source-positions"]
    teacher = built(*SMALL, *learned, "64")
    assert start(built(*SMALL, *learned, "32"), teacher)
    with pytest.raises(ValueError, match="encoder learns 128 positions, and the teacher's"):
        start(built(*SMALL, *learned, "128"), teacher)


def test_another_place_of_the_norms_is_refused(built):
    teacher, student = built(*SMALL), built(*SMALL)
    for layer in student.model.encoder.layers:
        layer.normalize_before = False
    with pytest.raises(ValueError, match="encoder normalizes after each block, and the teacher's"):
        start(student, teacher)


def test_the_command_writes_a_checkpoint_and_prints_how_to_train_it(
    teacher, data, tmp_path, capsys
):
    out = tmp_path / "new" / "start.pt"
    words = ["inherit", "--teacher", teacher, "--arch", "transformer", "--out", str(out)]
    flags = ["--encoder-normalize-before", "--decoder-normalize-before", *size(1, 1, 8, 1, 32)]
    assert cli.main([*words, "--", *flags]) == 0
    shown = capsys.readouterr().out
    assert "encoder layer 0: layer 0, heads " in shown
    assert f"--arch transformer --share-all-embeddings {' '.join(flags)} --finetune" in shown
    assert [each.name for each in out.parent.iterdir()] == ["start.pt"]
    state = read_checkpoint(out)
    setup = Setup(data, *PLAIN, *size(1, 1, 8, 1, 32))
    setup.model.load_state_dict(state["model"], strict=True)
    assert state["cfg"]["model"].encoder_embed_dim == 8
    assert updates_behind(out) == updates_done(teacher) > 0


UNBUILT = [  # flags for the student's model, and the message
    (
        ["--quant-noise-pq", "0.5"],
        "The student has the weights encoder.quant_noise.weight, for which the teacher has none. "
        "Leave out the flag that adds them, after --.",
    ),
    (
        ["--decoder-attention-heads", "3"],
        "--arch transformer_kd_student has a width of 8 in its decoder, which 3 heads do not "
        "divide. The nearest that can be built has --decoder-attention-heads 2.",
    ),
    *(
        (
            [f"--{side}-embed-path", "none"],
            f"--{side}-embed-path has no effect: the student's embeddings are the teacher's. Leave "
            "it out.\n",
        )
        for side in ("encoder", "decoder")
    ),
    (["--adaptive-softmax-cutoff", "20,30"], "The student has an adaptive softmax, which gives no"),
    (
        ["--encoder-layers-to-keep", "0"],
        "fairseq cannot build --arch transformer_kd_student with the flags after -- (AttributeErro",
    ),
]


@pytest.mark.parametrize(
    ("arch", "flags", "message"),
    [
        ("lstm", [], "--arch must be a transformer of fairseq or one of transformer_kd_teacher, "),
        ("transformer", ["--", "--colour", "3"], "The flags after -- are not those of a fairseq "),
        ("transformer_kd_student", [], "The student's encoder is 256 wide, and the teacher's 16"),
        *(
            ("transformer_kd_student", ["--", *size(1, 1, 8, 1, 32), *flags], message)
            for flags, message in UNBUILT
        ),
    ],
)
def test_mistakes_end_in_one_sentence(teacher, tmp_path, capsys, arch, flags, message):
    out = tmp_path / "start.pt"
    words = ["inherit", "--teacher", teacher, "--arch", arch, "--out", str(out)]
    assert cli.main([*words, *flags]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"fairseq-kd inherit: {message}")
    assert shown.count("\n") == 1
    assert not out.exists()


def test_a_missing_teacher_is_refused(tmp_path, capsys):
    words = ["inherit", "--teacher", "nowhere.pt", "--arch", "transformer", "--out", "x.pt"]
    assert cli.main(words) == 2
    assert "inherit: --teacher nowhere.pt does not exist." in capsys.readouterr().err
