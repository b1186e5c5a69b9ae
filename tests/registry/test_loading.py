"""Models come and go while somebody uses them: leases, replacements, and a budget of memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.engine.base import Engine
from service.errors import DeadlineExceeded, EngineError, MareyError, NotReady, UnknownModel
from service.registry.model import Model
from tests.registry.conftest import House

RED = np.full((1, 16, 16, 3), (255, 0, 0), np.uint8)


async def ask(model: Model) -> float:
    """The probability of red for a red picture, by whatever is open of `model`."""
    assert model.held is not None
    with model.held.leased() as predictor:
        asked = predictor.asked(deadline=time.monotonic() + 10, priority="interactive")
        source, _ = await asked.encode(RED)
        return float((await asked.judge(source)).outputs["probabilities"][0, 0])


def closed(engine: Engine) -> bool:
    try:
        engine.run("encoder", RED)
    except KeyError:  # it has no networks any more
        return True
    return False


async def settled(house: House) -> None:
    """Until nothing is being closed."""
    while any(model.closing for model in house.served):
        await asyncio.wait(list(house.loader._former))


async def test_what_is_leased_is_closed_after_its_last_lease(house: Callable[..., House], make_bundle) -> None:
    here = house()
    make_bundle(here.folder / "color", version="1")
    await here.watch.follow()
    model = here.model("1")
    held = await here.loader.present(model, deadline=None)
    engine = held.predictor.replicas[0].engine
    with held.leased() as predictor:
        with held.leased():
            here.loader.unload(model)
            assert (model.state, model.reason) == ("UNLOADING", "its last requests are being answered")
        asked = predictor.asked(deadline=time.monotonic() + 10, priority="interactive")
        source, _ = await asked.encode(RED)
        assert (await asked.judge(source)).outputs["probabilities"][0, 0] > 0.9
        with pytest.raises(TimeoutError):  # it would be closed at once
            async with asyncio.timeout(0.2):
                await settled(here)
        assert not closed(engine)
        assert predictor.replicas[0].batcher.seconds((id(engine), "encoder"), 1) > 0
    await settled(here)
    assert closed(engine)
    # Another engine may come to lie where this one did.
    assert predictor.replicas[0].batcher.seconds((id(engine), "encoder"), 1) == 0
    assert (model.state, model.reason) == ("UNAVAILABLE", "it is not loaded")
    with pytest.raises(UnknownModel, match="model color:1 was unloaded"):
        await here.loader.present(model, deadline=None)


async def test_a_reload_replaces_what_is_served_without_a_gap(house: Callable[..., House], make_bundle) -> None:
    here = house()
    make_bundle(here.folder / "color", version="1", labels=("a", "b", "c"))
    await here.watch.follow()
    model = here.model("1")
    former = model.held
    make_bundle(here.folder / "color", version="1", labels=("x", "y", "z"))
    await here.watch.look()
    loading = here.loader.begin(model)
    assert here.loader.begin(model) is loading
    while not loading.done():
        assert model.state == "READY"
        assert await ask(model) > 0.9
    assert model.held is not former
    assert model.manifest.labels == ("x", "y", "z")
    await settled(here)
    assert former is not None
    assert closed(former.predictor.replicas[0].engine)


async def test_a_reload_that_fails_leaves_the_old_one_and_says_why(house: Callable[..., House], make_bundle) -> None:
    here = house()
    bundle = make_bundle(here.folder / "color", version="1")
    await here.watch.follow()
    model, former = here.model("1"), here.model("1").held
    (bundle.path / "head.onnx").write_bytes(b"damaged")
    await here.watch.follow()
    assert model.held is former
    assert model.state == "READY"
    assert "an earlier state of it is served, for it could not be reloaded: " in model.reason
    assert "head.onnx has sha256" in model.reason
    assert await ask(model) > 0.9
    make_bundle(here.folder / "color", version="1")
    await here.watch.follow()
    assert (model.error, model.reason) == (None, "")
    assert model.held is not former


async def test_unloading_what_is_being_loaded_wins(house: Callable[..., House], make_bundle) -> None:
    here = house()
    make_bundle(here.folder / "color", version="1")
    await here.watch.look()
    model = here.model("1")
    model.wanted = True
    loading = here.loader.begin(model)
    await asyncio.sleep(0)
    here.loader.unload(model)
    with pytest.raises(UnknownModel, match="was unloaded while it was opened"):
        await loading
    await settled(here)
    assert (model.state, model.held) == ("UNAVAILABLE", None)


class Budgeted:
    """Three versions of which two fit."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def load(self, *versions: str) -> None:
        for version in versions:
            model = self.house.model(version)
            model.wanted = True
            await self.house.loader.begin(model)
            await settled(self.house)

    @property
    def open(self) -> set[str]:
        return {model.key[1] for model in self.house.served if model.held is not None}


@pytest.fixture
async def budgeted(house: Callable[..., House], make_bundle) -> Budgeted:
    here = house(max_bytes=25 * 2**20, cost=10 * 2**20)
    for version in ("1", "2", "3"):
        make_bundle(here.folder / version, version=version)
    await here.watch.look()
    return Budgeted(here)


async def test_the_least_recently_used_gives_way_and_comes_back_when_asked_for(budgeted: Budgeted) -> None:
    here = budgeted.house
    await budgeted.load("1", "2")
    here.model("1").ask()
    await budgeted.load("3")
    assert budgeted.open == {"1", "3"}
    resting = here.model("2")
    assert (resting.state, resting.reason) == (
        "READY",
        "it gave way to other models, and is loaded when it is asked for",
    )
    assert resting.info is not None
    held = await here.loader.present(resting, deadline=time.monotonic() + 10)
    assert held is resting.held
    assert await ask(resting) > 0.9
    await settled(here)
    assert budgeted.open == {"2", "3"}


