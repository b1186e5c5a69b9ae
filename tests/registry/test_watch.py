"""The folders against what is served."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

from service.registry.leases import Held
from service.registry.model import Model
from tests.registry.conftest import House


def held(model: Model) -> Held:
    assert model.held is not None
    return model.held


async def test_new_ones_are_loaded_changed_ones_reloaded_and_others_left_alone(
    house: Callable[..., House], make_bundle
) -> None:
    here = house()
    make_bundle(here.folder / "a", version="1")
    make_bundle(here.folder / "b", version="2")
    await here.watch.follow()
    assert here.states == {"color:1": "READY", "color:2": "READY"}
    kept, former = held(here.model("1")), held(here.model("2"))
    make_bundle(here.folder / "b", version="2", labels=("x", "y", "z"))
    make_bundle(here.folder / "c", version="3")
    await here.watch.follow()
    assert here.states == {"color:1": "READY", "color:2": "READY", "color:3": "READY"}
    assert held(here.model("1")) is kept
    assert held(here.model("2")) is not former
    assert here.model("2").manifest.labels == ("x", "y", "z")
    third = held(here.model("3"))
    await here.watch.follow()
    assert held(here.model("3")) is third


async def test_gone_ones_are_unloaded_but_not_one_that_is_absent_for_a_moment(
    house: Callable[..., House], make_bundle
) -> None:
    here = house()
    bundle = make_bundle(here.folder / "a", version="1")
    make_bundle(here.folder / "b", version="2")
    await here.watch.follow()
    kept = held(here.model("1"))
    away = here.folder / ".a.old"
    for _ in range(3):  # as when a bundle is replaced by two renames
        bundle.path.rename(away)
        await here.watch.follow()
        assert here.states == {"color:1": "READY", "color:2": "READY"}
        away.rename(bundle.path)
        await here.watch.follow()
    assert held(here.model("1")) is kept
    shutil.rmtree(bundle.path)
    await here.watch.follow()
    await here.watch.follow()
    assert here.states == {"color:2": "READY"}


async def test_a_version_that_takes_the_place_of_another_is_there_before_that_goes(
    house: Callable[..., House], make_bundle
) -> None:
    here = house()
    make_bundle(here.folder / "color", version="1")
    await here.watch.follow()
    make_bundle(here.folder / "color", version="2")
    following = asyncio.create_task(here.watch.follow())
    while not following.done():
        assert here.served.pick("color", task="image").held is not None
        await asyncio.sleep(0)
    await following
    assert here.states == {"color:2": "READY"}


async def test_a_broken_one_is_reported_and_tried_again_once_it_has_changed(
    house: Callable[..., House], make_bundle, caplog
) -> None:
    here = house()
    make_bundle(here.folder / "good", version="1")
    bad = make_bundle(here.folder / "bad", version="2")
    (bad.path / "head.onnx").write_bytes(b"half of a cop")
    (here.folder / "worse").mkdir()
    (here.folder / "worse" / "manifest.json").write_text("{")
    await here.watch.follow()
    assert here.states == {"color:1": "READY", "color:2": "UNAVAILABLE"}
    assert "head.onnx has sha256" in here.model("2").reason
    assert [broken.path.name for broken in here.watch.broken] == ["worse"]
    assert "worse/manifest.json" in caplog.text
    caplog.clear()
    for _ in range(3):
        await here.watch.follow()
    assert caplog.text == "", "what has not changed is not tried, and not told, again"
    make_bundle(here.folder / "bad", version="2")
    await here.watch.follow()
    assert here.states == {"color:1": "READY", "color:2": "READY"}
    assert here.model("2").error is None


async def test_what_somebody_unloaded_stays_so_whatever_becomes_of_its_files(
    house: Callable[..., House], make_bundle
) -> None:
    here = house()
    make_bundle(here.folder / "a", version="1")
    await here.watch.follow()
    make_bundle(here.folder / "b", version="2")
    await here.watch.look()
    here.loader.unload(here.model("1"))
    here.loader.unload(here.model("2"))
    make_bundle(here.folder / "a", version="1", labels=("x", "y", "z"))
    await here.watch.follow()
    assert here.model("2").held is None, "nor was it ever loaded"
    assert here.model("1").held is None
    assert not here.model("1").servable


async def test_a_look_loads_nothing_and_forgets_what_is_gone(house: Callable[..., House], make_bundle) -> None:
    here = house()
    bundle = make_bundle(here.folder / "a", version="1")
    await here.watch.look()
    assert here.states == {"color:1": "UNAVAILABLE"}
    assert here.model("1").reason == "it is not loaded"
    shutil.rmtree(bundle.path)
    await here.watch.look()
    await here.watch.look()
    assert here.states == {}
