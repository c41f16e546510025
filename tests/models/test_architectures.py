"""The architectures: the models they build, and who can read their checkpoints."""

from argparse import Namespace

import ctranslate2
import pytest
from ctranslate2.converters import FairseqConverter
from forks import run_new
from harness import USER_DIR, Setup
from omegaconf import OmegaConf

from fairseq_kd.checkpoints.reading import read_checkpoint
from fairseq_kd.checkpoints.weights import count_parameters
from fairseq_kd.models import ARCHITECTURES

SMOOTHED = ["--criterion", "label_smoothed_cross_entropy"]
SHARED = ["--source-lang", "es", "--target-lang", "en", "--share-all-embeddings"]
SHARED += ["--optimizer", "adam", "--lr", "0.001", "--max-tokens", "200", "--cpu"]


def built(data, architecture, *flags):
    return Setup(data, *SMOOTHED, "--arch", architecture, *flags, training=SHARED)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_builds_what_it_says(data, name):
    size = ARCHITECTURES[name]
    model = built(data, name).model
    assert len(model.encoder.layers) == size.encoder_layers
    assert len(model.decoder.layers) == size.decoder_layers
    for layer in (*model.encoder.layers, *model.decoder.layers):
        assert layer.self_attn.num_heads == size.heads
        assert layer.fc1.weight.shape == (size.feed_forward, size.width)
        assert layer.normalize_before


def test_a_flag_wins_over_the_architecture(data):
    model = built(data, "transformer_kd_6_2", "--encoder-layers", "4").model
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (4, 2)


def test_the_options_of_hydra_get_the_same_sizes_and_no_none_of_omegaconf_2_0():
    architecture = ARCHITECTURES["transformer_kd_tiny_student"]
    given = {"_name": "transformer_kd_tiny_student", "encoder_layers": 3, "dropout": None}
    options, plain = OmegaConf.create(given), Namespace(_name="", encoder_layers=3)
    architecture.apply(options)
    architecture.apply(plain)
    assert OmegaConf.to_container(options) == {**vars(plain), "base_layers": 0}
    assert options.encoder_embed_dim == options.decoder_output_dim == architecture.width


def test_the_reference_student_is_at_most_a_quarter_of_the_reference_teacher(data):
    teacher, student = (
        sum(p.numel() for p in built(data, f"transformer_kd_{name}").model.parameters())
        for name in ("teacher", "student")
    )
    assert student <= 0.25 * teacher


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_is_a_plain_transformer_that_converts_to_ctranslate2(data, tmp_path, name):
    one_layer_is_enough_of_the_large = ["--encoder-layers", "1", "--decoder-layers", "1"]
    setup = built(data, name, *one_layer_is_enough_of_the_large, "--no-save-optimizer-state")
    path = setup.save(tmp_path / "checkpoint.pt")
    state = read_checkpoint(path)
    assert state["cfg"]["model"].arch == "transformer"
    assert {key.split(".")[0] for key in state["model"]} == {"encoder", "decoder"}
    assert count_parameters(state["model"]) == sum(p.numel() for p in setup.model.parameters())
    FairseqConverter(str(path), data, user_dir=USER_DIR).convert(str(tmp_path / "converted"))
    translator = ctranslate2.Translator(str(tmp_path / "converted"), device="cpu")
    assert translator.translate_batch([["y", "la"]], max_decoding_length=5)[0].hypotheses


def test_the_converter_command_takes_a_checkpoint(data, tmp_path):
    setup = built(data, "transformer_kd_small_student", "--no-save-optimizer-state")
    path = setup.save(tmp_path / "checkpoint.pt")
    paths = ["--model_path", path, "--data_dir", data, "--output_dir", tmp_path / "converted"]
    run_new("ct2-fairseq-converter", *paths, "--user_dir", USER_DIR)
    assert (tmp_path / "converted" / "model.bin").is_file()
