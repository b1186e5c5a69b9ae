"""GPUs as NVML tells of them: the real pynvml and our code, on a stand-in of the driver's library (tests/standin/libnvml.c)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.nvml import Gpu, Nvml, Reading, pci_address

ROOT = Path(__file__).parents[1]
GPU_0 = "GPU-00000000-0000-0000-0000-000000000000"
LABELS = {"gpu": "0", "uuid": GPU_0, "name": "NVIDIA Stand-in"}


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`driver(old=False)` → a folder with libnvidia-ml.so.1."""
    folders = {old: tmp_path_factory.mktemp("libnvml") for old in (False, True)}
    for old, folder in folders.items():
        target, source = folder / "libnvidia-ml.so.1", ROOT / "tests" / "standin" / "libnvml.c"
        command = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *(["-DOLD"] if old else [])]
        subprocess.run([*command, "-o", target, source], check=True)
    return lambda *, old=False: folders[old]


@pytest.fixture
def python(driver: Callable[..., Path]) -> Callable[..., str]:
    """`python(code, old=False, path=None, **environment)` → what the code prints, run beside the driver; its log is on stderr."""

    def run(code: str, *, old: bool = False, path: Path | None = None, **environment: str) -> str:
        variables = {**os.environ, "LD_LIBRARY_PATH": str(driver(old=old)), **environment}
        variables["PYTHONPATH"] = os.pathsep.join(map(str, [*([path] if path else []), ROOT]))
        result = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


def test_every_field_is_read_in_its_unit(python) -> None:
    told = python(
        "from service.nvml import *; print(repr(Nvml().read()))", STANDIN_GPUS="2", STANDIN_NVML_BUSES="65,1f"
    )
    reading = eval(told, {"Reading": Reading, "Gpu": Gpu})
    assert reading.reason == ""
    assert (reading.driver, reading.cuda) == ("590.12.01", (13, 0))
    assert reading.gpus[0] == Gpu(
        index=0,
        uuid=GPU_0,
        pci_bus_id="0000:65:00.0",
        name="NVIDIA Stand-in",
        compute_capability=(9, 0),
        memory_total_bytes=80 * 2**30,
        memory_used_bytes=2**30,
        utilization=0.87,
        memory_utilization=0.41,
        power_w=312.5,
        power_limit_w=700.0,
        temperature_c=61,
        sm_clock_hz=1_755_000_000,
        throttled=("sw_power_cap", "hw_thermal_slowdown"),  # idle, too, which slows nothing down
    )
    assert (reading.gpus[1].index, reading.gpus[1].memory_used_bytes) == (1, 2 * 2**30)
    # CUDA's own way to write an address finds the GPU, whatever number CUDA gives it.
    assert reading.at("0000:1F:00.0") == reading.gpus[1]
    assert reading.at("0000:02:00.0") is None


def test_a_driver_from_before_the_calls_were_renamed_tells_the_same(python) -> None:
    code = "from service.nvml import *; gpu, = Nvml().read().gpus; print(gpu)"
    assert python(code, old=True) == python(code)


def test_what_a_card_does_not_tell_is_none_and_the_rest_stands(python) -> None:
    calls = {
        "nvmlDeviceGetMemoryInfo": {"memory_total_bytes", "memory_used_bytes"},
        "nvmlDeviceGetUtilizationRates": {"utilization", "memory_utilization"},
        "nvmlDeviceGetPowerUsage": {"power_w"},
        "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
        "nvmlDeviceGetTemperatureV": {"temperature_c"},
        "nvmlDeviceGetClockInfo": {"sm_clock_hz"},
        "nvmlDeviceGetCurrentClocksEventReasons": {"throttled"},
        "nvmlDeviceGetCudaComputeCapability": {"compute_capability"},
    }
    code = f"""
import dataclasses, json, os
from service.nvml import Nvml
nvml, missing = Nvml(max_age_s=0), {{}}
for call in {list(calls)!r}:
    os.environ["STANDIN_NVML_UNSUPPORTED"] = call
    gpu, = nvml.read().gpus
    missing[call] = sorted(name for name, value in dataclasses.asdict(gpu).items() if value is None)
print(json.dumps(missing))
"""
    assert {call: set(fields) for call, fields in json.loads(python(code)).items()} == calls


