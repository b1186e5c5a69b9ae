"""What `marey-build tune` tries: the values of some entries of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator

from service.bundle.manifest import Frozen

Values = Annotated[tuple[Any, ...], Field(min_length=1)]

# What is tried where a recipe says nothing: of these, the entries that its architecture has, and the length of its clips.
USUAL: Mapping[str, tuple[Any, ...]] = {
    "architecture.units": (16, 32, 64, 128),
    "architecture.layers": (1, 2),
    "architecture.cell": ("lstm", "gru"),
    "architecture.bidirectional": (False, True),
    "architecture.readout": ("last", "mean", "attention"),
    "sampling.frames": (8, 16, 32),
}


class Tune(Frozen):
    """`trials` of `space`, whose keys are those of `--set`, as `architecture.units`, and whose values are all that may stand there.

    The first trials are drawn by `seed`, later ones where a Gaussian process over those before expects the best. No part of what
    determines a bundle: the digest of a recipe leaves it out.
    """

    trials: int = Field(default=20, ge=1, le=1000)
    seed: int = Field(default=0, ge=0)
    space: dict[str, Values] = Field(default_factory=dict)

    @field_validator("space", mode="before")
    @classmethod
    def _flat(cls, said: Any) -> Any:
        """In TOML an unquoted `architecture.units = [16, 32]` is a table in a table."""
        return dict(_flattened(said)) if isinstance(said, dict) else said


def _flattened(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
