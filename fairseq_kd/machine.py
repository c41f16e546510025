"""The machine of a measurement: processor, GPUs, and versions of packages."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import List

from fairseq_kd.child_process import run

PACKAGES = ("torch", "fairseq", "fairseq-fixed", "ctranslate2", "sacrebleu", "sacremoses")


def machine() -> str:
    """The processor, and the number of its cores that this process may use."""
    count = cores()
    return f"{count} core{'s' if count != 1 else ''} of {processor()}"


def cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name on Linux, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def with_gpus() -> str:
    """The machine and its GPUs."""
    names = gpu_names()
    return ", ".join([*(f"{names.count(name)} {name}" for name in dict.fromkeys(names)), machine()])


def gpu_names() -> List[str]:
    """The GPUs that nvidia-smi lists, including those that CUDA_VISIBLE_DEVICES hides."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def versions() -> str:
    """The versions of the installed packages that can change a measured figure."""
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