def test_a_lost_gpu_leaves_is_logged_once_and_comes_back(python, tmp_path: Path) -> None:
    code = f"""
import logging, pathlib
from service.nvml import Nvml
lines = []
logging.getLogger("service.nvml").addHandler(type("List", (logging.Handler,), {{"emit": lambda self, record: lines.append(record)}})())
logging.getLogger("service.nvml").setLevel(logging.INFO)
lost, nvml = pathlib.Path({str(tmp_path / "lost")!r}), Nvml(max_age_s=0)
seen = [[gpu.index for gpu in nvml.read().gpus]]
lost.write_text("0")
seen += [[gpu.index for gpu in nvml.read().gpus] for _ in range(2)]
lost.write_text("0 nvmlDeviceGetPowerUsage")
seen += [[gpu.index for gpu in nvml.read().gpus]]
lost.unlink()
seen += [[gpu.index for gpu in nvml.read().gpus]]
print(seen, [(line.levelname, line.getMessage()) for line in lines])
"""
    told = python(code, STANDIN_GPUS="2", STANDIN_NVML_LOST=str(tmp_path / "lost"))
    assert told.startswith("[[0, 1], [1], [1], [1], [0, 1]]")
    assert told.count("GPU 0 does not answer (GPU is lost)") == 1
    assert told.count("GPU 0 answers again") == 1


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"LD_LIBRARY_PATH": ""}, "libnvidia-ml.so.1 is not found"),
        ({"STANDIN_NVML_INIT": "9"}, "installed but not loaded"),
        ({"STANDIN_NVML_INIT": "18"}, "upgraded while loaded"),
        ({"STANDIN_NVML_INIT": "999"}, "NVML does not start (Unknown Error)"),
        ({"STANDIN_GPUS": "0"}, "the NVIDIA driver sees no GPU"),
    ],
)
def test_without_a_gpu_a_reading_is_empty_and_says_why(python, environment: dict[str, str], reason: str) -> None:
    told = python(
        "from service.nvml import Nvml; r = Nvml().read(); print(len(r.gpus), r.reason)",
        **environment,
    )
    assert told.startswith("0 ")
    assert reason in told


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise ModuleNotFoundError(name='pynvml')", "nvidia-ml-py is not installed"),
        ("raise SystemError('torn')", "nvidia-ml-py does not import (SystemError('torn'))"),
        ("class NVMLError(Exception): ...\nnvmlInit = lambda: None", "reading the GPUs failed (AttributeError"),
    ],
)
def test_a_missing_or_broken_package_costs_the_metrics_and_nothing_else(
    python, tmp_path: Path, module: str, reason: str
) -> None:
    (tmp_path / "pynvml.py").write_text(module)
    code = "from service.nvml import Nvml; n = Nvml(); r = n.read(); n.close(); print(len(r.gpus), r.reason)"
    told = python(code, path=tmp_path)
    assert told.startswith("0 ")
    assert reason in told


def test_the_library_is_opened_at_the_first_reading_and_shut_down_once(python, tmp_path: Path) -> None:
    code = f"""
import pathlib, threading
from service.nvml import Nvml
log, nvml = pathlib.Path({str(tmp_path / "log")!r}), Nvml(max_age_s=0)
assert not log.exists()
threads = [threading.Thread(target=lambda: [nvml.read() for _ in range(50)]) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert log.read_text() == "init\\n"
nvml.close(); nvml.close()
assert not nvml.read().gpus
print(log.read_text().split())
"""
    assert python(code, STANDIN_NVML_LOG=str(tmp_path / "log")) == "['init', 'shutdown']"


def test_a_reading_is_handed_out_again_while_it_is_fresh(python) -> None:
    code = """
import os
from service.nvml import Nvml
kept, fresh, counts = Nvml(max_age_s=3600), Nvml(max_age_s=0), []
for gpus in "13":
    os.environ["STANDIN_GPUS"] = gpus
    counts += [len(kept.read().gpus), len(fresh.read().gpus)]
print(counts)
"""
    assert python(code) == "[1, 1, 1, 3]"


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("00000000:65:00.0", "0000:65:00.0"),
        ("0000:65:00.0", "0000:65:00.0"),
        ("00010000:0A:1F.3", "10000:0a:1f.3"),
        ("65:0.0", "0000:65:00.0"),
        ("?", "?"),
    ],
)
def test_pci_addresses_are_written_as_cuda_does(written: str, address: str) -> None:
    assert pci_address(written) == address


