"""One GPU, one cache of engines, and a record of what was found. Without TensorRT, PyCUDA and a GPU every test is skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.bundle.manifest import Precision
from service.bundle.store import SHIPPED, Bundle, open_bundle
from service.engine.base import Place
from service.engine.cuda import Device
from service.engine.flavour import Flavour, load_flavour
from service.engine.trt import TensorRtEngine
from service.errors import EngineUnavailable
from tests.gpu import guard, ledger
from tests.gpu.guard import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401  # hooks

ROOT = Path(__file__).parents[2]
_HERE = "tests/gpu/"

Open = Callable[..., Any]


def pytest_configure(config: pytest.Config) -> None:
    guard.pytest_configure(config)
    config.addinivalue_line("markers", "speed: measures, and asserts only with the full TensorRT")


@pytest.fixture(scope="session", autouse=True)
def gpu() -> Device:
    """The first GPU that CUDA sees."""
    try:
        device = Device.open(0)
        load_flavour()
    except EngineUnavailable as error:
        pytest.skip(f"TensorRT has no GPU here: {error}")
    return device


@pytest.fixture(scope="session")
def flavour() -> Flavour:
    return load_flavour()


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that all tests share, so that each engine is built once; across processes where MAREY_ENGINE_CACHE names it."""
    return Path(os.environ.get("MAREY_ENGINE_CACHE") or tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def place(engines: Path) -> Place:
    return Place(threads=len(os.sched_getaffinity(0)), engine_cache=engines)


@pytest.fixture(scope="session")
def imagenet() -> Bundle:
    return open_bundle(SHIPPED / "imagenet")


@pytest.fixture(scope="session")
def fight() -> Bundle:
    return open_bundle(SHIPPED / "fight")


@pytest.fixture(scope="session")
def opening(place: Place) -> Open:
    """`with opening(bundle, precision, …) as engine:` on the thread of the test."""

    @contextmanager
    def opened(
        bundle: Bundle, precision: Precision, *, at: Place = place, graphs: bool = True
    ) -> Iterator[TensorRtEngine]:
        with closing(TensorRtEngine(bundle, precision=precision, place=at, graphs=graphs)) as engine:
            yield engine

    return opened


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep figures with the run's results, and print them."""

    def keep(**figures: Any) -> None:
        ledger.write("figures", test=request.node.nodeid, figures=figures)
        print(*(f"{name} = {value}" for name, value in figures.items()), sep="\n")  # noqa: T201  # with -s, for whoever watches

    return keep


@pytest.fixture(scope="session")
def marey_serve(serve: Callable[..., Any], engines: Path) -> Callable[..., Any]:
    """`serve` of tests/conftest.py with the cache that is shared, and with the packages that this process has found."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

    def start(*arguments: str, **environment: str) -> Any:
        return serve(*arguments, **{"PYTHONPATH": path, "MAREY_ENGINE_CACHE": str(engines), **environment})

    return start


_spent: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for each test, with the seconds of its set-up; another where its teardown fails."""
    if not report.nodeid.startswith(_HERE):
        return
    spent = _spent[report.nodeid] = _spent.get(report.nodeid, 0.0) + report.duration
    if report.when == "call" or report.outcome != "passed":
        told = "" if report.outcome == "passed" else report.longreprtext[-4000:]
        ledger.write(
            "test", test=report.nodeid, outcome=report.outcome, when=report.when, seconds=round(spent, 3), said=told
        )


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.outcome != "passed" and report.nodeid.startswith(_HERE):
        ledger.write("test", test=report.nodeid, outcome=report.outcome, when="collect", said=report.longreprtext)
