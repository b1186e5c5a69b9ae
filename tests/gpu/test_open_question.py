"""The first thing to know on a new GPU: does this TensorRT build for it, and does what it built run there?

Whether TensorRT-RTX takes data-centre GPUs is documented nowhere; what it said is in the record, word for word.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.bundle.manifest import Precision
from service.bundle.store import Bundle
from service.engine.base import Place
from service.engine.cuda import Device
from service.engine.flavour import Flavour, log_of
from service.engine.network import Network
from service.engine.plans import PlanSource
from service.engine.profiles import fixed_of
from service.errors import EngineError


def attempt(source: PlanSource, bundle: Bundle, *, this_gpu: bool, flavour: Flavour, device: Device) -> dict[str, Any]:
    """Build, load and run both networks; what each step came to, up to the one that failed, and the largest |Δp|."""
    story: dict[str, Any] = {"built for": "this GPU" if this_gpu else "every GPU that it knows", "steps": {}}
    networks: dict[str, Network] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            return work()
        except EngineError as error:
            story["failed at"], story["reason"] = name, str(error)
            raise
        finally:
            story["steps"][name] = round(time.monotonic() - began, 3)

    def load(stage: str) -> Network:
        return Network(
            plans[stage],
            flavour=flavour,
            runtime=runtime,
            device=device,
            profiles=source.profiles[stage],  # type: ignore[index]
            fixed=fixed_of(bundle.manifest, stage),  # type: ignore[arg-type]
        )

    def run() -> float:
        golden = bundle.golden()
        found = []
        for clip in golden.frames:
            features = networks["encoder"].begin([clip], rows=len(clip))()["features"]
            found.append(networks["head"].begin([features[None]], rows=1)()["probabilities"])
        return float(np.abs(np.concatenate(found) - golden.probabilities).max())

    try:
        with device.current():
            runtime = flavour.trt.Runtime(log_of(flavour.name).sink)
            plans = step("build", lambda: source.build(this_gpu=this_gpu))
        story["plan bytes"] = {stage: len(plan) for stage, plan in plans.items()}
        for stage in source.stages:
            networks[stage] = step(f"load {stage}", lambda stage=stage: load(stage))  # type: ignore[misc]
        story["CUDA graphs"] = sum(network.graphs for network in networks.values())
        story["difference"] = step("run", run)
        source.keep(plans, seconds=story["steps"]["build"])  # the other tests need not build it again
    except EngineError:
        pass  # the story says which
    finally:
        for network in networks.values():
            network.close()
        with device.current():
            runtime = None  # its memory on the device belongs to this context
    return story


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_what_is_built_here_loads_and_runs_here(
    precision: Precision,
    imagenet: Bundle,
    gpu: Device,
    flavour: Flavour,
    place: Place,
    record: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = imagenet.manifest.golden.tolerance[precision]
    source = PlanSource(imagenet, precision=precision, flavour=flavour, device=gpu, place=place)
    stories = []
    for this_gpu in (False, True) if flavour.rtx else (True,):
        with caplog.at_level(logging.DEBUG, logger="service.engine.flavour"):
            caplog.clear()
            story = attempt(source, imagenet, this_gpu=this_gpu, flavour=flavour, device=gpu)
        said = [entry.getMessage() for entry in caplog.records if entry.name.startswith("service.engine.flavour")]
        story["TensorRT said"] = list(dict.fromkeys(said))[:60]
        story["runs"] = story.get("difference", np.inf) <= limit
        stories.append(story)
    verdict = f"{flavour} on {gpu.name} ({gpu.compute_capability}) at {precision}: " + "; ".join(
        f"for {story['built for']} it runs, |Δp| {story['difference']:.3g} of {limit:g}"
        if story["runs"]
        else f"for {story['built for']} it FAILS: {story.get('failed at', 'wrong answers')}: "
        f"{story.get('reason', story.get('difference'))}"
        for story in stories
    )
    record(verdict=verdict, attempts=stories)
    assert any(story["runs"] for story in stories), verdict
