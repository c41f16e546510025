"""Stages as fairseq builds them: counted, trained, converted, and started from one another."""

import re
from argparse import Namespace
from types import SimpleNamespace

import ctranslate2
import pytest
import torch
from ctranslate2.converters import FairseqConverter
from fairseq.data import Dictionary
from fairseq.models import build_model
from forks import run_forked
from harness import PAIR, USER_DIR, Setup
from torch._subclasses.fake_tensor import FakeTensor

from fairseq_kd import models  # noqa: F401  (our architectures)
from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.checkpoints.weights import count_parameters
from fairseq_kd.evaluation.size import parameters_by_part
from fairseq_kd.fairseq_flags import as_arguments
from fairseq_kd.inheritance.initial_weights import inherit
from fairseq_kd.models.structure import Structure, on_meta_device
from fairseq_kd.models.transformer_options import FORM
from fairseq_kd.sizing.budgets import write_random
from fairseq_kd.sizing.ladder import STRATEGIES, Size, buildable, ladder_sizes
from fairseq_kd.sizing.teacher_structure import TeacherStructure

SMOOTHED = ["--criterion", "label_smoothed_cross_entropy"]
REST = [*PAIR, "--optimizer", "adam", "--lr", "0.003", "--max-tokens", "1000", "--cpu"]
FORMS = [
    ["--share-all-embeddings"],
    [],
    ["--share-decoder-input-output-embed", "--activation-fn", "gelu"],
    ["--encoder-learned-pos", "--decoder-learned-pos", "--layernorm-embedding"],
    ["--encoder-normalize-before", "--decoder-normalize-before", "--no-scale-embedding"],
]
TINY = Size(3, 2, 48, 6, 96)


def sized(size):
    flags = ["--encoder-layers", size.encoder_layers, "--decoder-layers", size.decoder_layers]
    for side in ("encoder", "decoder"):
        flags += [f"--{side}-embed-dim", size.width, f"--{side}-attention-heads", size.heads]
        flags += [f"--{side}-ffn-embed-dim", size.feed_forward]
    return [str(flag) for flag in flags]


@pytest.fixture(scope="module")
def words(data):
    return [len(Dictionary.load(f"{data}/dict.{language}.txt")) for language in ("es", "en")]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_counts_are_those_of_the_models_that_fairseq_builds(data, words, form):
    structure = TeacherStructure.of_arch("transformer", *words, [*sized(TINY), *form])
    assert structure.size == TINY
    teacher = ["--arch", "transformer", *sized(TINY), *form]
    size = Size(2, 1, 16, 2, 32)
    whole, twin, model = (
        Setup(data, *flags, *SMOOTHED, training=REST).model
        for flags in (teacher, *(as_arguments(structure.flags(each)) for each in (TINY, size)))
    )
    counts = [sum(each.numel() for each in built.parameters()) for built in (whole, twin, model)]
    assert counts[0] == counts[1] == sum(structure.teacher_parts.values())
    assert counts[1:] == [structure.parameters(TINY), structure.parameters(size)]
    for key in FORM:
        assert getattr(model.args, key) == getattr(whole.args, key)
    tables = [model.encoder.embed_tokens, model.decoder.embed_tokens]
    tables = [*tables, model.decoder.output_projection]
    learned = [side.embed_positions for side in (model.encoder, model.decoder)]
    tables += [each for each in learned if isinstance(each, torch.nn.Embedding)]
    unique = {id(table.weight): table.weight.numel() for table in tables}
    assert structure.embedding_parameters(size) == sum(unique.values())


@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_a_model_without_memory_has_the_parts_of_one_with_it(arch):
    flags = ["--encoder-layers", "1", "--decoder-layers", "1"]
    structure = TeacherStructure.of_arch(arch, 100, 100, flags)
    args = structure.args
    task = SimpleNamespace(
        source_dictionary=structure.dictionaries[0], target_dictionary=structure.dictionaries[1]
    )
    real, empty = build_model(args, task), on_meta_device(lambda: build_model(args, task))
    assert {each.device.type for each in real.parameters()} == {"cpu"}
    kept = [each for each in empty.parameters() if not isinstance(each, FakeTensor)]
    assert {each.device.type for each in kept} <= {"meta"}
    shapes = {name: each.shape for name, each in real.named_parameters()}
    assert {name: each.shape for name, each in empty.named_parameters()} == shapes
    assert structure.teacher_parts == parameters_by_part(real)


