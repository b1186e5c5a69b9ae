"""What becomes of a request whose engine replica dies, stops or says nothing: by a stand-in of Ray's handle, which does all that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, TaskCancelledError

from service.engine.base import EngineInfo
from service.errors import ClientGone, DeadlineExceeded, DeviceLost, Draining, EngineError, Overloaded
from service.pace import Line
from service.scale.crossing import Reply, Standing
from service.scale.distant import Described, Distant
from service.waiting import Rows

FRAMES = np.zeros((4, 16, 16, 3), np.uint8)
INFO = EngineInfo("openvino", "fp32", "fp32", "CPU")
ENGINE = Described(INFO)


def standing(*, waiting_s: float = 0.0, running_s: float = 0.0, replica: str = "one") -> Standing:
    lines = {"interactive": Line(waiting_s, running_s), "bulk": Line(waiting_s * 2, running_s)}
    return Standing(replica, lines, {"encoder": 0.01, "head": 0.002})


def answered(**changes: Any) -> Reply:
    rows = Rows({"features": np.ones((4, 3), np.float32)}, 4, 0.0, 0.0, INFO)
    judged = Rows({"probabilities": np.ones((1, 3), np.float32)}, 1, 0.0, 0.0, INFO)
    return Reply((rows, judged), standing(**changes))


class Handle:
    """Answers each call by the next of `acts`: a reply, or an exception to raise, or a time to sleep for."""

    def __init__(self, *acts: Reply | Exception | float) -> None:
        self.acts = list(acts)
        self.asked: list[dict[str, Any]] = []
        self.cancelled = 0
        self.run_clip = self

    def remote(self, *_arguments: Any, **named: Any) -> Response:
        self.asked.append(named)
        return Response(self, self.acts.pop(0))


class Response:
    def __init__(self, handle: Handle, act: Reply | Exception | float) -> None:
        self.handle, self.act = handle, act

    def __await__(self) -> Any:
        return self._act().__await__()

    async def _act(self) -> Reply:
        if isinstance(self.act, float):
            await asyncio.sleep(self.act)
            return answered()
        if isinstance(self.act, BaseException):
            raise self.act
        return self.act

    def cancel(self) -> None:
        self.handle.cancelled += 1


async def ask(handle: Handle, *, within_s: float = 20.0, distant: Distant | None = None) -> tuple[Rows, Rows]:
    distant = distant or Distant(handle)  # type: ignore[arg-type]
    return await distant.run_clip(ENGINE, FRAMES, deadline=time.monotonic() + within_s)


@pytest.mark.parametrize(
    "loss",
    [
        ActorDiedError(),
        ActorUnavailableError("for a moment", b"0" * 16),
        Reply((), standing(), Draining("it stops")),
        Reply((), standing(), DeviceLost("its GPU is gone")),
    ],
    ids=lambda loss: type(getattr(loss, "error", loss)).__name__,
)
async def test_another_replica_is_asked_where_one_is_lost(loss: Reply | Exception) -> None:
    handle = Handle(loss, loss, answered())
    encoded, judged = await ask(handle)
    assert (encoded.batch_size, judged.outputs["probabilities"].shape) == (4, (1, 3))
    assert judged.ran_on == INFO
    assert handle.asked[2]["left_s"] < handle.asked[0]["left_s"] < 20


async def test_a_request_that_engines_die_of_is_given_up_after_three() -> None:
    handle = Handle(*[ActorDiedError() for _ in range(9)])
    with pytest.raises(EngineError, match="3 engines died while they worked on this request"):
        await ask(handle)
    assert len(handle.asked) == 3


async def test_what_an_engine_refuses_is_refused() -> None:
    handle = Handle(Reply((), standing(), Overloaded("too much", retry_after_s=2)))
    with pytest.raises(Overloaded, match="too much") as refusal:
        await ask(handle)
    assert refusal.value.retry_after_s == 2


async def test_at_the_deadline_it_is_withdrawn() -> None:
    handle = Handle(30.0)
    with pytest.raises(DeadlineExceeded):
        await ask(handle, within_s=0.05)
    assert handle.cancelled == 1
    with pytest.raises(DeadlineExceeded):
        await ask(handle, within_s=-1)
    assert len(handle.asked) == 1


async def test_where_replicas_keep_failing_the_deadline_ends_it() -> None:
    handle = Handle(*[ActorUnavailableError("away", b"0" * 16) for _ in range(99)])
    with pytest.raises(DeadlineExceeded):
        await ask(handle, within_s=0.35)
    assert 2 <= len(handle.asked) <= 5


async def test_whoever_leaves_withdraws_it() -> None:
    handle = Handle(30.0)
    task = asyncio.create_task(ask(handle))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.cancelled == 1


@pytest.mark.parametrize(
    "cancelled", [asyncio.CancelledError(), TaskCancelledError()], ids=lambda each: type(each).__name__
)
async def test_what_ray_cancels_is_a_client_that_has_gone(cancelled: Any) -> None:
    with pytest.raises(ClientGone):
        await ask(Handle(cancelled))


async def test_the_way_there_and_back_counts_as_waiting() -> None:
    encoded, judged = await ask(Handle(0.05))
    assert encoded.queue_s == pytest.approx(0.05, abs=0.04)
    assert judged.queue_s == 0


async def test_a_newcomer_finds_what_the_least_busy_replica_has_left() -> None:
    handle = Handle(answered(waiting_s=3.0, running_s=0.0), answered(waiting_s=1.0, running_s=0.5, replica="two"))
    distant = Distant(handle)  # type: ignore[arg-type]
    assert distant.line("interactive") == Line()
    await ask(handle, distant=distant)
    assert distant.line("interactive").waiting_s == pytest.approx(3.0, abs=0.1)
    await ask(handle, distant=distant)
    line = distant.line("interactive")
    assert (line.waiting_s, line.running_s) == pytest.approx((1.0, 0.5), abs=0.1)
    assert distant.line("bulk").waiting_s == pytest.approx(2.0, abs=0.1)
    assert distant.replicas == 2
    assert distant.seconds((0, "encoder"), 4) == pytest.approx(0.04)


async def test_while_no_replica_answers_newcomers_see_how_long_others_have_waited(
    until: Callable[..., Any],
) -> None:
    handle = Handle(answered(), *[ActorUnavailableError("away", b"0" * 16) for _ in range(3)], answered())
    distant = Distant(handle)  # type: ignore[arg-type]
    await ask(handle, distant=distant)
    waiting = asyncio.create_task(ask(handle, distant=distant))
    await until(lambda: distant.line("interactive").waiting_s > 0.15)
    assert distant.replicas == 0
    await waiting
    assert distant.line("interactive") == Line()
    assert distant.pending_rows == 0
