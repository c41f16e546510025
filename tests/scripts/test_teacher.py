"""The models in data/teacher.es-en: the program that makes them, and their manifest."""

import importlib
import json
import os
import re
import sys
from argparse import Namespace

import pytest
import torch
from harness import ROOT, Setup, run, write_text

from fairseq_kd.checkpoints.reading import options_of, read_model
from fairseq_kd.checkpoints.updates import updates_behind
from fairseq_kd.checkpoints.weights import count_parameters
from fairseq_kd.files.hashes import sha256_of

FOLDER, TRAIN = ROOT / "data" / "teacher.es-en", ROOT / "scripts" / "teacher.sh"
PLAIN = ["--criterion", "label_smoothed_cross_entropy", "--share-all-embeddings"]
PLAIN += ["--no-save-optimizer-state"]


@pytest.fixture
def script(monkeypatch):
    """The program that packs a teacher."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    return importlib.import_module("weights_alone")


def saved(data, path, seed):
    return Setup(data, *PLAIN, "--seed", str(seed), "--save-dir", str(path.parent)).save(path)


def test_the_mean_of_checkpoints_is_written_in_half_precision(script, data, tmp_path, monkeypatch):
    paths = [saved(data, tmp_path / f"{seed}.pt", seed) for seed in (1, 2)]
    out = tmp_path / "out.pt"
    monkeypatch.setattr(sys, "argv", ["weights_alone.py", str(out), *map(str, paths)])
    script.main()
    packed, one, two = (read_model(path)["model"] for path in (out, *paths))
    assert packed.keys() == one.keys()
    for name, weight in packed.items():
        want = ((one[name].double() + two[name].double()) / 2).half()
        assert weight.dtype == torch.float16
        assert torch.equal(weight, want), name
    shared = {packed[f"{side}.embed_tokens.weight"].data_ptr() for side in ("encoder", "decoder")}
    assert len(shared) == 1
    assert str(tmp_path) not in str(read_model(out))
    with pytest.raises(SystemExit, match=re.escape(f"OUT.pt {out} already exists. Remove it")):
        script.main()


def changed(path, **parts):
    """A copy of a checkpoint in which some parts are others."""
    torch.save({**read_model(path), **parts}, path.with_name("changed.pt"))
    return path.with_name("changed.pt")


def test_a_checkpoint_with_options_of_old_is_packed_with_them(script, data, tmp_path):
    path = saved(data, tmp_path / "1.pt", 1)
    model = vars(read_model(path)["cfg"]["model"])
    args = Namespace(**{**model, "task": "translation", "data": f"x:{data}", "some": [str(data)]})
    packed = script.weights_alone([str(changed(path, cfg=None, args=args))])
    assert packed["cfg"] is None
    assert (packed["args"].arch, packed["args"].data, packed["args"].some) == (args.arch, "", [""])
    torch.save(packed, tmp_path / "packed.pt")
    assert options_of(read_model(tmp_path / "packed.pt"), "model")["arch"] == args.arch


def test_a_mean_that_half_precision_cannot_hold_is_refused(script, data, tmp_path):
    path = saved(data, tmp_path / "1.pt", 1)
    model = dict(read_model(path)["model"])
    name = "decoder.layers.0.fc2.bias"
    model[name] = torch.full_like(model[name], 70_000.0)
    message = f"The mean of '{name}' has numbers beyond 65,504, which half precision cannot hold."
    with pytest.raises(ValueError, match=re.escape(message)):
        script.weights_alone([str(changed(path, model=model))])


FAKE_COMMANDS = {  # in place of what trains for four hours
    "fairseq-kd": 'mkdir -p "$RUN/cooldown" "$RUN/data/bin"; cd "$RUN"; touch data/codes '
    "data/bin/dict.e{s,n}.txt; echo best > cooldown/checkpoint_best.pt",
    "python": 'cat "${@:3}" > "$2"',
}


def test_killed_at_its_end_it_says_what_is_there_and_refuses_anything_else(tmp_path):
    fakes, out = tmp_path / "bin", tmp_path / "out"
    text = (
        TRAIN.read_text()
        .replace("scripts/setup.sh\n", "")
        .replace(
            'source "$(dirname "$0")/common.sh"', f"source {ROOT}/scripts/common.sh; PATH=$FAKES"
        )
    )
    fakes.mkdir()
    for name, body in FAKE_COMMANDS.items():
        (fakes / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (fakes / name).chmod(0o755)
    (tmp_path / "teacher.sh").write_text(text)
    env = {"RUN": str(tmp_path / "run"), "FAKES": f"{fakes}:{os.environ['PATH']}"}
    for _ in range(2):
        message = run("bash", tmp_path / "teacher.sh", out, cwd=tmp_path, env=env).stdout
        assert f"{out}/teacher.pt is ready" in message
        assert (out / "teacher.pt").read_text() == "best\n"
        assert not (tmp_path / "out.partial").exists()
    (out / "teacher.pt").write_text("theirs")
    again = run("bash", tmp_path / "teacher.sh", out, cwd=tmp_path, env=env, check=False)
    assert f"{out} already exists and is not this model. Remove it, or give" in again.stderr
    assert (again.returncode, (out / "teacher.pt").read_text()) == (1, "theirs")


def test_checkpoints_of_other_shapes_are_refused(script, data, tmp_path):
    one = saved(data, tmp_path / "1.pt", 1)
    two = Setup(data, *PLAIN, "--decoder-layers", "2").save(tmp_path / "2.pt")
    with pytest.raises(ValueError, match=r"not of one training: their weights differ in shape\."):
        script.weights_alone([str(one), str(two)])


@pytest.mark.parametrize("name", ["teacher", "distilled", "alone"])
def test_the_models_are_those_of_their_manifest(name):
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    manifest = manifest.get(name, manifest)
    path = FOLDER / f"{name}.pt"
    state = read_model(path)
    assert sha256_of([path]) == manifest["sha256"]
    assert updates_behind(path) == manifest["updates"]
    assert f"{count_parameters(state['model']):,} parameters" in manifest["training"]
    assert path.stat().st_size < 8_000_000
    assert options_of(state, "task")["source_lang"] == "es"
    assert not re.search(r"(?<![\w.])/\w", str(state["cfg"])), "an absolute path"


@pytest.mark.slow
def test_the_teacher_of_the_demo_is_made_by_one_command(tmp_path):
    text = write_text(tmp_path / "text", {"train": 2000, "valid": 40, "test": 40})
    env = {"TEXT": str(text), "RUN": str(tmp_path / "run"), "UPDATES": "1000"}
    env["COOLDOWN"] = "500"
    run(TRAIN, tmp_path / "out", env=env)
    assert updates_behind(tmp_path / "out" / "teacher.pt") == 1500
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"teacher.pt", "codes", "dict.es.txt", "dict.en.txt"}
    assert "teacher.pt is ready" in run(TRAIN, tmp_path / "out", env=env).stdout


def test_the_header_is_the_help():
    message = run(TRAIN, "--help").stdout
    assert "Train the models that data/teacher.es-en holds" in message
