"""`--set KEY=VALUE`: one entry of a recipe in place of what its file says; part of the recipe, and of its digest, from then on."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from models.errors import RecipeError

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_WORD = re.compile(r"[^\s\"'\[\]{}=,#]+")


@dataclass(frozen=True, slots=True)
class Override:
    """`key` as in `architecture.units`; a number picks an item of a list, from 0, as in `training.stages.0.epochs`."""

    key: tuple[str, ...]
    value: Any
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """VALUE is TOML; a single word that is no TOML is a string, so that `name=row_lstm_14` needs no quotes. Raises RecipeError."""
        key, separator, value = (part.strip() for part in text.partition("="))
        if separator and _KEY.fullmatch(key) and not value:
            raise RecipeError(f'--set {text} gives no value; an empty text is written as --set {key}=""')
        if not separator or not _KEY.fullmatch(key):
            raise RecipeError(f"--set {text} is not KEY=VALUE; write it as in --set architecture.units=64")
        try:
            found = tomllib.loads(f"value = {value}")
        except tomllib.TOMLDecodeError:
            found = {"value": value} if _WORD.fullmatch(value) else {}
        if found.keys() != {"value"}:
            raise RecipeError(f"--set {text}: {value} is no TOML value; text of more than one word stands in quotes")
        return cls(tuple(key.split(".")), found["value"], text)

    def names(self, place: Sequence[str]) -> bool:
        """Whether this put what stands at `place`, above or beneath it; `place` may hold more parts, as the name of a variant."""
        return bool(place) and (_holds(place, self.key) or _holds(self.key, place))


def _holds(parts: Sequence[str], some: Sequence[str]) -> bool:
    """Whether `some` occur in `parts`, in their order."""
    rest = iter(parts)
    return all(part in rest for part in some)


def overridden(content: Mapping[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """`content` of a recipe with `overrides` put into it, one after the other; raises RecipeError where there is no such place."""
    found: Any = content
    for each in overrides:
        found = _put(found, each.key, each)
    return dict(found)


def _put(content: Any, key: tuple[str, ...], override: Override) -> Any:
    if not key:
        return override.value
    first, rest = key[0], key[1:]
    done = ".".join(override.key[: len(override.key) - len(key)]) or "the recipe"
    if isinstance(content, Mapping):
        return {**content, first: _put(content.get(first, {}), rest, override)}
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise RecipeError(f"--set {override.text}: {done} is {content!r} and has no entries of its own; name a table")
    if not first.isdecimal() or int(first) >= len(content):
        raise RecipeError(f"--set {override.text}: {done} is a list of {len(content)}; name one by its number, from 0")
    return [_put(item, rest, override) if number == int(first) else item for number, item in enumerate(content)]
