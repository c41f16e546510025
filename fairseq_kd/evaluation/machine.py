"""What was measured on: processor, GPUs, and the versions that can change a number."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import List

from fairseq_kd.child_process import run

PACKAGES = ("torch", "fairseq", "fairseq-fixed", "ctranslate2", "sacrebleu", "sacremoses")


def machine() -> str:
    """The processor and the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} core{'s' if cores != 1 else ''} of {processor()}"


def processor() -> str:
    """The processor's name, as Linux tells it, else its kind."""
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
    """The GPUs that nvidia-smi lists; those that CUDA_VISIBLE_DEVICES hides are among them."""
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = run(words)
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def versions() -> str:
    """The versions that can change a number."""
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)
