"""The wheel: what is in it, and a run from it in an environment that has no clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from harness import ROOT, run, write_text

RUN = """\
data: {text: text, source: es, target: en, merges: 300}
teacher: {arch: transformer_kd_small_teacher}
ladder: [0.7, 0.4]
each: {temperature: 1}
train: {max-update: 20, max-tokens: 1000, lr: 3e-3}
evaluate: {rounds: 0, no-memory: true, beam: 1, bootstrap: 100}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the tracked files."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = run("git", "ls-files", "-z", "--", "fairseq_kd", "user_dir", "*").stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "clone" / name)
    flags = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *flags, folder / "clone")
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_what_they_read(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    package = ROOT / "fairseq_kd"
    paths = (path.relative_to(ROOT) for path in package.rglob("*") if path.is_file())
    files = {path.as_posix() for path in paths if "__pycache__" not in path.parts}
    assert names == {*files, "fairseq_kd_user_dir/__init__.py"}


def environment_of(wheel, folder):
    """A new environment with the wheel, the libraries of this one, and fairseq's commands."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    # Python searches a folder of a .pth file, but reads no .pth files there, such as the clone's.
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    programs = distribution(packages_distributions()["fairseq"][0]).entry_points
    for name, module in (
        ("fairseq-kd", "fairseq_kd.cli:main"),
        *((each.name, each.value) for each in programs if each.group == "console_scripts"),
    ):
        path = folder / "bin" / name
        module, _, function = module.partition(":")
        python = f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        path.write_text(f"#!{folder}/bin/python\n{python}")
        path.chmod(0o755)
    return folder / "bin"


@pytest.mark.slow
def test_a_run_an_export_and_a_training_away_from_the_clone(wheel, tmp_path):
    programs = environment_of(wheel, tmp_path / "environment")
    away = tmp_path / "away"
    write_text(away / "text", {"train": 300, "valid": 30, "test": 20})
    (away / "run.yaml").write_text(RUN)
    env = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}

    def called(name, *words):
        command = [str(word) for word in (programs / name, *words)]
        done = subprocess.run(command, cwd=away, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    user_dir = called("fairseq-kd", "user-dir").strip()
    assert Path(user_dir).is_relative_to(tmp_path / "environment")
    called("fairseq-kd", "progressive", "run.yaml")
    folder = away / "runs" / "run"
    assert (folder / "report.html").is_file()
    model, data = folder / "student" / "checkpoint_best.pt", folder / "data" / "bin"
    called("fairseq-kd", "export", model, "--data", data, "--out", "exported", "--threads", "1")
    text = "En el principio crió Dios los cielos y la tierra.\n"
    command = [programs / "python", "exported/translate.py"]
    done = subprocess.run(command, cwd=away, env=env, input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    called(
        *("fairseq-train", data, "--user-dir", user_dir, "--arch", "transformer_kd_small_student"),
        *("--share-all-embeddings", "--criterion", "word_kd", "--kd-teacher", model, "--cpu"),
        *("--optimizer", "adam", "--lr", "1e-3", "--max-tokens", "1000", "--max-update", "2"),
        *("--save-dir", "trained"),
    )
    assert (away / "trained" / "checkpoint_last.pt").is_file()
