"""What lies in the folders: bundles by name and version, and what is no bundle or one too many."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from service.bundle.manifest import Manifest
from service.bundle.store import MANIFEST, find_bundles, read_manifest
from service.errors import BundleError, MareyError

# NAME, VERSION
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Broken:
    """A bundle that could not be served, or could not be reloaded, and why."""

    path: Path
    error: MareyError


@dataclass(frozen=True, slots=True)
class Found:
    """A bundle by its manifest, not opened yet. `stamp` changes when any file that the manifest lists is written or replaced."""

    path: Path
    manifest: Manifest
    stamp: str

    @property
    def key(self) -> Key:
        return self.manifest.name, self.manifest.version


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the folders. `hidden`: nothing can be said of what lies there, because it cannot be read at present."""

    found: tuple[Found, ...]
    broken: tuple[Broken, ...]
    hidden: tuple[Path, ...]

    def hides(self, path: Path) -> bool:
        return any(path.is_relative_to(hidden) for hidden in self.hidden)


class Catalogue:
    """Looks into `paths`. Where nothing was written since the last look, it reads no file, only their dates."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._known: dict[Path, Found] = {}

    def look(self, *, served: Mapping[Key, Path]) -> Look:
        """Read what is there; of two bundles of one name and version the one in `served` counts, else the first. Blocks."""
        hidden: list[Path] = []
        found: dict[Key, Found] = {}
        broken: list[Broken] = []
        known: dict[Path, Found] = {}
        for path in find_bundles(self._paths, unreadable=hidden.append):
            try:
                bundle = self._read(path)
            except MareyError as error:
                broken.append(Broken(path, error))
                continue
            known[path] = bundle
            other = found.get(bundle.key)
            if other is None:
                found[bundle.key] = bundle
                continue
            if served.get(bundle.key) == bundle.path:
                found[bundle.key], other, bundle = bundle, bundle, other
            broken.append(Broken(bundle.path, _twice(served=other, refused=bundle)))
        self._known = known
        broken += [Broken(path, _unreadable(path)) for path in hidden]
        return Look(tuple(found.values()), tuple(broken), tuple(hidden))

    def _read(self, path: Path) -> Found:
        before = self._known.get(path)
        if before is not None:
            stamp = _stamp(path, before.manifest)
            if stamp == before.stamp:
                return before
        manifest = read_manifest(path)
        return replace(before or Found(path, manifest, ""), manifest=manifest, stamp=_stamp(path, manifest))


def _stamp(path: Path, manifest: Manifest) -> str:
    """Of the manifest and all that it lists: a folder that is copied file by file is complete only with the last of them."""
    digest = hashlib.sha256()
    for name in sorted({MANIFEST, manifest.golden.file, *(each.file for each in manifest.artifacts.values())}):
        try:
            stat = (path / name).stat()
        except OSError as error:
            digest.update(f"{name} {error.errno};".encode())
        else:
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino};".encode())
    return digest.hexdigest()


def _twice(*, served: Found, refused: Found) -> BundleError:
    name, version = served.key
    return BundleError(
        f"{refused.path} and {served.path} are both {name}:{version}, and the second is served; "
        "give one of the two another name or version"
    )


def _unreadable(path: Path) -> BundleError:
    return BundleError(f"{path} cannot be read at present; what was served from there still is; mend its permissions")
