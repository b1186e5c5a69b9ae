"""Files that are executed once they are loaded, each with a JSON beside it that says what it was made for, and its sha256.

The hash finds damage. Against those who could write both, there are owners and modes: nothing is read that belongs to
somebody else, or that everybody may change.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import EngineError

SIDECAR = ".json"
_SCHEMA_VERSION = 1


class EngineRefused(EngineError):
    """What is in the cache is not the engine that is asked for; the message says why."""


def read_verified(file: Path, wanted: Mapping[str, Any]) -> bytes:
    """The bytes of `file`, if they are ours, whole, and were made for `wanted`. Raises EngineRefused with the reason."""
    sidecar = read_sidecar(file)
    if differing := differences(sidecar["key"], wanted):
        raise EngineRefused(f"{file.name} was built for {differing}")
    data = _read(file)
    found = hashlib.sha256(data).hexdigest()
    if found != sidecar.get("sha256"):
        raise EngineRefused(
            f"{file.name} has sha256 {found[:12]}…, {str(sidecar.get('sha256'))[:12]}… was built: changed or damaged"
        )
    return data


def read_sidecar(file: Path) -> dict[str, Any]:
    """What the JSON beside `file` says; its `key` is a dict. Raises EngineRefused."""
    beside = file.with_name(file.name + SIDECAR)
    try:
        sidecar = json.loads(_read(beside))
    except (ValueError, RecursionError) as error:
        raise EngineRefused(f"{beside} cannot be read ({type(error).__name__})") from None
    if (
        not isinstance(sidecar, dict)
        or sidecar.get("schema_version") != _SCHEMA_VERSION
        or not isinstance(sidecar.get("key"), dict)
    ):
        raise EngineRefused(f"{beside.name} is not one that this version writes")
    return sidecar


def write_verified(file: Path, data: bytes, fields: Mapping[str, Any], **notes: object) -> None:
    """Write `file` and its JSON; the JSON first, so that a reader in between finds a hash that does not fit. Raises OSError."""
    sidecar = {
        "schema_version": _SCHEMA_VERSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "key": fields,
        **notes,
    }
    _replace(file.with_name(file.name + SIDECAR), (json.dumps(sidecar, indent=2) + "\n").encode())
    _replace(file, data)


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """`gpu A100 (here it is H200)` for each field that differs; empty where none does."""
    told = {"onnx": "another ONNX graph", "calibration": "another calibration", "profiles": "other profiles"}
    parts = [
        told.get(name, f"{name} {found.get(name)} (here it is {value})")
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    return ", ".join(parts)


def _read(file: Path) -> bytes:
    try:
        _refuse_foreign(file.parent, os.lstat(file.parent))
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
            _refuse_foreign(file, os.fstat(stream.fileno()))
            return stream.read()
    except FileNotFoundError:
        raise EngineRefused(f"{file.name} is missing in {file.parent}") from None
    except OSError as error:
        raise EngineRefused(f"{file} cannot be read ({error.strerror or error})") from None


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise EngineRefused(f"{path} is a link, which could be turned to another engine; remove it")
    if status.st_uid not in (0, os.geteuid()):
        raise EngineRefused(
            f"{path} belongs to user {status.st_uid}, this is user {os.geteuid()}; set MAREY_ENGINE_CACHE to a folder of its own"
        )
    if status.st_mode & stat.S_IWOTH:
        raise EngineRefused(
            f"{path} can be written by everybody on this machine; chmod o-w it, or set MAREY_ENGINE_CACHE elsewhere"
        )


def _replace(file: Path, data: bytes) -> None:
    staging = file.with_name(f".writing-{os.getpid()}-{file.name}")
    with staging.open("wb") as stream:
        os.fchmod(stream.fileno(), 0o644)  # whatever the umask: what everybody may write is not read again
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    staging.rename(file)
