"""The images' steps are those of the documentation, and work on a bare Debian."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCAL = re.compile(r"/[\w/.-]+")  # in the settings of pip: folders of packages
SYSTEM = ("apt-get update", "apt-get install")


def steps_of(path):
    """The commands of a file that install system packages or the environment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    commands = [line.strip().removeprefix("RUN ").partition(" #")[0].strip() for line in lines]
    wanted = (*SYSTEM, "scripts/setup.sh", "CUDA=")
    return [re.sub("CUDA=\\S+ ", "", each) for each in commands if each.startswith(wanted)]


@pytest.mark.parametrize("name", ["scripts/Containerfile", "scripts/apptainer.def"])
def test_an_image_takes_the_steps_of_the_documentation(name):
    documented = steps_of(ROOT / "docs" / "install.md")
    assert len(documented) == 3
    assert sorted(steps_of(ROOT / name)) == sorted(documented)
    assert steps_of(ROOT / name)[-1] == "scripts/setup.sh"


@pytest.fixture
def bare(tmp_path):
    """A Debian root with nothing but its base system, and the settings of pip in this one."""
    root = tmp_path / "root"
    bootstrap = ["debootstrap", "--variant=minbase", "bookworm", str(root)]
    subprocess.run(bootstrap, check=True, stdout=subprocess.DEVNULL)
    pip = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.M))
    if Path(settings.get("cert", "")).is_file():  # apt would replace it
        shutil.copy(settings["cert"], root / "srv" / "certificates")
        settings["cert"] = "/srv/certificates"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (root / "etc" / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    named = [Path(each) for each in LOCAL.findall(" ".join(settings.values()))]
    folders = {each.parent for each in named if each.exists()} - {Path("/"), root / "srv"}
    with ExitStack() as mounts:
        for folder in sorted({Path("/proc"), Path("/dev"), *folders}):
            inside = root / folder.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", str(folder), str(inside)], check=True)
            mounts.callback(subprocess.run, ["umount", "--lazy", str(inside)], check=True)
            if folder != Path("/dev"):
                subprocess.run(["mount", "-o", "remount,bind,ro", str(inside)], check=True)
        shared_memory = root / "dev" / "shm"
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(shared_memory)], check=True)
        mounts.callback(subprocess.run, ["umount", "--lazy", str(shared_memory)], check=True)
        yield root


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap"
)
def test_a_bare_debian_gets_a_working_installation(bare):
    clone = bare / "srv" / "fairseq_kd"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "DEBIAN_FRONTEND": "noninteractive"}
    steps = [
        *steps_of(ROOT / "docs" / "install.md")[1:],
        "cd /srv/fairseq_kd && CUDA=0 scripts/setup.sh",
        "cd / && /srv/fairseq_kd/.venv/bin/fairseq-kd user-dir",
        "cd /srv/fairseq_kd && .venv/bin/python -m pytest tests/losses tests/test_command_line.py",
    ]
    for step in steps:
        done = subprocess.run(
            ["chroot", str(bare), "bash", "-c", step],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (step, done.stdout[-2000:], done.stderr[-2000:])
