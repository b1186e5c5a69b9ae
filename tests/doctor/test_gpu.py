"""From the card to CUDA: at each step that may be missing, the sentence names it and the remedy mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.doctor.gpu import Cuda, Seen, gpus, seen
from service.nvml import Gpu, Reading

CARD = "0000:65:00.0"
NOTHING = Seen(cards=(), nodes=(), driver=None, container=None, wsl=False)
NO_LIBRARY = Cuda(error="libcuda.so.1: cannot open shared object file: No such file or directory")
WORKING = Cuda(version=(13, 0), devices=1)


def see(*, container: str | None = None, card: bool = True, driver: bool = False, nodes: bool = False) -> Seen:
    return Seen(
        cards=(CARD,) if card else (),
        nodes=("nvidia0",) if nodes else (),
        driver="590.12.01" if driver else None,
        container=container,
        wsl=False,
    )


def gpu(index: int, address: str) -> Gpu:
    return Gpu(
        index=index,
        uuid=f"GPU-{index}",
        pci_bus_id=address,
        name="H200",
        compute_capability=(9, 0),
        memory_total_bytes=None,
        memory_used_bytes=None,
        utilization=None,
        memory_utilization=None,
        power_w=None,
        power_limit_w=None,
        temperature_c=None,
        sm_clock_hz=None,
        throttled=None,
    )


@pytest.mark.parametrize(
    ("seen", "cuda", "says", "remedy"),
    [
        (NOTHING, NO_LIBRARY, "none on the PCI bus", "marey serve --engine openvino"),
        (see(card=False, container="Docker"), NO_LIBRARY, "this is a container (Docker)", "docker run --gpus all"),
        (see(container="Docker"), NO_LIBRARY, "this container was not given it", "nvidia-ctk runtime configure"),
        (see(container="Kubernetes"), NO_LIBRARY, "this container was not given it", "nvidia.com/gpu: 1"),
        (see(container="Podman"), NO_LIBRARY, "this container was not given it", "podman run --device nvidia.com/gpu"),
        (see(), NO_LIBRARY, f"an NVIDIA GPU at {CARD}, and no driver is loaded", "sudo apt install nvidia-driver"),
        (see(driver=True), NO_LIBRARY, "its library libcuda.so.1 is not", "libcuda1"),
        (see(container="Docker", driver=True, nodes=True), NO_LIBRARY, "libcuda.so.1 is not", "NVIDIA_DRIVER_CAPABILITIES"),
        (see(driver=True, nodes=True), Cuda(code=803), "differ in version", "sudo reboot"),
        (see(driver=True, nodes=True), Cuda(code=802), "fabric", "nvidia-fabricmanager"),
        (see(driver=True, nodes=True), Cuda(code=4242), "cuInit answers 4242", "nvidia-smi"),
        (see(driver=True, nodes=True), Cuda(code=0), "CUDA sees no GPU", "unset CUDA_VISIBLE_DEVICES"),
    ],
)  # fmt: skip
def test_the_first_step_that_is_missing_is_named(seen: Seen, cuda: Cuda, says: str, remedy: str) -> None:
    (check,) = gpus(Reading(reason="there is no NVML"), cuda=cuda, seen=seen)
    assert check.state == "no"
    assert says in check.says
    assert remedy in (check.remedy or "")


def test_a_gpu_that_cuda_may_not_see_is_named_as_hidden() -> None:
    reading = Reading((gpu(0, "0000:01:00.0"), gpu(1, "0000:02:00.0")), driver="590.12.01", cuda=(13, 0))
    first, second, driver, cuda = gpus(reading, cuda=WORKING, seen=see(driver=True), ordinals=("0000:02:00.0",))
    assert "hidden from CUDA" in first.says
    assert "CUDA ordinal 0" in second.says
    assert [check.state for check in (first, second, driver, cuda)] == ["ok"] * 4


def test_gpus_that_nvml_describes_and_cuda_does_not_open_are_no_success() -> None:
    checks = gpus(Reading((gpu(0, CARD),), driver="590.12.01"), cuda=NO_LIBRARY, seen=see(driver=True, nodes=True))
    assert [(check.name, check.state) for check in checks] == [("gpu 0", "ok"), ("driver", "ok"), ("cuda", "no")]


def test_without_nvml_only_the_metrics_are_missing() -> None:
    checks = gpus(Reading(reason="the package nvidia-ml-py is not installed"), cuda=WORKING, seen=see(driver=True))
    assert [(check.name, check.state) for check in checks] == [("nvml", "no"), ("driver", "ok"), ("cuda", "ok")]
    assert "pip install nvidia-ml-py" in (checks[0].remedy or "")


def test_what_the_kernel_shows_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "container"):
        monkeypatch.delenv(name, raising=False)
    assert seen(tmp_path) == NOTHING
    for address, vendor, kind in (
        ("0000:65:00.0", "0x10de", "0x030200"),
        ("0000:65:00.1", "0x10de", "0x040300"),  # the sound of the same card
        ("0000:00:02.0", "0x8086", "0x030000"),
    ):
        folder = tmp_path / "sys/bus/pci/devices" / address
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    (tmp_path / "dev").mkdir()
    for node in ("nvidia0", "nvidia12", "nvidiactl", "null"):
        (tmp_path / "dev" / node).touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.12.01  Release Build\nGCC version:  gcc 12.2.0\n"
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert seen(tmp_path) == Seen(
        cards=("0000:65:00.0",), nodes=("nvidia0", "nvidia12"), driver="590.12.01", container="Podman", wsl=False
    )
