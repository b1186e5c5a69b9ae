"""The engines of an ingress replica: networks that run elsewhere, behind the seam that a `Batcher` has.

# Note [A replica that dies]
What was sent to an engine replica that dies, or is stopping, is sent to another, as long as the request's deadline allows: no
request is lost with an engine. But where several die of the same request, it is the request: it is given up before it has killed
all of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfMemoryError,
    RayActorError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from service.bundle.manifest import Stage
from service.bundle.store import open_bundle
from service.device import too_late
from service.engine.base import Engine, EngineInfo, Outputs
from service.errors import BundleError, ClientGone, DeviceLost, Draining, EngineError
from service.gathered import Gathered
from service.pace import Line
from service.priority import Priority
from service.registry.catalogue import Found, Key
from service.registry.opening import Ready
from service.replica import Replica
from service.scale.crossing import Introduction, Reply, Standing
from service.scale.names import ENGINES, engine_title
from service.waiting import Network, Rows, load

logger = logging.getLogger(__name__)

# How long a replica's word on its queue counts for.
_FRESH_S = 2.0
_PAUSE_S = 0.1
_MOST_DEATHS = 3
_LOST = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfMemoryError,
    WorkerCrashedError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

FIXED = (
    "the models of a service on Ray are those that it was deployed with, in every replica; "
    "deploy it anew with other bundles, or with other MAREY_WEIGHTS"
)


class Distant:
    """`Batches` over the engine replicas of one bundle, of which Ray takes the one with the least to do."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._standings: dict[str, tuple[float, Standing]] = {}
        self._lost_at: float | None = None  # since when nobody has answered
        self.pending_rows = 0

    @property
    def replicas(self) -> int:
        """Those that have answered of late."""
        return sum(time.monotonic() - told < _FRESH_S for told, _ in self._standings.values())

    async def introduce(self) -> Introduction:
        """What one of the replicas serves; waits until there is one."""
        introduction: Introduction = await self._handle.introduce.remote()
        self._note(introduction.standing)
        return introduction

    def seconds(self, network: Network, units: float) -> float:
        """By what the replicas say, the fastest of them."""
        paces = [standing.pace_s.get(network[1], 0.0) for _, standing in self._standings.values()]
        return min(paces, default=0.0) * units

    def line(self, priority: Priority) -> Line:
        """Before a newcomer, where there is the least to do, as far as that is known: what a replica said has since gone on."""
        now = time.monotonic()
        if self._lost_at is not None and self.pending_rows:
            return Line(waiting_s=now - self._lost_at)  # as long as others have waited for one that answers
        lines = [
            _later(standing.lines[priority], now - told)
            for told, standing in self._standings.values()
            if now - told < _FRESH_S
        ]
        return min(lines, key=lambda line: line.waiting_s + line.running_s, default=Line())

    async def run(
        self,
        engine: Engine,  # noqa: ARG002  # they have their own
        stage: Stage,
        rows: NDArray[np.generic] | Gathered,
        *,
        deadline: float,
        priority: Priority = "interactive",
    ) -> Rows:
        """As `Batcher.run`."""
        ask = partial(self._handle.run.remote, stage, rows, priority=priority)
        (ran,) = await self._answered(ask, deadline=deadline, rows=load(stage, rows))
        return ran

    async def run_clip(
        self,
        engine: Engine,  # noqa: ARG002
        frames: NDArray[np.uint8],
        *,
        deadline: float,
        priority: Priority = "interactive",
    ) -> tuple[Rows, Rows]:
        """As `Batcher.run_clip`."""
        ask = partial(self._handle.run_clip.remote, frames, priority=priority)
        encoded, judged = await self._answered(ask, deadline=deadline, rows=len(frames))
        return encoded, judged

    async def _answered(self, ask: Callable[..., Any], *, deadline: float, rows: int) -> tuple[Rows, ...]:
        """What a replica answers; of another, where the first one dies: see Note [A replica that dies]."""
        self.pending_rows += rows
        began, deaths = time.monotonic(), 0
        try:
            while True:
                try:
                    reply = await self._reply(ask, deadline=deadline)
                except ActorDiedError as error:
                    deaths += 1
                    self._lose(error)
                    if deaths == _MOST_DEATHS:
                        raise EngineError(
                            f"{deaths} engines died while they worked on this request, which is given up; send another file"
                        ) from error
                except _LOST as error:
                    self._lose(error)
                else:
                    self._lost_at = None
                    if reply.error is None:
                        return _on_the_way(reply.rows, time.monotonic() - began)
                    if not isinstance(reply.error, Draining | DeviceLost):
                        raise reply.error
                await asyncio.sleep(_PAUSE_S)
        finally:
            self.pending_rows -= rows

    async def _reply(self, ask: Callable[..., Any], *, deadline: float) -> Reply:
        """Raises DeadlineExceeded, or what Ray says where there is no replica any more."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise too_late()
        response = ask(left_s=left_s)
        try:
            async with asyncio.timeout(left_s):
                reply: Reply = await response
        except TimeoutError:
            response.cancel()
            raise too_late() from None
        except (asyncio.CancelledError, TaskCancelledError) as error:
            response.cancel()
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                raise
            # Nobody has cancelled this task: Ray did it to what it awaits, whose request it ends.
            raise ClientGone("the client hung up before it had its answer") from None
        self._note(reply.standing)
        return reply

    def _lose(self, error: Exception) -> None:
        """A replica is lost, and which of them cannot be told: they say anew how they stand."""
        logger.warning("an engine replica was lost, and another is asked: %s", str(error).partition("\n")[0])
        self._standings.clear()
        self._lost_at = self._lost_at or time.monotonic()

    def _note(self, standing: Standing) -> None:
        now = time.monotonic()
        self._standings = {name: told for name, told in self._standings.items() if now - told[0] < 60 * _FRESH_S}
        self._standings[standing.replica] = (now, standing)


class Described:
    """An engine that runs elsewhere: what it is, and no more."""

    def __init__(self, info: EngineInfo) -> None:
        self.info = info

    def run(self, stage: Stage, rows: NDArray[np.generic]) -> Outputs:  # noqa: ARG002
        raise EngineError(f"{self.info.name} on {self.info.device} runs in another process; ask its batcher")

    def close(self) -> None:
        """It is another's to close."""


