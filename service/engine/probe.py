"""What the packages behind the engines say of themselves, and whether an engine runs.

For `marey doctor`, which asks each of these in a process of its own: a broken TensorRT or driver may crash or hang whoever
imports it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from service.bundle.store import open_bundle
from service.engine.base import Choice, Place
from service.engine.cuda import load_driver
from service.engine.flavour import Name, load_flavour
from service.engine.golden import probabilities
from service.engine.select import open_engine

_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package. `cuda`: the major version of CUDA that it is built for, where its distribution says so."""

    version: str
    place: str
    cuda: int | None = None


@dataclass(frozen=True, slots=True)
class PyCuda:
    """PyCUDA with its driver. `devices`: the PCI address of each CUDA ordinal."""

    version: str
    built_for: tuple[int, int]
    driver: tuple[int, int]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OpenVino:
    version: str
    devices: tuple[str, ...]
    cpu: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    version: str
    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """An engine that ran the golden clips: `milliseconds` for one of them, `frames` long, through all networks (a median)."""

    bundle: str
    precision: str
    float_precision: str
    device: str
    golden_difference: float
    tolerance: float
    milliseconds: float
    frames: int
    refused: tuple[str, ...]
    head_engine: str | None = None


def installed(package: str) -> str | None:
    """Where the package would be imported from, without importing it; None where it is not installed."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return str(Path(spec.origin).parent) if spec.origin else next(iter(spec.submodule_search_locations or ()), "")


def tensorrt(name: Name) -> Package:
    """Import that flavour and touch its native library."""
    module = importlib.import_module(name)
    # A placeholder package imports well and holds nothing.
    severity = module.Logger.ERROR
    module.Logger(severity)
    return Package(str(module.__version__), installed(name) or "", _cuda_major(name))


def tensorrt_in_use() -> str:
    """Which of the flavours the engine takes; raises EngineUnavailable."""
    return load_flavour().name


def pycuda() -> PyCuda:
    """Import PyCUDA's driver, start it and list the devices; raises EngineUnavailable or pycuda.driver.Error."""
    driver = load_driver()
    driver.init()
    version = driver.get_driver_version()
    return PyCuda(
        version=importlib.import_module("pycuda").VERSION_TEXT,
        built_for=(driver.get_version()[0], driver.get_version()[1]),
        driver=(version // 1000, version % 1000 // 10),
        devices=tuple(driver.Device(number).pci_bus_id() for number in range(driver.Device.count())),
    )


def openvino() -> OpenVino:
    module = importlib.import_module("openvino")
    core = module.Core()
    devices = tuple(core.available_devices)
    if "CPU" not in devices:
        return OpenVino(str(module.__version__), devices, "", ())
    capabilities = tuple(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return OpenVino(
        str(module.__version__), devices, core.get_property("CPU", "FULL_DEVICE_NAME").strip(), capabilities
    )


def onnxruntime() -> OnnxRuntime:
    module = importlib.import_module("onnxruntime")
    return OnnxRuntime(str(module.__version__), tuple(module.get_available_providers()))


def trial(
    folder: Path, *, engine: str, precision: Choice, threads: int, device: int, engine_cache: Path | None
) -> Trial:
    """Open that engine for the bundle in `folder`, prove it on the golden clips and time one; raises MareyError."""
    bundle = open_bundle(folder)
    place = Place(threads=threads, device=device, engine_cache=engine_cache)
    opened = open_engine(bundle, name=engine, precision=precision, place=place)
    try:
        clip = bundle.golden().frames[:1]
        spent = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            probabilities(opened.engine, clip)
            spent.append(time.perf_counter() - began)
        ran = opened.engine.info
        return Trial(
            bundle=bundle.manifest.name,
            precision=ran.precision,
            float_precision=ran.float_precision,
            device=ran.device,
            golden_difference=opened.golden_difference,
            tolerance=bundle.manifest.golden.tolerance[ran.precision],
            milliseconds=median(spent) * 1000,
            frames=clip.shape[1],
            refused=opened.refused,
            head_engine=ran.head_engine,
        )
    finally:
        opened.engine.close()


def _cuda_major(package: str) -> int | None:
    """From the name of the distribution that holds the libraries: `tensorrt_rtx_cu13_libs` → 13."""
    names = (distribution.name.lower().replace("-", "_") for distribution in importlib.metadata.distributions())
    found = (re.fullmatch(rf"{package}_cu(\d+)(?:_libs|_bindings)?", name) for name in names)
    return next((int(match.group(1)) for match in found if match), None)
