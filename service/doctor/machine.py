"""The machine without its GPUs: system, processor, memory, and what a container leaves of them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.doctor.report import Check, Fact, info, no, ok

ROOT = Path("/")
# What makes INT8 and bf16 fast, by the names in /proc/cpuinfo: x86, then Arm.
_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
    "asimddp": "DotProd",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
}
_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})
_UNLIMITED = 2**60


@dataclass(frozen=True, slots=True)
class Limits:
    """What the control groups of this process allow; None: no limit."""

    cpus: float | None
    memory_bytes: int | None


def machine(*, threads: int | None = None, root: Path = ROOT) -> list[Check]:
    """`threads`: what the service would use; None: not known."""
    return [_system(root), _python(), _processor(root, threads), _instructions(root), _memory(root)]


def container(root: Path = ROOT) -> str | None:
    """`Docker`, `Kubernetes` …, or None outside a container, as far as can be told."""
    if "KUBERNETES_SERVICE_HOST" in os.environ or (root / "var/run/secrets/kubernetes.io").is_dir():
        return "Kubernetes"
    if (root / "run/.containerenv").exists():
        return "Podman"
    if (root / ".dockerenv").exists():
        return "Docker"
    return os.environ.get("container")  # noqa: SIM112  # systemd's convention, in lower case


def limits(root: Path = ROOT) -> Limits:
    """By the files of control groups, version 2 or 1: the tightest from this process's group up to the root."""
    cpus: list[float] = []
    memory: list[int] = []
    for folder in _groups(root):
        if (pair := _read(folder / "cpu.max").split()) and pair[0].isdigit():
            cpus.append(int(pair[0]) / int(pair[1]))
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            cpus.append(int(quota) / int(period))
        sizes = (_read(folder / name) for name in ("memory.max", "memory.limit_in_bytes"))
        memory += [int(size) for size in sizes if size.isdigit() and int(size) < _UNLIMITED]
    return Limits(min(cpus, default=None), min(memory, default=None))


def _system(root: Path) -> Check:
    release = dict(line.split("=", 1) for line in _read(root / "etc/os-release").splitlines() if "=" in line)
    name = release.get("PRETTY_NAME", platform.system()).strip('"')
    inside = container(root)
    where = f", in a container ({inside})" if inside else ""
    kernel, architecture = platform.release(), platform.machine()
    return info("system", f"{name}, {platform.system()} {kernel}, {architecture}{where}", os=name, kernel=kernel,
                architecture=architecture, container=inside)  # fmt: skip


def _python() -> Check:
    version = platform.python_version()
    return info("python", f"{platform.python_implementation()} {version}, {sys.executable}", version=version, executable=sys.executable)  # fmt: skip


def _processor(root: Path, threads: int | None) -> Check:
    model = next((text for key, text in _cpuinfo(root) if key == "model name"), platform.processor() or "unknown")
    usable, present = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    allowed = limits(root).cpus
    facts: dict[str, Fact] = {"model": model, "cores_usable": usable, "cores_present": present, "cgroup_cpus": allowed}
    says = f"{model}, {usable} of {present} cores usable"
    if allowed is None:
        return ok("cpu", says, **facts)
    says += f", {allowed:g} allowed by the control group"
    if threads is not None and threads > max(1, allowed + 0.5):
        fitting = max(1, round(allowed))
        return no(
            "cpu",
            f"{says}: {threads} threads would be stopped by the kernel for part of each period",
            f"MAREY_THREADS={fitting} MAREY_DECODE_WORKERS={max(1, fitting)} marey serve",
            **facts,
        )
    return ok("cpu", says, **facts)


def _instructions(root: Path) -> Check:
    flags = next((text.split() for key, text in _cpuinfo(root) if key.lower() in ("flags", "features")), [])
    found = [word for flag, word in _INSTRUCTIONS.items() if flag in flags]
    facts: dict[str, Fact] = {"instructions": found, "int8": bool(_INT8 & set(flags))}
    if facts["int8"]:
        return ok("instructions", f"{', '.join(found)}: INT8 runs on instructions of its own", **facts)
    told = ", ".join(found) or "none that are known here"
    return info("instructions", f"{told}: without VNNI, AMX or DotProd INT8 gains little", **facts)


def _memory(root: Path) -> Check:
    table = dict(_pairs(_read(root / "proc/meminfo")))
    total, available = (int(table.get(key, "0 kB").split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    allowed = limits(root).memory_bytes
    says = f"{total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB available"
    if allowed is not None:
        says += f", {allowed / 2**30:.1f} GiB allowed by the control group"
    return info("memory", says, total_bytes=total, available_bytes=available, cgroup_bytes=allowed)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control groups and of those around them; version 1 has one tree per controller."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        trees: Sequence[Path] = [mount, mount / "unified"] if number == "0" else [mount / controllers]
        # Inside a container the path may be that of the host, while what is mounted is the container's own part.
        parts = [part for part in path.split("/") if part and part != ".."]
        for tree in trees:
            for depth in range(len(parts), -1, -1):
                yield tree.joinpath(*parts[:depth])


def _cpuinfo(root: Path) -> Iterator[tuple[str, str]]:
    return _pairs(_read(root / "proc/cpuinfo"))


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
