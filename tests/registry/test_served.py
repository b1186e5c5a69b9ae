"""Which model a request means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.errors import EngineError, InvalidParameter, NotReady, UnknownModel
from service.registry.served import Served


@pytest.fixture
async def served(house: Callable[..., object], make_bundle) -> Served:
    """color 1.9 and 1.10 for images and videos, and clips:1 for videos alone; all loaded but color 2, which is not."""
    of = house()
    make_bundle(of.folder / "a", version="1.9", description="old")
    make_bundle(of.folder / "b", version="1.10")
    make_bundle(of.folder / "c", name="clips", version="1", tasks=("video",))
    await of.watch.follow()
    make_bundle(of.folder / "d", version="2")
    await of.watch.look()
    assert list(of.states.values()) == ["READY", "READY", "READY", "UNAVAILABLE"]
    return of.served


async def test_a_name_means_its_newest_version_that_is_loaded(served: Served) -> None:
    assert served.pick("color", task="image").title == "color:1.10"
    assert served.pick("color:1.9", task="video").title == "color:1.9"
    assert served.pick(None, task="image").title == "color:1.10"
    assert served.default("color") == "1.10"


async def test_without_a_name_the_first_that_fits_the_task_is_meant(served: Served, house, make_bundle) -> None:
    served.remove(served["color", "1.9"])
    served.remove(served["color", "1.10"])
    assert served.pick(None, task="video").title == "clips:1"
    with pytest.raises(UnknownModel, match="no model here classifies images; those served are clips:1"):
        served.pick(None, task="image")


async def test_without_a_name_what_keeps_the_only_model_that_fits_from_being_served_is_told(served: Served) -> None:
    served.remove(served["color", "1.9"])
    served.remove(served["color", "1.10"])
    served["color", "2"].error = EngineError("model color:2 takes 124 MiB, all models together may take 114 MiB")
    with pytest.raises(NotReady, match="model color:2 cannot be asked now: model color:2 takes 124 MiB"):
        served.pick(None, task="image")
    assert served.pick(None, task="video").title == "clips:1"


async def test_shares_count_where_no_version_is_named_and_only_there(served: Served) -> None:
    served.weigh("color", {"1.9": 1, "1.10": 0})
    assert {served.pick("color", task=None).title for _ in range(20)} == {"color:1.9"}
    assert {served.pick(None, task="image").title for _ in range(20)} == {"color:1.9"}
    assert served.pick("color:1.10", task=None).title == "color:1.10"
    assert (served.default("color"), served.shares("color")) == ("1.9", {"1.10": 0, "1.9": 1})
    served.weigh("color", {})
    assert served.pick("color", task=None).title == "color:1.10"


async def test_shares_of_what_does_not_exist_are_refused(served: Served) -> None:
    with pytest.raises(InvalidParameter, match=r"color has no version '3'; there are 2, 1\.10, 1\.9"):
        served.weigh("color", {"3": 1})
    with pytest.raises(UnknownModel, match="there is no model 'colour'"):
        served.weigh("colour", {"1.9": 1})
    with pytest.raises(InvalidParameter, match="the shares of color are 0 in all"):
        served.weigh("color", {"1.9": 0})


async def test_what_cannot_be_asked_is_refused_with_the_reason(served: Served) -> None:
    for name, saying in (
        ("colour", "there is no model 'colour'; those served are color:1.9, color:1.10, clips:1"),
        ("color:3", "there is no model 'color:3'"),
        ("color:2", "model color:2 is not loaded"),
        ("clips", "model 'clips' does not classify images; those that do are color:1.9, color:1.10"),
    ):
        with pytest.raises(UnknownModel) as error:
            served.pick(name, task="image")
        assert saying in str(error.value)


async def test_a_model_that_is_being_loaded_is_told_to_be_and_holds_up_no_other(
    served: Served, house, make_bundle
) -> None:
    loading = served["color", "2"]
    loading.loading = asyncio.ensure_future(asyncio.Event().wait())
    with pytest.raises(NotReady, match="model color:2 cannot be asked now: it is being opened") as error:
        served.pick("color:2", task="image")
    assert error.value.retry_after_s == 5
    assert served.pick("color", task="image").title == "color:1.10"
    loading.loading.cancel()
    await asyncio.gather(loading.loading, return_exceptions=True)
