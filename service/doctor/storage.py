"""What lies on disk: the bundles, and the engines that were built from them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from service.bundle.store import Bundle, find_bundles, open_bundle
from service.doctor.report import Check, Fact, no, ok
from service.engine.cache import EngineCache
from service.errors import BundleError


@dataclass(frozen=True, slots=True)
class Bundles:
    """What was found of them; `opened` are whole, the smallest first."""

    checks: list[Check]
    opened: tuple[Bundle, ...]

    @property
    def servable(self) -> tuple[Path, ...]:
        return tuple(bundle.path for bundle in self.opened)


def bundles(paths: tuple[Path, ...]) -> Bundles:
    """Open those that `paths` mean (none given: those that ship), hashing every file."""
    checks: list[Check] = []
    opened: list[Bundle] = []
    for path in find_bundles(paths):
        try:
            bundle = open_bundle(path)
        except BundleError as error:
            says, _, remedy = str(error).rpartition("; ")
            checks.append(no(path.name, says or remedy, remedy, path=str(path)))
            continue
        opened.append(bundle)
        checks.append(_bundle(bundle))
    if not checks:
        checks.append(
            no("bundles", "there is no bundle to serve", "marey-build run fight --data DATA --out bundles/fight")
        )
    return Bundles(checks, tuple(sorted(opened, key=_size)))


def cache(folder: Path | None) -> list[Check]:
    """`folder`: where engines are kept, by the settings; None: the user's."""
    root = EngineCache(folder).root
    plans = sorted(root.glob("*/*.plan"))
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    facts: dict[str, Fact] = {"path": str(root), "plans": len(plans), "bytes": size, "exists": root.is_dir()}
    held = f"{len(plans)} plans, {size / 2**20:.1f} MiB" if root.is_dir() else "not there yet, made when it is needed"
    if trouble := _cannot_write(root):
        remedy = "MAREY_ENGINE_CACHE=/a/folder/that/can/be/written marey serve"
        return [
            no(
                "cache",
                f"{root} cannot be written ({trouble}): engines would be built anew at each start",
                remedy,
                **facts,
            )
        ]
    if root.is_dir() and root.stat().st_mode & 0o002:
        says = f"{root} can be written by everybody: whoever puts an engine there decides what the service executes"
        return [no("cache", says, f"chmod o-w {root}", **facts)]
    return [ok("cache", f"{root}: {held}", **facts)]


def _bundle(bundle: Bundle) -> Check:
    manifest = bundle.manifest
    precisions = sorted({artifact.precision for artifact in manifest.artifacts.values()})
    says = f"{manifest.name} {manifest.version} in {bundle.path}: every hash right, {', '.join(precisions)}, {_size(bundle) / 2**20:.1f} MiB"
    facts: dict[str, Fact] = {
        "path": str(bundle.path),
        "version": manifest.version,
        "tasks": [*manifest.tasks],
        "network": manifest.network.kind,
        "precisions": [*precisions],
        "bytes": _size(bundle),
    }
    return ok(manifest.name, says, **facts)


def _size(bundle: Bundle) -> int:
    return sum(artifact.bytes for artifact in bundle.manifest.artifacts.values())


def _cannot_write(root: Path) -> str:
    """Why nothing can be put there, or into the nearest folder above that is there; "" where it can."""
    if root.is_symlink() and not os.path.exists(root):  # noqa: PTH110  # unlike Path.exists, it raises nothing
        return f"{root} is a link to nothing"
    existing = next(folder for folder in (root, *root.parents) if os.path.exists(folder))  # noqa: PTH110  # as above
    try:
        # Asking for permission is not enough: the disk may be mounted read-only, or full.
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".doctor-") as file:
            file.write(os.urandom(4096))
            file.flush()
    except OSError as error:
        return f"{existing}: {error.strerror or error}"
    return ""
