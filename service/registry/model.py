"""One version of one name: what lies on disk, what is open of it, and what is to become of it."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Literal

from service.bundle.manifest import Manifest
from service.engine.base import EngineInfo
from service.errors import MareyError, NotReady, UnknownModel
from service.registry.catalogue import Found, Key
from service.registry.leases import Held

# Triton's words.
State = Literal["READY", "UNAVAILABLE", "LOADING", "UNLOADING"]

_ranks = itertools.count(1)


class Model:
    """On the event loop only, but for reading.

    `wanted` False: it was unloaded, or never loaded, and stays so until somebody says otherwise. `held` None while it is wanted and
    was open before: it rests, having given way to others, and comes back when it is asked for.
    """

    def __init__(self, found: Found, *, wanted: bool) -> None:
        self.found = found
        self.wanted = wanted
        self.held: Held | None = None
        self.error: MareyError | None = None  # of the last attempt to open it, even where an older one is still served
        self.loading: asyncio.Task[None] | None = None
        self.progress = ""
        self.closing = 0  # former engines that are still in use, or being closed
        self.nbytes: int | None = None  # the smallest cost that was measured; None: never opened
        self.measured = ""  # stamp of the files that `nbytes` belongs to
        self.tried = ""  # stamp of the files at the last attempt
        self.missed = 0  # looks in a row at the folders in which it was not there
        self.waiting = 0  # requests that wait for it to be opened
        self.requests = 0
        self.used_at: float | None = None  # Unix time of the last request
        self._ran_on: tuple[EngineInfo, ...] = ()
        self.rank = 0  # of the last use among all models: the smallest was used least recently

    @property
    def key(self) -> Key:
        return self.found.key

    @property
    def title(self) -> str:
        return ":".join(self.key)

    @property
    def manifest(self) -> Manifest:
        """Of what is served; else of what lies on disk."""
        return self.held.predictor.manifest if self.held is not None else self.found.manifest

    @property
    def info(self) -> EngineInfo | None:
        """What it runs on, or ran on when it was last open."""
        return self._ran_on[0] if self._ran_on else None

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(info.device for info in self._ran_on)

    @property
    def resting(self) -> bool:
        return self.wanted and self.held is None and self.nbytes is not None and self.error is None

    @property
    def servable(self) -> bool:
        """Whether a request may ask for it, and be answered: at once, or once it is back in memory."""
        return self.held is not None or self.resting

    @property
    def state(self) -> State:
        if self.servable:
            return "READY"
        if self.loading is not None:
            return "LOADING"
        return "UNLOADING" if self.closing else "UNAVAILABLE"

    @property
    def reason(self) -> str:
        """Why it is in this state, where that is not plain; empty for a model that is simply served."""
        if self.held is not None:
            return f"an earlier state of it is served, for it could not be reloaded: {self.error}" if self.error else ""
        if self.loading is not None:
            return self.progress or "it is being opened"
        if self.error is not None:
            return str(self.error)
        if self.resting:
            return "it gave way to other models, and is loaded when it is asked for"
        return "its last requests are being answered" if self.closing else "it is not loaded"

    def refusal(self) -> UnknownModel | NotReady:
        """What to tell whoever asks for it while it is not servable: it was unloaded, or something keeps it from being served."""
        if self.error is None and self.loading is None:
            return UnknownModel(f"model {self.title} is not loaded; GET /models lists those that are")
        return NotReady(f"model {self.title} cannot be asked now: {self.reason}", retry_after_s=5)

    def take(self, held: Held) -> Held | None:
        """Serve `held` from now on; returns what was served before."""
        same = self.nbytes is not None and self.measured == held.stamp
        self.nbytes = held.nbytes = min(held.nbytes, self.nbytes) if same and self.nbytes else held.nbytes
        self.measured, self.error = held.stamp, None
        self._ran_on = tuple(replica.engine.info for replica in held.predictor.replicas)
        former, self.held = self.held, held
        self.use()
        return former

    def use(self) -> None:
        self.rank = next(_ranks)

    def ask(self) -> None:
        """Count a request."""
        self.use()
        self.requests += 1
        self.used_at = time.time()