class DistantEngines:
    """`Engines` of a registry, for the bundles of `keys`: those of the application ENGINES."""

    fixed = FIXED
    alive = True  # Ray puts replicas in the place of those that end
    queued_rows = 0  # told by whoever has the queue

    def __init__(self, keys: Iterable[Key]) -> None:
        self._distant = {key: Distant(serve.get_deployment_handle(engine_title(key), ENGINES)) for key in keys}

    def start(self) -> None:
        """They have started."""

    def stop(self) -> None:
        """Nothing is built here."""

    async def close(self) -> None:
        """They are others' to close."""

    async def discard(self, replicas: Sequence[Replica]) -> None:
        """They are others' to close."""

    async def open(self, found: Found, *, note: Callable[[str], None]) -> Ready:
        """The bundle itself, whose labels and steps are needed here, and who runs its networks. Raises BundleError."""
        distant = self._distant.get(found.key)
        if distant is None:
            raise BundleError(f"no engine was deployed for {found.path}; {FIXED}")
        note("its engines are being started")
        bundle = await asyncio.to_thread(open_bundle, found.path)
        introduction = await distant.introduce()
        if introduction.manifest != bundle.manifest:
            raise BundleError(
                f"{found.path} is another bundle here than where its engines run; put the same one on every machine"
            )
        replica = Replica(Described(introduction.info), distant, introduction.golden_difference)
        return Ready(bundle, (replica,), 0)

    @property
    def devices(self) -> int:
        return max([1, *(distant.replicas for distant in self._distant.values())])

    def line(self, priority: Priority) -> Line:
        """Of the bundle with the least to do: each engine sees for itself that nobody waits there for too long."""
        lines = (distant.line(priority) for distant in self._distant.values())
        return min(lines, key=lambda line: line.waiting_s + line.running_s, default=Line())

    def waiting(self, priority: Priority) -> int:  # noqa: ARG002
        return 0  # as `queued_rows`


def _on_the_way(rows: tuple[Rows, ...], seconds: float) -> tuple[Rows, ...]:
    """All that was no computing is waiting, for whoever asked: there and back, too."""
    spent_s = sum(each.queue_s + each.run_s for each in rows)
    first, *others = rows
    return replace(first, queue_s=first.queue_s + max(0.0, seconds - spent_s)), *others


def _later(line: Line, seconds: float) -> Line:
    """What is left of `line` after `seconds`, if nothing was added."""
    running_s = max(0.0, line.running_s - seconds)
    waiting_s = max(0.0, line.waiting_s - max(0.0, seconds - line.running_s))
    return Line(waiting_s, running_s)
