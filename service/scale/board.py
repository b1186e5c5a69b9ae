"""Where the replicas of one service tell their metrics, so that whichever is scraped can tell them all.

A scrape goes to one ingress replica, and the next to another: alone, each would tell counters that jump. A sample has its
replica's name as the label `replica`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayError

from service.scale.names import REQUESTS
from service.telemetry import Telemetry, rendered, together

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
# Who has said nothing for so long is gone.
_FORGET_S = 15.0
_ANSWER_S = 5.0


class Board:
    """A Ray actor, one for all replicas."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[float, Sequence[Metric]]] = {}
        self._draining = False

    def tell(self, replica: str, families: Sequence[Metric]) -> bool:
        """Whether the replica is to take nothing more."""
        self._told[replica] = (time.monotonic(), families)
        return self._draining

    def drain(self) -> None:
        self._draining = True

    def active(self) -> int:
        """Requests that replicas work on, by what they told last."""
        samples = (sample for families in self.read().values() for family in families for sample in family.samples)
        return sum(int(sample.value) for sample in samples if sample.name == "marey_requests_active")

    def read(self) -> dict[str, Sequence[Metric]]:
        now = time.monotonic()
        self._told = {name: told for name, told in self._told.items() if now - told[0] < _FORGET_S}
        return {name: families for name, (_, families) in sorted(self._told.items())}


def board() -> Any:
    """The actor, which is made where there is none. It comes back empty where its machine is lost, and is told anew."""
    kept = {"lifetime": "detached", "get_if_exists": True, "max_restarts": -1}
    return ray.remote(Board).options(name="metrics", namespace=REQUESTS, num_cpus=0, **kept).remote()


def own_name() -> str:
    """Of the replica that this is, as its metrics are labelled: its deployment, and what Ray calls it."""
    context = serve.get_replica_context()
    return f"{context.deployment}#{context.replica_tag}"


class Telling:
    """Tells what a replica counts, from `start` until `stop`; on the event loop."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._board = board()
        self._task: asyncio.Task[None] | None = None

    def start(self, telemetry: Telemetry, *, drain: Callable[[], None] = lambda: None) -> None:
        """`drain` is called when nothing more is to be taken."""
        self._task = asyncio.create_task(self._forever(telemetry, drain), name="metrics")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def exposition(self, telemetry: Telemetry) -> bytes:
        """What all replicas tell, this one as of now; where they cannot be asked, its own. Not on the event loop."""
        own = telemetry.read()
        try:
            told = ray.get(self._board.read.remote(), timeout=_ANSWER_S)
        except RayError as error:
            logger.warning("only this replica's metrics are told: %s", error)
            told = {}
        return rendered(together({**told, self._replica: own}))

    async def _forever(self, telemetry: Telemetry, drain: Callable[[], None]) -> None:
        while True:
            try:
                if await self._board.tell.remote(self._replica, await asyncio.to_thread(telemetry.read)):
                    drain()
            except Exception as error:  # noqa: BLE001  # whatever it is: requests do not suffer from it
                logger.warning("the metrics of %s were not told: %r", self._replica, error)
            await asyncio.sleep(_EVERY_S)
