"""A teacher that is large enough to be shrunk, run files that name it, and a run that is built."""

import shutil

import pytest
from harness import Setup
from workflows import build, small_workflow

from fairseq_kd.pipeline.preparation import prepare_run


@pytest.fixture(scope="session")
def large_teacher(data, tmp_path_factory):
    """A checkpoint of four layers, 64 dimensions and four heads, with random weights."""
    flags = ["--criterion", "label_smoothed_cross_entropy", "--no-save-optimizer-state"]
    for side in ("encoder", "decoder"):
        flags += [f"--{side}-layers", "4", f"--{side}-embed-dim", "64"]
        flags += [f"--{side}-attention-heads", "4", f"--{side}-ffn-embed-dim", "128"]
    return str(Setup(data, *flags).save(tmp_path_factory.mktemp("large") / "large.pt"))


@pytest.fixture
def workflow_of(data, large_teacher, tmp_path, monkeypatch):
    """Plans a run file with usual keys added, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    usual = {"data": data, "teacher": large_teacher, "train": "{max-update: 100}"}

    def workflow(text, *changes):
        said = {line.partition(":")[0] for line in text.splitlines()}
        lines = [f"{key}: {value}" for key, value in usual.items() if key not in said]
        path = tmp_path / "run.yaml"
        path.write_text("\n".join([text, *lines]), encoding="utf-8")
        return prepare_run(path, changes)

    return workflow


@pytest.fixture
def refuses(workflow_of):
    """Asserts that a run file is refused with a message."""

    def check(text, message):
        with pytest.raises(ValueError, match=message):
            workflow_of(text)

    return check


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder in which a run was built that names its files from there."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build(small_workflow("run"))
    return folder


@pytest.fixture
def workflow(built, tmp_path, monkeypatch):
    """A copy of it that tests may damage."""
    shutil.copytree(built / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return small_workflow("run")
