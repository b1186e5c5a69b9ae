"""The NVIDIA GPUs of this machine, or at which step on the way from the card to CUDA they get lost."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.doctor.machine import ROOT, container
from service.doctor.report import Check, Fact, info, no, ok
from service.nvml import Gpu, Nvml, Reading

_NVIDIA = "0x10de"
_DISPLAY = "0x03"  # PCI class: display controllers, 3D controllers among them

# The oldest Linux driver that runs programs built for a CUDA of that major version.
OLDEST_DRIVER = {11: "450.80", 12: "525.60", 13: "580.65"}

# What cuInit answers where it does not answer 0, by cuda.h.
_NO_DEVICE = 100
_CUINIT = {
    _NO_DEVICE: ("CUDA sees no GPU", "unset CUDA_VISIBLE_DEVICES; nvidia-smi -L"),
    101: ("CUDA_VISIBLE_DEVICES names a GPU that there is not", "unset CUDA_VISIBLE_DEVICES; nvidia-smi -L"),
    802: ("the GPUs' fabric is not up yet", "sudo systemctl start nvidia-fabricmanager"),
    803: ("libcuda.so.1 and the kernel's driver differ in version", "sudo reboot; in a container, take out its own libcuda"),
    804: ("a forward-compatible libcuda is in front of the driver's, and this GPU does not take it", "unset LD_LIBRARY_PATH, or remove the package cuda-compat"),
    999: ("CUDA does not start, for a reason that the driver keeps to itself", "sudo dmesg | grep -i nvrm; nvidia-smi"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cuda:
    """`libcuda.so.1` by itself. `code` is cuInit's answer, 0 where it is well; `error` says why it could not be loaded."""

    error: str = ""
    code: int = 0
    version: tuple[int, int] | None = None
    devices: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel shows without any library of NVIDIA's."""

    cards: tuple[str, ...]  # PCI addresses
    nodes: tuple[str, ...]  # /dev/nvidia0 …
    driver: str | None  # the version of the loaded kernel module
    container: str | None
    wsl: bool


def reading() -> Reading:
    """NVML's, once. To be asked of a child: a broken driver may hang."""
    nvml = Nvml()
    try:
        return nvml.read()
    finally:
        nvml.close()


