"""Which models there are, and which of them a request means: by name, version, task and share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from service.bundle.manifest import Task
from service.errors import InvalidParameter, NotReady, UnknownModel
from service.registry.catalogue import Key
from service.registry.model import Model
from service.registry.shares import Weights, check, draw, shares
from service.registry.versions import age


class Served:
    """Every version that is known, loaded or not, in the order of the folders."""

    def __init__(self, *, draws: Callable[[], float] = random.random) -> None:
        self._models: dict[Key, Model] = {}
        self._weights: dict[str, Weights] = {}
        self._draws = draws

    def __iter__(self) -> Iterator[Model]:
        return iter(tuple(self._models.values()))

    def __getitem__(self, key: Key) -> Model:
        return self._models[key]

    def __contains__(self, key: Key) -> bool:
        return key in self._models

    def add(self, model: Model) -> None:
        self._models[model.key] = model

    def remove(self, model: Model) -> None:
        del self._models[model.key]

    def weigh(self, name: str, weights: Weights) -> None:
        """Share out the requests for `name`; with no weights the newest has all. Raises UnknownModel or InvalidParameter."""
        known = [model.key[1] for model in self.named(name)]
        if unknown := [version for version in weights if version not in known]:
            raise InvalidParameter(f"{name} has no version {unknown[0]!r}; there are {', '.join(known)}")
        if weights:
            check(name, weights)
            self._weights[name] = dict(weights)
        else:
            self._weights.pop(name, None)

    def named(self, wanted: str) -> list[Model]:
        """The versions that `NAME` or `NAME:VERSION` means, newest first. Raises UnknownModel."""
        name, colon, version = wanted.partition(":")
        found = [model for model in self if model.key[0] == name and (not colon or model.key[1] == version)]
        if not found:
            raise UnknownModel(f"there is no model {wanted[:130]!r}; those served are {self._titles()}")
        return sorted(found, key=lambda model: age(model.key[1]), reverse=True)

    def shares(self, name: str) -> Mapping[str, float]:
        """By version, of the requests for `name` that name no version: in all 1, or nothing where none can be served."""
        versions = [model.key[1] for model in self.named(name) if model.servable]
        return shares(self._weights.get(name), versions) if versions else {}

    def default(self, name: str) -> str | None:
        """The version with the largest share, the newest of equal ones; None where none can be served."""
        found = self.shares(name)
        return max(found, key=found.__getitem__) if found else None

    def pick(self, name: str | None, *, task: Task | None) -> Model:
        """The model for one request, drawn by share where several versions fit.

        `NAME`, `NAME:VERSION`, or None for the first name that fits `task`. Raises UnknownModel, or NotReady for one that is known,
        and cannot be served now.
        """
        if name is None:
            for first in dict.fromkeys(model.key[0] for model in self):
                if fitting := _fitting(self.named(first), task):
                    return self._drawn(fitting)
            kept = (model.refusal() for model in self if _fits(model, task) and not model.servable)
            if refusal := next((each for each in kept if isinstance(each, NotReady)), None):
                raise refusal
            raise UnknownModel(f"no model here classifies {task}s; those served are {self._titles()}")
        known = self.named(name)
        if fitting := _fitting(known, task):
            return self._drawn(fitting)
        if any(model.servable for model in known):
            others = [model.title for model in self if model.servable and _fits(model, task)]
            raise UnknownModel(f"model {name!r} does not classify {task}s; those that do are {_listed(others)}")
        raise known[0].refusal()

    def answering(self, task: Task) -> frozenset[str]:
        """`NAME:VERSION` of each that `pick` would give for a request of this task."""
        return frozenset(model.title for model in self if model.servable and _fits(model, task))

    def _drawn(self, fitting: list[Model]) -> Model:
        by_version = {model.key[1]: model for model in fitting}
        return by_version[draw(self._weights.get(fitting[0].key[0]), list(by_version), random=self._draws)]

    def _titles(self) -> str:
        return _listed([model.title for model in self if model.servable])


def _fits(model: Model, task: Task | None) -> bool:
    return task is None or task in model.manifest.tasks


def _fitting(models: list[Model], task: Task | None) -> list[Model]:
    return [model for model in models if model.servable and _fits(model, task)]


def _listed(titles: list[str]) -> str:
    return ", ".join(titles) or "none"
