"""The folders against what is served: new bundles are loaded, changed ones reloaded, gone ones unloaded."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from service.registry.catalogue import Broken, Catalogue, Look
from service.registry.loading import Loader
from service.registry.model import Model
from service.registry.served import Served

logger = logging.getLogger(__name__)

# A bundle that is replaced is absent between two renames.
_LOOKS_UNTIL_GONE = 2


class Watch:
    """On the event loop; the folders are read in a thread."""

    def __init__(self, paths: tuple[Path, ...], served: Served, loader: Loader) -> None:
        self._catalogue = Catalogue(paths)
        self._served = served
        self._loader = loader
        self._one_at_a_time = asyncio.Lock()
        self.broken: tuple[Broken, ...] = ()  # what has no name and version of its own

    async def look(self) -> Look:
        """Learn what lies there now; load and unload nothing."""
        async with self._one_at_a_time:
            look = await asyncio.to_thread(
                self._catalogue.look, served={model.key: model.found.path for model in self._served}
            )
            for broken in look.broken:
                if str(broken.error) not in {str(each.error) for each in self.broken}:
                    logger.error("bundle %s is not served: %s", broken.path, broken.error)
            self.broken = look.broken
            for found in look.found:
                if found.key in self._served:
                    self._served[found.key].found = found
                else:
                    self._served.add(Model(found, wanted=False))
            gone = self._gone(look)
            for model in self._served:
                model.missed = model.missed + 1 if model in gone else 0
                idle = model.held is None and model.loading is None and not model.resting
                if idle and model.missed >= _LOOKS_UNTIL_GONE:
                    self._served.remove(model)
            return look

    async def follow(self) -> None:
        """Look, and make what is served agree with it. What fails is logged, told by the model, and tried again once it changes."""
        look = await self.look()
        begun = []
        for model in self._served:
            if not model.tried:
                model.wanted = True
            changed = model.tried != model.found.stamp and not model.resting
            if model.wanted and changed and model.loading is None:
                begun.append(self._loader.begin(model))
        if begun:
            await asyncio.wait(begun)  # what replaces something is there before the other goes
        replaced = {found.path for found in look.found}
        for model in self._gone(look):
            if model.missed >= _LOOKS_UNTIL_GONE or model.found.path in replaced:
                logger.info("model %s is unloaded: its bundle is gone", model.title)
                self._loader.unload(model)
                self._served.remove(model)

    async def forever(self, every_s: float) -> None:
        """Follow the folders until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.follow()
            except Exception:
                logger.exception("the folders of bundles could not be looked at; the next look is in %g s", every_s)

    def _gone(self, look: Look) -> list[Model]:
        there = {found.key for found in look.found}
        return [model for model in self._served if model.key not in there and not look.hides(model.found.path)]
