"""How many replicas of what: read once at the top, from MAREY_RAY_… variables, flags, or the arguments of a Ray application."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import InvalidParameter
from service.settings import Settings

_RANGE = re.compile(r"(\d{1,4})(?::(\d{1,4}))?")


def _range(value: object) -> object:
    if isinstance(value, int):
        value = str(value)
    if not isinstance(value, str):
        return value
    match = _RANGE.fullmatch(value)
    if match is None:
        raise ValueError("write a number of replicas, such as 2, or the fewest and the most, such as 1:4")
    fewest, most = int(match[1]), int(match[2] or match[1])
    if not 1 <= fewest <= most:
        raise ValueError("there has to be one replica at least, and as many at most as at least")
    return fewest, most


Replicas = Annotated[
    tuple[int, int],
    NoDecode,
    BeforeValidator(_range),
    PlainSerializer(lambda value: f"{value[0]}:{value[1]}", return_type=str),
]


class Spread(BaseSettings):
    """Frozen. Replicas are `MIN:MAX`: between the two Ray adds them while each has more to do than its `…_target`."""

    model_config = SettingsConfigDict(env_prefix="MAREY_RAY_", env_ignore_empty=True, frozen=True, extra="forbid")

    ingress: Replicas = Field(default=(1, 4), description="Replicas that take requests and decode.")
    engines: Replicas = Field(default=(1, 4), description="Replicas that run networks, of each bundle.")
    ingress_target: float = Field(default=8, gt=0, description="Requests in progress for each ingress replica.")
    engine_target: float = Field(default=4, gt=0, description="Clips, or parts of them, in progress for each engine.")
    ingress_cpus: float | None = Field(
        default=None, ge=0, description="Cores that Ray sets aside for each; default: MAREY_DECODE_WORKERS."
    )
    engine_cpus: float | None = Field(
        default=None, ge=0, description="The same; default: MAREY_THREADS, or 1 beside a GPU."
    )
    engine_gpus: float = Field(
        default=0, ge=0, le=1, description="Share of a GPU for each engine: 0.5 puts two of them on one."
    )

    def cores(self, settings: Settings, *, bundles: int) -> float:
        """What the most replicas of all ask for, with those of jobs."""
        jobs = 1 if settings.max_jobs else 0
        return (self.ingress[1] + jobs) * self.of_ingress(settings) + bundles * self.engines[1] * self.of_engine(
            settings
        )

    def of_ingress(self, settings: Settings) -> float:
        return settings.decode_workers if self.ingress_cpus is None else self.ingress_cpus

    def of_engine(self, settings: Settings) -> float:
        usual = 1 if self.engine_gpus else settings.threads
        return usual if self.engine_cpus is None else self.engine_cpus


def everywhere(settings: Settings, *, engines: int) -> Settings:
    """The settings as they mean the same in processes with other working directories, `engines` of which share a machine."""
    given = {name: getattr(settings, name) for name in type(settings).model_fields}
    changed: dict[str, object] = {
        name: value.expanduser().absolute() for name, value in given.items() if isinstance(value, Path)
    }
    changed["bundles"] = tuple(path.absolute() for path in settings.bundles)
    if "threads" not in settings.model_fields_set:
        changed["threads"] = max(1, settings.threads // engines)
    return settings.model_copy(update=changed)


def refuse_unless_shared(settings: Settings) -> None:
    """Raise InvalidParameter where a setting means one process, and there are several."""
    for name, why in (
        ("watch_s", "the bundles of a service on Ray are those it was deployed with: deploy it anew to change them"),
        ("max_model_bytes", "each bundle has engines of its own on Ray: limit their replicas by MAREY_RAY_ENGINES"),
        ("devices", "Ray hands out the GPUs: say by MAREY_RAY_ENGINE_GPUS how much of one an engine gets"),
    ):
        if getattr(settings, name):
            given = getattr(settings, name)
            raise InvalidParameter(f"MAREY_{name.upper()} = {given!r} cannot be used with Ray; {why}")
