"""What a measurement was made on, in words: a figure without its machine says nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service import __version__

_PACKAGES = (
    "numpy",
    "onnxruntime",
    "openvino",
    "opencv-python-headless",
    "pycuda",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)


class Machine(BaseModel):
    """`cores`: those that this process may use. `load`: the kernel's over the last minute, before the run; its own excluded.

    `gpu_driver` None: no NVIDIA driver is loaded. Which GPU, and by which TensorRT, each runner says in its `device`.
    """

    model_config = ConfigDict(frozen=True)

    cpu: str
    cores: int
    memory_gib: float
    gpu_driver: str | None
    system: str
    python: str
    marey: str
    packages: dict[str, str]
    load: float


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpu_driver=_driver(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        marey=__version__,
        packages={name: version for name in _PACKAGES if (version := _version(name)) is not None},
        load=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _driver() -> str | None:
    """The loaded kernel module's version: known without any library of NVIDIA's."""
    found = re.search(r"Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", _text("/proc/driver/nvidia/version"))
    return found.group(1) if found else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