def cuda() -> Cuda:
    """Load the driver's CUDA library and start it. To be asked of a child."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return Cuda(error=str(error))
    version, devices = ctypes.c_int(), ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    code = library.cuInit(0)
    if code == 0:
        library.cuDeviceGetCount(ctypes.byref(devices))
    return Cuda(code=code, version=(version.value // 1000, version.value % 1000 // 10), devices=devices.value)


def seen(root: Path = ROOT) -> Seen:
    cards = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind = (_line(device / name) for name in ("vendor", "class"))
        if vendor == _NVIDIA and kind.startswith(_DISPLAY):
            cards.append(device.name)
    nodes = sorted(path.name for path in (root / "dev").glob("nvidia[0-9]*"))
    module = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", _line(root / "proc/driver/nvidia/version"))
    return Seen(
        cards=tuple(cards),
        nodes=tuple(nodes),
        driver=module and module.group(1),
        container=container(root),
        wsl=(root / "dev/dxg").exists(),
    )


def gpus(reading: Reading, *, cuda: Cuda, seen: Seen, ordinals: Sequence[str] = ()) -> list[Check]:
    """`ordinals`: the PCI address of each CUDA ordinal, by PyCUDA, where that could be had."""
    if not reading.gpus and (cuda.error or not cuda.devices):
        return [_none(reading, cuda, seen)]
    numbers = {gpu.index: number for number, address in enumerate(ordinals) if (gpu := reading.at(address))}
    checks = [_gpu(gpu, numbers.get(gpu.index), known=bool(ordinals)) for gpu in reading.gpus]
    if not checks:
        says = f"CUDA sees {cuda.devices} of them, and NVML cannot describe them: {reading.reason}; there are no GPU metrics"
        missing = "nvidia-ml-py is not installed" in reading.reason
        library = "nvidia-smi: its library, libnvidia-ml.so.1, comes with the driver (in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
        checks = [no("nvml", says, "pip install nvidia-ml-py" if missing else library)]
    return [*checks, _driver(reading, seen), _cuda(cuda, seen)]


def _gpu(gpu: Gpu, ordinal: int | None, *, known: bool) -> Check:
    total, used = gpu.memory_total_bytes, gpu.memory_used_bytes
    parts = [gpu.name]
    if gpu.compute_capability:
        parts.append("compute capability {}.{}".format(*gpu.compute_capability))
    if total is not None and used is not None:
        parts.append(f"{total / 2**30:.1f} GiB, {(total - used) / 2**30:.1f} free")
    if gpu.power_w is not None and gpu.power_limit_w is not None:
        parts.append(f"{gpu.power_w:.0f} of {gpu.power_limit_w:.0f} W")
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C")
    if gpu.throttled:
        parts.append("slowed down by " + ", ".join(word.replace("_", " ") for word in gpu.throttled))
    if known:
        parts.append("hidden from CUDA by CUDA_VISIBLE_DEVICES" if ordinal is None else f"CUDA ordinal {ordinal}")
    return ok(
        f"gpu {gpu.index}",
        ", ".join(parts),
        index=gpu.index,
        cuda_ordinal=ordinal,
        name=gpu.name,
        uuid=gpu.uuid,
        pci_bus_id=gpu.pci_bus_id,
        compute_capability=None if gpu.compute_capability is None else "{}.{}".format(*gpu.compute_capability),
        memory_total_bytes=total,
        memory_used_bytes=used,
        utilization=gpu.utilization,
        power_w=gpu.power_w,
        power_limit_w=gpu.power_limit_w,
        temperature_c=gpu.temperature_c,
        throttled=None if gpu.throttled is None else list(gpu.throttled),
    )


def _driver(reading: Reading, seen: Seen) -> Check:
    version = reading.driver or seen.driver
    if version is None:
        return info("driver", "its version is not told", version=None, cuda=None)
    supports = "" if reading.cuda is None else ", supports programs up to CUDA {}.{}".format(*reading.cuda)
    newest = None if reading.cuda is None else "{}.{}".format(*reading.cuda)
    return ok("driver", f"NVIDIA {version}{supports}", version=version, cuda=newest)


def _cuda(cuda: Cuda, seen: Seen) -> Check:
    if cuda.devices:
        return ok("cuda", f"libcuda.so.1 starts; GPUs that it sees: {cuda.devices}", devices=cuda.devices)
    return no("cuda", *_no_cuda(cuda, seen), devices=0)


def _no_cuda(cuda: Cuda, seen: Seen) -> tuple[str, str]:
    """Why a driver that is there does not come up as CUDA, and the remedy."""
    if cuda.error:
        return (
            f"the driver is there ({seen.driver or seen.container or 'WSL'}), its library libcuda.so.1 is not: {cuda.error}",
            _give_libcuda(seen),
        )
    code = cuda.code or _NO_DEVICE
    return _CUINIT.get(code, (f"CUDA does not start: cuInit answers {code}", "nvidia-smi"))


def _none(reading: Reading, cuda: Cuda, seen: Seen) -> Check:
    """Where between the card and CUDA it breaks off, at the first step that is missing."""
    facts: dict[str, Fact] = {
        "cards": [*seen.cards],
        "nodes": [*seen.nodes],
        "driver": seen.driver,
        "nvml": reading.reason,
    }
    visible = bool(seen.cards or seen.nodes or seen.driver or seen.wsl)
    if not visible and seen.container:
        says = (
            f"no NVIDIA GPU is visible: no /dev/nvidia*, and this is a container ({seen.container}), "
            "which sees a GPU of its host only if it is given one"
        )
        remedy = _give(seen)
    elif not visible:
        says = "no NVIDIA GPU: none on the PCI bus, no /dev/nvidia*"
        remedy = "use a machine with one; here, on the CPU: marey serve --engine openvino"
    elif seen.container and not seen.nodes and not seen.wsl:
        says = "the host has an NVIDIA GPU, and this container was not given it: no /dev/nvidia*"
        remedy = _give(seen)
    elif seen.driver is None and not seen.nodes and not seen.wsl:
        says = f"there is an NVIDIA GPU at {', '.join(seen.cards)}, and no driver is loaded"
        remedy = "sudo apt install nvidia-driver && sudo reboot (Ubuntu: sudo ubuntu-drivers install); if it is installed: sudo modprobe nvidia"
    else:
        says, remedy = _no_cuda(cuda, seen)
    return no("gpu", says, remedy, **facts)


def _give(seen: Seen) -> str:
    if seen.container == "Kubernetes":
        return "in the pod's container: resources: {limits: {nvidia.com/gpu: 1}} (needs NVIDIA's device plugin)"
    if seen.container == "Podman":
        return "podman run --device nvidia.com/gpu=all … (needs the NVIDIA Container Toolkit: nvidia-ctk cdi generate)"
    return "docker run --gpus all … on a host with a GPU (needs the NVIDIA Container Toolkit there: sudo nvidia-ctk runtime configure --runtime=docker)"


def _give_libcuda(seen: Seen) -> str:
    if seen.container:
        return f"-e NVIDIA_DRIVER_CAPABILITIES=compute,utility, and {_give(seen)}"
    return "sudo apt install libcuda1 (Ubuntu: libnvidia-compute-NNN of the driver's version), then sudo ldconfig"


def _line(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
