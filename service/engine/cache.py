"""Engines that were built, kept outside the bundles: executable code, bound to one GPU and one TensorRT.

    ROOT/<gpu>-<tensorrt>-<hash of the key>/encoder.plan  encoder.plan.json  head.plan  head.plan.json

or, of a clip network, clip.plan and clip.plan.json.

Whoever may write there decides what the service executes. Nothing is loaded unless the JSON beside it holds the very key
that is asked for and the file's sha256; what does not is built anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.bundle.manifest import Stage
from service.engine.verified import SIDECAR, EngineRefused, differences, read_sidecar, read_verified, write_verified
from service.errors import EngineError

_LOCK = ".lock"
_STAGING = ".building"


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


class EngineAbsent(EngineRefused):
    """Nor anything that was meant for this bundle at this precision."""


class EngineCache:
    """Files by key below `root`; without `root` below `$XDG_CACHE_HOME/marey/engines`. Writers take turns by a lock file."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).expanduser().absolute()

    def folder(self, key: EngineKey) -> Path:
        return self.root / key.folder

    def load(self, key: EngineKey, names: tuple[str, ...]) -> dict[str, bytes]:
        """The files `names` of the engine of that key, all of them verified. Raises EngineRefused with the reason."""
        folder = self.folder(key)
        try:
            os.lstat(folder)
        except FileNotFoundError:
            raise self._absent(key) from None
        except OSError as error:
            raise EngineRefused(
                f"{self.root} cannot be read ({error.strerror}); set MAREY_ENGINE_CACHE to a folder that can"
            ) from None
        return {name: read_verified(folder / name, key.fields) for name in names}

    def save(self, key: EngineKey, files: Mapping[str, bytes], **notes: object) -> None:
        """Put `files` with a sidecar each in the place of what was there. Raises EngineError where that cannot be written."""
        target, staging = self.folder(key), self.root / _STAGING
        with self._writing():
            shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed: nobody else is here
            staging.mkdir()
            staging.chmod(0o755)
            for name, data in files.items():
                write_verified(staging / name, data, key.fields, **notes)
            if target.is_symlink():
                target.unlink()
            elif target.exists():
                shutil.rmtree(target)
            staging.rename(target)

    def add(self, key: EngineKey, name: str, data: bytes) -> None:
        """Put one more file into a saved engine, or replace it there. Raises EngineError."""
        with self._writing():
            write_verified(self.folder(key) / name, data, key.fields)

    def find(self, key: EngineKey, name: str) -> bytes | None:
        """What `add` put there, if it can be used; it only saves time, so why it cannot is not worth a word."""
        try:
            return read_verified(self.folder(key) / name, key.fields)
        except EngineRefused:
            return None

    def timings(self, key: EngineKey) -> bytes | None:
        """How long each kernel took in former builds by this TensorRT on this GPU, whatever the bundle."""
        try:
            return read_verified(self._timings(key), _machine(key))
        except EngineRefused:
            return None

    def keep_timings(self, key: EngineKey, data: bytes) -> None:
        """Raises EngineError."""
        with self._writing():
            write_verified(self._timings(key), data, _machine(key))

    def _timings(self, key: EngineKey) -> Path:
        return self.root / f"{_slug(key.gpu)}-{_slug(key.tensorrt)}.timings"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            with (self.root / _LOCK).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise EngineError(
                f"the engine cannot be kept in {self.root} ({error.strerror or error}); set MAREY_ENGINE_CACHE to a folder that can be written"
            ) from error

    def _absent(self, key: EngineKey) -> EngineRefused:
        """The engine of the same bundle and precision that comes nearest, and what is different about it."""
        nearest: list[str] = []
        for sidecar in sorted(self.root.glob(f"[!.]*/*.plan{SIDECAR}")):
            try:
                found = read_sidecar(sidecar.with_name(sidecar.name.removesuffix(SIDECAR)))["key"]
            except EngineRefused:
                continue
            differing = differences(found, key.fields)
            if differing and found.get("bundle") == key.bundle and found.get("precision") == key.precision:
                nearest.append(differing)
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


def _machine(key: EngineKey) -> dict[str, Any]:
    return {"tensorrt": key.tensorrt, "gpu": key.gpu, "compute_capability": key.compute_capability}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
