"""What NVIDIA's management library (NVML) says of every GPU of the machine, by the package nvidia-ml-py.

# Note [Index, ordinal, bus id]
NVML numbers all GPUs of the machine, in the order of their PCI addresses. CUDA numbers only those that CUDA_VISIBLE_DEVICES
lets through, in the order given there, else the fastest first. So ordinal 0 of CUDA may be index 3 of NVML. What both agree
on is the PCI address, which NVML writes with eight digits of domain and CUDA with four: `pci_address` makes them equal, and
`Reading.at` finds the GPU that a CUDA ordinal means by the address that CUDA gives for that ordinal.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The bits of nvml.h's clock event reasons, which were called throttle reasons before driver 535; bit 0, an idle GPU, slows
# nobody down.
_REASONS = {
    0x002: "application_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
THROTTLE_REASONS = tuple(_REASONS.values())

# After these the GPU has nothing to say at all; any other error is a field that a card, a MIG slice, a virtual GPU, an older
# driver or a lack of rights keeps to itself, and the other fields stand.
_GONE = frozenset({"GpuIsLost", "ResetRequired", "Uninitialized", "GpuNotFound", "DriverNotLoaded"})
_INIT = {
    "LibraryNotFound": "libnvidia-ml.so.1 is not found: no NVIDIA driver is installed, or this container was not given it",
    "DriverNotLoaded": "the NVIDIA driver is installed but not loaded",
    "LibRmVersionMismatch": "the NVIDIA driver's library and its kernel module differ in version: it was upgraded while loaded",
    "NoPermission": "this user may not read the GPUs",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment; None where the card does not tell. `index` is NVML's: see Note [Index, ordinal, bus id]."""

    index: int
    uuid: str
    pci_bus_id: str  # as `pci_address` writes it
    name: str
    compute_capability: tuple[int, int] | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    utilization: float | None  # 0 to 1: the share of the last sampling period in which a kernel ran
    memory_utilization: float | None  # 0 to 1: likewise, in which memory was read or written
    power_w: float | None
    power_limit_w: float | None
    temperature_c: int | None
    sm_clock_hz: int | None
    throttled: tuple[str, ...] | None  # of THROTTLE_REASONS


@dataclass(frozen=True, slots=True)
class Reading:
    """All GPUs that answered. `reason` says in a clause why there is none; it is empty where there is one."""

    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    driver: str | None = None
    cuda: tuple[int, int] | None = None  # the latest CUDA that the driver supports

    def at(self, pci_bus_id: str) -> Gpu | None:
        """The GPU at the PCI address that CUDA gives for one of its ordinals."""
        return next((gpu for gpu in self.gpus if gpu.pci_bus_id == pci_address(pci_bus_id)), None)


