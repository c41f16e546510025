"""The images' steps are those of the documentation, and work on a bare Debian."""

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = ("/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs")  # settings of this machine's pip
LOCAL = re.compile(r"/[\w/.-]+")  # in these settings: folders of packages
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
    """A Debian root with nothing but its base system, and this machine's settings of pip."""
    root = tmp_path / "root"
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", str(root)], check=True)
    settings = " ".join(
        path.read_text(encoding="utf-8") for path in Path("/etc").glob("pip.conf")
    ) + " ".join(value for name, value in os.environ.items() if name.startswith("PIP_"))
    shared = [*PIP, *(each for each in LOCAL.findall(settings) if Path(each).is_dir())]
    with ExitStack() as mounts:
        for path in ("/proc", "/dev", *shared):
            if not Path(path).exists():
                continue
            inside = root / path.lstrip("/")
            if Path(path).is_file():
                shutil.copy(path, inside)
                continue
            inside.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", path, str(inside)], check=True)
            mounts.callback(subprocess.run, ["umount", "--lazy", str(inside)], check=True)
        yield root


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap"
)
def test_a_bare_debian_gets_a_working_installation(bare):
    clone = bare / "opt" / "fairseq_kd"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment = {
        **kept,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    steps = [
        *steps_of(ROOT / "docs" / "install.md")[1:],
        "cd /opt/fairseq_kd && CUDA=0 scripts/setup.sh",
        "cd / && /opt/fairseq_kd/.venv/bin/fairseq-kd user-dir",
        "cd /opt/fairseq_kd && .venv/bin/python -m pytest tests/losses tests/test_command_line.py",
    ]
    for step in steps:
        done = subprocess.run(
            ["chroot", str(bare), "bash", "-c", step],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (step, done.stdout[-2000:], done.stderr[-2000:])
