"""What a container leaves of the machine, read from control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.doctor.machine import Limits, limits, machine


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Limits(None, None)),
        (
            {
                "proc/self/cgroup": "0::/pod/app",
                "sys/fs/cgroup/pod/cpu.max": "150000 100000",  # the tighter one, around ours
                "sys/fs/cgroup/pod/app/cpu.max": "400000 100000",
                "sys/fs/cgroup/pod/memory.max": "max",
                "sys/fs/cgroup/pod/app/memory.max": "536870912",
            },
            Limits(1.5, 512 * 2**20),
        ),
        # Docker: the path is the host's, what is mounted is the container's own part.
        (
            {"proc/self/cgroup": "0::/../docker/0123", "sys/fs/cgroup/cpu.max": "200000 100000"},
            Limits(2.0, None),
        ),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, Limits(None, None)),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/x\n2:cpu,cpuacct:/docker/x",
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "1073741824",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",  # version 1's way to say: none
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            Limits(0.5, 2**30),
        ),
    ],
)
def test_the_tightest_limit_up_to_the_root_counts(tmp_path: Path, files: dict[str, str], expected: Limits) -> None:
    assert limits(tree(tmp_path, files)) == expected


def test_more_threads_than_the_control_group_allows_are_a_fault_with_the_number_to_set(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"})
    cpu = {check.name: check for check in machine(threads=16, root=root)}["cpu"]
    assert (cpu.state, cpu.facts["cgroup_cpus"]) == ("no", 2.0)
    assert (cpu.remedy or "").startswith("MAREY_THREADS=2 ")
    assert {check.name: check for check in machine(threads=2, root=root)}["cpu"].state == "ok"


@pytest.mark.parametrize(
    ("flags", "state", "words"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8", "ok", ["AVX2", "AVX-512", "AVX512-VNNI", "AMX-INT8"]),
        ("flags\t\t: fpu avx2", "info", ["AVX2"]),
        ("Features\t: fp asimd asimddp i8mm bf16", "ok", ["DotProd", "I8MM", "BF16"]),
    ],
)
def test_the_instructions_that_make_int8_fast_are_named(
    tmp_path: Path, flags: str, state: str, words: list[str]
) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": f"model name\t: Some CPU\n{flags}"})
    checks = {check.name: check for check in machine(root=root)}
    assert (checks["instructions"].state, checks["instructions"].facts["instructions"]) == (state, words)
    assert checks["cpu"].facts["model"] == "Some CPU"
