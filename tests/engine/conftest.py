"""A machine with a stand-in GPU for tests of the TensorRT engine; see tests/standin/README.md.

A test marked `standin` runs in a process of its own that finds the stand-ins before anything real; tests of one environment
share one process. `flavour` chooses `tensorrt_rtx` (default) or `tensorrt`, upper-case arguments are environment variables.
MAREY_REAL_PYCUDA names a folder with the real PyCUDA, which is then used in place of its stand-in.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_INSIDE = "MAREY_STANDIN_RESULTS"  # set within such a process: where to write what each test came to
_STANDIN = Path(__file__).parents[1] / "standin"
_ROOT = Path(__file__).parents[2]
_HELD = ("device_bytes", "pinned_bytes", "streams", "events", "graphs", "execs")


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with a stand-in GPU: what a process needs in its environment to run on it."""

    library: Path

    def variables(self, flavour: str = "tensorrt_rtx", **more: str) -> dict[str, str]:
        full = [_STANDIN.parent / "standin_full"] if flavour == "tensorrt" else []
        real = [Path(each) for each in (os.environ.get("MAREY_REAL_PYCUDA"),) if each]
        path = os.pathsep.join(map(str, (*real, *full, _STANDIN, _ROOT)))
        return {"PYTHONPATH": path, "LD_LIBRARY_PATH": str(self.library), **more}


@pytest.fixture
def held() -> Callable[[], dict[str, int]]:
    """What the stand-in driver of this process has given and not got back."""
    library = ctypes.CDLL("libcuda.so.1")
    library.standin_count.restype = ctypes.c_long
    return lambda: {name: amount for name in _HELD if (amount := int(library.standin_count(name.encode())))}


def _compile(folder: Path) -> Machine:
    """gcc alone; no CUDA headers. The real PyCUDA links functions that Marey never calls: they say that they are missing."""
    rest = folder / "rest.c"
    rest.write_text("")
    if real := os.environ.get("MAREY_REAL_PYCUDA"):
        (driver,) = Path(real).glob("pycuda/_driver*.so")
        wanted = subprocess.run(["nm", "-D", "--undefined-only", driver], check=True, capture_output=True, text=True)
        names = sorted(word for word in wanted.stdout.split() if word.startswith("cu"))
        lines = (f'__attribute__((weak, visibility("default"))) int {name}(void) {{ return 801; }}' for name in names)
        rest.write_text("\n".join(lines))
    sources = [*sorted((_STANDIN / "libcuda").glob("*.c")), rest]
    command = "gcc -std=gnu11 -O1 -fvisibility=hidden -shared -fPIC -pthread -Wl,-soname,libcuda.so.1 -o"
    subprocess.run([*command.split(), folder / "libcuda.so.1", *sources], check=True)
    return Machine(folder)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    pytest.importorskip("tensorrt_rtx_bindings", reason="the stand-ins need tensorrt-rtx, which is for x86-64 only")
    return _compile(tmp_path_factory.mktemp("libcuda"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "standin(flavour, **variables): runs in a process on a stand-in GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("standin") and _INSIDE not in os.environ:
            item.fixturenames = ["machine"]  # type: ignore[attr-defined]  # its own fixtures are set up in there


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Outside, a marked test is not called here: its result is fetched from the process on the stand-in machine."""
    if pyfuncitem.get_closest_marker("standin") is None or _INSIDE in os.environ:
        return None
    outcome, told = _results(pyfuncitem)[pyfuncitem.nodeid]
    if outcome == "skipped":
        pytest.skip(told)
    if outcome != "passed":
        pytest.fail(told, pytrace=False)
    return True


_ran: dict[str, dict[str, tuple[str, str]]] = {}


def _environment(item: pytest.Item) -> dict[str, str]:
    marker = item.get_closest_marker("standin")
    assert marker is not None
    return {key: str(value) for key, value in marker.kwargs.items()}


def _results(item: pytest.Function) -> dict[str, tuple[str, str]]:
    wanted = _environment(item)
    key = json.dumps(wanted, sort_keys=True)
    if key not in _ran:
        machine: Machine = item.funcargs["machine"]
        mates = [
            each.nodeid
            for each in item.session.items
            if each.get_closest_marker("standin") is not None and _environment(each) == wanted
        ]
        results = machine.library / f"results-{len(_ran)}.jsonl"
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *mates],
            cwd=_ROOT,
            env={**os.environ, **machine.variables(**wanted), _INSIDE: str(results)},
            capture_output=True,
            text=True,
            check=False,
        )
        lines = results.read_text().splitlines() if results.exists() else []
        found = {nodeid: (outcome, told) for nodeid, outcome, told in map(json.loads, lines)}
        lost = (
            f"the process on the stand-in GPU ended early ({process.returncode}):\n{process.stdout}\n{process.stderr}"
        )
        _ran[key] = {nodeid: found.get(nodeid, ("failed", lost)) for nodeid in mates}
        noisy = "PyCUDA" in process.stderr and "STANDIN_FAULT" not in wanted  # a dead GPU gives nothing back
        if process.returncode < 0 or noisy:  # what went wrong while it ended
            _ran[key] = dict.fromkeys(mates, ("failed", lost))
    return _ran[key]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield
    if (results := os.environ.get(_INSIDE)) and (report.when == "call" or report.outcome != "passed"):
        with Path(results).open("a", encoding="utf-8") as file:
            file.write(json.dumps((report.nodeid, report.outcome, report.longreprtext)) + "\n")
    return report  # type: ignore[return-value]
