"""Engines that were built, kept outside the bundles: executable code, bound to one GPU and one TensorRT.

    ROOT/<gpu>-<tensorrt>-<hash of the key>/encoder.plan  encoder.plan.json  head.plan  head.plan.json

Whoever may write there decides what the service executes. Nothing is loaded unless the JSON beside it holds the very key
that is asked for and the file's sha256; what does not is built anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.engine.base import Stage
from service.errors import EngineError

_SIDECAR = ".json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that an engine was made from and for. A change in any of it makes another engine."""

    bundle: str
    precision: str
    onnx: Mapping[Stage, str]  # sha256 by stage
    calibration: str | None
    tensorrt: str
    gpu: str
    compute_capability: str
    profiles: Mapping[Stage, Any]
    flags: Mapping[str, Any]

    @property
    def fields(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return dict(json.loads(json.dumps(plain)))  # as it is read again: tuples are lists there

    @property
    def folder(self) -> str:
        digest = hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()
        return f"{_slug(self.gpu)}-{_slug(self.tensorrt)}-{digest[:16]}"


class EngineRefused(EngineError):
    """What is in the cache is not the engine that is asked for; the message says why."""


class EngineAbsent(EngineRefused):
    """Nor anything that was meant for this bundle at this precision."""


class EngineCache:
    """Files by key below `root`; without `root` below `$XDG_CACHE_HOME/marey/engines`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    def folder(self, key: EngineKey) -> Path:
        return self.root / key.folder

    def load(self, key: EngineKey, names: tuple[str, ...]) -> dict[str, bytes]:
        """The files `names` of the engine of that key, all of them verified. Raises EngineRefused with the reason."""
        folder = self.folder(key)
        if not folder.is_dir():
            raise self._absent(key)
        return {name: self._read(folder / name, key.fields) for name in names}

    def save(self, key: EngineKey, files: Mapping[str, bytes], **notes: object) -> Path:
        """Put `files` with a sidecar each in place, in one rename. Raises EngineError where that cannot be written."""
        target = self.folder(key)
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            staging = Path(tempfile.mkdtemp(prefix=".building-", dir=self.root))
            replaced = staging.with_name(staging.name + ".old")
            try:
                staging.chmod(0o755)
                for name, data in files.items():
                    _write(staging / name, data)
                    _write(staging / (name + _SIDECAR), _sidecar(key.fields, data, notes))
                if target.exists():
                    target.rename(replaced)
                staging.rename(target)
            finally:
                for folder in (staging, replaced):
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise EngineError(
                f"the engine cannot be kept in {self.root} ({error.strerror or error}); set MAREY_ENGINE_CACHE to a folder that can be written"
            ) from error
        return target

    def add(self, key: EngineKey, name: str, data: bytes) -> None:
        """Put one more file into a saved engine, or replace it there. Raises OSError."""
        _replace(self.folder(key) / name, data, key.fields)

    def find(self, key: EngineKey, name: str) -> bytes | None:
        """What `add` put there, if it can be used; it only saves time, so why it cannot is not worth a word."""
        try:
            return self._read(self.folder(key) / name, key.fields)
        except EngineRefused:
            return None

    def timings(self, key: EngineKey) -> bytes | None:
        """How long each kernel took in former builds by this TensorRT on this GPU, whatever the bundle."""
        try:
            return self._read(self._timings(key), _machine(key))
        except EngineRefused:
            return None

    def keep_timings(self, key: EngineKey, data: bytes) -> None:
        """Raises OSError."""
        self.root.mkdir(parents=True, exist_ok=True)
        _replace(self._timings(key), data, _machine(key))

    def _timings(self, key: EngineKey) -> Path:
        return self.root / f"{_slug(key.gpu)}-{_slug(key.tensorrt)}.timings"

    def _read(self, file: Path, wanted: Mapping[str, Any]) -> bytes:
        try:
            sidecar = json.loads(file.with_name(file.name + _SIDECAR).read_text(encoding="utf-8"))
            data = file.read_bytes()
        except FileNotFoundError as error:
            raise EngineRefused(f"{Path(error.filename).name} is missing in {file.parent}") from None
        except (OSError, ValueError) as error:
            raise EngineRefused(f"{file} cannot be read ({error})") from None
        if not isinstance(sidecar, dict) or sidecar.get("schema_version") != _SCHEMA_VERSION:
            raise EngineRefused(f"{file.name}{_SIDECAR} is not one that this version writes")
        if differing := _differing(sidecar.get("key"), wanted):
            raise EngineRefused(f"{file.name} was built for {differing}")
        found = hashlib.sha256(data).hexdigest()
        if found != sidecar.get("sha256"):
            raise EngineRefused(
                f"{file.name} has sha256 {found[:12]}…, {str(sidecar.get('sha256'))[:12]}… was built: changed or damaged"
            )
        if file.stat().st_mode & 0o002 or file.parent.stat().st_mode & 0o002:
            raise EngineRefused(f"{file} can be written by everybody on this machine; chmod o-w it and its folder")
        return data

    def _absent(self, key: EngineKey) -> EngineRefused:
        """The engine of the same bundle and precision that comes nearest, and what is different about it."""
        nearest: list[str] = []
        for sidecar in sorted(self.root.glob("*/*.plan" + _SIDECAR)):
            try:
                found = json.loads(sidecar.read_text(encoding="utf-8"))["key"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if found.get("bundle") == key.bundle and found.get("precision") == key.precision:
                nearest.append(_differing(found, key.fields))
        if not nearest:
            return EngineAbsent(f"none is cached for {key.bundle} {key.precision}")
        return EngineRefused(f"the cached one was built for {min(nearest, key=len)}")


def default_root() -> Path:
    """The user's folder for what can be made again, by the XDG base directory specification."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in some containers: writing there then says what to set
        base = Path("/.cache")
    return base / "marey" / "engines"


def _differing(found: object, wanted: Mapping[str, Any]) -> str:
    """`GPU A100 (this is GPU H200)` for each field that differs; empty where none does."""
    if not isinstance(found, dict):
        return "no key at all"
    told = {"onnx": "another ONNX graph", "calibration": "another calibration", "profiles": "other profiles"}
    parts = [
        told.get(name, f"{name} {found.get(name)} (here it is {value})")
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    return ", ".join(parts)


def _sidecar(fields: Mapping[str, Any], data: bytes, notes: Mapping[str, object]) -> bytes:
    content = {
        "schema_version": _SCHEMA_VERSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "key": fields,
        **notes,
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _replace(file: Path, data: bytes, fields: Mapping[str, Any]) -> None:
    """The sidecar first: a reader in between finds a hash that does not fit, and refuses."""
    for path, content in ((file.with_name(file.name + _SIDECAR), _sidecar(fields, data, {})), (file, data)):
        descriptor, staging = tempfile.mkstemp(prefix=".adding-", dir=file.parent)
        os.close(descriptor)
        _write(Path(staging), content)
        Path(staging).chmod(0o644)
        Path(staging).rename(path)


def _machine(key: EngineKey) -> dict[str, Any]:
    return {"tensorrt": key.tensorrt, "gpu": key.gpu, "compute_capability": key.compute_capability}


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