def test_different_dictionaries_count_each():
    size = Size(1, 1, 8, 1, 32)
    few, many = (TeacherStructure.of_arch("transformer", 50, target) for target in (50, 80))
    assert many.parameters(size) - few.parameters(size) == 2 * 30 * 8  # embedding and projection


def test_a_checkpoint_says_what_it_is_made_of_without_its_data(teacher, tmp_path):
    moved = tmp_path / "moved.pt"
    state = read_checkpoint(teacher)
    state["cfg"]["task"]["data"] = "nowhere"
    torch.save(state, moved)
    structure = TeacherStructure.of_checkpoint(str(moved))
    assert structure.size == Size(1, 1, 16, 2, 32)
    assert sum(structure.teacher_parts.values()) == count_parameters(state["model"])
    assert structure.parameters(structure.size) == count_parameters(state["model"])
    assert structure.changes == []
    form = as_arguments(structure.flags(structure.size))[:5]
    assert form == [
        *("--arch", "transformer", "--share-all-embeddings"),
        *("--encoder-normalize-before", "--decoder-normalize-before"),
    ]


def test_a_checkpoint_that_keeps_its_arguments_in_the_old_place(teacher, tmp_path):
    state = read_checkpoint(teacher)
    old = tmp_path / "old.pt"
    args = Namespace(**vars(state["cfg"]["model"]))
    del args.activation_fn, args.no_cross_attention  # younger than some checkpoints
    torch.save({"args": args, "model": state["model"]}, old)
    assert (
        TeacherStructure.of_checkpoint(str(old)).size
        == TeacherStructure.of_checkpoint(teacher).size
    )


def test_a_checkpoint_of_hydra_keeps_its_arguments_in_a_dictionary(teacher, tmp_path):
    state = read_checkpoint(teacher)
    args = vars(state["cfg"]["model"]) | {"_name": "transformer"}
    args.pop("arch")
    state["cfg"]["model"] = args
    path = tmp_path / "hydra.pt"
    torch.save(state, path)
    ours, theirs = (TeacherStructure.of_checkpoint(str(each)) for each in (path, teacher))
    assert ours.flags(ours.size) == theirs.flags(theirs.size)


def test_a_stage_starts_from_its_teacher_trains_and_converts(teacher, data, tmp_path):
    structure = TeacherStructure.of_checkpoint(teacher)
    (_, size) = ladder_sizes(structure.size, [1.0, 0.25], "balanced")
    flags = as_arguments(structure.flags(size))
    start, student = tmp_path / "start.pt", tmp_path / "student"
    names = ["--teacher", teacher, "--arch", flags[1], "--out", start]
    run_forked("fairseq-kd", "inherit", *names, "--", *flags[2:])
    training = [
        *REST,
        *SMOOTHED,
        "--user-dir",
        USER_DIR,
        "--finetune-from-model",
        start,
        "--max-update",
        "2",
    ]
    run_forked("fairseq-train", data, *training, *flags, "--save-dir", student)
    state = read_checkpoint(student / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert count_parameters(state["model"]) == structure.parameters(size)
    out = tmp_path / "converted"
    FairseqConverter(str(student / "checkpoint_last.pt"), data, user_dir=USER_DIR).convert(str(out))
    translator = ctranslate2.Translator(str(out), device="cpu")
    assert translator.translate_batch([["y", "la"]], max_decoding_length=5)[0].hypotheses


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "size", [Size(4, 4, 48, 6, 192), Size(5, 3, 40, 2, 60), Size(3, 2, 60, 4, 100)], ids=str
)
def test_every_stage_can_start_from_the_stage_before(size, strategy):
    structure = TeacherStructure.of_arch("transformer", 20, 20, sized(size))
    ratios = buildable(size, [1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.02], strategy)
    before = Structure(structure.build(size)[0], "The stage before")
    for stage in ladder_sizes(size, ratios, strategy)[1:]:
        after = Structure(structure.build(stage)[0], "The stage")
        assert inherit(after, before, {"encoder": None, "decoder": None})
        before = after


