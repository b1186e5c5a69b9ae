"""The MAREY_ variables as the service would read them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from service.doctor.report import Check, info, no, ok
from service.settings import Settings

_PREFIX = "MAREY_"
# Read by make and by the tests, and no settings of the service.
_FOREIGN = frozenset({"MAREY_DATA"})


@dataclass(frozen=True, slots=True)
class Given:
    """The settings, with the defaults in place of those that are refused; `faults` say why these are."""

    settings: Settings
    faults: tuple[Check, ...] = ()

    def checks(self) -> list[Check]:
        """One line for what is set, and one for each variable that is misspelt or out of range."""
        set_here = {name: os.environ[name] for name in sorted(os.environ) if name.upper().startswith(_PREFIX)}
        known = [f"{_PREFIX}{field.upper()}" for field in Settings.model_fields]
        unknown = [_unknown(name, known) for name in set_here if name.upper() not in (*known, *_FOREIGN)]
        if self.faults:
            return [*self.faults, *unknown]
        read = {name: value for name, value in set_here.items() if name.upper() in known}
        told = ", ".join(f"{name}={value}" for name, value in read.items())
        return [ok("settings", told or "all at their defaults: no MAREY_ variable is set", **read), *unknown]


def given() -> Given:
    try:
        return Given(Settings())
    except ValidationError as error:
        faults = {str(each["loc"][0]): (each.get("input"), each["msg"]) for each in error.errors()}
    # What is given by name goes before the environment: the other variables still count.
    defaults: dict[str, Any] = {
        name: Settings.model_fields[name].get_default(call_default_factory=True, validated_data={}) for name in faults
    }
    return Given(Settings(**defaults), tuple(_fault(name, *fault) for name, fault in faults.items()))


def _fault(field: str, value: object, says: str) -> Check:
    name = f"{_PREFIX}{field.upper()}"
    return no(name, f"{name} = {value!r}: {says}; the service would not start", f"unset {name}", value=str(value))


def _unknown(name: str, known: Iterable[str]) -> Check:
    # Without the prefix, by which every name resembles every other.
    fields = [each.removeprefix(_PREFIX) for each in known]
    near = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), fields, n=1, cutoff=0.75)
    if near:
        says = f"{name} is no setting of the service and has no effect"
        return no(name, says, f"unset {name}; export {_PREFIX}{near[0]}=…")
    return info(name, f"{name} is no setting of the service")
