"""One plan on the stand-in GPU: what is half made when something fails is given back."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.engine.build import build_plan
from service.engine.cuda import Device
from service.engine.flavour import load_flavour, log_of
from service.engine.network import Network
from service.engine.profiles import profiles_of
from service.errors import DeviceLost, EngineError


@pytest.fixture(scope="module")
def open_network(color_bundle: Bundle) -> Callable[[], Network]:
    """Opens the color bundle's encoder at three fixed batch sizes."""
    flavour, device = load_flavour(), Device.open(0)
    profiles = profiles_of(color_bundle.manifest, "encoder")
    graph = color_bundle.file("encoder").read_bytes()
    with device.current():
        plan = build_plan(graph, flavour=flavour, profiles=profiles, this_gpu=True, timing_cache=b"").data
        runtime = flavour.trt.Runtime(log_of(flavour.name).sink)
    fixed = [(rows, 16, 16, 3) for rows in (1, 4, 64)]
    return lambda: Network(plan, flavour=flavour, runtime=runtime, device=device, profiles=profiles, fixed=fixed)


@pytest.mark.parametrize(
    "everywhere",
    [
        pytest.param("rtx", marks=pytest.mark.standin),
        pytest.param("full", marks=pytest.mark.standin(flavour="tensorrt", STANDIN_ORDER="racing")),
    ],
)
def test_whichever_allocation_fails_the_others_are_given_back(
    open_network, held, monkeypatch: pytest.MonkeyPatch, everywhere: str
) -> None:
    network = open_network()
    enough = held()["device_bytes"]
    network.close()
    assert held() == {}
    for limit in range(0, enough, enough // 40):
        monkeypatch.setenv("STANDIN_MEMORY", str(limit))
        with pytest.raises(EngineError, match=r"out of memory|OutOfMemory") as error:
            open_network()
        assert not isinstance(error.value, DeviceLost)
        del error
        gc.collect()
        assert held() == {}, f"with {limit} of {enough} bytes"
    monkeypatch.setenv("STANDIN_MEMORY", str(enough))
    network = open_network()
    found = network.begin([np.full((1, 16, 16, 3), 255, np.uint8)], rows=1)()
    assert found["features"].tolist() == [[1, 1, 1]]
    network.close()


@pytest.mark.standin(STANDIN_FAULT="1")
def test_a_gpu_on_which_nothing_runs_is_lost_at_the_first_run(open_network) -> None:
    for _ in range(2):
        with pytest.raises(
            DeviceLost, match=r"GPU 0 \(Stand-in GPU\) has failed \(.*700|illegal.*\); restart the service"
        ):
            open_network()