HEADS = ["--encoder-attention-heads", "8", "--decoder-attention-heads", "4"]
UNUSUAL = [
    ([*HEADS], Size(2, 2, 64, 8, 96), "The teacher's encoder has width 64 and 8 heads, its decoder "
     "width 64 and 4 heads. CTranslate2 needs equal ones: stages are of the smaller width, with "
     "heads of the smaller kind."),
    (["--encoder-embed-dim", "80", "--encoder-attention-heads", "8"], Size(2, 2, 60, 6, 96),
     "The teacher's encoder has width 80 and 8 heads, its decoder width 64 and 4 heads."),
    (["--encoder-normalize-before"], Size(2, 2, 64, 4, 96), "The teacher's encoder and decoder "
     "normalize at different places, which CTranslate2 does not convert: stages normalize before "
     "each block."),
    (["--activation-fn", "tanh"], Size(2, 2, 64, 4, 96), "CTranslate2 does not convert the "
     "teacher's --activation-fn tanh: stages are built with relu."),
    (["--no-token-positional-embeddings"], Size(2, 2, 64, 4, 96), "CTranslate2 does not convert "
     "the teacher's --no-token-positional-embeddings: stages are built without."),
]  # fmt: skip


@pytest.mark.parametrize(("form", "size", "change"), UNUSUAL, ids=lambda each: str(each)[:30])
def test_stages_of_an_unusual_teacher_are_convertible(tmp_path, form, size, change):
    flags = [*sized(Size(2, 2, 64, 4, 96)), *form]
    structure = TeacherStructure.of_arch("transformer", 30, 40, flags)
    assert structure.size == size
    assert len(structure.changes) == 1
    assert structure.changes[0].startswith(change)
    assert (write_random(structure, size, tmp_path) / "model.bin").is_file()


def test_without_a_vocabulary_there_are_flags_but_no_counts():
    structure = TeacherStructure.of_arch("transformer", None, None, ["--share-all-embeddings"])
    size = Size(1, 1, 8, 1, 32)
    assert "encoder-embed-dim" in structure.flags(size)
    with pytest.raises(ValueError, match=r"depend on the vocabulary, which is not known yet\. P"):
        structure.parameters(size)


@pytest.mark.parametrize(
    ("arch", "words", "flags", "message"),
    [
        ("lstm", (9, 9), [], "--arch must be a transformer of fairseq or one of transformer_kd_"),
        ("cmlm_transformer", (9, 9), [], "--arch must be a transformer of fairseq or one of "),
        ("transformer", (9, 9), ["--decoder-attention-heads", "7"], "--arch transformer has a "
         "width of 512 in its decoder, which 7 heads do not divide. The nearest that can be built "
         "has --decoder-attention-heads 8."),
        ("transformer", (9, 10), ["--share-all-embeddings"], "--arch transformer has "
         "--share-all-embeddings, which needs one dictionary for both languages, but they have 9 "
         "and 10 entries."),
        ("transformer", (9, 9), ["--tall"], "The flags after -- are not those of a fairseq "),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(arch, words, flags, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        TeacherStructure.of_arch(arch, *words, flags)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["cfg"]["model"].__dict__.update(arch="lstm", _name="lstm"),
         "has the architecture 'lstm', but must be a transformer of fairseq"),
        (lambda state: state["model"].pop("encoder.embed_tokens.weight"),
         "has no plain word embeddings: encoder.embed_tokens.weight is missing."),
        (lambda state: state.update(cfg=None), "is not a fairseq checkpoint: it holds no 'cfg' or "
         "'args' of a model. Give a file that fairseq-train wrote."),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_kind_is_refused(teacher, tmp_path, change, message):
    state = read_checkpoint(teacher)
    change(state)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"^{re.escape(f'--teacher {path} {message}')}"):
        TeacherStructure.of_checkpoint(str(path))