class Nvml:
    """Opens the library at the first reading and never raises: where it cannot be had, readings are empty and say why.

    Safe to use from several threads; a reading takes milliseconds, and is handed out again for `max_age_s`.
    """

    def __init__(self, *, max_age_s: float = 1.0) -> None:
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._library: Any = None
        self._failure = ""
        self._latest = Reading()
        self._read_at = -float("inf")
        self._silent: set[int] = set()

    def read(self) -> Reading:
        """Every GPU now, or as of at most `max_age_s` ago."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._max_age_s:
                try:
                    self._latest = self._read()
                except Exception as error:  # whatever a driver comes up with: metrics must not matter to serving
                    logger.exception("reading the GPUs failed; there are no GPU metrics from now on")
                    self._failure = f"reading the GPUs failed ({error!r})"
                    self._latest = Reading(reason=self._failure)
                self._read_at = time.monotonic()
            return self._latest

    def close(self) -> None:
        """Shut the library down, once; readings are empty from then on."""
        with self._lock:
            library, self._library = self._library, None
            self._failure = self._failure or "the reading of GPUs was closed"
            self._latest, self._read_at = Reading(reason=self._failure), float("inf")
            if library is not None:
                try:
                    library.nvmlShutdown()
                except Exception as error:  # noqa: BLE001  # as in reading: whatever it is, the process is about to end
                    logger.warning("NVML did not shut down: %r", error)

    def _read(self) -> Reading:
        if self._library is None and not self._failure:
            self._library, self._failure = _open()
            if self._failure:
                logger.info("no GPU metrics: %s", self._failure)
        if self._failure:
            return Reading(reason=self._failure)
        nvml = self._library
        try:
            driver = _field(nvml, nvml.nvmlSystemGetDriverVersion)
            cuda = _field(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            return Reading(reason=f"NVML does not say which GPUs there are ({error})")
        found = [gpu for gpu in (self._gpu(index) for index in range(count)) if gpu is not None]
        reason = "" if found else f"none of {count} GPUs answers" if count else "the NVIDIA driver sees no GPU"
        return Reading(tuple(found), reason, driver, cuda and (cuda // 1000, cuda % 1000 // 10))

    def _gpu(self, index: int) -> Gpu | None:
        """One GPU, or None where it is lost: that is logged when it happens, and when it is back."""
        nvml = self._library
        try:
            gpu = _gpu(nvml, index)
        except nvml.NVMLError as error:
            if index not in self._silent:
                logger.warning("GPU %d does not answer (%s): its metrics are left out until it does", index, error)
                self._silent.add(index)
            return None
        if index in self._silent:
            logger.info("GPU %d answers again", index)
            self._silent.discard(index)
        return gpu


def pci_address(text: str) -> str:
    """`00000000:65:00.0`, `0000:65:00.0`, `65:0.0` … → `0000:65:00.0`; what is none of these comes back in lower case."""
    match = re.fullmatch(r"(?:([0-9a-f]+):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])", text.strip().lower())
    if match is None:
        return text.strip().lower()
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{int(bus, 16):02x}:{int(device, 16):02x}.{function}"


def _open() -> tuple[Any, str]:
    """The initialised module and "", or None and why not."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        return None, "the package nvidia-ml-py is not installed"
    except Exception as error:  # noqa: BLE001  # a broken installation may raise anything, and metrics must not matter to serving
        return None, f"the package nvidia-ml-py does not import ({error!r})"
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return None, _INIT.get(_kind(error), f"NVML does not start ({error})")
    return nvml, ""


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def field(name: str, *args: object) -> Any:
        return _field(nvml, lambda: getattr(nvml, name)(handle, *args))

    memory, rates = field("nvmlDeviceGetMemoryInfo"), field("nvmlDeviceGetUtilizationRates")
    pci = field("nvmlDeviceGetPciInfo")
    power, limit = field("nvmlDeviceGetPowerUsage"), field("nvmlDeviceGetEnforcedPowerLimit")
    clock = field("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)
    # The names of today first; drivers and packages before them know only those that went before.
    temperature = field("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU)
    if temperature is None:
        temperature = field("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU)
    reasons = field("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = field("nvmlDeviceGetCurrentClocksThrottleReasons")
    return Gpu(
        index=index,
        uuid=field("nvmlDeviceGetUUID") or "",
        pci_bus_id="" if pci is None else pci_address(_text(pci.busId)),
        name=field("nvmlDeviceGetName") or "",
        compute_capability=field("nvmlDeviceGetCudaComputeCapability"),
        memory_total_bytes=None if memory is None else int(memory.total),
        memory_used_bytes=None if memory is None else int(memory.used),
        utilization=None if rates is None else rates.gpu / 100,
        memory_utilization=None if rates is None else rates.memory / 100,
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        temperature_c=temperature,
        sm_clock_hz=None if clock is None else clock * 1_000_000,
        throttled=None if reasons is None else tuple(word for bit, word in _REASONS.items() if reasons & bit),
    )


def _field(nvml: Any, ask: Callable[[], T]) -> T | None:
    """What `ask` answers, or None where this card or driver has no answer; raises NVMLError where the GPU is gone."""
    try:
        return ask()
    except AttributeError:  # an nvidia-ml-py from before the call was there
        return None
    except nvml.NVMLError as error:
        if _kind(error) in _GONE:
            raise
        return None


def _kind(error: Exception) -> str:
    """`NVMLError_GpuIsLost` → `GpuIsLost`."""
    return type(error).__name__.removeprefix("NVMLError_")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
