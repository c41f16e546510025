"""Models that a plugin of the user's own registers, in every command that loads models."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from forks import run_new
from harness import ROOT, run

PLUGIN = """\
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel, base_architecture

@register_model("homemade")
class Homemade(TransformerModel):
    pass

register_model_architecture("homemade", "homemade")(base_architecture)
"""
SIZE = [
    *("--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "32"),
    *("--decoder-embed-dim", "32", "--encoder-ffn-embed-dim", "32"),
    *("--encoder-attention-heads", "2", "--decoder-attention-heads", "2"),
    "--share-all-embeddings",
]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "own_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text(PLUGIN)
    return folder


@pytest.fixture(scope="module")
def homemade(ending_teacher, data, tmp_path_factory):
    """A checkpoint of an architecture that fairseq does not know."""
    state = torch.load(ending_teacher, weights_only=False)
    state["cfg"]["model"].arch = state["cfg"]["model"]._name = "homemade"
    path = tmp_path_factory.mktemp("homemade") / "teacher.pt"
    torch.save(state, path)
    return path


def commands(homemade, data, out):
    named = ["--teacher", homemade, "--data", data, "--out", out]
    return {
        "store": [*named, "--subset", "valid"],
        "translate": [*named, "--subset", "valid", "--beam", "1", "--cache", out.parent / "cache"],
        "evaluate": [*named, "--student", homemade, "--subset", "valid", "--rounds", "0"],
        "inherit": ["--teacher", homemade, "--arch", "homemade", "--out", out],
        "plan": ["--teacher", homemade, "--ladder", "1.0,0.5"],
        "export": [homemade, "--data", data, "--out", out, "--bpe", "none"],
    }


EACH = [
    pytest.param(command, marks=pytest.mark.slow) if command == "evaluate" else command
    for command in commands("", "", Path())
]


@pytest.mark.parametrize("command", EACH)
def test_a_command_imports_the_plugin_of_its_model(command, homemade, plugin, data, tmp_path):
    flags = commands(homemade, data, tmp_path / "out")[command]
    without = run_new("fairseq-kd", command, *flags, check=False)
    assert without.returncode == 2
    assert "'homemade', which fairseq does not know. Give the plugin that" in without.stderr
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    behind = ["--", *SIZE] if command == "inherit" else []
    command_line = ["fairseq-kd", command, *flags, "--user-dir", plugin, *behind]
    done = run_new(*command_line, check=command != "export")
    if command == "export":  # which reads the model, but CTranslate2 has no such kind
        assert "cannot be exported: CTranslate2 cannot convert it" in done.stderr


def test_a_folder_that_is_no_plugin_is_refused(homemade, data, tmp_path):
    flags = commands(homemade, data, tmp_path / "out")["plan"]
    done = run_new("fairseq-kd", "plan", *flags, "--user-dir", tmp_path, check=False)
    message = (
        f"fairseq-kd plan: --user-dir {tmp_path} has no __init__.py. Give the folder of a fairse"
    )
    assert done.returncode == 2
    assert re.match(re.escape(message), done.stderr.splitlines()[-1])


def test_a_torch_that_is_too_old_is_named():
    program = "import torch; torch.__version__ = '2.5.1+cu124'; import fairseq_kd.plugin"
    done = run(sys.executable, "-c", program, check=False, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: fairseq_kd needs torch 2.6 or newer, which reads checkpoints as data, but "
        "this is 2.5.1+cu124: pip install 'torch>=2.6'"
    )