async def test_those_who_ask_at_once_for_a_resting_model_load_it_once(budgeted: Budgeted) -> None:
    here = budgeted.house
    await budgeted.load("1", "2", "3")
    assert budgeted.open == {"2", "3"}
    helds = await asyncio.gather(*(here.loader.present(here.model("1"), deadline=None) for _ in range(20)))
    assert {id(held) for held in helds} == {id(here.model("1").held)}
    await settled(here)
    assert len(budgeted.open) == 2


async def test_what_is_leased_never_gives_way_and_a_newcomer_waits_for_room(budgeted: Budgeted) -> None:
    here = budgeted.house
    await budgeted.load("1", "2", "3")
    first, second = here.model("2").held, here.model("3").held
    assert first is not None
    assert second is not None
    with first.leased(), second.leased():
        with pytest.raises(DeadlineExceeded, match="model color:1 was not back in memory at the deadline"):
            await here.loader.present(here.model("1"), deadline=time.monotonic() + 0.05)
        assert here.model("1").state == "READY"
        assert budgeted.open == {"2", "3"}
        assert await ask(here.model("2")) > 0.9
        waiting = asyncio.create_task(here.loader.present(here.model("1"), deadline=time.monotonic() + 10))
    here.loader.left()
    await waiting
    assert "1" in budgeted.open
    await settled(here)
    assert len(budgeted.open) == 2


async def test_what_is_unloaded_takes_room_until_it_is_closed(budgeted: Budgeted) -> None:
    here = budgeted.house
    await budgeted.load("1", "2", "3")
    unloaded, other = here.model("2").held, here.model("3").held
    assert unloaded is not None
    assert other is not None
    with other.leased():
        with unloaded.leased():
            here.loader.unload(here.model("2"))
            with pytest.raises(DeadlineExceeded):
                await here.loader.present(here.model("1"), deadline=time.monotonic() + 0.2)
        await here.loader.present(here.model("1"), deadline=time.monotonic() + 10)
    assert budgeted.open == {"1", "3"}


async def test_a_request_that_is_given_up_does_not_stop_the_loading(budgeted: Budgeted) -> None:
    here = budgeted.house
    await budgeted.load("1", "2", "3")
    asking = asyncio.create_task(here.loader.present(here.model("1"), deadline=None))
    await asyncio.sleep(0)
    loading = here.model("1").loading
    assert loading is not None
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await loading
    assert "1" in budgeted.open


async def test_a_model_larger_than_the_whole_budget_is_refused_with_both_sizes(
    house: Callable[..., House], make_bundle
) -> None:
    here = house(max_bytes=5 * 2**20, cost=10 * 2**20)
    make_bundle(here.folder / "1", version="1")
    await here.watch.look()
    model = here.model("1")
    with pytest.raises(
        EngineError, match="model color:1 takes 10 MiB, all models together may take 5 MiB; raise MAREY"
    ):
        await here.loader.begin(model)
    assert (model.state, model.held, model.closing) == ("UNAVAILABLE", None, 0)
    assert here.opener._engines == {}


async def test_the_first_model_does_not_pay_for_the_libraries_where_there_is_a_budget(
    house: Callable[..., House], make_bundle
) -> None:
    """Opened for the first time it takes 8 MiB, of which 5 stay when it is closed: not its own."""
    here = house(max_bytes=7 * 2**20)
    amounts = iter(each * 2**20 for each in (0, 8, 5, 8, 8, 11))
    here.opener._measure = lambda _gpu: next(amounts)
    for version in ("1", "2"):
        make_bundle(here.folder / version, version=version)
    await here.watch.follow()
    costs = {title: here.model(title).nbytes for title in ("1", "2")}
    assert costs == {"1": 3 * 2**20, "2": 3 * 2**20}
    assert len(here.opener._engines) == 2
    assert next(amounts, None) is None


async def test_without_a_budget_nothing_is_opened_twice(house: Callable[..., House], make_bundle) -> None:
    here = house()
    amounts = iter((0, 8 * 2**20))
    here.opener._measure = lambda _gpu: next(amounts)
    make_bundle(here.folder / "1", version="1")
    await here.watch.follow()
    assert here.model("1").nbytes == 8 * 2**20


async def test_a_resting_model_that_cannot_come_back_is_told_to_those_who_ask(
    budgeted: Budgeted, make_bundle, tmp_path: Path
) -> None:
    here = budgeted.house
    await budgeted.load("1", "2", "3")
    (here.folder / "1" / "encoder.onnx").write_bytes(b"damaged")
    with pytest.raises(NotReady, match=r"model color:1 could not be loaded: .*encoder\.onnx has sha256"):
        await here.loader.present(here.model("1"), deadline=None)
    assert here.model("1").state == "UNAVAILABLE"
    assert await ask(here.model("3")) > 0.9


async def test_an_engine_that_fails_to_open_leaves_nothing_behind(house: Callable[..., House], make_bundle) -> None:
    here = house()
    bundle = make_bundle(here.folder / "color", version="1", labels=("a", "b", "c"))
    # Whole by its hashes, and yet nothing that an engine could run: the golden clips say otherwise than the network.
    manifest = bundle.manifest.model_copy(
        update={"golden": bundle.manifest.golden.model_copy(update={"tolerance": {"fp32": 0.0}})}
    )
    (bundle.path / "manifest.json").write_text(manifest.model_dump_json())
    await here.watch.look()
    model = here.model("1")
    with pytest.raises(MareyError, match=r"no engine runs bundle color: onnxruntime fp32: .* differs from the float"):
        await here.loader.begin(model)
    assert here.opener._engines == {}
    assert model.state == "UNAVAILABLE"