def test_closing_what_was_never_opened_opens_nothing() -> None:
    nvml = Nvml()
    nvml.close()
    assert nvml.read() == Reading(reason="the reading of GPUs was closed")


@pytest.fixture(scope="module")
def gpu_server(driver, color_bundle, serve, tmp_path_factory) -> Iterator[tuple[httpx.Client, Path]]:
    """A server beside two GPUs, and the file whose content is the index of the one that is lost."""
    folder = tmp_path_factory.mktemp("nvml")
    with serve(
        str(color_bundle.path),
        LD_LIBRARY_PATH=str(driver()),
        STANDIN_GPUS="2",
        STANDIN_NVML_LOST=str(folder / "lost"),
        STANDIN_NVML_LOG=str(folder / "log"),
        STANDIN_NVML_DELAY_MS="40",
    ) as running:
        yield running.client, folder / "lost"
    assert (folder / "log").read_text().split() == ["init", "shutdown"]


def metrics(client: httpx.Client) -> dict[str, list[tuple[dict[str, str], float]]]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(answer.text)
    }


def test_the_service_exports_its_gpus(gpu_server) -> None:
    found = metrics(gpu_server[0])
    values = {name: samples[0] for name, samples in found.items() if name.startswith("marey_gpu_")}
    assert values.pop("marey_gpu_info") == (
        {**LABELS, "pci_bus_id": "0000:01:00.0", "compute_capability": "9.0", "driver": "590.12.01", "cuda": "13.0"},
        1,
    )
    del values["marey_gpu_throttled"]
    assert values == {
        "marey_gpu_memory_used_bytes": (LABELS, 2**30),
        "marey_gpu_memory_total_bytes": (LABELS, 80 * 2**30),
        "marey_gpu_utilization_ratio": (LABELS, 0.87),
        "marey_gpu_power_watts": (LABELS, 312.5),
        "marey_gpu_power_limit_watts": (LABELS, 700),
        "marey_gpu_temperature_celsius": (LABELS, 61),
        "marey_gpu_sm_clock_hertz": (LABELS, 1.755e9),
    }
    throttled = {labels["reason"]: value for labels, value in found["marey_gpu_throttled"] if labels["gpu"] == "1"}
    assert {reason for reason, value in throttled.items() if value} == {"sw_power_cap", "hw_thermal_slowdown"}
    assert throttled["hw_power_brake_slowdown"] == 0
    assert "marey_queue_rows" in found


def test_reading_slow_gpus_does_not_hold_up_the_event_loop(gpu_server) -> None:
    """Two GPUs of 12 calls of 40 ms each: about a second, during which the service answers as ever."""
    client, _ = gpu_server
    base = str(client.base_url)
    time.sleep(1.1)  # until the last reading is no longer handed out
    spent: list[float] = []

    def scrape() -> None:
        began = time.monotonic()
        httpx.get(f"{base}/metrics", timeout=30)
        spent.append(time.monotonic() - began)

    scraping = threading.Thread(target=scrape)
    scraping.start()
    waits = []
    while scraping.is_alive():
        began = time.monotonic()
        assert client.get("/health/live").status_code == 200
        waits.append(time.monotonic() - began)
    scraping.join()
    assert spent[0] > 0.8
    assert max(waits) < spent[0] / 2


def test_a_gpu_that_is_lost_leaves_the_metrics_and_the_service_goes_on(gpu_server) -> None:
    client, lost = gpu_server
    lost.write_text("1")
    try:
        time.sleep(1.1)  # until the last reading is no longer handed out
        found = metrics(client)
        assert {labels["gpu"] for labels, _ in found["marey_gpu_memory_used_bytes"]} == {"0"}
        assert {labels["gpu"] for labels, _ in found["marey_gpu_throttled"]} == {"0"}
        lost.write_text("0")
        time.sleep(1.1)
        assert {labels["gpu"] for labels, _ in metrics(client)["marey_gpu_info"]} == {"1"}
    finally:
        lost.unlink()


def test_without_a_gpu_there_are_no_gpu_metrics(served) -> None:
    if Nvml().read().gpus:
        pytest.skip("this machine has a GPU")
    found = metrics(served.client)
    assert "marey_ready" in found
    assert not [name for name in found if name.startswith("marey_gpu")]
